"""Events of a command, shown on stderr."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from typing import Any

from mbv3.events import Done, Event
from mbv3.progress import bars, drain, lines

__all__ = ["follow"]


def follow(events: Iterable[Any]) -> Any:
    """Show events as they come; return the value of a generator that returns one, else Done's data, or the last value
    that is no event."""
    return drain(_valued(events), bars if sys.stderr.isatty() else lines)


def _valued(events: Iterable[Any]) -> Generator[Event, None, Any]:
    last: Any = None
    iterator = iter(events)
    while True:
        try:
            event = next(iterator)
        except StopIteration as end:
            return last if end.value is None else end.value
        if isinstance(event, Event):
            last = event.data if isinstance(event, Done) else last
            yield event
        else:
            last = event
