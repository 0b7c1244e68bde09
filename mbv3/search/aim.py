"""What a search knows before its first trial: the latency of every network, its target, the number of its trials.

Latency is free, so networks beyond a hard limit are never proposed and first networks are drawn near the target.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Aim", "Genomes", "around", "draw", "every", "first"]

Genomes = NDArray[np.int64]  # (n, genes)
_ROUNDS = 20  # changes of a gene, before a limit counts as out of reach
_AMONG = 8  # draws of which one is kept for its latency


@dataclass(frozen=True, slots=True)
class Aim:
    """`latencies`: genomes (n, genes) to ms (n,), None where each one costs time. `target_ms`: TAR of the reward.
    `hard`: nothing above it is proposed. `trials`: how many the search will have; a sampler plans with it."""

    latencies: Callable[[Genomes], NDArray[np.float64]] | None = None
    target_ms: float | None = None
    hard: bool = False
    trials: int = 1000

    def within(self, genomes: Genomes) -> NDArray[np.bool_]:
        """(n,) whether a genome may be proposed."""
        if not self.hard or self.latencies is None or self.target_ms is None or not len(genomes):
            return np.ones(len(genomes), dtype=bool)
        return np.asarray(self.latencies(genomes) <= self.target_ms)


def every(sizes: tuple[int, ...]) -> Genomes:
    """Every genome of a small space."""
    return np.array(list(itertools.product(*map(range, sizes))), dtype=np.int64)


def draw(sizes: tuple[int, ...], aim: Aim, rng: np.random.Generator, n: int) -> Genomes:
    """At least `n` random genomes that may be proposed, fewer only where a limit is out of reach.

    Uniform where at least one in a thousand is within the limit. Elsewhere genomes are changed gene by gene, each
    change kept if it is faster, until they are.
    """
    if not aim.hard or aim.latencies is None or aim.target_ms is None:
        return rng.integers(0, sizes, (n, len(sizes)))
    found: list[Genomes] = []
    have, size = 0, max(256, 4 * n)
    for _ in range(4):
        genomes = rng.integers(0, sizes, (size, len(sizes)))
        good = genomes[aim.within(genomes)]
        found.append(good)
        have += len(good)
        if have >= n:
            return np.concatenate(found)
        size *= 2
    genomes = genomes[:64]
    for _ in range(_ROUNDS * len(sizes)):
        over = ~aim.within(genomes)
        if int((~over).sum()) + have >= n or not over.any():
            break
        slow = genomes[over]
        tried = slow.copy()
        column = rng.integers(0, len(sizes), len(slow))
        tried[np.arange(len(slow)), column] = rng.integers(0, np.array(sizes)[column])
        faster = aim.latencies(tried) <= aim.latencies(slow)
        genomes[over] = np.where(faster[:, None], tried, slow)
    return np.concatenate([*found, genomes[aim.within(genomes)]])


def first(sizes: tuple[int, ...], aim: Aim, rng: np.random.Generator, n: int) -> Genomes:
    """`n` random genomes near the target: of eight draws the slowest within a hard limit, the nearest to a soft one.
    The best networks lie there, as accuracy grows with time."""
    if aim.latencies is None or aim.target_ms is None:
        return draw(sizes, aim, rng, n)
    genomes = draw(sizes, aim, rng, _AMONG * n)
    if len(genomes) < _AMONG * n:
        return genomes[np.argsort(-aim.latencies(genomes), kind="stable")[:n]]
    genomes = genomes[: _AMONG * n]
    away = np.abs(np.log(np.maximum(aim.latencies(genomes), 1e-12) / aim.target_ms)).reshape(n, _AMONG)
    return np.asarray(genomes.reshape(n, _AMONG, -1)[np.arange(n), away.argmin(1)])


def around(sizes: tuple[int, ...], parents: Genomes, rng: np.random.Generator, changes: float) -> Genomes:
    """A child of each parent with one changed gene and, on average, `changes` - 1 more. A changed gene never keeps its
    choice."""
    n, genes = parents.shape
    wide = np.array(sizes)
    free = np.flatnonzero(wide > 1)
    if not len(free):
        return parents.copy()
    changed = rng.random((n, genes)) < (changes - 1) / len(free)
    changed[np.arange(n), free[rng.integers(0, len(free), n)]] = True
    step = 1 + (rng.random((n, genes)) * np.maximum(wide - 1, 1)).astype(np.int64)
    return np.where(changed & (wide > 1), (parents + step) % wide, parents)
