"""A surrogate that learns rewards while they arrive and proposes what promises the largest improvement.

A Gaussian process over genomes. Its kernel adds up equal choices, equal pairs of choices, the order of choices, the
logarithm of the latency and how often each choice is made among the genes that offer the same; the first two are a
ridge over one-hot choices and their pairs, in its dual form. A few trials cannot say which of these matter, so the
improvement is a mean over the likeliest weights of them. It needs some ten networks where other samplers need a
hundred, at a few hundredths of a second a proposal: for scores that cost seconds or more.

The first networks say what the process cannot know yet. More of anything is expected to help, and each step of it less
than the one before. So of networks near the target those are taken that are even, and apart from each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mbv3.search.aim import Aim, Genomes, around, draw, every
from mbv3.search.proposer import Proposer
from mbv3.space import SearchSpace, Value

__all__ = ["SurrogateSampler"]

_WHOLE = 20_000  # networks of a space whose every one is a candidate
_MOST = 400  # trials that are fitted: all up to here, then the best and the latest
_FIRST = 4  # trials before the first fit
_DRAWN = 64  # networks near the target of which such a trial is chosen
# weights of the kernel: one choice, pairs, order, latency, counts of choices; and the noise
_WEIGHTS = tuple(itertools.product((0.3, 1.0), (0.1, 0.5, 2.0), (0.0, 1.0), (0.1, 1.0), (0.0, 0.5, 2.0), (0.01, 0.1)))
_LIKELIEST = 8  # of them that are asked


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Genomes as numbers: one-hot choices, places in the order of choices, log latency, counts; all (n, ...)."""

    hot: NDArray[np.float64]
    place: NDArray[np.float64]
    latency: NDArray[np.float64]
    counts: NDArray[np.float64]

    def parts(self, other: _Inputs) -> tuple[NDArray[np.float64], ...]:
        """The five kernels (n, m) between these genomes and others."""
        genes = self.place.shape[1]
        equal = self.hot @ other.hot.T
        pairs = equal * (equal - 1) / max(genes * (genes - 1), 1)
        order, latency = 4 / genes * (self.place @ other.place.T), np.outer(self.latency, other.latency)
        return equal / genes, pairs, order, latency, self.counts @ other.counts.T

    def own(self) -> tuple[NDArray[np.float64], ...]:
        """The five kernels of each genome with itself, (n,)."""
        genes = self.place.shape[1]
        one = np.ones(len(self.place))
        order = 4 / genes * (self.place**2).sum(1)
        return one, one * (genes > 1), order, self.latency**2, (self.counts**2).sum(1)


@dataclass(frozen=True, slots=True)
class _Process:
    """A Gaussian process of known genomes, the first of which have `values`, with one combination of weights; `share`
    of the likelihood."""

    weights: tuple[float, ...]
    share: float
    root: NDArray[np.float64]  # inverse of the kernel's Cholesky factor
    values: NDArray[np.float64]

    def improvement(
        self, cross: tuple[NDArray[np.float64], ...], own: tuple[NDArray[np.float64], ...]
    ) -> NDArray[np.float64]:
        """Expected improvement (n,) of genomes with these kernels to the known ones and to themselves."""
        n = len(self.values)
        valued = self.root[:n, :n]
        alpha = valued.T @ (valued @ self.values)
        size = max(float(self.values @ alpha) / n, 1e-12)
        kernel = _weighted(cross, self.weights)
        left = _weighted(own, self.weights) - ((kernel @ self.root.T) ** 2).sum(1)
        spread = np.sqrt(np.maximum(left, 1e-12) * size)
        z = (kernel[:, :n] @ alpha - self.values.max()) / spread
        return np.asarray(spread * (z * _below(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)))


