"""From hot single layers to whole networks: a calibration fitted on networks timed whole.

A layer timed alone in a loop has its weights and inputs in cache and nobody to hand its output to. What that hides
depends on the kind of layer, in part by its time and in part by its mere presence, on what it writes, and on whether it
reads that back. Left out of the fit, 60 networks of the `mnasnet` space are told with 1.6 to 2.4 % RMSPE, by the plain
sum with 5.0 to 6.5 % (tables of one server core, results/latency_check_mnasnet.json).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from mbv3.spec import ROWS, Head, LayerKey, lower_key

__all__ = [
    "AS_SUMMED",
    "KINDS",
    "Calibration",
    "NetworkTime",
    "fit_calibration",
    "kinds",
    "occurring",
    "reread",
    "weights_mb",
    "written_mb",
]

TRAITS = ("k5", "k7", "se", "stride", "skip", "odd")
BASE = (*TRAITS, "conv", "dsconv", "mbconv")  # every table has them
KINDS = (*BASE, *(word for word in ROWS if word not in BASE))  # of the others a table has those that occur in it
NONE = (0.0,) * len(KINDS)
# How strongly the unknowns beside a, b and c are held small: a network's noise, 2 %, over what one of them is expected
# to tell of the differences between networks; 4 stands for half a percent. The one that predicts best is taken.
RIDGES = (0.5, 1.0, 2.0, 4.0, 8.0)
LEAST = 0.2  # the same, over a share of the network's time: none is expected to add or take more than a tenth


def kinds(key: LayerKey) -> tuple[bool, ...]:
    """Which of KINDS a layer is. Only one changes when channels are cut, and so is a cliff: odd, with channels in or
    out that are no multiple of 8. ONNX Runtime computes on blocks of channels and keeps them between layers, but around
    such a layer: alone every layer pays for that, in a network only these. 100 networks with channels of any count were
    told 0.7 and 2.1 % low without it, 0.1 % high and 1.1 % low with it (two tables, scripts/bench_latency.py channels).
    """
    row = key.row
    if isinstance(row, Head):
        return (False,) * len(KINDS)
    odd = bool(key.cin % 8 or row.out % 8)
    ops = (row.word() == word for word in KINDS[len(TRAITS) :])
    k = max(row.kernels)
    return k == 5, k >= 7, bool(row.se), row.s > 1, row.skip != "none", odd, *ops


def weights_mb(key: LayerKey) -> float:
    """Weights of a layer in megabytes (fp32): cold from memory in a network, hot from cache in the table."""
    return lower_key(key).params * 4e-6


def written_mb(key: LayerKey) -> float:
    """What the convolutions of a layer write, in megabytes (fp32)."""
    return sum(op.cout * op.hout * op.wout for op in lower_key(key).ops if op.kind == "conv") * 4e-6


def reread(key: LayerKey) -> float:
    """Square root of the megabytes that a row with an inner map writes and in part reads back; 0 for others and heads.

    In a network such a row is slower by this, for its cache holds other things too: of three tables of one server core
    and four measurements of 200 networks, 60 of these told 100 others with 1.60 % RMSPE with it and 1.98 % without;
    with the logarithm in place of the root 1.62, with that of every row 1.93."""
    return math.sqrt(written_mb(key)) if not isinstance(key.row, Head) and key.row.INNER_MAP else 0.0


@dataclass(frozen=True, slots=True)
class NetworkTime:
    """A whole network measured for calibration or check. `hot_ms` is the sum of its layers alone, `mb` its weights,
    `written_mb` what its layers write, `reread_ms` the sum of their hot ms, each times its `reread`; of the layers of
    each of KINDS `kinds_ms` is the part of `hot_ms`, `kinds_n` their number."""

    label: str
    ms: float
    hot_ms: float
    mb: float
    madds: int
    written_mb: float = 0.0
    reread_ms: float = 0.0
    kinds_ms: tuple[float, ...] = NONE
    kinds_n: tuple[float, ...] = NONE


@dataclass(frozen=True, slots=True)
class Calibration:
    """ms of a network = c + sum over layers of (a + e * `reread` + `kinds`) * hot ms + b * weights in MB
    + d * written MB + `each`, where `kinds` and `each` are those of the kinds that the layer is of."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0
    kinds: tuple[float, ...] = NONE
    each: tuple[float, ...] = NONE

    def factor(self, key: LayerKey) -> float:
        """What a layer takes in a network over what it takes alone, beside what does not go by its time."""
        by_kind = sum(f for f, is_one in zip(self.kinds, kinds(key), strict=True) if is_one)
        return self.a + self.e * reread(key) + by_kind

    def layer_ms(self, key: LayerKey, hot_ms: float) -> float:
        """What a layer adds to a network, without `c`."""
        each = sum(e for e, is_one in zip(self.each, kinds(key), strict=True) if is_one)
        return self.factor(key) * hot_ms + each + self.b * weights_mb(key) + self.d * written_mb(key)

    def __call__(self, n: NetworkTime) -> float:
        """Predicted ms of a network."""
        by_time = sum(f * ms for f, ms in zip(self.kinds, n.kinds_ms, strict=True))
        by_number = sum(e * count for e, count in zip(self.each, n.kinds_n, strict=True))
        by_time += self.a * n.hot_ms + self.e * n.reread_ms
        return by_time + by_number + self.b * n.mb + self.d * n.written_mb + self.c


