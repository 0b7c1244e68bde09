"""Several limits at once: they bind in the solver, the random baseline, the scale, NetAdapt; what nothing meets."""

from __future__ import annotations

import numpy as np
import pytest

from mbv3.errors import Unreachable
from mbv3.events import result
from mbv3.latency import load_profile
from mbv3.space import Limits, SearchSpace, load_space, tabulate
from mbv3.spec import load_spec, lower_key, scale_spec
from mbv3.stages import (
    Judge,
    SpaceLatency,
    adapt_predicted,
    baselines_at,
    best_at_random,
    check_limits,
    choose_scale_by_accuracy,
    imagenet_judge,
    search,
    solve,
    space_latency,
)
from mbv3.tables import Latency

TARGET = 60.0


@pytest.fixture(scope="module")
def latency() -> Latency:
    return Latency(load_profile("pixel-1"))


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("mnasnet-imagenet")


@pytest.fixture(scope="module")
def judge(space: SearchSpace) -> Judge:
    return imagenet_judge(space)


@pytest.fixture(scope="module")
def cost(space: SearchSpace, latency: Latency) -> SpaceLatency:
    return space_latency(space, latency)


SEVERAL = Limits(params=3_900_000, madds=210_000_000, mb=15.0)


@pytest.mark.parametrize("limits", [Limits(params=3_700_000), Limits(madds=200_000_000), SEVERAL])
def test_the_best_network_and_the_starts_are_within(
    space: SearchSpace, judge: Judge, cost: SpaceLatency, limits: Limits
) -> None:
    free = result(solve(space, judge, cost, TARGET))
    found = result(solve(space, judge, cost, TARGET, limits=limits.on(space)))
    assert not limits.hold(space.deployed(free.best.genome)) and found.best.accuracy < free.best.accuracy
    for trial in (found.best, *found.starts, *found.trials):
        assert limits.hold(space.deployed(trial.genome))
    drawn = best_at_random(space, judge, cost, TARGET, 20_000, limits=limits.on(space))
    assert drawn is not None and limits.hold(space.deployed(drawn.genome))
    assert drawn.accuracy <= found.best.accuracy


def test_a_limit_that_nothing_meets_is_named_with_its_range(space: SearchSpace, cost: SpaceLatency) -> None:
    limits = Limits(params=1_000_000, madds=400_000_000)
    with pytest.raises(Unreachable, match=r"--max-params 1 M parameters: they have [\d.]+ M .* to [\d.]+ M") as told:
        check_limits(space, limits.on(space), cost, True)
    assert "--max-madds" not in str(told.value) and "; --scale auto fits the space" in str(told.value)
    assert (told.value.smallest_ms, told.value.largest_ms) == cost.range_ms()
    check_limits(space, Limits(madds=400_000_000).on(space), cost, True)


def test_limits_that_are_met_alone_and_not_together(space: SearchSpace, judge: Judge) -> None:
    """On a device where small layers are slow, the fastest network has many parameters."""
    cost = SpaceLatency(tabulate(space, lambda key: 1.0 / (1.0 + lower_key(key).madds / 1e6)), 0.0)
    fastest, genome = cost.additive.extreme(False)
    least = Limits(params=1).on(space).every[0]
    own = float(least.cost(np.array([genome]))[0])
    assert least.least < own
    limits = Limits(params=int((least.least + own) / 2)).on(space)
    check_limits(space, limits, cost, True)
    with pytest.raises(Unreachable, match=r"met alone, .* within the others the least is [\d.]+ ms of"):
        result(solve(space, judge, cost, (fastest + cost.constant_ms) * (1 + 1e-9), limits=limits))


def test_the_scale_keeps_to_the_limits_where_they_bind(latency: Latency) -> None:
    """A target that leaves more time than two million parameters can use."""
    limits, base = Limits(params=2_500_000), load_space("mnasnet-imagenet")
    chosen = choose_scale_by_accuracy(latency, base, 100.0, exact=latency, limits=limits).space
    free = choose_scale_by_accuracy(latency, base, 100.0, exact=latency).space
    assert chosen.width < free.width and not limits.on(chosen).unmet()
    with pytest.raises(Unreachable, match=r"no network is within a limit: .*--max-params 0.01 M"):
        tiny = Limits(params=10_000)
        small = choose_scale_by_accuracy(latency, base, 100.0, exact=latency, limits=tiny).space
        check_limits(small, tiny.on(small), space_latency(small, latency), False)


def test_netadapt_and_the_baselines_keep_to_the_limits(
    space: SearchSpace, judge: Judge, cost: SpaceLatency, latency: Latency
) -> None:
    found = result(solve(space, judge, cost, TARGET, count=2, limits=SEVERAL.on(space)))
    specs = [space.spec(t.genome) for t in (found.best, *found.starts)]
    adapted = result(adapt_predicted(specs, latency, TARGET, delta=0.05, limits=SEVERAL))
    free = result(adapt_predicted(specs, latency, TARGET, delta=0.05))
    assert SEVERAL.hold(adapted.spec) and adapted.ms <= TARGET and not SEVERAL.hold(free.spec)
    beside = baselines_at(adapted.ms, specs[0], latency, space, judge, cost, 2000, limits=SEVERAL)
    wide = baselines_at(2 * TARGET, specs[0], latency, space, judge, cost, 2000)
    assert len(beside) == len(wide) == 4
    assert all(a.estimate.value < b.estimate.value for a, b in zip(beside, wide, strict=True))
    assert SEVERAL.hold(beside[3].spec) and beside[3].published is not None
    for b in beside[:2]:
        name, _, width = b.name.partition("@")
        assert SEVERAL.hold(scale_spec(load_spec(name), float(width), (224, 224)))


@pytest.mark.parametrize("sampler", ["rnn", "nsga2", "random"])
def test_beyond_a_limit_a_trial_loses_what_it_has_too_much(
    space: SearchSpace, judge: Judge, cost: SpaceLatency, sampler: str
) -> None:
    limits = SEVERAL.on(space)
    trials = result(
        search(space, judge, cost, TARGET, sampler=sampler, reward="mnasnet-hard", trials=60, limits=limits)
    )
    over = [t for t in trials if not limits.hold(t.genome)]
    assert over and len(over) < 60
    for t in trials:
        hard = t.accuracy / 100 * min(1.0, TARGET / t.latency_ms)
        assert t.reward == pytest.approx(hard * limits.share(t.genome))
