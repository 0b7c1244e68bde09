"""What a stage keeps so that it can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

__all__ = ["Keep", "Memory"]

T = TypeVar("T")


class Keep(Protocol):
    """Where a stage puts what a resumed run needs, and what people read. A run directory satisfies it; in a notebook
    `Memory()` does.

    Names are file names for all but `value` (`netadapt.csv`), and plain names for `value`.
    """

    def value(self, name: str, decide: Callable[[], T]) -> T:
        """What `decide()` returned the first time, also after a resume. JSON-ready: a number, a string, a list."""

    def file(self, name: str) -> Path | None:
        """Path of a binary file such as a checkpoint; None where nothing is kept on disk."""

    def rows(self, name: str) -> list[dict[str, str]]:
        """Rows of the CSV file `name` that were written before; none where there is no such file."""

    def write_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        """Write the whole CSV file `name` in one step; a missing column is left empty."""

    def append_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        """Add rows to the CSV file `name`, on disk when this returns."""

    def text(self, name: str, content: str) -> None:
        """Write a file that people read, such as a YAML spec, in one step."""

    def note(self, text: str) -> None:
        """A caveat that belongs to the result, kept once."""


@dataclass(slots=True)
class Memory:
    """Keeps everything in memory and no file: a stage that is called from a notebook or a test."""

    values: dict[str, object] = field(default_factory=dict)
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def value(self, name: str, decide: Callable[[], T]) -> T:
        if name not in self.values:
            self.values[name] = decide()
        return self.values[name]  # type: ignore[return-value]

    def file(self, name: str) -> Path | None:
        return None

    def rows(self, name: str) -> list[dict[str, str]]:
        return [dict(row) for row in self.tables.get(name, [])]

    def write_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        self.tables[name] = [{c: str(row.get(c, "")) for c in columns} for row in rows]

    def append_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        self.tables.setdefault(name, []).extend({c: str(row.get(c, "")) for c in columns} for row in rows)

    def text(self, name: str, content: str) -> None:
        self.texts[name] = content

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
