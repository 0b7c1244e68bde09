"""A training in a notebook: no options, no run directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mbv3.errors import BadInput
from mbv3.events import Event, Note
from mbv3.nn import build
from mbv3.progress import drain, silent
from mbv3.spec import ArchSpec
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.learn import LOG, learn
from mbv3.tasks import TASKS, Source, TaskData
from mbv3.training import Fit, loop, recipe_for


class Folder:
    """A Keep whose checkpoints are in a folder."""

    def __init__(self, path: Path) -> None:
        self.path, self.memory = path, Memory()

    def file(self, name: str) -> Path:
        return self.path / name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)


@pytest.fixture
def data(tiny_spec: ArchSpec, classes: Path) -> TaskData:
    return drain(TASKS["classify"].load(tiny_spec, Source(path=classes)), silent)


@pytest.fixture
def recipe(data: TaskData) -> Fit:
    return recipe_for("small-data", len(data.train), (32, 32), epochs=3.0, batch=8)


def test_it_trains_and_scores(tiny_spec: ArchSpec, data: TaskData, recipe: Fit) -> None:
    keep = Memory()
    learned = drain(learn(tiny_spec, data, recipe, keep=keep), silent)
    assert learned.spec.head.classes == 2 and (learned.n, learned.judged_on) == (16, "test")
    assert 0 <= learned.metrics["top1"] <= 100 and not learned.net.training
    assert [row["step"] for row in learned.rows] == [5, 10, 15] == [int(r["step"]) for r in keep.rows(LOG)]
    fresh = build(learned.spec, recipe.seed)
    fresh.load_state_dict(learned.state)
    assert any(not torch.equal(v, learned.state[k]) for k, v in build(learned.spec, recipe.seed).state_dict().items())
    assert keep.texts["network.yaml"].startswith("format: mbv3-spec/1")


def test_it_starts_from_weights_and_refuses_others(tiny_spec: ArchSpec, data: TaskData, recipe: Fit) -> None:
    notes: list[str] = []

    def see(events: Any) -> Any:
        for event in events:
            notes.append(event.text)

    see(learn(tiny_spec, data, replace(recipe, steps=1), init=build(tiny_spec, 5).state_dict(), init_name="mine"))
    assert any(t.startswith("weights of mine; new: the head (") for t in notes)
    wide = replace(tiny_spec, stem=replace(tiny_spec.stem, out=16))
    with pytest.raises(BadInput, match=r"mine: weights of another network"):
        drain(learn(tiny_spec, data, recipe, init=build(wide, 5).state_dict(), init_name="mine"), silent)


def test_an_interrupted_training_goes_on_where_it_was(
    tiny_spec: ArchSpec, data: TaskData, recipe: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drain(learn(tiny_spec, data, recipe), silent)
    keep: Keep = Folder(tmp_path)
    real, calls = loop.one_step, 0

    def stopped(*a: Any, **k: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt("here")
        return real(*a, **k)

    with monkeypatch.context() as m:
        m.setattr(loop, "one_step", stopped)
        with pytest.raises(KeyboardInterrupt, match="here"):
            drain(learn(tiny_spec, data, recipe, keep=keep), silent)
    events: list[Event] = []
    work = learn(tiny_spec, data, recipe, keep=keep)
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            again = end.value
            break
    assert any(isinstance(e, Note) and e.text == "goes on at step 5 of 15" for e in events)
    assert all(torch.equal(v, again.state[k]) for k, v in whole.state.items())
    assert [r["loss"] for r in again.rows] == pytest.approx([r["loss"] for r in whole.rows], rel=1e-9)


def test_memory_keeps_a_decision() -> None:
    keep = Memory()
    assert (keep.value("steps", lambda: 3), keep.value("steps", lambda: 4)) == (3, 3)
    keep.note("a caveat")
    keep.note("a caveat")
    assert keep.notes == ["a caveat"] and keep.file("x") is None and keep.rows("none.csv") == []
