"""Strict reading of small YAML documents: bounded, plain data only, faults with their paths.

Validation belongs to the edges: every document of mbv3 (spec, space) is read through `Reader`, which
collects all faults of a document instead of stopping at the first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

import yaml

from mbv3.errors import BadInput, DocumentError, Fault, plain, shown

__all__ = ["MAX_BYTES", "Reader", "parse_yaml", "quoted", "read_text", "scalar_text"]

MAX_BYTES = 1_000_000
MAX_DIGITS = 100
_MAX_DEPTH = 16
_MAX_EVENTS = 200_000
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS = {
    word: value
    for words, value in (("true True TRUE", True), ("false False FALSE", False), ("null Null NULL ~", None))
    for word in words.split()
} | {"": None}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_text(path: Path, what: str) -> str:
    """The text of a small document file.

    Raises:
        BadInput: it is missing, unreadable, too large or not UTF-8.
    """
    name = plain(str(path), 4096)
    try:
        info = path.stat()
        if S_ISDIR(info.st_mode):
            raise BadInput(f"{name}: this is a folder, not a {what} file")
        if not S_ISREG(info.st_mode):  # a pipe or a device may never end
            raise BadInput(f"{name}: this is not a regular file; copy its content to a {what} file first")
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1) if info.st_size <= MAX_BYTES else None
    except FileNotFoundError:
        raise BadInput(f"{name}: no such {what} file") from None
    except UnicodeDecodeError as e:
        raise BadInput(f"{name}: a {what} file is UTF-8 text (byte {e.start} is not)") from None
    except OSError as e:
        raise BadInput(f"{name}: cannot be read ({e.strerror})") from None
    except ValueError:  # a NUL byte or half a surrogate pair
        raise BadInput(f"{name}: this cannot be the name of a file") from None
    if text is None or len(text) > MAX_BYTES:  # some files of /proc give no size
        size = f"{info.st_size:,}" if text is None else "more"
        raise BadInput(
            f"{name}: a {what} file may hold at most {MAX_BYTES:,} bytes (got {size}); "
            "this is probably another kind of file"
        )
    return text


def parse_yaml(text: str, source: str) -> Any:
    """Plain data of a YAML text: mappings with text keys, lists, text, numbers, true, false, null.

    Scalars follow YAML 1.2 (`1e-5` is a number; `no`, `1:30` and dates are text). Anchors, aliases, tags,
    duplicate keys, deep nesting and bulk are refused.

    Raises:
        DocumentError: with line and column of the fault.
    """
    count = 0

    def fail(rule: str, mark: Any = None, value: str = "", cure: str = "") -> DocumentError:
        path = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "document"
        return DocumentError(source, [Fault(path, rule, value, cure)])

    def following() -> Any:
        nonlocal count
        event = next(events)
        count += 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise fail("YAML anchors and aliases are not used here", event.start_mark, "", "write the value out")
        if (tag := getattr(event, "tag", None)) is not None:
            raise fail("YAML tags are not used here", event.start_mark, shown(tag), "leave the tag out")
        if count > _MAX_EVENTS:
            raise fail("too many values", event.start_mark, f"over {_MAX_EVENTS:,}")
        return event

    def scalar(event: Any) -> Any:
        value: str = event.value
        if not event.implicit[0]:  # in quotes
            return value
        if value in _WORDS:
            return _WORDS[value]
        kind = int if _INT.fullmatch(value) else float if _FLOAT.fullmatch(value) else None
        if kind is None:
            return value
        if len(value) > MAX_DIGITS:
            raise fail(f"a number has at most {MAX_DIGITS} digits", event.start_mark, shown(value))
        return kind(value.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def data(event: Any, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event)
        if depth == _MAX_DEPTH:
            raise fail(f"nested more than {_MAX_DEPTH} deep", event.start_mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := following(), yaml.SequenceEndEvent):
                items.append(data(event, depth + 1))
            return items
        mapping: dict[str, Any] = {}
        while not isinstance(key := following(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise fail("a key must be plain text", key.start_mark)
            if key.value in mapping:
                raise fail(f"key {shown(key.value)} stands twice", key.start_mark)
            mapping[key.value] = data(following(), depth + 1)
        return mapping

    size = len(text.encode("utf-8", "replace"))
    if size > MAX_BYTES:
        raise fail(f"at most {MAX_BYTES:,} bytes", value=f"{size:,}")
    if bad := _CONTROL.search(text):
        line_start = text.rfind("\n", 0, bad.start()) + 1
        mark = yaml.Mark(source, 0, text.count("\n", 0, bad.start()), bad.start() - line_start, None, 0)
        raise fail("control characters are not allowed", mark, shown(bad[0]))
    events = iter(yaml.parse(text, Loader=_Base))
    try:
        following()  # the stream's start
        if isinstance(following(), yaml.StreamEndEvent):
            raise fail("the document is empty")
        value = data(following(), 0)
        following()  # the document's end
        if not isinstance(event := following(), yaml.StreamEndEvent):
            raise fail("a file holds one document", event.start_mark)
    except yaml.MarkedYAMLError as e:
        raise fail(f"not valid YAML: {e.problem or e}", e.problem_mark) from None
    except yaml.YAMLError as e:
        raise fail(f"not valid YAML: {str(e).splitlines()[0]}") from None
    if value is None:
        raise fail("the document is empty")
    return value


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
        return f"{self.path}.{plain(key)}" if self.path else plain(key)

    def fault(self, path: str, rule: str, value: object = _MISSING, cure: str = "") -> None:
        self.faults.append(Fault(path, rule, "" if value is _MISSING else shown(value), cure))

    def is_mapping(self) -> bool:
        if isinstance(self.data, dict):
            return True
        if self.data is not _MISSING:
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
            whole = type(value) is float and low <= value <= high and value.is_integer()
            cure = f"write {int(value)}" if whole else ""
            self.fault(self.at(key), f"must be a whole number from {low} to {high}", value, cure)
            return low
        return value

    def number(self, key: str, low: float, high: float, default: Any = _MISSING) -> float:
        value = self._get(key, default)
        if value is _MISSING:
            return low
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            self.fault(self.at(key), f"must be a number from {low:g} to {high:g}", value)
            return low
        return float(value)

    def triple(
        self, key: str, low: float, high: float, default: tuple[float, float, float]
    ) -> tuple[float, float, float]:
        """Three numbers, of red, green and blue."""
        value = self._get(key, default)
        listed = isinstance(value, (list, tuple)) and len(value) == 3
        if not listed or not all(type(v) in (int, float) and low <= v <= high for v in value):
            rule = f"must be three numbers from {low:g} to {high:g}, of red, green and blue"
            self.fault(self.at(key), rule, value)
            return default
        red, green, blue = map(float, value)
        return red, green, blue

    def word(self, key: str, words: Sequence[str], default: Any = _MISSING) -> str:
        value = self._get(key, default)
        if value is _MISSING:
            return words[0]
        if type(value) is not str or value not in words:
            self.fault(self.at(key), f"must be one of {', '.join(words)}", value)
            return words[0]
        return value

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        value = self._get(key, default)
        if value is _MISSING:
            return False
        if type(value) is not bool:
            self.fault(self.at(key), "must be true or false", value)
            return False
        return value

    def integers(self, key: str, low: int, high: int, most: int, default: Any = _MISSING) -> tuple[int, ...]:
        value = self._get(key, default)
        if value is _MISSING:
            return ()
        listed = isinstance(value, (list, tuple)) and len(value) <= most
        if listed and all(type(v) is int and low <= v <= high for v in value):
            return tuple(value)
        rule = f"must be a list of at most {most} whole numbers from {low} to {high}"
        self.fault(self.at(key), rule, value)
        return ()

    def text(self, key: str, default: Any = _MISSING) -> str:
        value = self._get(key, default)
        if value is _MISSING:
            return ""
        if type(value) is not str or not value or len(value) > 1000 or not value.isprintable():
            self.fault(self.at(key), "must be a short line of text", value)
            return "?"
        return value

    def child(self, key: str) -> Reader:
        """The mapping at `key`; where there is none, that is the one fault."""
        reader = Reader(self._get(key, _MISSING), self.source, self.at(key), self.faults)
        reader.is_mapping()
        return reader

    def children(self, key: str, most: int, least: int = 1) -> Iterator[Reader]:
        value = self._get(key, _MISSING)
        if value is _MISSING:
            return
        if not isinstance(value, list) or not least <= len(value) <= most:
            self.fault(self.at(key), f"must be a list of {least} to {most} entries", value)
            return
        for i, item in enumerate(value):
            yield Reader(item, self.source, f"{self.at(key)}[{i}]", self.faults)

    def raw(self, key: str, default: Any = _MISSING) -> Any:
        value = self._get(key, default)
        return None if value is _MISSING else value

    def no_other_keys(self) -> None:
        if isinstance(self.data, Mapping):
            known = ", ".join(sorted(self._used))
            for key in self.data:
                if key not in self._used:
                    self.fault(self.at(key), "unknown key", cure=f"known here: {known}")

    def format_line(self, expected: str) -> None:
        value = self._get("format", _MISSING)
        if value is not _MISSING and value != expected:
            self.fault(self.at("format"), f"must be {expected}", value)

    def finish(self) -> None:
        """Raises: DocumentError when any fault was noted."""
        if self.faults:
            raise DocumentError(self.source, dict.fromkeys(self.faults))


def scalar_text(value: str | int | float | bool | None) -> str:
    """A YAML scalar that reads back as `value`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        text = repr(value)
        # YAML 1.1 reads 1e-05 as text: a mantissa with a point makes it a number
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return quoted(value)


def quoted(text: str) -> str:
    """A YAML double-quoted scalar of printable characters only."""
    text = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
