"""Layers not in the table that cannot be measured: non-negative least squares on physical features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from mbv3.errors import BadInput
from mbv3.latency.metrics import fidelity
from mbv3.spec import Head, LayerKey, MBConv, lower_key

__all__ = ["CostModel", "features", "fit_cost_model"]

FEATURES = (
    "layer", "ops", "full conv MMAdds", "expand MMAdds", "project MMAdds", "depthwise k3 MMAdds",
    "depthwise k5 MMAdds", "depthwise k7+ MMAdds", "strided depthwise MMAdds", "small-map MMAdds", "SE layer",
    "SE MMAdds", "scaled Melements", "activated Melements", "h-swish Melements",
    "moved Melements", "weights MB",
)  # fmt: skip
_INDEX = {name: i for i, name in enumerate(FEATURES)}


def features(key: LayerKey) -> NDArray[np.float64]:
    """What a layer does, in units that each cost time: multiply-adds by kind, elements, bytes read."""
    layer = lower_key(key)
    f = np.zeros(len(FEATURES))

    def add(name: str, value: float) -> None:
        f[_INDEX[name]] += value

    add("layer", 1.0)
    for op in layer.ops:
        m = op.madds / 1e6
        elements = op.cout * op.hout * op.wout / 1e6
        add("ops", 1.0)
        add("moved Melements", elements + op.cin * op.hin * op.win / 1e6)
        if op.kind == "conv" and ".se." in op.name:
            add("SE MMAdds", m)
        elif op.kind == "conv" and op.groups > 1:
            add(f"depthwise k{op.k if op.k in (3, 5) else '7+'} MMAdds", m)
            if op.s > 1:
                add("strided depthwise MMAdds", m)
        elif op.kind == "conv":
            expand = isinstance(key.row, MBConv) and ".expand." in op.name
            add(
                "expand MMAdds" if expand else "project MMAdds" if ".project." in op.name else "full conv MMAdds",
                m,
            )
            if op.hout * op.wout < 100:
                add("small-map MMAdds", m)
        elif op.kind == "act":
            add("h-swish Melements" if op.nl == "HS" else "activated Melements", elements)
        elif op.kind not in ("add", "concat"):
            add("scaled Melements", elements)
    if not isinstance(key.row, Head) and key.row.se:
        add("SE layer", 1.0)
    add("weights MB", layer.params * 4e-6)
    return f


@dataclass(frozen=True, slots=True)
class CostModel:
    """ms = coefficients . features(key). `error` is its held-out RMSPE in percent."""

    coefficients: NDArray[np.float64]
    error: float

    def ms(self, key: LayerKey) -> float:
        """Estimated hot latency of one layer in ms."""
        return max(float(features(key) @ self.coefficients), 1e-4)


def _solve(x: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    return nnls(x / t[:, None], np.ones(len(t)))[0]


def fit_cost_model(keys: Sequence[LayerKey], ms: Sequence[float]) -> CostModel:
    """Fit on measured layers, minimising relative error; held out by channel pair in five folds.

    Raises:
        BadInput: too few layers to fit.
    """
    if len(keys) < 20:
        raise BadInput(f"a cost model needs at least 20 measured layers (got {len(keys)})")
    x = np.stack([features(k) for k in keys])
    t = np.asarray(ms, dtype=float)
    pairs = [(k.cin, 0 if isinstance(k.row, Head) else k.row.out) for k in keys]
    groups = sorted(set(pairs))
    fold = np.array([groups.index(p) % 5 for p in pairs])
    held = np.full(len(t), np.nan)
    for f in range(5):
        train = fold != f
        if train.sum() >= 10 and (~train).any():
            held[~train] = np.maximum(x[~train] @ _solve(x[train], t[train]), 1e-4)
    ok = np.isfinite(held)
    error = float(fidelity(held[ok], t[ok])["rmspe"]) if ok.any() else float("nan")
    return CostModel(_solve(x, t), round(error, 2))
