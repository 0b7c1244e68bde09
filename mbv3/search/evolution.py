"""Evolution with crossover, many of whose children a linear model chooses, and the yardstick: random networks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mbv3.search.aim import Aim, Genomes, around, draw
from mbv3.search.proposer import Proposer, Rewards
from mbv3.space import SearchSpace

__all__ = ["EvolutionSampler", "RandomSampler"]

_PLAIN = 8  # trials before a model is asked
_OF = 16  # children of which the model chooses one
_MANY = 1000  # trials after which each one costs little and teaches little: larger batches, a choice among four
_FITTED = 400  # trials that it is fitted to: all up to here, then the best and the latest


class RandomSampler(Proposer):
    """Uniform draws without repetition, within a hard limit where there is one (the fair yardstick of Bender 2020,
    arXiv:2008.06120)."""

    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        return draw(self.sizes, self.aim, rng, n)


class EvolutionSampler(Proposer):
    """Evolution by tournaments (Real 2019, arXiv:1802.01548) with uniform crossover.

    Of sixteen children a ridge over choices, their order and the latency chooses one (as Wei 2020, arXiv:2003.12857,
    does with a neural predictor): a few trials say which choices are good long before a population does. What depends
    on pairs of choices it cannot know, so once the population is full about half of the children are taken without it.
    After a thousand trials it chooses one of four.

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
        self.sample = min(self.population, self._sample or max(1, min(8, self.population // 2), self.population // 10))
        self.changes = self._changes or (1.5 if self.population < 50 else 2.0)
        self._alive = np.zeros(0, dtype=np.int64)  # places of the population in self.genomes, best first
        self._model: NDArray[np.float64] = np.zeros(0)
        self._fitted = 0  # trials that it knows

    def learn(self, genomes: Genomes, rewards: Rewards) -> None:
        # departure: the best live, not the youngest. The score of a network does not change here, and a genome that is
        # never proposed again cannot take over the population
        n = len(self.rewards)
        every = np.concatenate([self._alive, np.arange(n - len(rewards), n)])
        self._alive = every[np.argsort(-self.rewards[every], kind="stable")][: self.population]

    def batch(self, start: int) -> int:
        return max(1, min(10, self.population // 10)) if start < _MANY else 50

    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        if len(self.rewards) < min(_PLAIN, self.population):
            return self.first(rng, n)
        full = len(self.rewards) >= self.population
        of = _OF if start < _MANY else 4
        new = self.new(self._children(rng, 2 * of * (n + 1 if full else 2 * n)))
        groups = new[: len(new) // of * of].reshape(-1, of, len(self.sizes))
        if not len(groups):
            return new
        promise = self._inputs(groups.reshape(-1, len(self.sizes))) @ self._fit()
        chosen = groups[np.arange(len(groups)), promise.reshape(-1, of).argmax(1)]
        if not full:
            return np.asarray(chosen)
        plain = self.slower(self._children(rng, 8 * n))  # half go where there is a limit
        either = min(len(chosen), len(plain))
        both = np.stack([chosen[:either], plain[:either]], 1)
        mixed = both[np.arange(either), rng.integers(0, 2, either)]
        return np.concatenate([mixed, chosen[either:], plain[either:]])

    def _children(self, rng: np.random.Generator, n: int) -> Genomes:
        """Of winners of tournaments: crossed, changed, or both."""
        # positions among the best first: the smallest of a tournament is its winner
        few = len(self._alive) < self.population  # as long as few are alive a tournament of all would have one winner
        size = min(self.sample, max(1, len(self._alive) // 2)) if few else self.sample
        mother, father = rng.integers(0, len(self._alive), (2, n, size)).min(axis=2)
        genomes = self.genomes[self._alive]
        crossed = rng.random((n, 1)) < self.crossover
        mixed = np.where(crossed & (rng.random((n, len(self.sizes))) < 0.5), genomes[father], genomes[mother])
        changed = around(self.sizes, mixed, rng, self.changes)
        # of crossed children half are not changed as well
        return np.where(crossed & (rng.random((n, 1)) < 0.5), mixed, changed)

    def _inputs(self, genomes: Genomes) -> NDArray[np.float64]:
        """(n, inputs): a constant, choices, their order and the log latency."""
        wide = np.array(self.sizes)
        hot = np.zeros((len(genomes), int(wide.sum())))
        np.put_along_axis(hot, genomes + np.cumsum([0, *self.sizes[:-1]]), 1.0, axis=1)
        parts = [np.full((len(genomes), 1), 3.0), hot, 2 * genomes / np.maximum(wide - 1, 1) - 1]
        if self.aim.latencies is not None and self.aim.target_ms is not None:
            ms = np.maximum(self.aim.latencies(genomes), 1e-12)
            parts.append(2 * np.log(ms / self.aim.target_ms)[:, None])
        return np.concatenate(parts, axis=1)

    def _fit(self) -> NDArray[np.float64]:
        """The ridge's weights (inputs,), fitted again each time that there are a hundredth more trials."""
        n = self._fitted or min(_PLAIN, self.population)
        while (more := n + max(1, n // 100)) <= len(self.rewards):
            n = more
        if n != self._fitted:  # a function of the number of trials: a resumed search fits as it did
            genomes, rewards = self.instructive(n, _FITTED)
            x = torch.from_numpy(self._inputs(genomes))  # of torch, whose threads a search limits
            left = x.T @ x + torch.eye(x.shape[1], dtype=x.dtype)
            self._model = torch.linalg.solve(left, x.T @ torch.from_numpy(rewards)).numpy()
            self._fitted = n
        return self._model
