"""Short trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mbv3.events import Note, watched
from mbv3.progress import drain, silent
from mbv3.runs import TrainResult, train_events
from mbv3.spec import ArchSpec

__all__ = ["quick", "run"]


def run(spec: ArchSpec | None, **options: Any) -> tuple[TrainResult, list[str]]:
    """(result, notes) of a training."""
    notes: list[str] = []
    work = watched(train_events(spec, **options), lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    return drain(work, silent), notes


def quick(spec: ArchSpec, data: Path, out: Path, **options: Any) -> tuple[TrainResult, list[str]]:
    return run(spec, data=str(data), out=out, **{"epochs": 2.0, "batch": 8, **options})
