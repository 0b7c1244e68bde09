"""A search is an Optuna study: propose, score, tell."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from mbv3.errors import BadInput
from mbv3.search.reward import Reward
from mbv3.search.samplers import SAMPLERS, distributions, genome_of, make_sampler, quiet
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
    """One study over a space.

    `accuracy(genome)` in percent and `latency_ms(genome)` are the caller's; each genome is asked for once.
    `sampler`: a name of SAMPLERS, or an object of Optuna's; an object goes on after a resume, though not with the
    bits of an uninterrupted run. `history`: trials of an interrupted run, added to the study before it goes on.
    `share(genome)`: what is left of a reward, less than 1 beyond a limit that the reward does not know.

    Raises:
        BadInput: an unknown sampler, or a storage that cannot be opened.
    """

    def __init__(
        self,
        space: SearchSpace,
        accuracy: Callable[[Genome], float],
        latency_ms: Callable[[Genome], float],
        reward: Reward,
        *,
        sampler: str | BaseSampler = "rnn",
        seed: int = 0,
        history: Sequence[Trial] = (),
        share: Callable[[Genome], float] = lambda genome: 1.0,
        storage: str | None = None,
        name: str = "mbv3-search",
    ) -> None:
        quiet()
        self.space, self.reward, self.seed = space, reward, seed
        self.sampler_name = sampler if isinstance(sampler, str) else type(sampler).__name__
        first = make_sampler(sampler, space, seed) if isinstance(sampler, str) else sampler
        self._accuracy, self._latency, self._share = accuracy, latency_ms, share
        self._known: dict[Genome, tuple[float, float]] = {}
        self._distributions = distributions(space)
        self.two = sampler == "nsga2"  # accuracy and latency as two objectives
        # Optuna's own draw from a generator without history: by name they are made again for every trial
        self.redrawn = sampler if isinstance(sampler, str) and not isinstance(SAMPLERS[sampler], type) else None
        try:
            self.study = optuna.create_study(
                directions=["maximize", "minimize"] if self.two else ["maximize"],
                sampler=first,
                storage=storage,
                study_name=name,
                load_if_exists=True,
            )
        except Exception as e:  # a storage's driver raises what it likes
            if storage is None:
                raise
            raise BadInput(f"--storage {storage}: cannot be opened ({type(e).__name__}: {e})") from None
        if storage is None and history:
            self.study.add_trials([self._frozen(t) for t in history])
        for t in history:
            self._known[t.genome] = (t.accuracy, t.latency_ms)

    def _values(self, t: Trial) -> list[float]:
        return [t.accuracy * self._share(t.genome), t.latency_ms] if self.two else [t.reward]

    def _frozen(self, t: Trial) -> optuna.trial.FrozenTrial:
        done = t.state == "complete"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return create_trial(
                state=TrialState.COMPLETE if done else TrialState.FAIL,
                values=self._values(t) if done else None,
                params=dict(zip(self.space.names, t.genome, strict=True)),
                distributions=self._distributions,
                system_attrs=json.loads(t.sampler_state) if t.sampler_state else None,
            )

    def score(self, genome: Genome) -> tuple[float, float]:
        """(accuracy in percent, latency in ms) of a genome, asked for once."""
        if genome not in self._known:
            self._known[genome] = (self._accuracy(genome), self._latency(genome))
        return self._known[genome]

    def run(self, trials: int) -> Iterator[Trial]:
        """Go on until the study has `trials` trials."""
        while (number := len(self.study.get_trials(deepcopy=False))) < trials:
            yield self._one(number)

    def _one(self, number: int) -> Trial:
        if self.redrawn is not None:
            self.study.sampler = make_sampler(self.redrawn, self.space, self.seed, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
            asked = self.study.ask(self._distributions)
        genome = genome_of(self.space, asked.params)
        accuracy, latency = self.score(genome)
        value = self.reward(accuracy / 100, latency)
        value -= (1.0 - self._share(genome)) * abs(value)  # lower also where the reward is below 0
        ok = math.isfinite(value)
        attrs = self._attrs(asked)
        trial = Trial(asked.number, genome, accuracy, latency, value, "complete" if ok else "failed", attrs)
        if ok:
            self.study.tell(asked, self._values(trial))
        else:
            self.study.tell(asked, state=TrialState.FAIL)
        return trial

    def _attrs(self, asked: optuna.Trial) -> str:
        if self.redrawn is None:
            return ""
        [mine] = [t for t in self.study.get_trials(deepcopy=False)[asked.number :] if t.number == asked.number]
        attrs: dict[str, Any] = dict(mine.system_attrs)
        return json.dumps(attrs) if attrs else ""
