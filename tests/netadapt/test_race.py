"""A step's choice by paired differences: the signal under noise that all networks share, rungs, ties, memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau
from torch import Tensor

from mbv3.netadapt import Scored, Start, Step, Tried, netadapt_paired
from mbv3.netadapt.race import paired, rungs
from mbv3.nn import build
from mbv3.spec import ArchSpec, MBConv

from .test_proposals import SMALL, stairs

STATE = build(SMALL, 0).state_dict()
LATENCY = stairs(16)
NOW = LATENCY([SMALL])[0]
START = Start(0, SMALL, STATE, Scored(NOW, 80.0, 0.5))
IMAGES = 200


def true_loss(spec: ArchSpec) -> float:
    """What the cuts so far cost: row 1 is dear."""
    gone = 0.0
    for i, (a, b) in enumerate(zip(SMALL.rows, spec.rows, strict=True)):
        assert isinstance(a, MBConv) and isinstance(b, MBConv)
        gone += (a.exp - b.exp) * (8 if i == 1 else 1) + (a.out - b.out) * 5
    return 0.001 * gone


class Tune:
    """Loss falls with the steps for every network alike, by luck of the batches; images are easy or hard for all."""

    def __init__(self, own: float = 0.0) -> None:
        self.calls: list[tuple[int, int]] = []  # (step, steps)
        self.own = own  # noise that a network has for itself, less after more steps
        self.images = np.random.default_rng(0).exponential(0.5, IMAGES)
        self.diverges: Callable[[ArchSpec], bool] = lambda spec: False

    def __call__(self, spec: ArchSpec, state: dict[str, Tensor], step: int, steps: int) -> Tried:
        build(spec).load_state_dict(state, strict=True)
        self.calls.append((step, steps))
        if self.diverges(spec):
            return Tried(state, np.full(IMAGES, np.nan), np.zeros(IMAGES, bool))
        luck = np.random.default_rng((step, steps)).normal(-0.3, 0.2)
        rng = np.random.default_rng((step, steps, *(r.out + r.inner(0) for r in spec.rows)))
        losses = self.images + luck + true_loss(spec) + self.own / steps**0.5 * rng.standard_normal(IMAGES)
        return Tried(state, losses, losses < 0.7)


def finished(steps: Sequence[Step]) -> list[Step]:
    return [s for s in steps if s.chosen is not None]


def run(tune: Tune, target: float = NOW - 1.0, steps: int = 4, **options: bool) -> list[Step]:
    return list(netadapt_paired(START, target, 0.09, LATENCY, tune, lambda: steps, **options))  # type: ignore[arg-type]


def test_what_all_networks_gain_by_training_decides_nothing() -> None:
    done = finished(run(Tune()))
    ms = [NOW, *(s.after.scored.latency_ms for s in done)]
    assert ms[-1] <= NOW - 1.0 < ms[-2] and all(a > b for a, b in itertools.pairwise(ms))
    before = SMALL
    for s in done:
        assert s.chosen is not None
        per_ms = [
            (true_loss(c.proposal.spec) - true_loss(before)) / (LATENCY([before])[0] - c.proposal.latency_ms)
            for c in s.candidates
        ]
        assert per_ms[s.chosen] == pytest.approx(min(per_ms))
        assert [-c.ratio for c in s.candidates] == pytest.approx(per_ms)  # exact, though the luck is 50 times as large
        before = s.after.spec
    assert done[-1].after.spec.rows[1] == SMALL.rows[1]


def test_paired_differences_rank_cuts_that_unpaired_ones_do_not() -> None:
    """40 cuts of equal ms: the figure of the control arm against that of the parent before its steps."""
    rng = np.random.default_rng(1)
    true = rng.exponential(0.02, 40)
    images, luck = rng.exponential(0.5, IMAGES), rng.normal(-0.3, 0.2, 40)  # of batches that no two share
    shared = [Tried({}, images + t + 0.03 * rng.standard_normal(IMAGES), images < 1) for t in true]
    control = Tried({}, images, images < 1)
    found = [paired(t, control, 1.0) for t in shared]
    assert kendalltau([p.per_ms for p in found], true).statistic > 0.8
    assert kendalltau([float(t.losses.mean()) + x for t, x in zip(shared, luck, strict=True)], true).statistic < 0.4
    errors = [(p.per_ms - t) / p.error for p, t in zip(found, true, strict=True)]
    assert 0.7 < float(np.std(errors)) < 1.4  # the standard error is one: sigma of 40 draws is 0.11


def test_the_steps_go_where_they_decide() -> None:
    for n, steps in itertools.product((1, 2, 3, 5, 6, 16, 40), (1, 4, 60)):
        plan = rungs(n, steps)
        counts, lengths = [c for c, _ in plan], [t for _, t in plan]
        assert counts[0] == n and counts == sorted(counts, reverse=True) and counts[-1] == min(n, 2)
        assert all(b == 4 * a for a, b in itertools.pairwise(lengths))
        spent = sum((c + (n > 1)) * t for c, t in plan)
        assert spent <= max(1.25 * n * steps, sum((c + 1) * 4**i for i, c in enumerate(counts)))
    assert rungs(16, 60) == [(16, 10), (6, 40), (2, 160)]
    tune = Tune()
    step = finished(run(tune))[0]
    first = [steps for s, steps in tune.calls if s == 1]
    assert {t: first.count(t) for t in sorted(set(first))} == {
        t: n + 1
        for n, t in rungs(step.total, 4)  # the uncut network in each
    }


def test_near_ties_get_more_steps() -> None:
    noisy = Tune(own=2.0)
    step = finished(run(noisy))[0]
    longest = max(t for s, t in noisy.calls if s == 1)
    assert longest > rungs(step.total, 4)[-1][1]
    sure = Tune()
    finished(run(sure))
    assert max(t for s, t in sure.calls if s == 1) == rungs(step.total, 4)[-1][1]


def test_without_halving_every_proposal_gets_t_steps() -> None:
    tune = Tune()
    step = finished(run(tune, halve=False))[0]
    assert [t for s, t in tune.calls if s == 1] == [4] * (step.total + 1)


def test_a_proposal_that_diverges_is_dropped_and_the_step_goes_on() -> None:
    tune = Tune()
    tune.diverges = lambda spec: spec.rows[1] == SMALL.rows[1] and spec.rows[0] == SMALL.rows[0] and spec != SMALL
    done = finished(run(tune, target=NOW - 0.05))
    assert len(done) == 1 and done[0].after.spec.rows[1] != SMALL.rows[1]
    assert any(math.isnan(c.scored.accuracy) for c in done[0].candidates)
    tune.diverges = lambda spec: spec != SMALL
    assert finished(run(tune)) == []


def test_it_ends_where_nothing_can_be_cut_or_nothing_need_be() -> None:
    assert run(Tune(), target=NOW) == []
    steps = finished(list(netadapt_paired(START, 0.0, 0.4, LATENCY, Tune(), lambda: 1)))
    last = replace(steps[-1].after, step=0)
    assert list(netadapt_paired(last, 0.0, 0.4, LATENCY, Tune(), lambda: 1)) == []


def gone(begin: Start, spec: ArchSpec) -> float:
    return true_loss(spec) - true_loss(begin.spec)


def test_what_is_lost_decides_and_the_chosen_one_gets_all_steps() -> None:
    tune = Tune(own=50.0)  # a loss that tells nothing
    done = list(netadapt_paired(START, NOW - 1.0, 0.09, LATENCY, tune, lambda: 3, lost=gone))
    assert len(done) > 1 and all(s.chosen is not None for s in done) and len(tune.calls) == len(done)
    before = START
    for s, (_, steps) in zip(done, tune.calls, strict=True):
        assert s.chosen is not None and steps == 3 * s.total == 3 * len(s.candidates)
        per_ms = [
            gone(before, c.proposal.spec) / (LATENCY([before.spec])[0] - c.scored.latency_ms) for c in s.candidates
        ]
        assert per_ms[s.chosen] == min(per_ms) and [-c.ratio for c in s.candidates] == pytest.approx(per_ms)
        assert [math.isnan(c.scored.accuracy) for c in s.candidates] == [i != s.chosen for i in range(s.total)]
        before = s.after
    assert done[-1].after.spec.rows[1] == SMALL.rows[1]


def test_the_next_best_is_taken_where_the_best_diverges() -> None:
    first = next(iter(netadapt_paired(START, NOW - 1.0, 0.09, LATENCY, Tune(), lambda: 1, lost=gone)))
    tune = Tune()
    tune.diverges = lambda spec: spec == first.after.spec
    second = next(iter(netadapt_paired(START, NOW - 1.0, 0.09, LATENCY, tune, lambda: 1, lost=gone)))
    ratios = sorted((c.ratio for c in second.candidates), reverse=True)
    assert second.chosen is not None and second.candidates[second.chosen].ratio == ratios[1] and len(tune.calls) == 2
    tune.diverges = lambda spec: True
    assert not list(netadapt_paired(START, NOW - 1.0, 0.09, LATENCY, tune, lambda: 1, lost=gone))
