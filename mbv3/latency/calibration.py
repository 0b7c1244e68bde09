"""From hot single layers to whole networks: a calibration fitted on networks timed whole.

A layer that is timed alone in a loop has its weights and inputs in cache, and no other layer reads its output. The
difference depends on the kind of layer (a share of its time, and a constant for each layer), on what it writes, and on
whether it reads that back. For 60 networks of the `mnasnet` space, each held out of the fit, the RMSPE is 1.6 to 2.4 %;
that of the plain sum is 5.0 to 6.5 % (tables of one server core, results/latency_check_mnasnet.json).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3.spec import Conv, DSConv, Head, LayerKey, MBConv, lower_key

__all__ = [
    "AS_SUMMED",
    "KINDS",
    "Calibration",
    "NetworkTime",
    "fit_calibration",
    "kinds",
    "reread",
    "weights_mb",
    "written_mb",
]

KINDS = ("k5", "k7", "se", "stride", "skip", "odd", "conv", "dsconv", "mbconv")
NONE = (0.0,) * len(KINDS)
# Ridge strengths for the unknowns other than a, b and c: the noise of a network (2 %) over the expected effect of one
# unknown on the differences between networks; 4 means half a percent. The one that predicts best is used.
RIDGES = (0.5, 1.0, 2.0, 4.0, 8.0)
LEAST = 0.2  # weakest ridge: no unknown is expected to change the time of a network by more than a tenth


def kinds(key: LayerKey) -> tuple[bool, ...]:
    """Which of KINDS a layer is.

    Only "odd" (channels in or out that are no multiple of 8) changes when channels are cut. ONNX Runtime computes on
    blocks of channels and keeps that layout between layers, except around an odd layer. A layer that is timed alone
    always pays for the conversion, in a network only odd layers do. Without this kind 100 networks with arbitrary
    channel counts were predicted 0.7 and 2.1 % too low, with it 0.1 % too high and 1.1 % too low (two tables,
    scripts/bench_latency.py channels)."""
    row = key.row
    if isinstance(row, Head):
        return (False,) * len(KINDS)
    odd = bool(key.cin % 8 or row.out % 8)
    ops = (isinstance(row, op) for op in (Conv, DSConv, MBConv))
    return row.k == 5, row.k >= 7, bool(row.se), row.s > 1, row.skip != "none", odd, *ops


def weights_mb(key: LayerKey) -> float:
    """Weights of a layer in megabytes (fp32): in a network they are read from memory, in the table from cache."""
    return lower_key(key).params * 4e-6


def written_mb(key: LayerKey) -> float:
    """Output of the convolutions of a layer in megabytes (fp32)."""
    return sum(op.cout * op.hout * op.wout for op in lower_key(key).ops if op.kind == "conv") * 4e-6


def reread(key: LayerKey) -> float:
    """Square root of the megabytes that a DSConv or MBConv writes and partly reads back; 0 for other rows and heads.

    In a network such a row is slower by a factor that grows with this, because its cache holds other data too. On three
    tables of one server core and four measurements of 200 networks, a fit on 60 networks predicted 100 others with 1.60
    % RMSPE, without this term with 1.98 %; with the logarithm instead of the root 1.62 %, with it for every row 1.93
    %."""
    return math.sqrt(written_mb(key)) if isinstance(key.row, (DSConv, MBConv)) else 0.0


@dataclass(frozen=True, slots=True)
class NetworkTime:
    """A whole network, measured for a calibration or a check.

    `hot_ms`: sum of the hot times of its layers; `mb`: its weights; `written_mb`: what its layers write; `reread_ms`:
    sum of hot ms times `reread`; `kinds_ms`, `kinds_n`: hot ms and number of its layers of each of KINDS."""

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
    + d * written MB + `each`, with the entries of `kinds` and `each` for every kind of the layer."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0
    kinds: tuple[float, ...] = NONE
    each: tuple[float, ...] = NONE

    def factor(self, key: LayerKey) -> float:
        """Time of a layer in a network over its hot time, without the terms that do not depend on its time."""
        by_kind = sum(f for f, is_one in zip(self.kinds, kinds(key), strict=True) if is_one)
        return self.a + self.e * reread(key) + by_kind

    def layer_ms(self, key: LayerKey, hot_ms: float) -> float:
        """What a layer adds to the time of a network, in ms; `c` is not included."""
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
    """Least squares of relative errors over whole networks; with fewer than four the plain sum.

    a, b, d, e and `each` are not negative, so that no layer and no weight makes a network faster. All except a, b and c
    are kept small by ridge regression (Hoerl 1970), with the strength that predicts held-out networks best."""
    from scipy.optimize import lsq_linear  # half a second to import; a prediction reads the fit from the table

    nets = list(networks)
    if len(nets) < 4:
        return AS_SUMMED
    t = np.array([n.ms for n in nets])
    # each unknown in a unit where 1 is about the time of a whole network
    # networks and layers may come from different devices, with very different speeds
    unit = float(np.median([n.ms / n.hot_ms for n in nets]))
    a_layer = float(np.median(t)) / max(float(np.median([sum(n.kinds_n[-3:]) for n in nets])), 1.0)
    a_mb = float(np.median(t)) / max(float(np.median([n.written_mb for n in nets])), 1e-9)
    units = np.array([unit, 1.0, 1.0, a_mb, unit, *[unit] * len(KINDS), *[a_layer] * len(KINDS)])
    rows = [[n.hot_ms, n.mb, 1.0, n.written_mb, n.reread_ms, *n.kinds_ms, *n.kinds_n] for n in nets]
    x = np.array(rows) * units / t[:, None]
    slack = 0.3 * float(t.min())
    low = np.array([0.1, 0.0, -slack, 0.0, 0.0, *[-1.0] * len(KINDS), *NONE])
    high = np.array([10.0, np.inf, slack, *[np.inf] * (2 + 2 * len(KINDS))])
    held = np.diag(min((_penalty(x, ridge) for ridge in reversed(RIDGES)), key=lambda h: _press(x, h)))
    w = lsq_linear(np.vstack([x, held]), np.concatenate([np.ones(len(nets)), np.zeros(len(held))]), (low, high)).x
    a, b, c, d, e, *rest = (float(v) for v in w * units * x.any(axis=0))
    return Calibration(a, b, c, d, e, _positive(a, rest[: len(KINDS)]), tuple(rest[len(KINDS) :]))


def _penalty(x: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """Ridge strength of each unknown."""
    held: NDArray[np.float64] = np.maximum(ridge * x.std(axis=0), LEAST)
    held[:3] = 0.0
    return held


def _press(x: NDArray[np.float64], held: NDArray[np.float64]) -> float:
    """Sum of squared leave-one-out errors, in closed form (PRESS, Allen 1974)."""
    hat = x @ np.linalg.pinv(x.T @ x + np.diag(held**2)) @ x.T
    error = (1 - hat.sum(axis=1)) / np.maximum(1 - np.diag(hat), 1e-6)
    return float((error**2).sum())


def _positive(a: float, factors: Sequence[float]) -> tuple[float, ...]:
    """`factors`, with the negative ones reduced where a layer of several kinds would get less than a fifth of `a`."""
    k5, k7, se, stride, skip, odd, *ops = factors
    least = min(k5, k7, 0.0) + min(*ops, 0.0) + sum(min(f, 0.0) for f in (se, stride, skip, odd))
    shrink = min(1.0, 0.8 * a / -least) if least < 0 else 1.0
    return tuple(shrink * f if f < 0 else f for f in factors)
