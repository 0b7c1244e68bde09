"""The RNN controller and regularized evolution as Optuna samplers, beside Optuna's own.

Every sampler here proposes as a function of (seed, the study's history): a resumed run, or a second worker on the same
storage, reconstructs it by replay and goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mbv3.errors import BadInput
from mbv3.search.controller import Controller
from mbv3.space import Genome, SearchSpace

__all__ = [
    "SAMPLERS",
    "EvolutionSampler",
    "RnnSampler",
    "distributions",
    "genome_of",
    "make_sampler",
    "register_sampler",
]


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """One categorical parameter a gene, over choice indices."""
    return {g.name: CategoricalDistribution(tuple(range(len(g.values)))) for g in space.genes}


def genome_of(space: SearchSpace, params: Mapping[str, Any]) -> Genome:
    """The genome that a trial's parameters spell."""
    return tuple(int(params[name]) for name in space.names)


def _finite(trial: FrozenTrial) -> bool:
    """A trial that may teach: complete, with a finite reward. (Every comparison with NaN is false, so a NaN would win
    `max` if it came first.)"""
    return trial.state == TrialState.COMPLETE and trial.values is not None and bool(np.all(np.isfinite(trial.values)))


class _GenomeSampler(BaseSampler):
    """Proposes whole genomes."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.seed = seed
        self._distributions = distributions(space)

    def genome(self, study: Study, trial: FrozenTrial) -> Genome:
        raise NotImplementedError

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return dict(zip(self.space.names, self.genome(study, trial), strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise BadInput(f"parameter {param_name!r} is not a gene of space {self.space.name!r}")

    def uniform(self, number: int) -> Genome:
        rng = np.random.default_rng((self.seed, number))
        return tuple(int(g) for g in self.space.sample(rng, 1)[0])


class RnnSampler(_GenomeSampler):
    """The RNN controller (Tan 2019): batches of `batch` genomes from one policy, then a PPO update.

    Trial n belongs to batch n // batch. A batch is learned once all its trials have ended; failed ones teach nothing.
    """

    def __init__(self, space: SearchSpace, seed: int, *, batch: int = 20, **controller: Any) -> None:
        super().__init__(space, seed)
        self.batch = batch
        self.controller = Controller(space.sizes, seed, **controller)
        self.updates = 0
        self._drawn: dict[int, Genome] = {}

    def _learn(self, study: Study, upto: int) -> None:
        """Replay every whole batch below trial `upto` that was not learned yet."""
        if (self.updates + 1) * self.batch > upto:
            return
        trials = study.get_trials(deepcopy=False)
        while (self.updates + 1) * self.batch <= upto:
            mine = trials[self.updates * self.batch : (self.updates + 1) * self.batch]
            # another worker is still at it; one that a whole later batch has overtaken was killed and never ends
            if not all(t.state.is_finished() for t in mine) and (self.updates + 2) * self.batch > upto:
                return
            good = [t for t in mine if _finite(t)]
            if good:
                genomes = np.array([genome_of(self.space, t.params) for t in good], dtype=np.int64)
                self.controller.update(genomes, np.array([t.values[0] for t in good], dtype=np.float64))
            self.updates += 1
            self._drawn.clear()

    def genome(self, study: Study, trial: FrozenTrial) -> Genome:
        number = trial.number
        self._learn(study, number)
        if number not in self._drawn:
            start = number // self.batch * self.batch
            numbers = range(start, start + self.batch)
            drawn = self.controller.sample([np.random.default_rng((self.seed, n)) for n in numbers])
            self._drawn.update({n: tuple(int(v) for v in g) for n, g in zip(numbers, drawn, strict=True)})
        return self._drawn[number]


class EvolutionSampler(_GenomeSampler):
    """Regularized evolution (Real 2019, arXiv:1802.01548): the best of a random sample of the youngest mutates."""

    def __init__(self, space: SearchSpace, seed: int, *, population: int = 100, sample: int = 25) -> None:
        super().__init__(space, seed)
        self.population, self.sample = population, sample
        self._history: list[tuple[Genome, float]] = []
        self._next = 0

    def _read(self, study: Study) -> None:
        trials = study.get_trials(deepcopy=False)
        while self._next < len(trials):
            t = trials[self._next]
            # a trial that runs is waited for, unless so many came after it that its worker was killed
            if not t.state.is_finished() and len(trials) - self._next <= self.sample:
                break
            if _finite(t):
                self._history.append((genome_of(self.space, t.params), float(t.values[0])))
            self._next += 1

    def genome(self, study: Study, trial: FrozenTrial) -> Genome:
        self._read(study)
        alive = self._history[-self.population :]  # ageing: the oldest die, not the worst
        if len(alive) < self.population:
            return self.uniform(trial.number)
        rng = np.random.default_rng((self.seed, trial.number))
        picked = rng.choice(len(alive), size=self.sample, replace=False)
        parent = max((alive[int(i)] for i in picked), key=lambda g: g[1])
        return self.space.mutate(parent[0], rng)


class _Nsga2(NSGAIISampler):
    """Optuna's, with parents in trial order: it keeps that order only where the study cached them, so a resumed run
    would draw others."""

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().get_parent_population(study, generation), key=lambda t: t.number)


# name: (space, seed) -> sampler. The RNN controller and evolution are Samplers of ours, with a state; Optuna's own draw
# from a generator without history, so a search makes one again for every trial, seeded by the trial's number too.
SAMPLERS: dict[str, Callable[[SearchSpace, int], BaseSampler]] = {
    "rnn": RnnSampler,
    "evolution": EvolutionSampler,
    "nsga2": lambda _, seed: _Nsga2(seed=seed, population_size=50),
    "tpe": lambda _, seed: TPESampler(seed=seed, multivariate=False, n_startup_trials=50),
    "random": lambda _, seed: RandomSampler(seed=seed),
}


def register_sampler(name: str, make: Callable[[SearchSpace, int], BaseSampler]) -> None:
    """Make a sampler known by `name`, as `--sampler` and `Options` take it. `make(space, seed)` returns one of Optuna's
    samplers. A class is made once for a search; a function is called again for every trial.

    Raises:
        BadInput: the name is taken.
    """
    if name in SAMPLERS:
        raise BadInput(f"a sampler cannot be registered as {name!r}: there are {', '.join(SAMPLERS)}; take a new name")
    SAMPLERS[name] = make


def make_sampler(name: str, space: SearchSpace, seed: int, number: int = 0) -> BaseSampler:
    """A sampler by name, for trial `number`.

    Raises:
        BadInput: an unknown name.
    """
    if name not in SAMPLERS:
        raise BadInput(f"--sampler must be one of {', '.join(SAMPLERS)} (got {name!r})")
    make = SAMPLERS[name]
    own = isinstance(make, type)  # ours: its draws depend on the history, not on when it was made
    return make(space, seed if own else int(np.random.SeedSequence((seed, number)).generate_state(1)[0]))


def quiet() -> None:
    """Optuna logs every trial; mbv3 tells progress by events."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
