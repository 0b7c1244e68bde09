"""Trust metrics by hand."""

from __future__ import annotations

import pytest

from mbv3.latency import fidelity


def test_by_hand() -> None:
    # errors: +4 %, -8 %, 0 %, +20 %
    report = fidelity([104, 184, 300, 480], [100, 200, 300, 400])
    assert report == {
        "n": 4,
        "rmspe": round(((16 + 64 + 0 + 400) / 4) ** 0.5, 3),
        "bias": 4.0,
        "within_5": 50.0,
        "within_10": 75.0,
        "spearman": 1.0,
    }


def test_rank_correlation_by_hand() -> None:
    # ranks 1 3 2 4 against 1 2 3 4: 1 - 6 * (1 + 1) / (4 * 15)
    assert fidelity([1, 3, 2, 4], [10, 20, 30, 40])["spearman"] == pytest.approx(0.8)
    assert fidelity([3, 2, 1], [1, 2, 3])["spearman"] == -1.0


@pytest.mark.parametrize(
    ("predicted", "measured"),
    [([1.0], [1.0]), ([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])],
)
def test_no_rank_correlation_where_nothing_can_be_ranked(predicted: list[float], measured: list[float]) -> None:
    assert fidelity(predicted, measured)["spearman"] is None


def test_errors_are_relative_to_what_was_measured() -> None:
    assert fidelity([2.0], [1.0])["rmspe"] == 100.0
    assert fidelity([1.0], [2.0])["rmspe"] == 50.0
    assert fidelity([1.0], [2.0])["bias"] == -50.0
