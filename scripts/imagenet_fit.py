"""The fit of mbv3.accuracy's ImageNet model: weighted least squares in points, weights kept positive as squares.

It is a mean of two: a function of all inputs, and a law of few, fitted alone to published networks. Where a family is
new, the first follows whichever families are alike in hundreds of inputs, and the second only its size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from imagenet_evidence import Row
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls
from scipy.special import expit

from mbv3.accuracy.features import LINEAR, group, network_sums
from mbv3.accuracy.imagenet import in_core, sizes
from mbv3.accuracy.model import INPUTS, PUBLISHED, Model, Recipe, Region, expand

Array = NDArray[np.float64]
SOURCES = ("published", "accel_nasbench", "ofa_dynast", "ofa_gatech")
# Points by which the errors of a source are divided: its noise, and how much its order is wanted
NOISE = {"published": 0.6, "accel_nasbench": 0.3, "ofa_dynast": 0.2, "ofa_gatech": 0.2}
AVERAGE = "published-average"
PIVOT = 1.0  # logit (73 %) about which a recipe's slope turns, so that its offset means the same
GROUPS = sorted({group(n) for n in INPUTS} - {""})
GROUP_OF = np.array([GROUPS.index(group(n)) if group(n) else len(GROUPS) for n in INPUTS])
LAW = ("log all work", "px up to 128", "px up to 224", "px up to 480", "log smooth", "log all se", "log all k5")
OUTSIDE = 1 / 16  # weight of a published network outside the core in the law: its error is four times as large
IS_LINEAR = np.arange(len(INPUTS)) < len(LINEAR)


@dataclass(frozen=True)
class Evidence:
    """Rows as arrays."""

    rows: Sequence[Row]
    sums: Array = field(init=False)
    inputs: Array = field(init=False)
    top1: Array = field(init=False)
    pixels: Array = field(init=False)
    source: NDArray[np.str_] = field(init=False)
    recipe: NDArray[np.str_] = field(init=False)
    core: NDArray[np.bool_] = field(init=False)  # published, and in_core

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "sums", np.array([network_sums(r.layers) for r in self.rows]))
        put(self, "pixels", np.array([float(r.resolution) for r in self.rows]))
        put(self, "inputs", expand(self.sums, self.pixels))
        put(self, "top1", np.array([r.top1 for r in self.rows]))
        put(self, "source", np.array([r.source for r in self.rows]))
        put(self, "recipe", np.array([r.recipe for r in self.rows]))
        core = [r.source == PUBLISHED and in_core(sizes(r.layers[:-1], float(r.resolution))) for r in self.rows]
        put(self, "core", np.array(core))

    def predict(self, model: Model, at: NDArray[np.int64]) -> Array:
        """Percent top-1 of rows `at`; a recipe that the model has not seen is the published average."""
        out = np.zeros(len(at))
        for recipe in np.unique(self.recipe[at]):
            j = np.flatnonzero(self.recipe[at] == recipe)
            name = recipe if recipe in model.recipes else AVERAGE
            out[j] = model.predict(self.sums[at[j]], self.pixels[at[j]], name)
        return out


@dataclass(frozen=True, kw_only=True)
class Options:
    hidden: int = 10
    ridge: float = 0.04  # of the roots of the weights
    ramp: float = 2.0  # times as much for an input that is a sum than for one that is a logarithm
    ridge_recipe: float = 8.0  # holds a recipe's offset (logit) to the average
    ridge_slope: float = 5.0  # holds the logarithm of a recipe's slope to 0
    law: float = 0.2  # share of the law in the prediction of a published network
    ridge_law: float = 1.0  # networks that hold a recipe's offset in the law to the average
    ridge_scale: float = 0.01  # holds a source's factors to 1 (in logarithms)
    first: int = 1500  # steps of Adam
    then: int = 4000  # steps of L-BFGS
    seed: int = 0


class _Fit:
    """The loss and its gradient over one vector of free numbers."""

    def __init__(self, data: Evidence, at: NDArray[np.int64], o: Options) -> None:
        at = at[np.argsort([SOURCES.index(s) for s in data.source[at]], kind="stable")]
        source = np.array([SOURCES.index(s) for s in data.source[at]])
        self.o, self.y = o, data.top1[at]
        self.recipes, self.recipe = np.unique(data.recipe[at], return_inverse=True)
        self.published = np.array([source[self.recipe == k][0] == 0 for k in range(len(self.recipes))])
        spread = data.inputs[at].std(0)
        self.keep = spread > 1e-9
        self.spread = np.where(self.keep, spread, 1.0)
        self.x = (data.inputs[at] / self.spread).astype(np.float32)  # half the time of float64
        self.mean = self.x.mean(0, dtype=np.float64)
        self.parts = [(k, slice(*(np.flatnonzero(source == k)[[0, -1]] + [0, 1]))) for k in np.unique(source)]
        self.weight = np.zeros(len(at))
        for k, j in self.parts:  # every source counts alike, whatever its number of rows
            self.weight[j] = 1 / (j.stop - j.start) / NOISE[SOURCES[k]] ** 2
        p, h, r = len(INPUTS), o.hidden, len(self.recipes)
        self.ends = np.cumsum([0, 3, r, r, 4, p, p, h, h, p * h, 3 * len(GROUPS)])
        self.heavier = np.where(IS_LINEAR, o.ramp, 1.0)

    def start(self) -> Array:
        rng, o, p = np.random.default_rng(self.o.seed), self.o, len(INPUTS)
        logit = np.log(self.y / (100 - self.y))
        a = np.array([logit[self.recipe == k].mean() for k in range(len(self.recipes))])
        mu = a[self.published].mean()
        return np.concatenate([
            [1.0, 0.5, mu - 1.5], np.where(self.published, 0.0, a - 1.5), np.zeros(len(a)), np.ones(4),
            np.full(p, 0.1),
            np.where(IS_LINEAR, 0.0, 0.05), np.full(o.hidden, 0.3), rng.normal(size=o.hidden),
            rng.uniform(0, 0.2, p * o.hidden), np.zeros(3 * len(GROUPS)),
        ])  # fmt: skip

    def split(self, t: Array) -> list[Array]:
        return [t[a:b] for a, b in zip(self.ends, self.ends[1:], strict=False)]

    def __call__(self, t: Array) -> tuple[float, Array]:
        o, h, p = self.o, self.o.hidden, len(INPUTS)
        (c, beta, mu), d, turn, slope, w, omega, v, b, hidden, scale = self.split(t)
        hidden, scale = hidden.reshape(p, h), scale.reshape(3, -1)
        heavy = self.heavier
        roots = np.concatenate([hidden, w[:, None], np.where(IS_LINEAR, 0, omega)[:, None]], 1)
        m = roots**2 * self.keep[:, None]
        shift = self.mean @ m[:, :h]
        loss = o.ridge * ((v**2).sum() + (heavy[:, None] * roots**2).sum())
        loss += o.ridge_recipe * (d[self.published] ** 2).sum() + o.ridge_scale * (scale**2).sum()
        loss += o.ridge_slope * (turn[self.published] ** 2).sum()
        dturn = 2 * o.ridge_slope * turn * self.published
        dm, dscale = np.zeros_like(m), 2 * o.ridge_scale * scale
        dd, dslope, dc, dbeta, dmu = 2 * o.ridge_recipe * d * self.published, np.zeros(4), 0.0, 0.0, 0.0
        dv, db = 2 * o.ridge * v, np.zeros(h)
        for k, j in self.parts:
            factor = np.exp(np.append(scale[k - 1], 0.0))[GROUP_OF] if k else np.ones(p)
            mk = m * factor[:, None]
            out = (self.x[j] @ mk.astype(self.x.dtype)).astype(np.float64)
            u, z = out[:, :h] + b - shift, c * c + 1e-3 + out[:, h]
            soft, lz = np.logaddexp(0, -u), np.log(z)
            g = beta * beta * lz - soft @ v**2 + out[:, h + 1]
            of = self.recipe[j]
            sk = slope[k] if k else np.exp(turn[of])
            level = d[of] + slope[k] * g if k else mu + d[of] + g
            guess = 100 * expit(level if k else PIVOT + sk * (level - PIVOT))
            off = guess - self.y[j]
            loss += float((self.weight[j] * off * off).sum())
            dl = 2 * self.weight[j] * off * guess * (100 - guess) / 100
            if k:
                dd, dslope[k] = dd + np.bincount(of, dl, len(d)), dl @ g
            else:
                dd, dmu = dd + np.bincount(of, dl * sk, len(d)), float((dl * sk).sum())
                dturn = dturn + np.bincount(of, dl * sk * (level - PIVOT), len(d))
            dg = dl * sk
            dz = dg * beta * beta / z
            dbeta += 2 * beta * float(dg @ lz)
            dc += 2 * c * float(dz.sum())
            dv = dv - 2 * v * (soft.T @ dg)
            dout = np.concatenate([dg[:, None] * v**2 * expit(-u), dz[:, None], dg[:, None]], 1)
            db += dout[:, :h].sum(0)
            dmk = (self.x[j].T @ dout.astype(self.x.dtype)).astype(np.float64)
            dm += dmk * factor[:, None]
            dm[:, :h] -= self.mean[:, None] * dout[:, :h].sum(0)
            if k:
                dscale[k - 1] += np.bincount(GROUP_OF, (dmk * mk).sum(1), len(GROUPS) + 1)[: len(GROUPS)]
        droots = 2 * roots * (dm * self.keep[:, None] + o.ridge * heavy[:, None])
        return loss, np.concatenate([
            [dc, dbeta, dmu], dd, dturn, dslope, droots[:, h], np.where(IS_LINEAR, 0, droots[:, h + 1]), dv, db,
            droots[:, :h].ravel(), dscale.ravel(),
        ])  # fmt: skip

    def adam(self, t: Array, steps: int, rate: float = 0.02) -> Array:
        """Adam (Kingma 2015, arXiv:1412.6980) with a falling rate: brings what L-BFGS is slow to begin with."""
        m, v = np.zeros_like(t), np.zeros_like(t)
        for k in range(1, steps + 1):
            _, g = self(t)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            t = t - rate * (1 - k / (steps + 1)) ** 0.5 * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
        return t

    def newton(self, t: Array, steps: int) -> Array:
        """L-BFGS. In float32 its line search ends early: it then goes on in float64."""
        while steps > 0:
            options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 1e-8, "gtol": 1e-6}
            done = minimize(self, t, jac=True, method="L-BFGS-B", options=options)
            t, steps = done.x, steps - max(1, int(done.nit))
            if self.x.dtype == np.float64:
                break
            self.x = self.x.astype(np.float64)
        return np.asarray(t)


def fit_law(
    data: Evidence, at: NDArray[np.int64], slopes: Mapping[str, float], ridge: float
) -> tuple[float, dict[str, float], Array]:
    """(average offset, more of it by recipe, weights (inputs,) of at least 0) of the published rows of `at`, whose
    recipes have `slopes`: least squares in logits, weighted so that they are points."""
    at = at[data.source[at] == PUBLISHED]
    columns = [INPUTS.index(name) for name in LAW]
    recipes, recipe = np.unique(data.recipe[at], return_inverse=True)
    top1, n = data.top1[at], len(recipes)
    slope = np.array([slopes[name] for name in recipes])[recipe]
    weight = np.sqrt(np.where(data.core[at], 1.0, OUTSIDE)) * top1 * (100 - top1) / 2500
    own = np.eye(n)[recipe]
    x = np.concatenate([np.ones((len(at), 1)), own], 1)  # each offset is a difference of two numbers of at least 0
    x = np.concatenate([x, -x, slope[:, None] * data.inputs[at][:, columns]], 1) * weight[:, None]
    held = np.zeros((2 * n, x.shape[1]))
    held[:n, 1 : n + 1], held[n:, n + 2 : 2 * n + 2] = np.sqrt(ridge) * np.eye(n), np.sqrt(ridge) * np.eye(n)
    y = np.concatenate([weight * np.log(top1 / (100 - top1)), np.zeros(2 * n)])
    found = nnls(np.concatenate([x, held]), y, maxiter=100 * x.shape[1])[0]
    offsets, weights = found[: n + 1] - found[n + 1 : 2 * n + 2], np.zeros(len(INPUTS))
    weights[columns] = found[2 * n + 2 :]
    return float(offsets[0]), dict(zip(recipes.tolist(), offsets[1:].tolist(), strict=True)), weights


def fit(data: Evidence, at: NDArray[np.int64], o: Options, about: str = "", region: Region | None = None) -> Model:
    """The model of rows `at`."""
    f = _Fit(data, at, o)
    t = f.adam(f.start(), o.first)
    t = f.newton(t, o.then)
    (c, beta, mu), d, turn, slope, w, omega, v, b, hidden, scale = f.split(t)
    p, h = len(INPUTS), o.hidden
    roots = np.concatenate([hidden.reshape(p, h), w[:, None], np.where(IS_LINEAR, 0, omega)[:, None]], 1)
    m = roots**2 * f.keep[:, None]
    shift = f.mean @ m[:, :h]
    m = np.where(m > 1e-6, m, 0.0) / f.spread[:, None]
    m[:, h + 1] *= 1.0 - o.law
    rises = {str(name): float(np.exp(turn[k])) for k, name in enumerate(f.recipes) if f.published[k]}
    average, more, law = fit_law(data, at, rises, o.ridge_law)
    rest = 1.0 - o.law
    public = int((data.source[at] == PUBLISHED).sum())
    recipes = {AVERAGE: Recipe(rest * float(mu) + o.law * average, 1.0, PUBLISHED, public)}
    for k, name in enumerate(f.recipes):
        source = str(data.source[at][data.recipe[at] == name][0])
        if f.published[k]:
            slope_k = rises[str(name)]
            offset = rest * float(PIVOT + slope_k * (mu + d[k] - PIVOT)) + o.law * (average + more[str(name)])
        else:
            slope_k, offset = float(slope[SOURCES.index(source)]) / rest, float(d[k])  # no part of it is the law
        recipes[str(name)] = Recipe(offset, slope_k, source, int((f.recipe == k).sum()))
    factors = np.exp(scale.reshape(3, -1))
    return Model(
        c=float(c * c + 1e-3), beta=rest * float(beta * beta), v=rest * v**2, b=b - shift, weights=m, law=o.law * law,
        recipes=recipes,
        scales={s: dict(zip(GROUPS, factors[k].tolist(), strict=True)) for k, s in enumerate(SOURCES[1:])},
        region=region or Region((), (), ()), errors=(0.0, 0.0), difference=(0.0, 0.0), source=about,
    )  # fmt: skip
