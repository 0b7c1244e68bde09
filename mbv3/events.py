"""What a long task reports while it runs: values that are yielded, never printed.

A long task is a generator `Generator[Event, None, R]`: it yields events and returns its value. Callers write
`value = yield from task(...)`, or `result(task(...))` where nobody watches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = ["Done", "Event", "Note", "Progress", "RunStarted", "StageStart", "counted", "result", "watched"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class StageStart:
    """A stage begins. `forecast_s` is the time it is expected to take, in seconds, if known."""

    stage: str
    text: str
    forecast_s: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` units of `stage` are finished; `left_s` seconds are expected to remain."""

    stage: str
    done: float
    total: float
    text: str = ""
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """One line that a person should read: a decision, a caveat, advice."""

    stage: str
    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run works in the directory `path`, which `--resume` takes."""

    path: Path

    @property
    def stage(self) -> str:
        return "run"

    @property
    def text(self) -> str:
        return f"run directory {self.path}"


@dataclass(frozen=True, slots=True)
class Done:
    """A task ended. Its generator returns the result."""

    stage: str
    text: str


Event = StageStart | Progress | Note | RunStarted | Done


def watched(events: Generator[Event, None, R], see: Callable[[Event], None]) -> Generator[Event, None, R]:
    """`events` and their value, passed on; `see` looks at each event first."""
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                value: R = end.value
                return value
            see(event)
            yield event


def result(events: Generator[Event, None, R]) -> R:
    """Run a long task to its end without showing its events, and return its value."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            value: R = end.value
            return value


def counted(work: Generator[tuple[int, int], None, R], stage: str, text: str) -> Generator[Event, None, R]:
    """Work that yields (done, total), as progress of `stage`."""
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            value: R = end.value
            return value
        yield Progress(stage, done, total, text)
