"""How far a prediction can be trusted (the metrics of nn-Meter, Zhang 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

__all__ = ["fidelity"]


def fidelity(predicted: ArrayLike, measured: ArrayLike) -> dict[str, Any]:
    """Relative errors of `predicted` against `measured` (both ms), in percent, and the rank correlation."""
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
