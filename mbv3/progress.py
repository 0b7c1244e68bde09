"""Long work to its end, its progress shown: bars on a terminal and in a notebook, plain lines on request.

Everything goes to stderr. Where stderr is neither a terminal nor a notebook, `drain` shows nothing; caveats go to the
logger `mbv3`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

from mbv3.events import Done, Event, Note, Progress, StageStart

__all__ = ["bars", "drain", "lines", "quiet", "silent"]

R = TypeVar("R")
PLAIN_EVERY_S = 10.0  # between two lines of progress


def drain(events: Generator[Event, None, R], show: Callable[[Generator[Event, None, R]], R] | None = None) -> R:
    """Run `events` to their end and return their value. `show`: `bars`, `lines`, `quiet` or `silent`; None
    chooses."""
    if show is None:
        show = bars if sys.stderr.isatty() or _in_notebook() else quiet
    return show(events)


def quiet(events: Generator[Event, None, R]) -> R:
    """Nothing is shown; warnings are logged."""
    return _each(events, _logged)


def silent(events: Generator[Event, None, R]) -> R:
    """Nothing is shown."""
    return _each(events, lambda event: None)


def lines(events: Generator[Event, None, R]) -> R:
    """A line an event, and one every ten seconds while there is progress."""
    last = 0.0

    def show(event: Event) -> None:
        nonlocal last
        if isinstance(event, Progress):
            if time.monotonic() - last < PLAIN_EVERY_S:
                return
            last = time.monotonic()
        print(line(event), file=sys.stderr, flush=True)  # noqa: T201

    return _each(events, show)


def bars(events: Generator[Event, None, R]) -> R:
    """A line an event, and a progress bar below."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.fields[stage]}", style="bold"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}"),
    )
    with Bars(*columns, console=console, transient=True) as shown:
        task: Any = None

        def show(event: Event) -> None:
            nonlocal task
            if isinstance(event, Progress):
                text = escape(event.text + _left(event, "  "))
                if task is None:
                    task = shown.add_task(text, total=event.total, stage=event.stage)
                shown.update(task, completed=event.done, total=event.total, description=text, stage=event.stage)
                return
            warning = isinstance(event, Note) and event.warning
            console.print(escape(line(event)), style="yellow" if warning else None, soft_wrap=True)
            if isinstance(event, StageStart) and task is not None:
                shown.remove_task(task)
                task = None

        return _each(events, show)


def line(event: Event) -> str:
    """An event as a line of text."""
    text = event.text
    if isinstance(event, StageStart) and event.forecast_s is not None:
        text += f" (about {duration(event.forecast_s)})"
    elif isinstance(event, Progress):
        text = f"{event.done:g}/{event.total:g}{f' {text}' if text else ''}{_left(event, ', ')}"
    elif isinstance(event, Note) and event.warning:
        text = f"warning: {text}"
    return f"[{event.stage}] {text}"


def duration(seconds: float) -> str:
    """`95 s`, `12 min 05 s`."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02d} s"


def _left(event: Progress, between: str) -> str:
    return f"{between}{duration(event.left_s)} left" if event.left_s is not None else ""


def _each(events: Generator[Event, None, R], show: Callable[[Event], None]) -> R:
    with closing(events):
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                value: R = end.value
                return value
            show(event)


def _logged(event: Event) -> None:
    if not isinstance(event, (Progress, Done)):
        warning = isinstance(event, Note) and event.warning
        logging.getLogger("mbv3").log(logging.WARNING if warning else logging.INFO, "[%s] %s", event.stage, event.text)


def _in_notebook() -> bool:
    """IPython runs this, which draws what rich prints."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
