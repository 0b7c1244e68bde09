"""Rewards by hand."""

from __future__ import annotations

import math

import pytest

from mbv3.errors import BadInput
from mbv3.search import REWARDS, make_reward


@pytest.mark.parametrize(
    ("kind", "w", "acc", "lat", "value"),
    [
        ("mnasnet-soft", -0.07, 0.75, 50.0, 0.75),
        ("mnasnet-soft", -0.07, 0.75, 100.0, 0.75 * 0.9526380),  # 2 ** -0.07: twice the time costs 5 %
        ("mnasnet-soft", -0.07, 0.75, 25.0, 0.75 * 1.0497167),
        ("mnasnet-soft", -0.15, 0.60, 100.0, 0.60 * 0.9012505),
        ("mnasnet-soft", 0.0, 0.75, 1e9, 0.75),
        ("mnasnet-hard", -0.07, 0.75, 50.0, 0.75),
        ("mnasnet-hard", -0.07, 0.75, 5.0, 0.75),
        ("mnasnet-hard", -0.07, 0.75, 100.0, 0.375),
        ("limit", 0.0, 0.75, 50.0, 0.75),
        ("limit", 0.0, 0.75, 5.0, 0.75),
        ("limit", 0.0, 0.75, 75.0, -0.5),  # below every accuracy, the nearer the better
        ("tunas", -0.07, 0.75, 50.0, 0.75),
        ("tunas", -0.07, 0.75, 75.0, 0.715),
        ("tunas", -0.07, 0.75, 25.0, 0.715),  # the target is met from both sides
    ],
)
def test_by_hand(kind: str, w: float, acc: float, lat: float, value: float) -> None:
    assert make_reward(kind, 50.0, w)(acc, lat) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("kind", ["mnasnet-soft", "mnasnet-hard", "tunas"])
def test_slower_is_worse_and_more_accurate_is_better(kind: str) -> None:
    reward = make_reward(kind, 50.0, -0.07)
    values = [reward(0.7, lat) for lat in (51.0, 60.0, 90.0, 200.0)]
    assert values == sorted(values, reverse=True) and len(set(values)) == 4
    assert reward(0.71, 60.0) > reward(0.7, 60.0)


@pytest.mark.parametrize("kind", REWARDS)
@pytest.mark.parametrize(
    ("acc", "lat"), [(math.nan, 50.0), (0.7, math.nan), (math.inf, 50.0), (0.7, math.inf), (0.7, 0.0), (0.7, -1.0)]
)
def test_what_is_not_finite_is_nan(kind: str, acc: float, lat: float) -> None:
    assert math.isnan(make_reward(kind, 50.0, -0.07)(acc, lat))


def test_bad_options_are_refused() -> None:
    with pytest.raises(
        BadInput, match=r"^--reward must be one of limit, mnasnet-soft, mnasnet-hard, tunas \(got 'soft'\)$"
    ):
        make_reward("soft", 50.0, -0.07)
    for w in (0.07, math.nan, -math.inf):
        with pytest.raises(BadInput, match=r"^--w must be a number of at most 0"):
            make_reward("tunas", 50.0, w)
