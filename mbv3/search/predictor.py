"""ImageNet top-1 of a genome of the `mnasnet-imagenet` space, from 3,280 of 4,100 public trainings (820 are held out).

A ridge regression on one-hot choices and their pairwise products, fitted by scripts/fit_imagenet_predictor.py on
Accel-NASBench's ImageNet trainings (afzalxo/Accel-NASBench, Apache-2.0; a short schedule, so absolute values lie below
full trainings'); the coefficients are shipped as plain numbers.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.space import Genome, SearchSpace, load_space

__all__ = ["SPACE", "ImagenetPredictor", "fit_ridge", "imagenet_top1", "one_hot_pairs"]

SPACE = "mnasnet-imagenet"


def one_hot_pairs(sizes: tuple[int, ...], genomes: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, features): the one-hot choices, then the product of every two choices of different genes."""
    genomes = np.atleast_2d(genomes)
    hot = [np.eye(n, dtype=np.float32)[genomes[:, i]] for i, n in enumerate(sizes)]
    pairs = [
        (hot[i][:, :, None] * hot[j][:, None, :]).reshape(len(genomes), -1)
        for i, j in itertools.combinations(range(len(sizes)), 2)
    ]
    return np.concatenate([*hot, *pairs], axis=1)


def fit_ridge(x: NDArray[np.float32], y: NDArray[np.float64], alpha: float) -> tuple[float, NDArray[np.float64]]:
    """(intercept, coefficients) of ridge regression, by the normal equations in the smaller dimension."""
    xd = x.astype(np.float64)
    mean_x, mean_y = xd.mean(0), float(y.mean())
    xc = xd - mean_x
    if x.shape[0] < x.shape[1]:
        w = xc.T @ np.linalg.solve(xc @ xc.T + alpha * np.eye(len(xc)), y - mean_y)
    else:
        w = np.linalg.solve(xc.T @ xc + alpha * np.eye(xc.shape[1]), xc.T @ (y - mean_y))
    return mean_y - float(mean_x @ w), w


@dataclass(frozen=True)
class ImagenetPredictor:
    """top-1 = intercept + singles of the choices + pairs of the choices, in percent."""

    sizes: tuple[int, ...]
    intercept: float
    coefficients: NDArray[np.float64]

    def __post_init__(self) -> None:
        sizes = np.array(self.sizes)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        pairs = list(itertools.combinations(range(len(sizes)), 2))
        pair_starts, at = [], int(starts[-1])
        for i, j in pairs:
            pair_starts.append(at)
            at += self.sizes[i] * self.sizes[j]
        for name, value in (
            ("_single", starts[:-1]),
            ("_i", np.array([p[0] for p in pairs])),
            ("_j", np.array([p[1] for p in pairs])),
            ("_pair", np.array(pair_starts)),
            ("_nj", np.array([self.sizes[p[1]] for p in pairs])),
        ):
            object.__setattr__(self, name, value)

    def __call__(self, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, genes) to (n,) percent."""
        g = np.atleast_2d(np.asarray(genomes))
        single, i, j, pair, nj = (getattr(self, n) for n in ("_single", "_i", "_j", "_pair", "_nj"))
        singles = self.coefficients[single + g].sum(1)
        pairs = self.coefficients[pair + g[:, i] * nj + g[:, j]].sum(1)
        return np.asarray(self.intercept + singles + pairs, dtype=np.float64)


@lru_cache(maxsize=1)
def _trained() -> SearchSpace:
    return load_space(SPACE)


@lru_cache(maxsize=1)
def _shipped(sizes: tuple[int, ...]) -> ImagenetPredictor:
    text = (resources.files("mbv3.search") / "imagenet_top1.csv").read_text("utf-8")
    rows = list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))
    values = np.array([float(r[1]) for r in rows[1:]])
    expected = sum(sizes) + sum(a * b for a, b in itertools.combinations(sizes, 2))
    if len(values) != expected + 1:
        raise BadInput(f"imagenet_top1.csv has {len(values)} coefficients, not {expected + 1}")
    return ImagenetPredictor(sizes, float(values[0]), values[1:])


def imagenet_top1(space: SearchSpace, genomes: Sequence[Genome] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Predicted ImageNet top-1 in percent of genomes of `mnasnet-imagenet` (any scale), (n,); higher is better.

    Raises:
        BadInput: another space; the trainings behind the predictor cover this one only.
    """
    if space.name != SPACE:
        raise BadInput(f"--accuracy imagenet knows only the space {SPACE} (got {space.name}); use supernet or train")
    if space.blocks != _trained().blocks:
        raise BadInput(
            f"--accuracy imagenet: the blocks of {space.source or 'this space'} are not those of the {SPACE} whose "
            "networks were trained; give your space another name and use supernet or train"
        )
    return _shipped(space.sizes)(np.asarray(genomes))
