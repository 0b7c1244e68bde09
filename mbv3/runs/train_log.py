"""log.txt of a run: its events, for people."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

from mbv3.errors import BadInput
from mbv3.events import Event, Note, Progress, watched

__all__ = ["logged"]

R = TypeVar("R")


def logged(folder: Path, events: Generator[Event, None, R]) -> Generator[Event, None, R]:
    """`events`; all but progress also go to log.txt, with the time. Raises: BadInput when it cannot be written."""

    def write(event: Event) -> None:
        if isinstance(event, Progress):
            return
        mark = "warning: " if isinstance(event, Note) and event.warning else ""
        try:
            with (folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as f:
                f.write(f"{time.strftime('%H:%M:%S')} [{event.stage}] {mark}{event.text}\n")
        except OSError as e:
            raise BadInput(f"{folder / 'log.txt'}: cannot be written ({e.strerror or e})") from None

    return watched(events, write)
