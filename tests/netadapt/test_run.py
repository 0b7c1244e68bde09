"""The loop, with a latency and a fine-tuning that are sums."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from torch import Tensor

from mbv3.netadapt import Scored, Start, Step, netadapt
from mbv3.nn import build
from mbv3.spec import ArchSpec, MBConv

from .test_proposals import SMALL, stairs

STATE = build(SMALL, 0).state_dict()
LATENCY = stairs(16)
NOW = LATENCY([SMALL])[0]
START = Start(0, SMALL, STATE, Scored(NOW, 80.0, 0.5))


class FineTune:
    """Accuracy falls with the channels that are gone, most in row 1; the weights must fit the network."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.nan = False

    def __call__(
        self, spec: ArchSpec, state: dict[str, Tensor], step: int, proposal: int
    ) -> tuple[dict[str, Tensor], float, float]:
        build(spec).load_state_dict(state, strict=True)
        self.calls.append((step, proposal))
        gone = 0.0
        for i, (a, b) in enumerate(zip(SMALL.rows, spec.rows, strict=True)):
            assert isinstance(a, MBConv) and isinstance(b, MBConv)
            gone += (a.exp - b.exp) * (10 if i == 1 else 1) + (a.out - b.out) * 5
        accuracy = math.nan if self.nan else 80.0 - 0.01 * gone
        return state, accuracy, 0.5 + 0.001 * gone


def finished(steps: Sequence[Step]) -> list[Step]:
    return [s for s in steps if s.chosen is not None]


def test_the_loop_reaches_the_target_step_by_step() -> None:
    tune = FineTune()
    target = NOW - 1.0
    steps = list(netadapt(START, target, 0.09, LATENCY, tune))
    done = finished(steps)
    assert [s.after.step for s in done] == list(range(1, len(done) + 1))
    ms = [NOW, *(s.after.scored.latency_ms for s in done)]
    assert all(a - b >= 0.09 - 1e-9 for a, b in itertools.pairwise(ms[:-1]))  # the last step may be shorter
    assert ms[-2] > target >= ms[-1]
    for s in done:
        assert s.chosen is not None and len(s.candidates) == s.total > 1
        chosen = s.candidates[s.chosen]
        assert (s.after.spec, s.after.scored) == (chosen.proposal.spec, chosen.scored)
        assert chosen.ratio == max(c.ratio for c in s.candidates)
        assert s.after.scored.latency_ms == LATENCY([s.after.spec])[0]
        build(s.after.spec).load_state_dict(s.after.state, strict=True)
    assert done[-1].after.spec.rows[1] == SMALL.rows[1]  # the dear row is left alone


def test_every_proposal_is_recorded_as_it_is_scored() -> None:
    tune = FineTune()
    steps = list(netadapt(START, NOW - 0.5, 0.09, LATENCY, tune))
    under_way = [s for s in steps if s.chosen is None]
    assert len(under_way) == len(tune.calls) == sum(s.total for s in finished(steps))
    assert tune.calls == [(s.after.step + 1, len(s.candidates) - 1) for s in under_way]
    for s in finished(steps):
        assert [c.scored.accuracy for c in s.candidates] == pytest.approx(
            [tune(c.proposal.spec, build(c.proposal.spec).state_dict(), 0, 0)[1] for c in s.candidates]
        )


def test_a_network_within_the_target_is_left_as_it_is() -> None:
    assert list(netadapt(START, NOW, 0.1, LATENCY, FineTune())) == []


def test_it_ends_where_nothing_can_be_cut() -> None:
    steps = list(netadapt(START, 0.0, 0.2, LATENCY, FineTune()))
    last = finished(steps)[-1].after
    assert last.scored.latency_ms > 0 and last.step > 3
    assert list(netadapt(last, 0.0, 0.2, LATENCY, FineTune())) == []


def test_it_ends_where_every_score_is_nan() -> None:
    tune = FineTune()
    tune.nan = True
    steps = list(netadapt(START, NOW - 0.5, 0.09, LATENCY, tune))
    assert finished(steps) == [] and len(steps) == steps[0].total


def test_a_cut_of_many_steps_is_made_only_where_there_is_no_shorter_one() -> None:
    """Row 3 falls off a cliff of 2 ms; the others step by 0.1."""

    def cliff(specs: Sequence[ArchSpec]) -> list[float]:
        return [t + (2.0 if s.rows[3].exp > 128 else 0.0) for t, s in zip(LATENCY(specs), specs, strict=True)]  # type: ignore[union-attr]

    begin = replace(START, scored=replace(START.scored, latency_ms=NOW + 2.0))
    step = finished(list(netadapt(begin, NOW + 1.85, 0.09, cliff, FineTune())))[0]
    assert all(c.proposal.latency_ms >= NOW + 2.0 - 3 * 0.09 for c in step.candidates)
    lone = finished(list(netadapt(begin, NOW + 0.5, 1.4, cliff, FineTune())))
    assert [str(c.proposal.site) for c in lone[0].candidates] == ["rows[3]"]
