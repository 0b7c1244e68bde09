"""Events on a terminal: a rich progress bar where there is one, plain lines otherwise. Everything goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mbv3.events import Done, Event, Note, Progress, StageStart

__all__ = ["follow"]

_PLAIN_EVERY_S = 10.0
_EVENTS = (StageStart, Progress, Note, Done)

Show = Callable[[Event], None]


def follow(events: Iterable[Any]) -> Any:
    """Show `events` as they come and return the value of the generator.

    A generator that ends with Done, or with a value that is no event, in place of a return value: that is returned.
    """
    display: AbstractContextManager[Show] = _rich() if sys.stderr.isatty() else _plain()
    steps, last = iter(events), None
    with display as show:
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                return last if end.value is None else end.value
            if isinstance(event, _EVENTS):
                show(event)
            if isinstance(event, Done):
                last = event.data
            elif not isinstance(event, _EVENTS):
                last = event


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    seconds = max(0, round(seconds))
    if seconds < 100:
        return f"{seconds} s"
    return f"{seconds // 60} min {seconds % 60:02d} s"


def _line(event: Event) -> str:
    if isinstance(event, StageStart):
        forecast = f" (about {_duration(event.forecast_s)})" if event.forecast_s is not None else ""
        return f"[{event.stage}] {event.text}{forecast}"
    if isinstance(event, Progress):
        left = f", {_duration(event.left_s)} left" if event.left_s is not None else ""
        text = f" {event.text}" if event.text else ""
        return f"[{event.stage}] {event.done:g}/{event.total:g}{text}{left}"
    if isinstance(event, Note):
        return f"[{event.stage}] {'warning: ' if event.warning else ''}{event.text}"
    return f"[{event.stage}] {event.text}"


@contextmanager
def _plain() -> Iterator[Show]:
    printed = 0.0  # when progress was last printed

    def show(event: Event) -> None:
        nonlocal printed
        if isinstance(event, Progress):
            now = time.monotonic()
            if now - printed < _PLAIN_EVERY_S:
                return
            printed = now
        print(_line(event), file=sys.stderr, flush=True)  # noqa: T201

    yield show


@contextmanager
def _rich() -> Iterator[Show]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, TaskID, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.fields[stage]}", style="bold"),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}"),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task: TaskID | None = None

        def show(event: Event) -> None:
            nonlocal task
            if isinstance(event, Progress):
                left = f"  {_duration(event.left_s)} left" if event.left_s is not None else ""
                text = escape(f"{event.text}{left}")
                if task is None:
                    task = bars.add_task(text, total=event.total, stage=event.stage)
                bars.update(task, completed=event.done, total=event.total, description=text, stage=event.stage)
                return
            warning = isinstance(event, Note) and event.warning
            console.print(escape(_line(event)), style="yellow" if warning else None, soft_wrap=True)
            if isinstance(event, StageStart) and task is not None:
                bars.remove_task(task)
                task = None

        yield show
