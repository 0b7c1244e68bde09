"""Building the table of this machine, in one call."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from mbv3.events import Event
from mbv3.latency import MINUTES, LatencyTable
from mbv3.progress import drain
from mbv3.tables.open import choose_table
from mbv3.tables.plan import SPACE

__all__ = ["build_table", "build_table_events"]


def build_table(
    space: str = SPACE,
    *,
    scale: str = "1",
    runtime: str = "onnxruntime",
    threads: int = 1,
    rebuild: bool = False,
    error: float | None = None,
    minutes: float = MINUTES,
) -> LatencyTable:
    """The latency table of this machine for `space`, from the cache, else measured now. Shows progress on a terminal
    and in a notebook; `build_table_events` yields it.

    `error`: passes go on until chance adds no more percent to a prediction, at most about `minutes`.

    Raises:
        BadInput: the space, the scale or the runtime cannot be used.
    """
    return drain(
        build_table_events(
            space, scale=scale, runtime=runtime, threads=threads, rebuild=rebuild, error=error, minutes=minutes
        )
    )


def build_table_events(
    space: str = SPACE, *, runtime: str = "onnxruntime", threads: int = 1, **how: Any
) -> Generator[Event, None, LatencyTable]:
    """`build_table`, its events yielded."""
    return (yield from choose_table(None, runtime, threads, space=space, **how)).table
