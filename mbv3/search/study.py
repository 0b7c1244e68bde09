"""A search of one process in memory: propose, score, learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler

from mbv3.search.aim import Aim, Genomes
from mbv3.search.optuna_sampler import OptunaSampler, quiet
from mbv3.search.proposer import Proposer
from mbv3.search.reward import Reward
from mbv3.search.samplers import make_sampler
from mbv3.space import Genome, SearchSpace

__all__ = ["Search", "Trial", "pareto"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A scored genome: accuracy in percent (higher is better), latency in ms (lower), reward (higher)."""

    number: int
    genome: Genome
    accuracy: float
    latency_ms: float
    reward: float
    state: str  # complete, or failed where the reward is not finite
    sampler_state: str = ""  # JSON: what an Optuna sampler keeps on its trial


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other beats in both accuracy and latency, fastest first."""
    front: list[Trial] = []
    for t in sorted((t for t in trials if t.state == "complete"), key=lambda t: (t.latency_ms, -t.accuracy)):
        if not front or t.accuracy > front[-1].accuracy:
            front.append(t)
    return front


class Search:
    """Trials over a space, no genome twice.

    `accuracy(genome)` in percent and `latency_ms(genome)` are the caller's; each genome is asked for once. `accuracies`
    and a method `latency_ms.many` score many genomes (n, genes) at once where they are closed forms. `sampler`: a name
    of SAMPLERS, a Proposer, or an object of Optuna's; the last goes on after a resume, though not with the bits of an
    uninterrupted search. `history`: trials of an interrupted search. `target_ms` is TAR of the reward; with `hard`
    nothing above it is proposed. `trials`: how many the sampler may plan for. `share(genome)`: what is left of a
    reward, less than 1 beyond a limit that the reward does not know.

    `exhausted` is set where no network is left to propose.

    Raises:
        BadInput: an unknown sampler.
    """

    def __init__(
        self,
        space: SearchSpace,
        accuracy: Callable[[Genome], float],
        latency_ms: Callable[[Genome], float],
        reward: Reward,
        *,
        sampler: str | BaseSampler | Proposer = "rnn",
        seed: int = 0,
        history: Sequence[Trial] = (),
        target_ms: float | None = None,
        hard: bool = False,
        trials: int = 1000,
        accuracies: Callable[[Genomes], NDArray[np.float64]] | None = None,
        share: Callable[[Genome], float] = lambda genome: 1.0,
    ) -> None:
        quiet()
        self.space, self.reward = space, reward
        self.sampler_name = sampler if isinstance(sampler, str) else type(sampler).__name__
        self.sampler = make_sampler(sampler, space, seed)
        self._accuracy, self._latency, self._accuracies, self._share = accuracy, latency_ms, accuracies, share
        self._latencies = getattr(latency_ms, "many", None)
        if self._latencies is None and hard:
            self._latencies = self._one_by_one
        aim = Aim(self._latencies, target_ms, hard, trials)
        self._optuna = self.sampler if isinstance(self.sampler, OptunaSampler) else None
        self.sampler.open(aim)
        self.study: optuna.Study | None = None if self._optuna is None else self._optuna.study
        if self._optuna is not None and history:
            self._optuna.add([(t.genome, self._values(t), t.sampler_state) for t in history])
        self.trials: list[Trial] = list(history)
        self.exhausted = False
        self._start = 0  # first trial of the batch that is at work
        self._batch: list[Genome] = []
        self._scores: list[tuple[float, float]] = []
        while (end := self._start + self.sampler.batch(self._start)) <= len(self.trials):
            self._tell(end)

    def run(self, trials: int) -> Iterator[Trial]:
        """Go on until there are `trials` trials, or no network is left to propose."""
        while len(self.trials) < trials:
            if not self._batch and not self._ask():
                self.exhausted = True
                return
            yield self._one()

    def _ask(self) -> bool:
        """Propose the batch at work; False where it has no genome that is not a trial already."""
        wanted = self.sampler.batch(self._start)
        self._batch = self.sampler.ask(self._start, wanted)
        done = len(self.trials) - self._start
        if self._accuracies is not None and self._batch:
            # the whole batch, as sums of another number of rows may differ in the last bit
            genomes = np.array(self._batch, dtype=np.int64)
            ms = self._latencies(genomes).tolist() if self._latencies else map(self._latency, self._batch)
            self._scores = list(zip(self._accuracies(genomes).tolist(), ms, strict=True))[done:]
        self._batch = self._batch[done:]  # a resumed search has these
        return bool(self._batch)

    def _one(self) -> Trial:
        genome = self._batch.pop(0)
        if self._accuracies is not None:
            accuracy, latency = self._scores.pop(0)
        else:
            accuracy, latency = self._accuracy(genome), self._latency(genome)
        value = self.reward(accuracy / 100, latency) * self._share(genome)
        ok = math.isfinite(value)
        state = self._optuna.state(genome) if self._optuna else ""
        number = len(self.trials)
        trial = Trial(number, genome, accuracy, latency, value, "complete" if ok else "failed", state)
        self.trials.append(trial)
        if self._optuna is not None:
            self._optuna.finish(genome, self._values(trial))
        if not self._batch:
            self._tell(number + 1)
        return trial

    def _tell(self, end: int) -> None:
        batch = self.trials[self._start : end]
        finite = [t.reward if t.state == "complete" else math.nan for t in batch]
        self.sampler.tell([t.genome for t in batch], finite)
        self._start = end

    def _values(self, t: Trial) -> list[float] | None:
        if t.state != "complete":
            return None
        assert self._optuna is not None
        return [t.accuracy * self._share(t.genome), t.latency_ms] if self._optuna.two else [t.reward]

    def _one_by_one(self, genomes: Genomes) -> NDArray[np.float64]:
        return np.array([self._latency(tuple(g)) for g in genomes.tolist()], dtype=np.float64)