AS_SUMMED = Calibration()


def fit_calibration(networks: Iterable[NetworkTime]) -> Calibration:
    """Least squares of relative errors over whole networks. a, b, d, e and `each` are not negative, so that nothing is
    gained by weights or layers; all but a, b and c are held small (ridge regression, Hoerl 1970), as strongly as
    predicts a network left out best."""
    nets = list(networks)
    if len(nets) < 4:
        return AS_SUMMED
    t = np.array([n.ms for n in nets])
    # each unknown in a unit in which one stands for about the whole network
    unit = float(np.median([n.ms / n.hot_ms for n in nets]))  # another device's layers may be many times slower
    a_layer = float(np.median(t)) / max(float(np.median([sum(n.kinds_n[len(TRAITS) :]) for n in nets])), 1.0)
    a_mb = float(np.median(t)) / max(float(np.median([n.written_mb for n in nets])), 1e-9)
    of = occurring(nets)
    units = np.array([unit, 1.0, 1.0, a_mb, unit, *[unit] * len(of), *[a_layer] * len(of)])
    rows = [
        [n.hot_ms, n.mb, 1.0, n.written_mb, n.reread_ms, *(n.kinds_ms[i] for i in of), *(n.kinds_n[i] for i in of)]
        for n in nets
    ]
    x = np.array(rows) * units / t[:, None]
    slack = 0.3 * float(t.min())
    low = np.array([0.1, 0.0, -slack, 0.0, 0.0, *[-1.0] * len(of), *[0.0] * len(of)])
    high = np.array([10.0, np.inf, slack, *[np.inf] * (2 + 2 * len(of))])
    held = np.diag(min((_held(x, ridge) for ridge in reversed(RIDGES)), key=lambda h: _left_out(x, h)))
    w = lsq_linear(np.vstack([x, held]), np.concatenate([np.ones(len(nets)), np.zeros(len(held))]), (low, high)).x
    a, b, c, d, e, *rest = (float(v) for v in w * units * x.any(axis=0))
    factors, each = (dict(zip(of, part, strict=True)) for part in (_positive(a, rest[: len(of)]), rest[len(of) :]))
    by_kind = (tuple(part.get(i, 0.0) for i in range(len(KINDS))) for part in (factors, each))
    return Calibration(a, b, c, d, e, *by_kind)


def occurring(networks: Iterable[NetworkTime]) -> list[int]:
    """The KINDS that a table of these networks is about, by number: BASE, and the others that a layer is of."""
    seen = np.array([n.kinds_n for n in networks]).reshape(-1, len(KINDS))
    return [i for i, kind in enumerate(KINDS) if kind in BASE or seen[:, i].any()]


def _held(x: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """How strongly each unknown is held small."""
    held: NDArray[np.float64] = np.maximum(ridge * x.std(axis=0), LEAST)
    held[:3] = 0.0
    return held


def _left_out(x: NDArray[np.float64], held: NDArray[np.float64]) -> float:
    """Sum of squared errors of rows of `x` left out of their own fit of 1; in closed form (Allen 1974, PRESS)."""
    hat = x @ np.linalg.pinv(x.T @ x + np.diag(held**2)) @ x.T
    error = (1 - hat.sum(axis=1)) / np.maximum(1 - np.diag(hat), 1e-6)
    return float((error**2).sum())


def _positive(a: float, factors: Sequence[float]) -> tuple[float, ...]:
    """The negative ones of `factors` made smaller where a layer of every kind could come out under a fifth of `a`."""
    k5, k7, se, stride, skip, odd, *ops = factors
    least = min(k5, k7, 0.0) + min(*ops, 0.0) + sum(min(f, 0.0) for f in (se, stride, skip, odd))
    shrink = min(1.0, 0.8 * a / -least) if least < 0 else 1.0
    return tuple(shrink * f if f < 0 else f for f in factors)
