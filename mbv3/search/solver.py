"""Solving a search whose accuracy and costs are closed forms: a vectorised evolution, polished by exhaustive small
neighbourhoods. A million networks are scored in seconds, where a sampler that learns from rewards sees thousands."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mbv3.space import Genome

__all__ = ["Limit", "Solved", "solve"]

Genomes = NDArray[np.int64]  # (n, genes)
Score = Callable[[Genomes], NDArray[np.float64]]  # (n, genes) to (n,)
_PARENTS = 0.2  # best share of a population
_MUTATED = 1.5  # genes of a child that are redrawn, on average


@dataclass(frozen=True, slots=True)
class Limit:
    """A cost that may be `most` at most, such as milliseconds."""

    cost: Score
    most: float


@dataclass(frozen=True, slots=True)
class Solved:
    """The best genome found, its value, whether it is within every limit, and the number of genomes scored. `best`: the
    best distinct genomes of the last population and of the local optima that are within the limits, best first."""

    genome: Genome
    value: float
    feasible: bool
    evaluations: int
    best: tuple[Genome, ...] = ()


class _Problem:
    """Scores with limits: a genome within all limits is better than any other; among the others, the nearer one."""

    def __init__(self, sizes: Sequence[int], value: Score, limits: Sequence[Limit]) -> None:
        self.sizes = np.array(sizes, dtype=np.int64)
        self.value, self.limits = value, limits
        self.evaluations = 0

    def merit(self, genomes: Genomes) -> NDArray[np.float64]:
        """(n,) values; beyond a limit -1e9 less the relative excess. NaN counts as the worst."""
        self.evaluations += len(genomes)
        over = np.zeros(len(genomes))
        for limit in self.limits:
            over += np.maximum(limit.cost(genomes) / limit.most - 1.0, 0.0)
        merit = -1e9 * (1.0 + over)
        within = over == 0
        if within.any():  # a value costs more than a limit
            merit[within] = self.value(genomes[within])
        return np.where(np.isfinite(merit), merit, -np.inf)

    def random(self, n: int, rng: np.random.Generator) -> Genomes:
        return (rng.random((n, len(self.sizes))) * self.sizes).astype(np.int64)

    def distinct(self, genomes: Genomes) -> tuple[Genomes, NDArray[np.int64]]:
        """Each of `genomes` once, in lexicographic order, and where it stands first."""
        if math.prod(self.sizes.tolist()) >= 2**63:
            found, first = np.unique(genomes, axis=0, return_index=True)
            return found, first
        place = np.cumprod([1, *self.sizes[:0:-1]])[::-1]  # one number a genome: sorted ten times as fast as rows
        first = np.unique(genomes @ place, return_index=True)[1]
        return genomes[first], first

    @cached_property
    def neighbours(self) -> tuple[Genomes, Genomes]:
        """Every change of one and of two genes, as (m, 2) columns and (m, 2) steps modulo the gene's size; a change
        of one gene has the same column twice and a second step of 0."""
        free = [i for i, n in enumerate(self.sizes) if n > 1]
        moves = [((i, i), (a, 0)) for i in free for a in range(1, self.sizes[i])]
        moves += [
            ((i, j), (a, b))
            for i, j in itertools.combinations(free, 2)
            for a in range(1, self.sizes[i])
            for b in range(1, self.sizes[j])
        ]
        columns, steps = (np.array(part, dtype=np.int64).reshape(-1, 2) for part in zip(*moves, strict=True))
        return columns, steps

    def around(self, genome: Genomes) -> Genomes:
        """Every genome that differs from `genome` (genes,) in one or two genes."""
        columns, steps = self.neighbours
        found = np.repeat(genome[None], len(columns), axis=0)
        rows = np.arange(len(columns))
        for k in (0, 1):
            at = columns[:, k]
            found[rows, at] = (found[rows, at] + steps[:, k]) % self.sizes[at]
        return found


def _evolved(
    problem: _Problem, first: Genomes, population: int, generations: int, rng: np.random.Generator
) -> tuple[Genomes, NDArray[np.float64]]:
    """The last population with its merits, best first, without duplicates: children of the best fifth by uniform
    crossover and mutation; the parents stay."""
    genomes = np.concatenate([first, problem.random(max(population - len(first), 2), rng)])
    merit = problem.merit(genomes)
    parents = max(2, int(_PARENTS * population))
    genes = len(problem.sizes)
    for _ in range(generations):
        order = np.argsort(-merit, kind="stable")[:parents]
        genomes, merit = genomes[order], merit[order]
        mother, father = (genomes[rng.integers(0, len(genomes), population)] for _ in range(2))
        children = np.where(rng.random((population, genes)) < 0.5, mother, father)
        redrawn = rng.random((population, genes)) < _MUTATED / genes
        children = np.where(redrawn, problem.random(population, rng), children)
        genomes = np.concatenate([genomes, children])
        genomes, first = problem.distinct(genomes)
        known = first < len(merit)
        fresh = np.empty(len(genomes))
        fresh[known] = merit[first[known]]
        if (~known).any():
            fresh[~known] = problem.merit(genomes[~known])
        merit = fresh
    order = np.argsort(-merit, kind="stable")
    return genomes[order], merit[order]


def _polished(problem: _Problem, genome: Genomes) -> tuple[Genomes, float]:
    """The local optimum over changes of one and two genes, by steepest ascent."""
    merit = float(problem.merit(genome[None])[0])
    while True:
        near = problem.around(genome)
        merits = problem.merit(near)
        best = int(np.argmax(merits))
        if merits[best] <= merit:
            return genome, merit
        genome, merit = near[best], float(merits[best])


def _apart(genomes: Genomes, n: int, least: int) -> Genomes:
    """Up to `n` of `genomes`, in order, any two of which differ in at least `least` genes."""
    chosen: list[NDArray[np.int64]] = []
    for genome in genomes:
        if all(int((genome != other).sum()) >= least for other in chosen):
            chosen.append(genome)
            if len(chosen) == n:
                break
    return np.array(chosen)


def solve(
    sizes: Sequence[int],
    value: Score,
    limits: Sequence[Limit] = (),
    *,
    seed: int = 0,
    population: int = 2000,
    generations: int = 40,
    starts: int = 10,
    first: Sequence[Genome] = (),
    keep: int = 1,
) -> Solved:
    """The genome of largest `value` within `limits`; `sizes` are the numbers of choices of the genes.

    The evolution begins with `first` and random genomes. It gives `starts` genomes that lie apart, and as many are
    drawn at random; each is polished over all changes of one and two genes. `keep` genomes are returned as `best`.
    Where no genome is found within the limits, the nearest one is returned with `feasible` False.
    """
    problem = _Problem(sizes, value, limits)
    rng = np.random.default_rng(seed)
    given = np.array(first, dtype=np.int64).reshape(-1, len(sizes))
    if max(sizes) == 1:
        only = np.zeros((1, len(sizes)), dtype=np.int64)
        merit, one = float(problem.merit(only)[0]), tuple(0 for _ in sizes)
        return Solved(one, float(value(only)[0]), merit > -1e9, 1, (one,) if merit > -1e9 else ())
    evolved, merits = _evolved(problem, given, population, generations, rng)
    polished = [
        _polished(problem, g) for g in np.concatenate([_apart(evolved, starts, least=3), problem.random(starts, rng)])
    ]
    genome, merit = max(polished, key=lambda found: found[1])
    scored = {tuple(g): float(m) for g, m in zip(evolved[:keep].tolist(), merits[:keep].tolist(), strict=True)}
    scored |= {tuple(g.tolist()): m for g, m in polished}
    within = sorted((g for g, m in scored.items() if m > -1e9), key=lambda g: (-scored[g], g))
    best = tuple(int(g) for g in genome)
    return Solved(best, float(value(genome[None])[0]), merit > -1e9, problem.evaluations, tuple(within[:keep]))
