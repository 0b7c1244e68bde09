"""The ImageNet model: top-1 as a monotone function of a network's sums, from coefficients that are plain numbers.

With x the inputs (all at least 0, none falls when the network grows; see features.py),

    logit(top1 / 100) = offset + slope g(x),   g = beta ln(c + w x) - sum_h v_h ln(1 + exp(-(b_h + W_h x))) + omega x

where beta, v, w, W and omega are at least 0 and every recipe has its own offset and positive slope: some trainings draw
more from a larger network than others do. So a network that is smaller anywhere is never predicted to be better. A
source whose networks answer otherwise than fully trained ones do (a short schedule,
shared weights) scales groups of inputs by positive factors of its own. Published trainings have part of their omega x
from a law of few inputs that was fitted alone: the two err in opposite directions where a family is new.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from importlib import resources
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.accuracy.features import LINEAR, LOGS, RESOLUTION, WIDTH, group, log_columns, rises
from mbv3.errors import BadInput, shown

__all__ = ["FILE", "INPUTS", "OFA", "PAPER", "Model", "Region", "expand", "shipped"]

FILE = "imagenet_top1.json"
PAPER = "mobilenet_v3-paper"  # Howard 2019 (arXiv:1905.02244), as slim published it
OFA = "ofa-dynast"  # weights as they lie in OFA's published supernet (Cai 2020, arXiv:1908.09791), recalibrated
PUBLISHED = "published"  # the source of fully trained networks
FORMAT = "mbv3-imagenet/3"
RES_NAMES = tuple(f"px up to {knot}" for knot in RESOLUTION)
INPUTS = (*LINEAR, *LOGS, *RES_NAMES)

Array = NDArray[np.float64]


def expand(sums: Array, resolution: float | Array) -> Array:
    """Inputs (n, len(INPUTS)) of networks with `sums` (n, WIDTH) at `resolution` pixels a side, one or (n,)."""
    res = np.broadcast_to(rises(resolution), (len(sums), len(RES_NAMES)))
    return np.concatenate([sums[:, list(LINEAR.values())], np.log1p(sums @ log_columns()), res], axis=1)


_GROUPS = tuple(map(group, INPUTS))  # what a source scales each input by


@dataclass(frozen=True, slots=True)
class Region:
    """Where there is evidence: bounds of sizes in log2, of their pairwise sums and of their differences."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @staticmethod
    def directions(sizes: Mapping[str, Array]) -> tuple[tuple[str, ...], Array]:
        """(names, (n, directions)) of sizes by name, each (n,) and positive."""
        logs = {name: np.log2(v) for name, v in sizes.items()}
        out = dict(logs)
        for a, b in combinations(logs, 2):
            out[f"{a} x {b}"] = logs[a] + logs[b]
            out[f"{a} / {b}"] = logs[a] - logs[b]
        return tuple(out), np.stack(list(out.values()), axis=1)

    @classmethod
    def around(cls, sizes: Mapping[str, Array]) -> Region:
        names, at = cls.directions(sizes)
        return cls(names, tuple(at.min(0).tolist()), tuple(at.max(0).tolist()))

    def outside(self, sizes: Mapping[str, float]) -> tuple[float, str]:
        """(how far in octaves, where) of one network; (0, '') inside."""
        names, at = self.directions({k: np.array([v]) for k, v in sizes.items()})
        found: list[tuple[bool, float, str]] = []
        for name, v, low, high in zip(names, at[0].tolist(), self.low, self.high, strict=True):
            far = max(low - v, v - high)
            if far > 1e-9:
                side, bound = ("below", low) if v < low else ("above", high)
                found.append((name in sizes, far, f"{name} {2**v:.4g} is {side} the evidence ({2**bound:.4g})"))
        # a size says more than a product of two does
        return (max(far for _, far, _ in found), max(found)[2]) if found else (0.0, "")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training: its offset and slope, and the source that scales the inputs."""

    offset: float
    slope: float
    source: str
    networks: int  # how many networks of it are in the fit


@dataclass(frozen=True, slots=True)
class Model:
    """The fitted numbers; see the module for what they mean."""

    c: float
    beta: float
    v: Array  # (hidden,)
    b: Array  # (hidden,)
    weights: Array  # (inputs, hidden + 2): W, then w, then omega
    law: Array  # (inputs,): more of omega for published trainings
    recipes: Mapping[str, Recipe]
    scales: Mapping[str, Mapping[str, float]]  # by source: group to factor
    region: Region
    errors: tuple[float, float]  # standard error in points: of the core, outside it
    # variance of the error of a difference of two predictions, points^2: of networks that are alike, and more of it for
    # each point of `unlike`
    difference: tuple[float, float]
    source: str

    def scaled(self, source: str) -> Array:
        """The weights as a source has them, (inputs, hidden + 2)."""
        factors = self.scales.get(source, {})
        by_input = np.array([factors.get(name, 1.0) for name in _GROUPS])
        weights = self.weights * by_input[:, None]
        if source == PUBLISHED:
            weights[:, -1] += self.law
        return np.asarray(weights, dtype=np.float64)

    def recipe(self, name: str) -> Recipe:
        """Raises: BadInput when no training of the evidence has this name."""
        if name not in self.recipes:
            raise BadInput(f"recipe: no training is called {shown(name)}; known are {', '.join(self.recipes)}")
        return self.recipes[name]

    def reduce(self, source: str) -> Array:
        """(WIDTH, hidden + 2 + len(LOGS)): what sums are multiplied with before anything that is not linear."""
        weights = self.scaled(source)
        linear = np.zeros((WIDTH, weights.shape[1]))
        linear[list(LINEAR.values())] = weights[: len(LINEAR)]
        return np.concatenate([linear, log_columns()], axis=1)

    def finish(self, reduced: Array, resolution: float | Array, recipe: str) -> Array:
        """Percent top-1 (n,) of `sums @ reduce(source)` (n, ...) at one resolution or (n,)."""
        return self.percent(self.worth(reduced, resolution, recipe), recipe)

    def percent(self, worth: Array, recipe: str) -> Array:
        """Percent top-1 of g(x)."""
        about = self.recipe(recipe)
        return np.asarray(100.0 / (1.0 + np.exp(-(about.offset + about.slope * worth))))

    def worth(self, reduced: Array, resolution: float | Array, recipe: str) -> Array:
        """g(x) (n,) of `sums @ reduce(source)` (n, ...). As a function of these numbers it rises and is concave:
        logarithms and -ln(1 + exp(-u)) are, with weights of at least 0."""
        at, k = self._inside(reduced, resolution, recipe), self.weights.shape[1]
        u, z = at[:, : k - 2] + self.b, self.c + at[:, k - 2]
        return np.asarray(self.beta * np.log(z) - np.logaddexp(0.0, -u) @ self.v + at[:, k - 1])

    def slopes_at(self, reduced: Array, resolution: float, recipe: str) -> Array:
        """The gradient of `worth` at one network's numbers (...,)."""
        weights, k = self.scaled(self.recipe(recipe).source), self.weights.shape[1]
        at = self._inside(reduced[None], resolution, recipe)[0]
        outer = np.concatenate([
            self.v / (1.0 + np.exp(at[: k - 2] + self.b)), [self.beta / (self.c + at[k - 2]), 1.0]
        ])  # fmt: skip
        logs = weights[len(LINEAR) : len(LINEAR) + len(LOGS)] @ outer
        return np.concatenate([outer, logs / (1.0 + reduced[k:])])

    def unlike(self, sums: Array, resolution: Array, recipe: str) -> float:
        """Points by which the inputs of two networks, sums (2, WIDTH) at resolution (2,), move the prediction one by
        one, as if all in one direction; 0 for equal networks."""
        about, x = self.recipe(recipe), expand(sums, resolution)
        weights, h = self.scaled(about.source), len(self.v)
        at = x @ weights
        slope = (self.v / (1.0 + np.exp(at[:, :h] + self.b))) @ weights[:, :h].T
        slope += self.beta / (self.c + at[:, h, None]) * weights[:, h] + weights[:, h + 1]
        share = self.predict(sums, resolution, recipe) / 100
        points = 100 * share * (1 - share) * about.slope
        return float(np.abs(x[0] - x[1]) @ (slope * points[:, None]).mean(0))

    def _inside(self, reduced: Array, resolution: float | Array, recipe: str) -> Array:
        """W_h x, w x and omega x of every network, (n, hidden + 2)."""
        weights, k = self.scaled(self.recipe(recipe).source), self.weights.shape[1]
        at = reduced[:, :k] + np.log1p(reduced[:, k:]) @ weights[len(LINEAR) : len(LINEAR) + len(LOGS)]
        return np.asarray(at + rises(resolution) @ weights[len(LINEAR) + len(LOGS) :])

    def predict(self, sums: Array, resolution: float | Array, recipe: str) -> Array:
        """Percent top-1 (n,) of networks with `sums` (n, WIDTH)."""
        return self.finish(sums @ self.reduce(self.recipe(recipe).source), resolution, recipe)

    def to_json(self) -> str:
        """The file's text: one input a line."""
        names: Sequence[str] = [n for n, row in zip(INPUTS, self.weights, strict=True) if row.any()]
        rows = {n: [float(f"{x:.8g}") for x in self.weights[INPUTS.index(n)]] for n in names}
        head: dict[str, Any] = {
            "format": FORMAT, "source": self.source, "c": self.c, "beta": self.beta,
            "v": self.v.tolist(), "b": self.b.tolist(),
            "law": {n: x for n, x in zip(INPUTS, self.law.tolist(), strict=True) if x},
            "errors": list(self.errors), "difference": list(self.difference),
            "scales": {s: dict(f) for s, f in self.scales.items()},
            "region": {n: [low, high] for n, low, high in zip(*astuple(self.region), strict=True)},
            "recipes": {n: asdict(r) for n, r in self.recipes.items()},
        }  # fmt: skip
        lines = [f" {json.dumps(k)}: {json.dumps(v)}," for k, v in head.items()]
        weights = ",\n".join(f"  {json.dumps(n)}: {json.dumps(row)}" for n, row in rows.items())
        return "\n".join(["{", *lines, ' "weights": {', weights, " }", "}", ""])

    @classmethod
    def from_json(cls, text: str) -> Model:
        """Raises: BadInput: another format, a name that this version does not know, or a weight below 0."""
        d = json.loads(text)
        if d.get("format") != FORMAT:
            raise BadInput(f"{FILE}: format must be {FORMAT} (got {shown(d.get('format'))}); reinstall the package")
        weights, law = np.zeros((len(INPUTS), len(d["v"]) + 2)), np.zeros(len(INPUTS))
        for name in (*d["weights"], *d["law"]):
            if name not in INPUTS:
                raise BadInput(f"{FILE}: no input is called {shown(name)}; run scripts/fit_imagenet_accuracy.py again")
        for name, row in d["weights"].items():
            weights[INPUTS.index(name)] = row
        for name, x in d["law"].items():
            law[INPUTS.index(name)] = x
        slopes = [r["slope"] for r in d["recipes"].values()]
        positive = [weights, law, np.array(d["v"]), np.array([d["c"], d["beta"], *slopes])]
        positive += [np.array(list(f.values())) for f in d["scales"].values()]
        if any((a < 0).any() for a in positive) or min(slopes) == 0:
            raise BadInput(
                f"{FILE}: a weight is below 0, or a slope not above it, so that a larger network could be predicted to "
                "be worse"
            )
        region = Region(tuple(d["region"]), *zip(*d["region"].values(), strict=True))
        return cls(
            d["c"], d["beta"], np.array(d["v"]), np.array(d["b"]), weights, law,
            {n: Recipe(**r) for n, r in d["recipes"].items()}, d["scales"], region,
            (d["errors"][0], d["errors"][1]), (d["difference"][0], d["difference"][1]), d["source"],
        )  # fmt: skip


@lru_cache(maxsize=1)
def shipped() -> Model:
    """The model that the package brings."""
    return Model.from_json((resources.files("mbv3.accuracy") / FILE).read_text("utf-8"))
