"""Estimates of layers that are not in the table and cannot be measured.

Non-negative least squares on physical features, corrected by the residual of the measured layer nearest in channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.latency.metrics import fidelity
from mbv3.spec import WIDTHS, Classify, Dense, Head, LayerKey, lower_key, widths_of

__all__ = ["FEATURES", "WORK", "WORK_OF", "CostModel", "features", "fit_cost_model"]

LEAST_MS = 1e-4
# Distance in log channels over which the residual fades to 1/e. Held-out RMSPE on the 1,749 layers of `mnasnet`, folds
# by channel pair: 14.8 % (LiteRT: 11.3), with the features only 15.6 (11.4), without fading 23.0 (13.7). With the 186
# layers that cut networks add, most of them odd: 20.6 (11.0), 19.8 (11.3), 31.6 (13.9).
FADE = 0.25

FEATURES = (
    "layer", "ops", "full conv MMAdds", "expand MMAdds", "project MMAdds", "depthwise k3 MMAdds",
    "depthwise k5 MMAdds", "depthwise k7+ MMAdds", "strided depthwise MMAdds", "small-map MMAdds", "SE layer",
    "SE MMAdds", "scaled Melements", "resampled Melements", "activated Melements", "h-swish Melements",
    "moved Melements", "weights MB",
)  # fmt: skip
# Kinds of work: a runtime, a precision or a core can be slower at one of them and not at the others.
WORK = {
    "other convolutions": ("full conv MMAdds",),  # k x k, and the 1x1 outside of MBConv: tail, classifier, heads
    "expanding and projecting": ("expand MMAdds", "project MMAdds", "small-map MMAdds", "weights MB"),
    "depthwise": ("depthwise k3 MMAdds", "depthwise k5 MMAdds", "depthwise k7+ MMAdds", "strided depthwise MMAdds"),
    "SE": ("SE layer", "SE MMAdds", "scaled Melements"),
    "resampling": ("resampled Melements",),
    "moving": ("moved Melements", "activated Melements", "h-swish Melements"),
    "calls": ("layer", "ops"),
}
_INDEX = {name: i for i, name in enumerate(FEATURES)}
WORK_OF = np.array([[f in names for f in FEATURES] for names in WORK.values()], dtype=float)  # (kinds, features)


def features(key: LayerKey) -> NDArray[np.float64]:
    """(FEATURES,): what a layer does that takes time: multiply-adds by kind, elements, bytes read."""
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
            expand = op.k == 1 and ".expand." in op.name and not isinstance(key.row, Head)
            add(
                "expand MMAdds" if expand else "project MMAdds" if ".project." in op.name else "full conv MMAdds",
                m,
            )
            if op.hout * op.wout < 100:
                add("small-map MMAdds", m)
        elif op.kind == "act":
            add("h-swish Melements" if op.nl in ("HS", "SILU") else "activated Melements", elements)
            if op.nl == "SILU":  # written as a sigmoid and a product
                add("ops", 1.0)
                add("scaled Melements", elements)
        elif op.kind in ("pool", "wpool", "apool", "resize"):
            add("resampled Melements", elements)
        elif op.kind not in ("add", "concat"):
            add("scaled Melements", elements)
    if not isinstance(key.row, Head) and key.row.se:
        add("SE layer", 1.0)
    add("weights MB", layer.params * 4e-6)
    return f


def family(key: LayerKey) -> tuple[object, ...]:
    """Equal for layers that differ in channels only."""
    row = key.row
    if isinstance(row, Classify):
        return ("classify", key.h, key.w, bool(row.features))
    if isinstance(row, Dense):
        return (type(row), tuple((h, w) for _, h, w in key.inputs), key.image)
    return (type(row), row.expands(key.cin), key.h, key.w, *row.frame(), key.gate)


def _log_channels(key: LayerKey) -> NDArray[np.float64]:
    row = key.row
    if isinstance(row, Dense):
        own: dict[str, int] = {}
        for (name, _), n in widths_of(row).items():
            own[name] = own.get(name, 0) + n
        return np.log([key.cin, row.classes, *(own.get(name, 0) + 1 for name in WIDTHS)])
    inner = row.features + 1 if isinstance(row, Classify) else getattr(row, "exp", key.cin)
    return np.log([key.cin, inner, row.classes if isinstance(row, Classify) else row.out])


Residuals = Mapping[tuple[object, ...], Sequence[tuple[NDArray[np.float64], float]]]


@dataclass(frozen=True, slots=True)
class CostModel:
    """ms = coefficients . features(key) x residual of the nearest measured layer, faded by its distance.

    `residuals`: by family the (log channels, measured / modelled) of every measured layer. `error`: held-out RMSPE of
    an estimate in percent."""

    coefficients: NDArray[np.float64]
    error: float
    residuals: Residuals = field(default_factory=dict)

    def ms(self, key: LayerKey) -> float:
        """Estimated hot latency of one layer in ms."""
        return self.plain_ms(key) * self._nearby(key)

    def plain_ms(self, key: LayerKey) -> float:
        """The same from the features only."""
        return max(float(features(key) @ self.coefficients), LEAST_MS)

    def shares(self, key: LayerKey) -> NDArray[np.float64]:
        """Share of each kind of WORK in the time of a layer; they add up to 1."""
        parts = WORK_OF @ (features(key) * self.coefficients)
        whole = float(parts.sum())
        return parts / whole if whole > 0 else np.full(len(WORK), 1 / len(WORK))

    def _nearby(self, key: LayerKey) -> float:
        """Residual of the nearest layer of the family; it fades with the distance, so that cut rows stay comparable."""
        relatives = self.residuals.get(family(key), ())
        if not relatives:
            return 1.0
        here = _log_channels(key)
        distance, ratio = min((float(np.abs(there - here).sum()), ratio) for there, ratio in relatives)
        return float(ratio ** np.exp(-distance / FADE))


def _solve(x: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.optimize import nnls  # half a second to import; a table with a row for every layer needs no fit

    return nnls(x / t[:, None], np.ones(len(t)))[0]


def _fitted(keys: Sequence[LayerKey], x: NDArray[np.float64], t: NDArray[np.float64], error: float) -> CostModel:
    coefficients = _solve(x, t)
    residuals: dict[tuple[object, ...], list[tuple[NDArray[np.float64], float]]] = {}
    for key, ms, modelled in zip(keys, t, np.maximum(x @ coefficients, LEAST_MS), strict=True):
        residuals.setdefault(family(key), []).append((_log_channels(key), float(ms / modelled)))
    return CostModel(coefficients, error, residuals)


def fit_cost_model(keys: Sequence[LayerKey], ms: Sequence[float]) -> CostModel:
    """Fit on measured layers, minimising the relative error; `error` is from five folds, held out by channel pair.

    Raises:
        BadInput: too few layers to fit.
    """
    if len(keys) < 20:
        raise BadInput(
            f"a cost model needs at least 20 measured layers (got {len(keys)}); measure a table of a whole space"
        )
    x = np.stack([features(k) for k in keys])
    t = np.asarray(ms, dtype=float)
    pairs = [(k.cin, 0 if isinstance(k.row, Head) else k.row.out) for k in keys]
    groups = sorted(set(pairs))
    fold = np.array([groups.index(p) % 5 for p in pairs])
    held = np.full(len(t), np.nan)
    for f in range(5):
        train = fold != f
        if train.sum() >= 10:
            rest = [key for key, one in zip(keys, train, strict=True) if one]
            model = _fitted(rest, x[train], t[train], np.nan)
            for i in np.flatnonzero(fold == f).tolist():
                held[i] = model.ms(keys[i])
    ok = np.isfinite(held)
    error = float(fidelity(held[ok], t[ok])["rmspe"]) if ok.any() else float("nan")
    return _fitted(keys, x, t, round(error, 2))
