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
from mbv3.pipeline.shrink import _decide_steps
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
