"""Evolution with crossover, and the yardstick: random networks."""

from __future__ import annotations

import numpy as np

from mbv3.search.aim import Aim, Genomes, around, draw
from mbv3.search.proposer import Proposer, Rewards
from mbv3.space import SearchSpace

__all__ = ["EvolutionSampler", "RandomSampler"]


class RandomSampler(Proposer):
    """Uniform draws without repetition, within a hard limit where there is one (the fair yardstick of Bender 2020,
    arXiv:2008.06120)."""

    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        return draw(self.sizes, self.aim, rng, n)


class EvolutionSampler(Proposer):
    """Evolution by tournaments (Real 2019, arXiv:1802.01548) with uniform crossover.

    `population`: by default 16 for 300 trials, 100 for 1,000 and more. `sample`: the size of a tournament, by default 8
    or a tenth of the population. `changes`: genes that a child changes on average, by default 1.5 where few networks
    are scored, else 2.
    """

    def __init__(
        self, space: SearchSpace, seed: int, *, population: int | None = None, sample: int | None = None,
        crossover: float = 0.7, changes: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(space, seed)
        self._population, self._sample = population, sample
        self.crossover, self._changes = crossover, changes

    def open(self, aim: Aim) -> None:
        super().open(aim)
        self.population = self._population or min(100, max(10, round(100 * (aim.trials / 1000) ** 1.5)))
        self.sample = min(self.population, self._sample or max(min(8, self.population // 2), self.population // 10))
        self.changes = self._changes or (1.5 if self.population < 50 else 2.0)
        self._alive = np.zeros(0, dtype=np.int64)  # places of the population in self.genomes, best first

    def learn(self, genomes: Genomes, rewards: Rewards) -> None:
        # departure: the best live, not the youngest. The score of a network does not change here, and a genome that is
        # never proposed again cannot take over the population
        n = len(self.rewards)
        every = np.concatenate([self._alive, np.arange(n - len(rewards), n)])
        self._alive = every[np.argsort(-self.rewards[every], kind="stable")][: self.population]

    def batch(self, start: int) -> int:
        return max(1, min(10, self.population // 10))

    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        if len(self.rewards) < self.population:
            return self.first(rng, n)
        children = 16 * n  # half go where there is a limit
        # positions among the best first: the smallest of a tournament is its winner
        mother, father = rng.integers(0, len(self._alive), (2, children, self.sample)).min(axis=2)
        genomes = self.genomes[self._alive]
        crossed = rng.random((children, 1)) < self.crossover
        mixed = np.where(crossed & (rng.random((children, len(self.sizes))) < 0.5), genomes[father], genomes[mother])
        changed = around(self.sizes, mixed, rng, self.changes)
        # of crossed children half are not changed as well
        born = np.where(crossed & (rng.random((children, 1)) < 0.5), mixed, changed)
        return self.slower(born)
