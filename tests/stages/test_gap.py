"""The bound of the ImageNet model under the times of a phone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mbv3.accuracy import imagenet_space
from mbv3.events import result
from mbv3.latency import load_profile
from mbv3.space import Limits, load_space, parse_space
from mbv3.stages import imagenet_judge, most_accurate, solve, space_latency
from mbv3.tables import Latency

SMALL = """\
format: mbv3-space/1
name: small
input: {resolution: 128}
stem: {k: 3, out: 16, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 16, e: [2, 4], k: [3, 5]}
  - {name: b, s: 2, out: 32, e: [3, 6], k: [3, 5], l: [1, 2, 3], width: [0.75, 1.25]}
  - {name: c, s: 2, out: 48, e: [3, 6], k: [3, 5], l: [1, 2], se: [0, 1], width: [0.75, 1.25]}
  - {name: d, s: 2, out: 96, e: [3, 6], k: [3, 5], l: [1, 2], se: [0, 1]}
head: {features: 320, classes: 1000}
"""


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("limited", [False, True])
def test_no_network_of_a_space_exceeds_the_bound(share: float, limited: bool) -> None:
    space = parse_space(SMALL)
    every = np.array(list(itertools.product(*map(range, space.sizes))), dtype=np.int64)
    judge, cost = imagenet_judge(space), space_latency(space, Latency(load_profile("pixel-1")))
    limits = Limits(params=int(np.quantile(Limits(params=1).on(space).every[0].cost(every), 0.5)) if limited else None)
    target = float(np.quantile(cost.many(every), share))
    within = every[(cost.many(every) <= target) & limits.on(space).within(every)]
    values = judge.accuracies(within)
    best = tuple(int(v) for v in within[np.argmax(values)])
    worse = tuple(int(v) for v in within[np.argsort(values)[len(values) // 2]])
    for known, seconds in ((best, 2.0), (worse, 0.2), (worse, 0.0)):
        bound = most_accurate(judge, cost, target, [known], limits.on(space), seconds=seconds)
        assert bound is not None and values.max() - 1e-6 <= bound < 99


def test_a_solution_says_how_far_the_best_can_be() -> None:
    space = load_space("mobilenetv3")
    judge, cost = imagenet_judge(space), space_latency(space, Latency(load_profile("pixel-1")))
    solution = result(solve(space, judge, cost, 60.0, count=2))
    assert solution.gap is not None and 0 <= solution.gap < 2.0
    assert solution.bound == pytest.approx(solution.best.accuracy + solution.gap)


def test_the_slopes_are_those_of_the_worth() -> None:
    space = load_space("mobilenetv3")
    top1 = imagenet_space(space)
    rng = np.random.default_rng(0)
    for x in top1.sums(space.sample(rng, 5)):
        slopes = top1.slopes(x)
        assert (slopes >= 0).all()
        for i in rng.choice(len(x), 8, replace=False):
            step = np.zeros(len(x))
            step[i] = 1e-5 * max(1.0, x[i])
            ends = top1.worth(np.array([x + step, x - step]))
            assert slopes[i] == pytest.approx((ends[0] - ends[1]) / (2 * step[i]), rel=1e-4, abs=1e-7)
    a, b = top1.sums(space.sample(rng, 2))  # concave: the middle is worth at least the mean
    ends = top1.worth(np.array([a, b, (a + b) / 2]))
    assert ends[2] >= (ends[0] + ends[1]) / 2 - 1e-12
