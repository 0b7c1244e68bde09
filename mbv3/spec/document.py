"""Strict reading of small YAML documents: bounded, plain data only, faults with their paths.

Validation belongs to the edges: every document of mbv3 (spec, space) is read through `Reader`, which
collects all faults of a document instead of stopping at the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from mbv3.errors import BadInput, DocumentError, Fault

__all__ = ["MAX_BYTES", "Reader", "parse_yaml", "read_text"]

MAX_BYTES = 1_000_000
_MAX_DEPTH = 16
_MAX_EVENTS = 200_000
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Safe YAML without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            text = str(getattr(key, "value", key))
            if text in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {text!r} stands twice", key.start_mark)
            seen.add(text)
        return cast(dict[Any, Any], super().construct_mapping(node, deep))


def read_text(path: Path, what: str) -> str:
    """The text of a small document file.

    Raises:
        BadInput: it is missing, unreadable, too large or not UTF-8.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise BadInput(f"{path}: this is a folder, not a {what} file")
        if size > MAX_BYTES:
            raise BadInput(
                f"{path}: a {what} file may hold at most {MAX_BYTES:,} bytes (got {size:,}); "
                "this is probably another kind of file"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such {what} file") from None
    except UnicodeDecodeError as e:
        raise BadInput(f"{path}: a {what} file is UTF-8 text (byte {e.start} is not)") from None
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror})") from None


def parse_yaml(text: str, source: str) -> Any:
    """Plain data of a YAML text. Aliases, tags, duplicate keys, deep nesting and bulk are refused.

    Raises:
        DocumentError: with line and column of the fault.
    """

    def fail(rule: str, mark: Any = None, value: str = "", cure: str = "") -> DocumentError:
        path = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "document"
        return DocumentError(source, [Fault(path, rule, value, cure)])

    if len(text.encode()) > MAX_BYTES:
        raise fail(f"at most {MAX_BYTES:,} bytes", value=f"{len(text.encode()):,}")
    depth = 0
    try:
        for n, event in enumerate(yaml.parse(text, Loader=_Base)):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise fail("YAML anchors and aliases are not used here", event.start_mark, cure="write the value out")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                raise fail(f"nested more than {_MAX_DEPTH} deep", event.start_mark)
            if n > _MAX_EVENTS:
                raise fail("too many values", event.start_mark, value=f"over {_MAX_EVENTS:,}")
        data = yaml.load(text, Loader=_Loader)  # noqa: S506  (a subclass of the safe loader)
    except yaml.MarkedYAMLError as e:
        raise fail(f"not valid YAML: {e.problem or e}", e.problem_mark) from None
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise fail(f"not valid YAML: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from None
    if data is None:
        raise fail("the document is empty")
    return data


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_MISSING = object()


class Reader:
    """Typed access to parsed YAML at a path; every fault goes into one shared list.

    A getter that meets a fault notes it and returns a harmless stand-in, so that reading goes on and
    all faults of a document are reported together by `finish`.
    """

    def __init__(self, data: Any, source: str, path: str = "", faults: list[Fault] | None = None) -> None:
        self.data = data
        self.source = source
        self.path = path
        self.faults: list[Fault] = [] if faults is None else faults
        self._used: set[str] = set()

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fault(self, path: str, rule: str, value: object = _MISSING, cure: str = "") -> None:
        self.faults.append(Fault(path, rule, "" if value is _MISSING else _show(value), cure))

    def is_mapping(self) -> bool:
        if isinstance(self.data, dict) and all(isinstance(k, str) for k in self.data):
            return True
        self.fault(self.path or "document", "must be a mapping of names to values", self.data)
        return False

    def has(self, key: str) -> bool:
        return isinstance(self.data, dict) and key in self.data

    def _get(self, key: str, default: Any) -> Any:
        self._used.add(key)
        data = self.data if isinstance(self.data, Mapping) else {}
        value = data.get(key, default)
        if value is _MISSING and isinstance(self.data, Mapping):
            self.fault(self.at(key), "is missing")
        return value

    def integer(self, key: str, low: int, high: int, default: Any = _MISSING) -> int:
        value = self._get(key, default)
        if value is _MISSING:
            return low
        if type(value) is not int or not low <= value <= high:
            cure = f"write {int(value)}" if type(value) is float and value.is_integer() and abs(value) < 1e9 else ""
            self.fault(self.at(key), f"must be a whole number from {low} to {high}", value, cure)
            return low
        return value

    def number(self, key: str, low: float, high: float, default: Any = _MISSING) -> float:
        value = self._get(key, default)
        if value is _MISSING:
            return low
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            self.fault(self.at(key), f"must be a number from {low:g} to {high:g}", value)
            return low
        return float(value)

    def word(self, key: str, words: Sequence[str], default: Any = _MISSING) -> str:
        value = self._get(key, default)
        if value is _MISSING:
            return words[0]
        if type(value) is not str or value not in words:
            self.fault(self.at(key), f"must be one of {', '.join(words)}", value)
            return words[0]
        return value

    def text(self, key: str, default: Any = _MISSING) -> str:
        value = self._get(key, default)
        if value is _MISSING:
            return ""
        if type(value) is not str or not value or len(value) > 1000 or not value.isprintable():
            self.fault(self.at(key), "must be a short line of text", value)
            return "?"
        return value

    def child(self, key: str) -> Reader:
        value = self._get(key, _MISSING)
        return Reader({} if value is _MISSING else value, self.source, self.at(key), self.faults)

    def children(self, key: str, most: int) -> Iterator[Reader]:
        value = self._get(key, _MISSING)
        if value is _MISSING:
            return
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            self.fault(self.at(key), f"must be a list of 1 to {most} entries", value)
            return
        for i, item in enumerate(value):
            yield Reader(item, self.source, f"{self.at(key)}[{i}]", self.faults)

    def raw(self, key: str, default: Any = _MISSING) -> Any:
        value = self._get(key, default)
        return None if value is _MISSING else value

    def no_other_keys(self) -> None:
        if isinstance(self.data, Mapping):
            for key in self.data:
                if key not in self._used:
                    known = ", ".join(sorted(self._used))
                    self.fault(self.at(str(key)), "unknown key", cure=f"known here: {known}")

    def format_line(self, expected: str) -> None:
        value = self._get("format", _MISSING)
        if value is not _MISSING and value != expected:
            self.fault(self.at("format"), f"must be {expected}", value)

    def finish(self) -> None:
        """Raises: DocumentError when any fault was noted."""
        if self.faults:
            raise DocumentError(self.source, dict.fromkeys(self.faults))
