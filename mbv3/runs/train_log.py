"""What a training leaves to read: log.txt for people, log.csv for programs."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path

from mbv3.errors import BadInput
from mbv3.events import Event, Note, Progress
from mbv3.files import write_atomic

__all__ = ["logged", "read_rows", "write_rows"]


def logged(folder: Path, events: Iterator[Event]) -> Iterator[Event]:
    """Everything but progress also goes to log.txt, with the time."""
    for event in events:
        if not isinstance(event, Progress):
            mark = "warning: " if isinstance(event, Note) and event.warning else ""
            try:
                with (folder / "log.txt").open("a", encoding="utf-8") as f:
                    f.write(f"{time.strftime('%H:%M:%S')} [{event.stage}] {mark}{event.text}\n")
            except OSError as e:
                raise BadInput(f"{folder / 'log.txt'}: cannot be written ({e.strerror or e})") from None
        yield event


def read_rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as f:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(f)]


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(k for row in rows for k in row))
    out = io.StringIO()
    w = csv.DictWriter(out, names, lineterminator="\n")
    w.writeheader()
    w.writerows({k: f"{v:.10g}" for k, v in row.items()} for row in rows)
    write_atomic(path, out.getvalue())
