"""JSON to frozen dataclasses and back, by their annotations: X | None, Literal, tuple, Mapping, parts, scalars.

Writing: a field without a default is always written, null where it is None. A field with a default is left out while
it has it; with metadata `beside`, it is written as soon as that other field is set.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from mbv3.errors import Fault, shown

__all__ = ["JsonReader", "json_ready"]

T = TypeVar("T")


def json_ready(value: Any) -> Any:
    """`value` as JSON has it: parts become objects; NaN and infinity, which JSON has not, become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_ready(getattr(value, f.name)) for f in fields(value) if _is_written(value, f)}
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_ready(v) for v in value]
    return value


def _is_written(part: Any, f: Any) -> bool:
    if "beside" in f.metadata and getattr(part, f.metadata["beside"]) is not None:
        return True
    default = f.default_factory() if f.default_factory is not MISSING else f.default
    return default is MISSING or getattr(part, f.name) != default


class _Absent:
    """The value of a field that is missing or faulty."""


ABSENT = _Absent()
_WORDS: dict[object, str] = {
    bool: "true or false", int: "a whole number", float: "a finite number", str: "text", type(None): "null",
    tuple: "a list", Mapping: "an object",
}  # fmt: skip


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _origin(kind: Any) -> Any:
    """The JSON shape of an annotation: a key of _WORDS, Literal or object."""
    return Mapping if is_dataclass(kind) else get_origin(kind) or kind


def _fits(kind: Any, value: object) -> bool:
    """`value` has the JSON type of `kind`; what is inside it is not looked at."""
    shape = _origin(kind)
    if shape is object:
        return True
    if shape is Literal:
        return type(value) is str and value in get_args(kind)
    if shape is float:  # JSON has one kind of number; true is none
        return type(value) in (int, float) and abs(cast(float, value)) <= sys.float_info.max
    return type(value) is {Mapping: dict, tuple: list}.get(shape, shape)


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _wanted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"must be one of {', '.join(get_args(kind)[1:])}"
    words = [_WORDS[_origin(k)] for k in _options(kind)]
    return "must be " + " or ".join(words)


def _needed(kind: type) -> set[str]:
    return {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}


def _empty(kind: Any) -> Any:
    """What stands for a needed field that is not there."""
    shape = _origin(kind)
    if shape is Literal:
        return get_args(kind)[0]
    return {str: "", float: math.nan, Mapping: {}, tuple: ()}.get(shape)


class JsonReader:
    """JSON objects to dataclasses. Faults are collected in `faults`; what is faulty counts as missing.

    `cure` ends every fault. `strict`: a key without a field is a fault too.
    """

    def __init__(self, cure: str, *, strict: bool) -> None:
        self.faults: list[Fault] = []
        self.cure, self.strict = cure, strict

    def whole(self, kind: type[T], value: dict[str, Any]) -> T:
        """`value` as a `kind`. A needed field that is missing is empty: "", (), {}, NaN, the first of a Literal."""
        hints = _hints(cast(Any, kind))
        return kind(**({name: _empty(hints[name]) for name in _needed(kind)} | self._fields(kind, value, "")))

    def fault(self, path: str, rule: str, value: str = "") -> _Absent:
        self.faults.append(Fault(path, rule, value, self.cure))
        return ABSENT

    def _fields(self, kind: type, value: dict[str, Any], path: str) -> dict[str, Any]:
        """The fields of `kind` that are there and of their type."""
        hints = _hints(kind)
        names = [f.name for f in fields(kind)]
        for name in names:
            if name not in value and name in _needed(kind):
                self.fault(path + name, "is missing")
        for key in value if self.strict else ():
            if key not in names:
                self.fault(path + key, "no such key")
        found = {n: self._value(hints[n], value[n], path + n) for n in names if n in value}
        return {n: v for n, v in found.items() if v is not ABSENT}

    def _part(self, kind: type, value: dict[str, Any], path: str) -> Any:
        """A part; absent as a whole where a field that it needs is."""
        found = self._fields(kind, value, path + ".")
        return kind(**found) if _needed(kind) <= found.keys() else ABSENT

    def _value(self, kind: Any, value: Any, path: str) -> Any:
        kinds = [k for k in _options(kind) if _fits(k, value)]
        if not kinds:
            return self.fault(path, _wanted(kind), shown(value))
        kind = kinds[0]
        shape, inner = _origin(kind), get_args(kind)
        if is_dataclass(kind):
            return self._part(cast(type, kind), value, path)
        if shape is Mapping:
            pairs = {k: self._value(inner[1], v, f"{path}.{k}") for k, v in value.items()}
            return {k: v for k, v in pairs.items() if v is not ABSENT}
        if shape is tuple:
            return self._list(inner, value, path)
        return float(value) if shape is float else value

    def _list(self, inner: tuple[Any, ...], value: list[Any], path: str) -> Any:
        """A tuple: of any length without its faulty entries, or of a fixed length and whole."""
        fixed = inner[-1] is not Ellipsis
        if fixed and len(value) != len(inner):
            return self.fault(path, f"must have {len(inner)} entries", shown(value))
        kinds = inner if fixed else inner[:1] * len(value)
        items = [self._value(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))]
        good = tuple(v for v in items if v is not ABSENT)
        return ABSENT if fixed and len(good) < len(items) else good
