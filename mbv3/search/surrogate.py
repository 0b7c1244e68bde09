"""A surrogate that learns rewards while they arrive and proposes what promises the largest improvement.

A Gaussian process over genomes. Its kernel adds up equal choices, equal pairs of choices, the order of choices and the
logarithm of the latency; the first two are a ridge over one-hot choices and their pairs, in its dual form. So it needs
some ten networks where other samplers need a hundred, at a few hundredths of a second a proposal: for scores that cost
seconds or more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mbv3.search.aim import Aim, Genomes, around, draw, every
from mbv3.search.proposer import Proposer
from mbv3.space import SearchSpace

__all__ = ["SurrogateSampler"]

_WHOLE = 20_000  # networks of a space whose every one is a candidate
_MOST = 400  # trials that are fitted: all up to here, then the best and the latest
_FIRST = 6  # trials before the first fit
# weights of the kernel: one choice, pairs, order, latency; and the noise. The likeliest combination is taken.
_WEIGHTS = tuple(itertools.product((0.3, 1.0), (0.1, 0.5, 2.0), (0.0, 1.0), (0.1, 1.0), (0.01, 0.1)))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Genomes as numbers: one-hot choices, places in the order of choices, log latency; all (n, ...)."""

    hot: NDArray[np.float64]
    place: NDArray[np.float64]
    latency: NDArray[np.float64]

    def parts(self, other: _Inputs) -> tuple[NDArray[np.float64], ...]:
        """The four kernels (n, m) between these genomes and others."""
        genes = self.place.shape[1]
        equal = self.hot @ other.hot.T
        pairs = equal * (equal - 1) / max(genes * (genes - 1), 1)
        return equal / genes, pairs, 4 / genes * (self.place @ other.place.T), np.outer(self.latency, other.latency)

    def own(self) -> tuple[NDArray[np.float64], ...]:
        """The four kernels of each genome with itself, (n,)."""
        genes = self.place.shape[1]
        one = np.ones(len(self.place))
        return one, one * (genes > 1), 4 / genes * (self.place**2).sum(1), self.latency**2


class SurrogateSampler(Proposer):
    """Expected improvement under a Gaussian process (Jones 1998), searched among random networks, children of the best
    and, in small spaces, every network."""

    def __init__(self, space: SearchSpace, seed: int, *, first: int = _FIRST) -> None:
        super().__init__(space, seed)
        self._before = first
        self._places = np.maximum(np.array(self.sizes) - 1, 1)
        self._offsets = np.cumsum([0, *self.sizes[:-1]])

    def open(self, aim: Aim) -> None:
        super().open(aim)
        self._weights: tuple[float, ...] = _WEIGHTS[0]
        self._fitted = 0  # trials that chose them
        self._all = every(self.sizes) if self.space.size <= _WHOLE else None

    def batch(self, start: int) -> int:
        """One at first; where there are many trials each one teaches little."""
        return 1 if start < 300 else 5 if start < 1000 else 20

    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        if len(self.rewards) < self._before:
            return self.first(rng, n)
        if attempt > 1:
            return draw(self.sizes, self.aim, rng, 4 * n)
        weights = self._likeliest()
        taught, values = self.instructive(len(self.rewards), _MOST)
        known = self._inputs(taught)
        kernel = _weighted(known.parts(known), weights) + weights[-1] * np.eye(len(values))
        root = np.linalg.inv(np.linalg.cholesky(kernel))
        alpha = root.T @ (root @ values)
        size = max(float(values @ alpha) / len(values), 1e-12)

        def improvement(genomes: Genomes) -> NDArray[np.float64]:
            inputs = self._inputs(genomes)
            cross = _weighted(inputs.parts(known), weights)
            mean = cross @ alpha
            own = sum((w * k for w, k in zip(weights, inputs.own(), strict=False)), np.ones(len(genomes)))
            left = own - ((cross @ root.T) ** 2).sum(1)
            spread = np.sqrt(np.maximum(left, 1e-12) * size)
            z = (mean - values.max()) / spread
            return np.asarray(spread * (z * _below(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)))

        return self._promising(rng, improvement, n)

    def _promising(
        self, rng: np.random.Generator, improvement: Callable[[Genomes], NDArray[np.float64]], n: int
    ) -> Genomes:
        """New genomes of the largest improvement, best first."""
        if self._all is not None:
            pool = self.new(self._all)
            return pool[np.argsort(-improvement(pool), kind="stable")[: 4 * n]] if len(pool) else pool
        top = self.best(20)
        pool = np.concatenate([
            around(self.sizes, top[rng.integers(0, len(top), 600)], rng, 1.0),
            around(self.sizes, top[rng.integers(0, len(top), 600)], rng, 2.5),
            draw(self.sizes, self.aim, rng, 300)[:300],
        ])  # fmt: skip
        pool = self.new(pool)
        for _ in range(3):  # climbs from what promises most
            if not len(pool):
                return pool
            pool = pool[np.argsort(-improvement(pool), kind="stable")[:40]]
            children = around(self.sizes, pool[rng.integers(0, len(pool), 400)], rng, 1.5)
            pool = self.new(np.concatenate([pool, children]))
        return pool[np.argsort(-improvement(pool), kind="stable")[: 4 * n]]

    def _inputs(self, genomes: Genomes) -> _Inputs:
        hot = np.zeros((len(genomes), sum(self.sizes)))
        np.put_along_axis(hot, genomes + self._offsets, 1.0, axis=1)
        latency = np.zeros(len(genomes))
        if self.aim.latencies is not None and self.aim.target_ms is not None:
            latency = 2 * np.log(np.maximum(self.aim.latencies(genomes), 1e-12) / self.aim.target_ms)
        return _Inputs(hot, genomes / self._places - 0.5, np.asarray(latency))

    def _likeliest(self) -> tuple[float, ...]:
        """The weights of largest marginal likelihood, chosen again each time that there are a tenth more trials."""
        n = self._before
        while (more := n + max(1, n // 10)) <= len(self.rewards):
            n = more
        if n == self._fitted:  # a function of the number of trials: a resumed search chooses as it did
            return self._weights
        taught, values = self.instructive(n, _MOST)
        known = self._inputs(taught)
        parts = known.parts(known)

        def likelihood(weights: tuple[float, ...]) -> float:
            kernel = _weighted(parts, weights) + weights[-1] * np.eye(len(values))
            root = np.linalg.cholesky(kernel)
            size = max(float((np.linalg.solve(root, values) ** 2).sum()) / len(values), 1e-12)
            return float(-0.5 * len(values) * np.log(size) - np.log(np.diag(root)).sum())

        self._weights, self._fitted = max(_WEIGHTS, key=likelihood), n
        return self._weights


def _below(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normal distribution function."""
    return np.asarray(torch.special.ndtr(torch.from_numpy(z)).numpy(), dtype=np.float64)


def _weighted(parts: tuple[NDArray[np.float64], ...], weights: tuple[float, ...]) -> NDArray[np.float64]:
    """The kernel: a constant and the weighted parts."""
    return np.asarray(sum((w * k for w, k in zip(weights, parts, strict=False)), np.ones_like(parts[0])))
