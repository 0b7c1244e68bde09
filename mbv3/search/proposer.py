"""What every sampler of ours is: it proposes batches of genomes and learns from their rewards.

Its state is a function of (seed, aim, finished batches): a resumed search gives it the trials of before and goes on as
if it had never stopped. A genome that was proposed once, or that is beyond a hard limit, never consumes a trial.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mbv3.search.aim import Aim, Genomes, around, draw, every, first
from mbv3.space import Genome, SearchSpace

__all__ = ["Proposer", "Rewards", "scaled"]

Rewards = NDArray[np.float64]
_ATTEMPTS = 4  # proposals of a sampler that may be all known, before others are taken
_SPARE = 24  # rounds of children of the best and of random draws after that
_SMALL = 200_000  # networks of a space that is searched to its end
_TOP = 10  # parents of such children


def scaled(rewards: Rewards) -> Rewards:
    """Rewards (n,) at mean 0 and unit size. The worst ones are raised: how bad they are says nothing about the good
    ones."""
    low, middle, high = np.quantile(rewards, (0.25, 0.5, 0.75))
    bounded = np.maximum((rewards - middle) / max(high - low, 1e-9), -3.0)
    return np.asarray((bounded - bounded.mean()) / max(float(bounded.std()), 1e-9))


class Proposer(ABC):
    """A sampler: `open` once, then `ask` for a batch and `tell` its rewards, in turn."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space, self.seed = space, seed
        self.sizes = space.sizes
        self.aim = Aim()
        self.seen: set[Genome] = set()
        self.pending: Genomes = np.zeros((0, len(self.sizes)), dtype=np.int64)  # at work elsewhere
        self._taught = 0
        self._genomes: Genomes = np.zeros((64, len(self.sizes)), dtype=np.int64)
        self._rewards: Rewards = np.zeros(64)

    @property
    def genomes(self) -> Genomes:
        """Genomes of finite rewards, (n, genes), in trial order."""
        return self._genomes[: self._taught]

    @property
    def rewards(self) -> Rewards:
        """Their rewards, (n,)."""
        return self._rewards[: self._taught]

    def open(self, aim: Aim) -> None:
        """Called before the first `ask`."""
        self.aim = aim

    def batch(self, start: int) -> int:
        """How many trials are proposed at once, beginning with trial `start`: those before it have ended."""
        return 20

    @abstractmethod
    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        """About `n` genomes or more, the preferred ones first. Those that cannot be used are left out by `ask`, which
        then tries again with the next `attempt`."""

    def learn(self, genomes: Genomes, rewards: Rewards) -> None:
        """A batch that has ended: its finite rewards, higher is better. They are in `self.genomes` already."""
        return

    def ask(self, start: int, n: int, place: int = 0) -> list[Genome]:
        """`n` genomes that are new and may be proposed; fewer where there are no more. `place`: of several that ask
        with the same history, so that they draw different ones."""
        rng = np.random.default_rng((self.seed, start, *([place] if place else [])))
        chosen: list[Genome] = []
        for attempt in range(_ATTEMPTS):
            self._take(chosen, self.propose(rng, start, n - len(chosen), attempt), n)
            if len(chosen) == n:
                return chosen
        for _ in range(_SPARE):
            spare = self._spare(rng, 4 * n)
            self._take(chosen, spare, n)
            if len(chosen) == n:
                return chosen
            if not len(spare):  # the limit is out of reach
                break
        if self.space.size <= _SMALL:
            rest = every(self.sizes)
            self._take(chosen, rest[rng.permutation(len(rest))], n)
        return chosen

    def tell(self, genomes: Sequence[Genome], rewards: Sequence[float]) -> None:
        """The trials of a batch, or of some of it where the search ended. NaN: the trial failed and teaches nothing."""
        self.seen.update(genomes)
        values = np.array(rewards, dtype=np.float64)
        good = np.isfinite(values)
        if good.any():
            taught = np.array(genomes, dtype=np.int64)[good]
            end = self._taught + len(taught)
            while end > len(self._rewards):
                self._genomes = np.concatenate([self._genomes, np.zeros_like(self._genomes)])
                self._rewards = np.concatenate([self._rewards, np.zeros_like(self._rewards)])
            self._genomes[self._taught : end], self._rewards[self._taught : end] = taught, values[good]
            self._taught = end
            self.learn(taught, values[good])

    def first(self, rng: np.random.Generator, n: int) -> Genomes:
        """What a sampler begins with: networks near the target."""
        return first(self.sizes, self.aim, rng, n)

    def best(self, n: int) -> Genomes:
        """Up to `n` genomes of the largest rewards, best first."""
        return self.genomes[np.argsort(-self.rewards, kind="stable")[:n]]

    def instructive(self, n: int, most: int) -> tuple[Genomes, Rewards]:
        """Of the first `n` trials with finite rewards what a model of them is fitted to, at most `most`: all, or the
        best and the latest halves. Genomes, and their rewards as `scaled` makes them."""
        rewards = self.rewards[:n]
        if len(rewards) > most:
            best = np.argsort(-rewards, kind="stable")[: most // 2]
            chosen = np.union1d(best, np.arange(len(rewards) - most // 2, len(rewards)))
        else:
            chosen = np.arange(len(rewards))
        return self.genomes[chosen], scaled(rewards[chosen])

    def new(self, genomes: Genomes) -> Genomes:
        """Those of `genomes` that were not proposed and are within the limit, each once, in order."""
        genomes = genomes[self.aim.within(genomes)]
        fresh = dict.fromkeys(g for g in map(tuple, genomes.tolist()) if g not in self.seen)
        return np.array(list(fresh), dtype=np.int64).reshape(-1, len(self.sizes))

    def slower(self, genomes: Genomes) -> Genomes:
        """Where there is a hard limit: of every two new genomes within it the slower one, as what a limit allows is
        worth using. Elsewhere all."""
        if not self.aim.hard or self.aim.latencies is None:
            return genomes
        new = self.new(genomes)
        pairs = new[: len(new) // 2 * 2].reshape(-1, 2, len(self.sizes))
        if not len(pairs):
            return new
        ms = self.aim.latencies(pairs.reshape(-1, len(self.sizes))).reshape(-1, 2)
        return np.asarray(pairs[np.arange(len(pairs)), ms.argmax(1)])

    def _spare(self, rng: np.random.Generator, n: int) -> Genomes:
        drawn = draw(self.sizes, self.aim, rng, n)
        top = self.best(_TOP)
        if not len(top):
            return drawn
        return np.concatenate([around(self.sizes, top[rng.integers(0, len(top), n)], rng, 2.0), drawn])

    def _take(self, chosen: list[Genome], proposed: Genomes, n: int) -> None:
        within = self.aim.within(proposed).tolist()
        for genome, ok in zip(map(tuple, proposed.tolist()), within, strict=True):
            if len(chosen) == n:
                return
            if ok and genome not in self.seen:
                self.seen.add(genome)
                chosen.append(genome)
