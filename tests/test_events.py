"""Long work: a generator of events that returns its value, with and without a watcher."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from mbv3.cli.show_events import follow
from mbv3.events import Done, Event, Note, Progress, StageStart, result


def work(fails: bool = False) -> Generator[Event, None, int]:
    yield StageStart("work", "begins", 120.0)
    yield Progress("work", 1, 2, "steps", 5.0)
    yield Note("work", "look out", warning=True)
    if fails:
        raise ValueError("broken")
    return 7


def test_the_value_without_a_watcher() -> None:
    assert result(work()) == 7
    with pytest.raises(ValueError, match="broken"):
        result(work(fails=True))


def test_the_value_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(work()) == 7
    said = capsys.readouterr()
    assert said.out == "" and said.err.split("\n")[0] == "[work] begins (about 2 min 00 s)"
    assert "[work] 1/2 steps, 5 s left" in said.err and "[work] warning: look out" in said.err
    with pytest.raises(ValueError, match="broken"):
        follow(work(fails=True))


def test_the_end_of_a_task_is_an_event_and_its_result_the_value(capsys: pytest.CaptureFixture[str]) -> None:
    def ended() -> Generator[Event, None, dict[str, int]]:
        yield Done("work", "finished")
        return {"n": 1}

    assert follow(ended()) == {"n": 1}
    assert "[work] finished" in capsys.readouterr().err


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert follow(work()) == 7
    assert "look out" in capsys.readouterr().err
