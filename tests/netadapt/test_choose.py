"""The choice: the largest dAcc / |dLatency|, on both signs of dAcc."""

from __future__ import annotations

import math

import pytest

from mbv3.netadapt import Scored, choose
from mbv3.netadapt.choose import ratio

SEED = Scored(10.0, 70.0, 1.0)


def at(saved: float, gain: float, loss: float = 1.1) -> Scored:
    return Scored(10.0 - saved, 70.0 + gain, loss)


@pytest.mark.parametrize(
    ("proposals", "best"),
    [
        ([at(1, -1.0), at(2, -1.0), at(1, -0.9)], 1),  # least loss per ms, not least loss
        ([at(1, -1.0), at(4, -3.9)], 1),
        ([at(1, 0.5), at(2, 0.6)], 0),  # a gain per ms, as the paper's ratio says
        ([at(1, -0.1), at(9, 0.1)], 1),  # any gain beats any loss
        ([at(3, 0.0), at(1, -0.1), at(1, 0.1)], 2),
    ],
)
def test_by_hand(proposals: list[Scored], best: int) -> None:
    assert choose(SEED, proposals) == best


def test_ratio_by_hand() -> None:
    assert ratio(SEED, at(2, -1.0)) == -0.5 and ratio(SEED, at(2, 1.0)) == 0.5
    assert ratio(SEED, at(-2, -1.0)) == -0.5  # |dLatency|


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", range(3))
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_finite_is_never_chosen(bad: float, field: int, place: int) -> None:
    values = [9.0, 99.0, 0.1]
    values[field] = bad
    proposals = [at(1, -5.0)]
    proposals.insert(place, Scored(*values))
    for noise in (0.0, 100.0):
        assert choose(SEED, proposals, noise) == 1 - place


def test_nothing_finite_is_an_error() -> None:
    for proposals in ([], [Scored(9.0, math.nan, 1.0)]):
        with pytest.raises(ValueError, match="no proposal has a finite score"):
            choose(SEED, proposals)


def test_within_the_noise_the_loss_decides() -> None:
    proposals = [at(1, -0.5, loss=1.30), at(1, -0.6, loss=1.05), at(1, -2.0, loss=1.0)]
    assert choose(SEED, proposals) == 0
    assert choose(SEED, proposals, noise=0.2) == 1  # the third is worse by more than noise
    assert choose(SEED, proposals, noise=0.05) == 0
    assert choose(SEED, [at(1, -0.5), at(1, -0.5)], noise=0.2) == 0  # the first of equals


def test_the_loss_too_counts_per_ms() -> None:
    assert choose(SEED, [at(1, -0.5, loss=1.1), at(2, -1.0, loss=1.15)], noise=0.1) == 1
