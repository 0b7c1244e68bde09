"""What a long task reports while it runs: values that are yielded, never printed.

A long task is a generator `Generator[Event, None, R]`: it yields events and returns its value. Callers write
`value = yield from task(...)`, or `result(task(...))` where nobody watches.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Done", "Event", "Note", "Progress", "StageStart", "result"]


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
class Done:
    """A task ended. `data` holds its results, JSON-ready."""

    stage: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


Event = StageStart | Progress | Note | Done

R = TypeVar("R")


def result(events: Generator[Event, None, R]) -> R:
    """Run a long task to its end without showing its events, and return its value."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            value: R = end.value
            return value
