"""Long work is run to its end, and shown."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType

import pytest

from mbv3 import progress
from mbv3.events import Done, Event, Note, Progress, RunStarted, StageStart, watched
from mbv3.progress import bars, drain, lines, quiet, silent


def work() -> Generator[Event, None, int]:
    yield RunStarted(Path("runs/a"))
    yield StageStart("training", "begins", 200)
    yield Progress("training", 1, 4, "loss 2", 30)
    yield Note("training", "careful [here]", warning=True)
    yield Done("training", "ends")
    return 7


@pytest.mark.parametrize("show", [silent, quiet, lines, bars])
def test_the_value_comes_back(show: object) -> None:
    assert drain(work(), show) == 7  # type: ignore[arg-type]


@pytest.mark.parametrize("show", [lines, bars])
def test_lines(show: object, capsys: pytest.CaptureFixture[str]) -> None:
    drain(work(), show)  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("[run] run directory runs/a", "[training] begins (about 3 min 20 s)",
                 "[training] warning: careful [here]", "[training] ends"):  # fmt: skip
        assert text in err
    if show is lines:
        assert "[training] 1/4 loss 2, 30 s left" in err


def test_without_a_terminal_nothing_is_drawn_and_warnings_are_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="mbv3"):
        assert drain(work()) == 7
    assert capsys.readouterr() == ("", "")
    assert [(r.levelname, r.getMessage()) for r in caplog.records][-1] == ("WARNING", "[training] careful [here]")


def test_a_notebook_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    drawn: list[bool] = []
    monkeypatch.setattr(progress, "bars", lambda events: drawn.append(True))
    drain(work())
    assert drawn == [True]


def test_work_is_closed_when_its_watcher_fails() -> None:
    ended: list[str] = []

    def guarded() -> Generator[Event, None, int]:
        try:
            yield from work()
        finally:
            ended.append("closed")
        return 1

    def fails(event: Event) -> None:
        raise ValueError("cannot be shown")

    with pytest.raises(ValueError, match="cannot be shown"):
        next(watched(guarded(), fails))
    assert ended == ["closed"]
