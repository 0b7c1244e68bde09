"""How well shared weights rank: tau, networks near a target, trainings of each alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from mbv3.events import Note, result
from mbv3.space import SpaceLimits, parse_space, tabulate
from mbv3.spec import lower_key
from mbv3.stages import Images, Memory, SpaceLatency, check_ranking, near_target, shared_scorer
from mbv3.stages.ranking import kendall
from mbv3.supernet import Supernet
from tests.drawn import drawn_images

SPACE = parse_space("""\
format: mbv3-space/1
name: tiny
input: {resolution: 16}
stem: {k: 3, out: 8, nl: RE, s: 2}
blocks:
  - {name: a, s: 1, out: 8, e: [1, 2, 3], k: [3, 5], op: [mbconv, identity], l: [1, 2, 3]}
  - {name: b, s: 2, out: 16, e: [2, 3, 4], k: [3, 5], l: [1, 2, 3]}
  - {name: c, s: 1, out: 16, e: [2, 3, 4], k: [3, 5], l: [1, 2, 3]}
head: {features: 16, classes: 8, dropout: 0}
""")
COST = SpaceLatency(tabulate(SPACE, lambda key: lower_key(key).madds / 1e5), 0.1)
IMAGES = Images(drawn_images(64, 16, 0), drawn_images(32, 16, 1), (16, 16))


@pytest.mark.parametrize("n", [3, 5, 6, 12, 40])
def test_tau_is_scipys_and_lies_in_its_interval(n: int) -> None:
    rng = np.random.default_rng(n)
    one = rng.integers(0, 10, n).astype(float)
    other = one + rng.normal(0, 3, n).round()
    tau, low, high = kendall(one, other)
    assert tau == pytest.approx(kendalltau(one, other).statistic)
    assert (low, high) == (-1, 1) if n <= 4 else -1 < low < tau < high < 1
    assert kendall(-one, other)[0] == pytest.approx(-tau)
    assert kendall(np.ones(n), other)[0] == 0


def test_the_interval_covers_the_true_tau() -> None:
    """Two normal variables of correlation r have tau 2 / pi asin r; Fieller's interval of 95 % over 400 draws of 20."""
    rng, inside = np.random.default_rng(0), 0
    r = 0.6
    for _ in range(400):
        a, b = rng.normal(size=(2, 20))
        _, low, high = kendall(a, r * a + np.sqrt(1 - r * r) * b)
        inside += low <= 2 / np.pi * np.arcsin(r) <= high
    assert 0.95 - 4 * np.sqrt(0.05 * 0.95 / 400) <= inside / 400  # four sigma


def test_networks_near_a_target() -> None:
    least, most = COST.range_ms()
    target = 0.6 * most + 0.4 * least  # few of a uniform draw are so slow
    drawn = SPACE.sample(np.random.default_rng(0), 1000)
    assert np.mean(np.abs(np.log(COST.many(drawn) / target)) <= 0.05) < 0.1
    near = near_target(SPACE, COST, target, n=50)
    assert len(near) == 50 == len(np.unique(near, axis=0))
    assert np.all(np.abs(np.log(COST.many(near) / target)) <= 0.05)
    assert np.array_equal(near, near_target(SPACE, COST, target, n=50))
    assert not np.array_equal(near, near_target(SPACE, COST, target, n=50, seed=1))
    far = near_target(SPACE, COST, 10 * most, n=50)  # nothing is near: the nearest
    assert 0 < len(far) <= 6 and COST.many(far).max() == pytest.approx(most)


def test_a_ranking_of_few_networks_goes_on_where_it_stopped() -> None:
    scorer = shared_scorer(Supernet(SPACE, 0), IMAGES)
    genomes = [tuple(int(v) for v in g) for g in near_target(SPACE, COST, sum(COST.range_ms()) / 2, n=6)]
    keep = Memory()
    events = list[object]()

    def run(**more: int) -> object:
        work = check_ranking(scorer, genomes, IMAGES, keep=keep, **more)  # type: ignore[arg-type]
        while True:
            try:
                events.append(next(work))
            except StopIteration as stop:
                return stop.value

    found = run(networks=3, steps=2)
    assert found.n == 3 and found.steps == 2  # type: ignore[attr-defined]
    assert -1 <= found.low <= found.tau <= found.high <= 1  # type: ignore[attr-defined]
    assert -1 <= found.tau_without_recalibration <= 1  # type: ignore[attr-defined]
    assert any(isinstance(e, Note) and "shared weights rank 3 networks" in e.text for e in events)
    assert run(networks=4, steps=4) == found  # what was decided stays


def test_no_ranking_where_the_time_is_too_short() -> None:
    scorer = shared_scorer(Supernet(SPACE, 0), IMAGES)
    genomes = [tuple(int(v) for v in g) for g in near_target(SPACE, COST, 1.0, n=6)]
    assert result(check_ranking(scorer, genomes, IMAGES, seconds=1e-6)) is None
    assert result(check_ranking(scorer, genomes[:2], IMAGES, steps=1)) is None


def test_scores_take_their_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second and a score two, of which each network has three: 180 s are six times 24 steps."""
    monkeypatch.setattr("mbv3.stages.ranking._step_seconds", lambda *_: 1.0)
    monkeypatch.setattr("mbv3.stages.ranking._score_seconds", lambda *_: 2.0)
    scorer = shared_scorer(Supernet(SPACE, 0), IMAGES)
    genomes = [tuple(int(v) for v in g) for g in near_target(SPACE, COST, sum(COST.range_ms()) / 2, n=6)]

    def decided(seconds: float) -> list[int]:
        keep = Memory()
        next(check_ranking(scorer, genomes, IMAGES, seconds=seconds, keep=keep))
        return [int(v) for v in keep.values["ranking"]]

    assert decided(180) == [6, 24]
    assert decided(100) == [3, 27]  # four would have 19


def test_limits_hold_near_a_target() -> None:
    from mbv3.space import Limits

    target = sum(COST.range_ms()) / 2
    every = near_target(SPACE, COST, target)
    limits = Limits(params=int(np.median([Limits(params=1).of(SPACE.spec(tuple(g)))["params"] for g in every[:50]])))
    some = near_target(SPACE, COST, target, limits=limits.on(SPACE))
    assert 0 < len(some) < len(every) and limits.on(SPACE).within(some).all()
    assert isinstance(limits.on(SPACE), SpaceLimits) and replace(limits) == limits
