"""How far a prediction can be trusted: the metrics of nn-Meter (Zhang 2021)."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Fidelity", "fidelity"]


class Fidelity(TypedDict):
    """Relative errors in percent and Spearman's rank correlation, None where it is undefined."""

    n: int
    rmspe: float
    bias: float
    within_5: float  # percent of networks whose error is at most 5 %
    within_10: float
    spearman: float | None


def fidelity(predicted: ArrayLike, measured: ArrayLike) -> Fidelity:
    """Relative errors of `predicted` against `measured` (both ms) and their rank correlation."""
    from scipy.stats import spearmanr  # a second to import, and a prediction needs no report

    p, t = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    e = (p / t - 1) * 100
    varies = len(p) > 2 and np.ptp(p) > 0 and np.ptp(t) > 0
    rho = float(spearmanr(p, t).statistic) if varies else float("nan")
    return {
        "n": len(t),
        "rmspe": round(float(np.sqrt(np.mean(e**2))), 3),
        "bias": round(float(np.mean(e)), 3),
        "within_5": round(float(np.mean(np.abs(e) <= 5) * 100), 1),
        "within_10": round(float(np.mean(np.abs(e) <= 10) * 100), 1),
        "spearman": round(rho, 4) if np.isfinite(rho) else None,
    }
