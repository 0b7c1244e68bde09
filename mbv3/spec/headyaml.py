"""Heads in YAML: one flow mapping, its fields those of the dataclass."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any, cast

from mbv3.spec.classify import Classify
from mbv3.spec.document import Reader, scalar_text
from mbv3.spec.heads import FCN, FLAGS, LISTS, NUMBERS, POINTS, REALS, TYPES, WORDS, Head, Point, Tap, Where

__all__ = ["head_line", "read_head"]


def _tap(r: Reader) -> Tap:
    if not r.is_mapping():
        return Tap("tail")
    row = r.raw("row")
    if r.has("row") and type(row) is not int and row not in ("stem", "tail"):
        r.fault(r.at("row"), "must be the number of a row, stem or tail", row)
    tap = Tap(cast(Where, row), cast(Point, r.word("point", POINTS, "out")))
    r.no_other_keys()
    return tap


def _value(r: Reader, f: Field[Any]) -> Any:
    name = f.name
    given = () if f.default is MISSING else (f.default,)
    if name in NUMBERS:
        return r.integer(name, *NUMBERS[name], *given)
    if name in REALS:
        return r.number(name, *REALS[name], *given)
    if name in LISTS:
        return r.integers(name, *LISTS[name], *given)
    if name in WORDS:
        return r.word(name, WORDS[name], *given)
    if name in FLAGS:
        return r.flag(name, *given)
    if name == "high":
        return _tap(r.child(name))
    if name == "aux":
        return _dense(r.child(name), ("fcn",)) if r.has(name) else None
    return tuple(_tap(item) for item in r.children(name, 8))


def _dense(r: Reader, types: tuple[str, ...]) -> Head:
    kind = TYPES[r.word("type", types)]
    head = kind(**{f.name: _value(r, f) for f in fields(kind)})
    r.no_other_keys()
    return head


def read_head(r: Reader) -> Head:
    """The head in a mapping; faults go to the reader."""
    known = ("classify", *TYPES)
    if not r.has("type") or r.data["type"] not in known[1:]:
        r.word("type", known)
        if r.has("type") and r.data["type"] != "classify":
            return Classify()  # a head of unknown type has no fields to look at
        head = Classify.read(r)
        r.no_other_keys()
        return head
    return _dense(r, known[1:])


def _tap_text(tap: Tap) -> str:
    point = "" if tap.point == "out" else f", point: {tap.point}"
    return f"{{row: {tap.row}{point}}}"


def head_line(head: Head) -> str:
    """The head as one line of YAML."""
    if isinstance(head, Classify):
        return "{" + ", ".join(f"{name}: {value}" for name, value in head.pairs()) + "}"
    parts = [f"type: {type(head).__name__.lower()}"]
    for f in fields(head):
        value = getattr(head, f.name)
        if isinstance(value, Tap):
            text = _tap_text(value)
        elif isinstance(value, tuple):
            text = f"[{', '.join(_tap_text(v) if isinstance(v, Tap) else str(v) for v in value)}]"
        elif isinstance(value, FCN):
            text = head_line(value)
        elif value is None:
            continue
        else:
            text = value if isinstance(value, str) else scalar_text(value)
        parts.append(f"{f.name}: {text}")
    return "{" + ", ".join(parts) + "}"
