"""How NetAdapt divides the time that a run was given."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mbv3.data import procedural_images, split
from mbv3.netadapt import Scored, Start
from mbv3.nn import build
from mbv3.pipeline.accuracy import Images
from mbv3.pipeline.options import Options
from mbv3.pipeline.shrink import _decide_steps, _keep_pace
from mbv3.spec import load_spec


@pytest.mark.parametrize(
    ("minutes", "delta", "steps_then", "delta_then"),
    [(0.01, None, 1, 0.04), (1e5, None, 60, 0.01), (0.01, 0.02, 1, 0.02), (1e5, 0.02, 60, 0.02)],
)
def test_short_of_time_the_cuts_are_fewer_and_larger_unless_their_size_was_given(
    minutes: float, delta: float | None, steps_then: int, delta_then: float
) -> None:
    images = Images(*split(procedural_images(80, 32, 0), 0.25, 16, 0), (32, 32), True)
    spec = replace(load_spec("mobilenet_v3_small@0.35"), resolution=(32, 32))
    spec = replace(spec, head=replace(spec.head, classes=len(images.train.classes)))
    start = Start(0, spec, build(spec, 0).state_dict(), Scored(2.0, 50.0, 1.0))
    run: Any = SimpleNamespace(record={"plan": {}}, save=lambda: None)
    options = Options(target_ms=1.0, budget_minutes=minutes, delta=delta)
    assert _decide_steps(options, run, start, images, 1.0) == (steps_then, delta_then)
    # a run that goes on keeps to it, whatever its time is now
    assert _decide_steps(replace(options, budget_minutes=1.0), run, start, images, 1.0) == (steps_then, delta_then)


@pytest.mark.parametrize(
    ("spent", "done", "steps", "delta", "steps_then", "delta_then"),
    [
        (20, 0.5, 10, None, 10, 0.01),  # in time
        (60, 0.5, 12, None, 8, 0.01),  # 60 s more at this pace, 40 are left
        (60, 0.5, 3, None, 4, 0.02),  # two of three steps would be left: cuts twice as large have time for four
        (200, 0.5, 3, None, 1, 0.04),  # no time left: the largest cuts
        (60, 0.5, 3, 0.01, 2, 0.01),  # the cuts' size was given by hand
        (200, 1.0, 3, None, 3, 0.01),  # nothing more to do
    ],
)
def test_a_run_behind_its_forecast_tunes_less_and_then_cuts_more(
    spent: float, done: float, steps: int, delta: float | None, steps_then: int, delta_then: float
) -> None:
    plan: dict[str, Any] = {"finetune_steps": steps, "delta": 0.01, "netadapt_given_s": 100.0}
    run: Any = SimpleNamespace(record={"plan": plan}, save=lambda: None)
    options = Options(target_ms=1.0, delta=delta)
    assert _keep_pace(options, run, spent, 100.0, done) == (steps_then, pytest.approx(delta_then))
    assert plan["finetune_steps"] == steps_then  # kept: a run that goes on goes on with it


def test_steps_given_by_hand_are_kept_however_long_they_take() -> None:
    run: Any = SimpleNamespace(record={"plan": {"finetune_steps": 5, "delta": 0.01}}, save=lambda: None)
    assert _keep_pace(Options(target_ms=1.0, finetune_steps=5), run, 1e4, 0.0, 0.5) == (5, 0.01)
