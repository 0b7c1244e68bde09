"""Events of a command, shown on stderr."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TypeVar

from mbv3.events import Event
from mbv3.progress import bars, drain, lines

__all__ = ["follow"]

R = TypeVar("R")


def follow(events: Generator[Event, None, R]) -> R:
    """Show events as they come, and return the value of their generator."""
    return drain(events, bars if sys.stderr.isatty() else lines)
