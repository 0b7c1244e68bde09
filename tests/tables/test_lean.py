"""A part of a table where all of it would take too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mbv3.latency import LatencyTable, least_s
from mbv3.space import SearchSpace, load_space, scale
from mbv3.spec import LayerKey, count, lower, lower_key
from mbv3.tables import lean_plan, part_note, table_plan
from mbv3.tables.lean import serves

RATE = 4e-8  # ms a multiply-add: a server core


def test_a_plan_that_fits_stays_whole() -> None:
    plan = table_plan(scale(load_space("mnasnet-imagenet"), 0.5, 128))
    assert lean_plan(plan, RATE, 3.0, 2.0) == plan


@pytest.mark.parametrize("minutes", [1.5, 3.0])
def test_a_slow_plan_becomes_as_long_as_asked(minutes: float) -> None:
    plan = table_plan(scale(load_space("mobilenetv3"), 2.5, 384))
    lean = lean_plan(plan, RATE, 50.0, minutes)

    def seconds(keys: tuple[LayerKey, ...], passes: int) -> float:
        return sum(least_s(lower_key(k).madds * RATE, passes) for k in keys)

    assert lean.passes < plan.passes
    networks = [least_s(count(spec).madds * RATE, lean.passes) for _, spec in lean.calibration]
    assert seconds(plan.keys, plan.passes) > 2 * 60 * minutes
    # sessions and the reference network take the rest
    assert 0.2 * 60 * minutes < seconds(lean.keys, lean.passes) + sum(networks) < 0.6 * 60 * minutes
    assert set(lean.keys) < set(plan.keys) and len(set(lean.keys)) == len(lean.keys) < len(plan.keys) / 2
    assert {x.key for _, spec in lean.calibration for x in lower(spec)} <= set(lean.keys)
    assert lean.reference == plan.reference
    labels = [label for label, _ in plan.calibration]
    assert [labels.index(label) for label, _ in lean.calibration] == sorted(
        labels.index(label) for label, _ in lean.calibration
    )
    # rows of every kernel size and of every map size, for the cost model
    assert {(k.h, k.w) for k in lean.keys} == {(k.h, k.w) for k in plan.keys}


def test_a_plan_of_many_short_layers_opens_few_sessions() -> None:
    plan = table_plan(scale(load_space("mobilenetv3"), 1.0, 224))
    rate = RATE / 4
    assert sum(least_s(lower_key(k).madds * rate, plan.passes) for k in plan.keys) < 60  # it is not the runs
    lean = lean_plan(plan, rate, 5.0, 2.0)
    assert len(lean.keys) < len(plan.keys) / 2
    assert {x.key for _, spec in lean.calibration for x in lower(spec)} <= set(lean.keys)


def test_networks_far_above_the_target_are_left_out() -> None:
    plan = table_plan(scale(load_space("mobilenetv3"), 2.5, 384))
    ms = np.array([count(spec).madds * RATE for _, spec in plan.calibration])
    target = float(np.quantile(ms, 0.4))
    lean = lean_plan(plan, RATE, target, 2.0)
    assert ms.max() > 1.6 * target
    assert max(count(spec).madds * RATE for _, spec in lean.calibration) <= 1.6 * target


def test_a_part_is_the_same_when_its_networks_are_timed_again() -> None:
    """An interrupted build goes on only with the same layers."""
    plan = table_plan(scale(load_space("mobilenetv3"), 2.5, 384))
    assert {lean_plan(plan, RATE * noise, 50.0, 2.0).keys for noise in (0.98, 0.99, 1.0, 1.01, 1.02)} == {
        lean_plan(plan, RATE, 50.0, 2.0).keys
    }


def test_few_networks_all_calibrate() -> None:
    plan = table_plan(scale(load_space("mobilenetv3"), 2.5, 384))
    few = replace(plan, calibration=plan.calibration[:8])
    assert lean_plan(few, RATE, 50.0, 2.0).calibration == few.calibration


def test_a_part_serves_targets_near_its_own(space: SearchSpace, computed_table: Callable[..., LatencyTable]) -> None:
    plan = table_plan(scale(load_space("mobilenetv3"), 2.5, 384))
    near, far = (lean_plan(plan, RATE, target, 2.0) for target in (60.0, 90.0))
    whole = computed_table(space)
    part = replace(whole, about=lean_plan(plan, RATE, 50.0, 2.0).about)
    assert part_note(whole) == "" and "a part of the space's" in part_note(part)
    assert [serves(whole, p) for p in (plan, near, far)] == [True, True, True]
    assert [serves(part, p) for p in (plan, near, far)] == [False, True, False]
