"""Events on a terminal: rich progress where there is one, plain lines otherwise. Everything goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

from mbv3.events import Done, Event, Note, Progress, StageStart

__all__ = ["follow"]

_PLAIN_EVERY_S = 10.0


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


def follow(events: Any) -> Any:
    """Show events as they come; return what the generator returns, else Done's data, or the last value that is no
    event."""
    returned: list[Any] = []

    def watched() -> Any:
        returned.append((yield from events))

    result: Any = None
    show = _rich if sys.stderr.isatty() else _plain
    for event in show(watched()):
        result = event.data if isinstance(event, Done) else event
    return result if returned[0] is None else returned[0]


def _plain(events: Iterable[Any]) -> Iterable[Any]:
    told = 0.0
    for event in events:
        if isinstance(event, Progress):
            now = time.monotonic()
            if now - told >= _PLAIN_EVERY_S:
                told = now
                print(_line(event), file=sys.stderr, flush=True)  # noqa: T201
        elif isinstance(event, (StageStart, Note, Done)):
            print(_line(event), file=sys.stderr, flush=True)  # noqa: T201
        if not isinstance(event, (StageStart, Note, Progress)):
            yield event


def _rich(events: Iterable[Any]) -> Iterable[Any]:
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
    with Bars(*columns, console=console, transient=True) as bars:
        task = None
        for event in events:
            if isinstance(event, Progress):
                left = f"  {_duration(event.left_s)} left" if event.left_s is not None else ""
                text = escape(f"{event.text}{left}")
                if task is None:
                    task = bars.add_task(text, total=event.total, stage=event.stage)
                bars.update(task, completed=event.done, total=event.total, description=text, stage=event.stage)
            elif isinstance(event, (StageStart, Note, Done)):
                warning = isinstance(event, Note) and event.warning
                console.print(escape(_line(event)), style="yellow" if warning else None, soft_wrap=True)
                if isinstance(event, StageStart) and task is not None:
                    bars.remove_task(task)
                    task = None
            if not isinstance(event, (StageStart, Note, Progress)):
                yield event