class SurrogateSampler(Proposer):
    """Expected improvement under a Gaussian process (Jones 1998), searched among random networks, children of the best
    and, in small spaces, every network."""

    def __init__(self, space: SearchSpace, seed: int, *, first: int = _FIRST) -> None:
        super().__init__(space, seed)
        self._before = first
        self._places = np.maximum(np.array(self.sizes) - 1, 1)
        self._offsets = np.cumsum([0, *self.sizes[:-1]])
        self._worths = [
            np.log1p(order) / np.log1p(max(len(order) - 1, 1)) for order in map(_order, (g.values for g in space.genes))
        ]

    def open(self, aim: Aim) -> None:
        super().open(aim)
        self._mixture: tuple[tuple[tuple[float, ...], float], ...] = ()  # weights of the kernel and their shares
        self._fitted = 0  # trials that chose them
        alike: dict[tuple[object, ...], list[int]] = {}
        for i, gene in enumerate(self.space.genes):
            alike.setdefault((gene.field, *map(str, gene.values)), []).append(i)
        self._alike = tuple(alike.values())
        self._all: Genomes | None = None
        if self.space.size <= _WHOLE:
            whole = every(self.sizes)
            within = aim.within(whole)
            self._all, self._all_inputs = whole[within], self._inputs(whole[within])
            self._row = np.where(within, np.cumsum(within) - 1, -1)  # of a network by its number in the space

    def batch(self, start: int) -> int:
        """One at first; where there are many trials each one teaches little."""
        return 1 if start < 300 else 5 if start < 1000 else 20

    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        if len(self.rewards) < self._before:
            return self._even(rng, n)
        if attempt > 1:
            return draw(self.sizes, self.aim, rng, 4 * n)
        taught, values = self.instructive(len(self.rewards), _MOST)
        # what is at work elsewhere has no reward yet: it leaves the mean as it is, and makes the spread around it small
        # (Desautels 2014, section 4)
        known = self._inputs(np.concatenate([taught, self.pending]) if len(self.pending) else taught)
        parts = known.parts(known)
        processes = [
            _Process(weights, share, np.asarray(np.linalg.inv(_cholesky(parts, weights)), dtype=np.float64), values)
            for weights, share in self._likeliest()
        ]

        def improvement(inputs: _Inputs) -> NDArray[np.float64]:
            cross, own = inputs.parts(known), inputs.own()
            return np.asarray(sum(p.share * p.improvement(cross, own) for p in processes))

        return self._promising(rng, improvement, n)

    def _even(self, rng: np.random.Generator, n: int) -> Genomes:
        """New networks near the target, best first: of the largest sum of what each choice is worth, which rises less
        with every step of its gene, and of the largest distance to the nearest known network."""
        drawn = self.first(rng, max(n, _DRAWN))
        pool = self.new(drawn)
        if not len(pool):
            return drawn
        merit = _standard(np.sum([w[pool[:, i]] for i, w in enumerate(self._worths)], axis=0))
        known = np.concatenate([self.genomes, self.pending])
        if len(known):
            unequal = (pool[:, None] != known).mean(2)
            steps = (np.abs(pool[:, None] - known) / self._places).mean(2)
            merit += _standard((unequal + steps).min(1))
        return np.asarray(pool[np.argsort(-merit, kind="stable")])

    def _promising(
        self, rng: np.random.Generator, improvement: Callable[[_Inputs], NDArray[np.float64]], n: int
    ) -> Genomes:
        """New genomes of the largest improvement, best first."""
        if self._all is not None:
            promise = improvement(self._all_inputs)
            if self.seen:
                rows = self._row[np.ravel_multi_index(tuple(np.array(list(self.seen)).T), self.sizes)]
                promise[rows[rows >= 0]] = -np.inf
            order = np.argsort(-promise, kind="stable")[: 4 * n]
            return self._all[order[np.isfinite(promise[order])]]
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
            pool = pool[np.argsort(-improvement(self._inputs(pool)), kind="stable")[:40]]
            children = around(self.sizes, pool[rng.integers(0, len(pool), 400)], rng, 1.5)
            pool = self.new(np.concatenate([pool, children]))
        return pool[np.argsort(-improvement(self._inputs(pool)), kind="stable")[: 4 * n]]

    def _inputs(self, genomes: Genomes) -> _Inputs:
        hot = np.zeros((len(genomes), sum(self.sizes)))
        np.put_along_axis(hot, genomes + self._offsets, 1.0, axis=1)
        latency = np.zeros(len(genomes))
        if self.aim.latencies is not None and self.aim.target_ms is not None:
            latency = 2 * np.log(np.maximum(self.aim.latencies(genomes), 1e-12) / self.aim.target_ms)
        counts = [
            np.stack([(genomes[:, genes] == c).mean(1) for c in range(n)], 1) - 1 / n
            for genes in self._alike
            for n in [self.sizes[genes[0]]]
        ]
        return _Inputs(hot, genomes / self._places - 0.5, np.asarray(latency), 2 * np.concatenate(counts, axis=1))

    def _likeliest(self) -> tuple[tuple[tuple[float, ...], float], ...]:
        """The weights of largest marginal likelihood and their shares of it, chosen again each time that there are a
        tenth more trials."""
        n = self._before
        while (more := n + max(1, n // 10)) <= len(self.rewards):
            n = more
        if n == self._fitted:  # a function of the number of trials: a resumed search chooses as it did
            return self._mixture
        taught, values = self.instructive(n, _MOST)
        known = self._inputs(taught)
        parts = known.parts(known)

        def likelihood(weights: tuple[float, ...]) -> float:
            root = _cholesky(parts, weights)
            size = max(float((np.linalg.solve(root, values) ** 2).sum()) / len(values), 1e-12)
            return float(-0.5 * len(values) * np.log(size) - np.log(np.diag(root)).sum())

        logs = np.array([likelihood(weights) for weights in _WEIGHTS])
        top = np.argsort(-logs, kind="stable")[:_LIKELIEST]
        shares = np.exp(logs[top] - logs[top[0]])
        shares /= shares.sum()
        self._mixture = tuple((_WEIGHTS[i], float(share)) for i, share in zip(top, shares, strict=True))
        self._fitted = n
        return self._mixture


def _order(values: Sequence[Value]) -> NDArray[np.int64]:
    """The place of each value among all, by size where they are numbers, else as listed."""
    if all(isinstance(v, int | float) for v in values):
        return np.asarray(np.argsort(np.argsort(np.array(values, dtype=np.float64), kind="stable")), dtype=np.int64)
    return np.arange(len(values))


def _standard(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """At mean 0 and unit size."""
    return np.asarray((x - x.mean()) / max(float(x.std()), 1e-9))


def _below(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normal distribution function."""
    return np.asarray(torch.special.ndtr(torch.from_numpy(z)).numpy(), dtype=np.float64)


def _weighted(parts: tuple[NDArray[np.float64], ...], weights: tuple[float, ...]) -> NDArray[np.float64]:
    """The kernel: a constant and the weighted parts."""
    return np.asarray(sum((w * k for w, k in zip(weights, parts, strict=False)), np.ones_like(parts[0])))


def _cholesky(parts: tuple[NDArray[np.float64], ...], weights: tuple[float, ...]) -> NDArray[np.float64]:
    """Of the kernel of known genomes with its noise."""
    return np.asarray(np.linalg.cholesky(_weighted(parts, weights) + weights[-1] * np.eye(len(parts[0]))))
