"""From hot single layers to whole networks: a calibration fitted on networks timed whole.

A layer timed alone in a loop has its weights and inputs in cache and nobody to hand its output to. What that hides
depends on the kind of layer: on the leave-one-out networks of five tables of one server core, a factor for each kind
brought the error from 2.6, 6.2, 2.4, 4.1, 6.0 % RMSPE to 1.8, 4.6, 2.6, 3.3, 3.1 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from mbv3.spec import Head, LayerKey, lower_key

__all__ = ["AS_SUMMED", "KINDS", "Calibration", "NetworkTime", "fit_calibration", "kinds", "weights_mb"]

KINDS = ("k5", "k7", "se", "stride", "skip")
RIDGE = 0.2  # noise of a network's time, 2 %, over what a kind is expected to add or take, 10 %


def kinds(key: LayerKey) -> tuple[bool, ...]:
    """Which of KINDS a layer is. None of them changes when channels are cut, so no cliff comes from here."""
    row = key.row
    if isinstance(row, Head):
        return (False,) * len(KINDS)
    return row.k == 5, row.k >= 7, bool(row.se), row.s > 1, row.skip != "none"


def weights_mb(key: LayerKey) -> float:
    """Weights of a layer in megabytes (fp32): cold from memory in a network, hot from cache in the table."""
    return lower_key(key).params * 4e-6


@dataclass(frozen=True, slots=True)
class NetworkTime:
    """A whole network measured for calibration or check. `hot_ms` is the sum of its layers alone, `mb` its weights,
    `kinds_ms` the part of `hot_ms` in the layers of each of KINDS."""

    label: str
    ms: float
    hot_ms: float
    mb: float
    madds: int
    kinds_ms: tuple[float, ...] = (0.0,) * len(KINDS)


@dataclass(frozen=True, slots=True)
class Calibration:
    """ms of a network = c + sum over its layers of (a + the factors of its kinds) * hot ms + b * weights in MB."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    kinds: tuple[float, ...] = (0.0,) * len(KINDS)

    def layer_ms(self, key: LayerKey, hot_ms: float) -> float:
        """What a layer adds to a network, without `c`."""
        factor = self.a + sum(f for f, is_one in zip(self.kinds, kinds(key), strict=True) if is_one)
        return factor * hot_ms + self.b * weights_mb(key)

    def __call__(self, n: NetworkTime) -> float:
        """Predicted ms of a network."""
        more = sum(f * ms for f, ms in zip(self.kinds, n.kinds_ms, strict=True))
        return self.a * n.hot_ms + more + self.b * n.mb + self.c


AS_SUMMED = Calibration()


def fit_calibration(networks: Iterable[NetworkTime]) -> Calibration:
    """Least squares of relative errors over whole networks; a and b not negative, the kinds' factors kept small."""
    nets = list(networks)
    if len(nets) < 4:
        return AS_SUMMED
    t = np.array([n.ms for n in nets])
    unit = float(np.median([n.ms / n.hot_ms for n in nets]))  # another device's layers may be many times slower
    plain = np.array([[unit * n.hot_ms, n.mb, 1.0] for n in nets]) / t[:, None]
    parts = unit * np.array([n.kinds_ms for n in nets]) / t[:, None]
    ridge = RIDGE * np.eye(len(KINDS))
    x = np.vstack([np.hstack([plain, parts]), np.hstack([np.zeros((len(KINDS), 3)), ridge])])
    y = np.concatenate([np.ones(len(nets)), np.zeros(len(KINDS))])
    slack = 0.3 * float(t.min())
    low, high = [0.1, 0, -slack] + [-1.0] * len(KINDS), [10, np.inf, slack] + [np.inf] * len(KINDS)
    a, b, c, *factors = (float(v) for v in lsq_linear(x, y, bounds=(low, high)).x)
    return Calibration(unit * a, b, c, _positive(unit * a, [unit * f for f in factors]))


def _positive(a: float, factors: Sequence[float]) -> tuple[float, ...]:
    """The negative ones of `factors` made smaller where a layer of every kind could come out under a fifth of `a`."""
    k5, k7, *others = factors
    least = min(k5, k7, 0.0) + sum(min(f, 0.0) for f in others)
    shrink = min(1.0, 0.8 * a / -least) if least < 0 else 1.0
    return tuple(shrink * f if f < 0 else f for f in factors)
