"""Optuna's samplers among ours: they see a study of their own, and what they propose twice does not consume a trial."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from mbv3.errors import BadInput
from mbv3.search.aim import Aim, Genomes
from mbv3.search.proposer import Proposer
from mbv3.space import Genome, SearchSpace

__all__ = ["Nsga2", "OptunaSampler", "directions", "distributions", "genome_of", "quiet"]


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """One categorical parameter a gene, over choice indices."""
    return {g.name: CategoricalDistribution(tuple(range(len(g.values)))) for g in space.genes}


def genome_of(space: SearchSpace, params: Mapping[str, Any]) -> Genome:
    """The genome that a trial's parameters spell."""
    return tuple(int(params[name]) for name in space.names)


def directions(two: bool) -> list[Literal["maximize", "minimize"]]:
    """Of a study: accuracy and latency, or the reward."""
    return ["maximize", "minimize"] if two else ["maximize"]


def quiet() -> None:
    """Optuna logs every trial; mbv3 reports progress by events."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class Nsga2(NSGAIISampler):
    """Optuna's, with parents in trial order: it keeps that order only where the study cached them, so a resumed run
    would draw others."""

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().get_parent_population(study, generation), key=lambda t: t.number)


class OptunaSampler(Proposer):
    """A sampler of Optuna's. `make(seed, trials)` is called for every draw, as these samplers draw from a generator
    without history; an object is used as it is, and a resumed search then goes on, though not with the same bits.

    `startup`: the share of the trials, 5 to 50 of them, that our first networks take the place of random draws.
    `two`: accuracy and latency are two objectives where no hard limit is given. `tries`: draws of Optuna's for one
    trial, before a network of ours is taken.
    """

    def __init__(
        self, space: SearchSpace, seed: int, make: BaseSampler | Callable[[int, int], BaseSampler], *,
        startup: float = 0.0, two: bool = False, tries: int = 8,
    ) -> None:  # fmt: skip
        super().__init__(space, seed)
        self.make, self._startup, self._two, self.tries = make, startup, two, tries
        self._distributions = distributions(space)

    def open(self, aim: Aim) -> None:
        super().open(aim)
        self.two = self.two_of(aim)
        self.startup = min(50, max(5, int(self._startup * aim.trials))) if self._startup else 0
        self.study = optuna.create_study(directions=directions(self.two))

    def two_of(self, aim: Aim) -> bool:
        """Whether a search has two objectives."""
        return self._two and not aim.hard

    def batch(self, start: int) -> int:
        return 1

    def propose(self, rng: np.random.Generator, start: int, n: int, attempt: int) -> Genomes:
        if attempt:  # all tries of a trial were in the first
            return np.zeros((0, len(self.sizes)), dtype=np.int64)
        self.study.sampler = _Whole(self, rng, start)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
            self.asked = self.study.ask(self._distributions)
        return np.array([genome_of(self.space, self.asked.params)], dtype=np.int64)

    def state(self, genome: Genome) -> str:
        """JSON of what Optuna keeps on the trial that was asked for last; nothing where `genome` took its place."""
        if genome_of(self.space, self.asked.params) != genome:
            return ""
        attrs: dict[str, Any] = dict(self.study._storage.get_trial(self.asked._trial_id).system_attrs)
        return json.dumps(attrs) if attrs and not isinstance(self.make, BaseSampler) else ""

    def release(self) -> None:
        """Give up the trial that was asked for last: it comes back by `add` when it has a score."""
        self.study.tell(self.asked, state=TrialState.FAIL)

    def add(self, trials: Sequence[tuple[Genome, Sequence[float] | None, str]]) -> None:
        """Trials that have ended: genomes, their values (None: failed) and what `state` was."""
        self.study.add_trials([self.frozen(*t) for t in trials])

    def finish(self, genome: Genome, values: Sequence[float] | None) -> None:
        """Values of the trial that was asked for last; None: it failed."""
        if genome_of(self.space, self.asked.params) != genome:  # Optuna found nothing new, and another was taken
            self.release()
            self.add([(genome, values, "")])
            return
        if values is None:
            self.study.tell(self.asked, state=TrialState.FAIL)
        else:
            self.study.tell(self.asked, list(values))

    def frozen(self, genome: Genome, values: Sequence[float] | None, state: str) -> FrozenTrial:
        """A trial that has ended, as Optuna keeps it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return create_trial(
                state=TrialState.FAIL if values is None else TrialState.COMPLETE,
                values=None if values is None else list(values),
                params=dict(zip(self.space.names, genome, strict=True)),
                distributions=self._distributions,
                system_attrs=json.loads(state) if state else None,
            )


class _Whole(BaseSampler):
    """Draws whole genomes of an Optuna sampler until one is new and may be proposed."""

    def __init__(self, outer: OptunaSampler, rng: np.random.Generator, number: int) -> None:
        self.outer, self.rng, self.number = outer, rng, number

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.outer._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        outer = self.outer
        genome = genome_of(outer.space, self._drawn(study, trial, 0))
        if self.number < outer.startup:  # after Optuna's turn, as NSGA-II notes a trial's generation there
            near = map(tuple, outer.first(self.rng, 4).tolist())
            genome = next((g for g in near if self._usable(g)), genome)
        for attempt in range(1, outer.tries):
            if self._usable(genome):
                break
            genome = genome_of(outer.space, self._drawn(study, trial, attempt))
        return dict(zip(outer.space.names, genome, strict=True))

    def _drawn(self, study: Study, trial: FrozenTrial, attempt: int) -> dict[str, Any]:
        outer, inner = self.outer, self._inner(attempt)
        space = inner.infer_relative_search_space(study, trial)
        params = dict(inner.sample_relative(study, trial, space))
        for name, choices in outer._distributions.items():
            if name not in params:
                params[name] = inner.sample_independent(study, trial, name, choices)
        return params

    def _inner(self, attempt: int) -> BaseSampler:
        outer = self.outer
        if isinstance(outer.make, BaseSampler):
            return outer.make
        seed = np.random.SeedSequence((outer.seed, self.number, attempt)).generate_state(1)[0]
        return outer.make(int(seed), outer.aim.trials)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner(0).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner(0).after_trial(study, trial, state, values)

    def _usable(self, genome: Genome) -> bool:
        return genome not in self.outer.seen and bool(self.outer.aim.within(np.array([genome]))[0])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise BadInput(f"parameter {param_name!r} is not a gene of space {self.outer.space.name!r}")
