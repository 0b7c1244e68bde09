"""Samplers by name."""

from __future__ import annotations

from collections.abc import Callable

from optuna.samplers import BaseSampler, GPSampler, TPESampler

from mbv3.errors import BadInput
from mbv3.search.evolution import EvolutionSampler, RandomSampler
from mbv3.search.optuna_sampler import Nsga2, OptunaSampler
from mbv3.search.proposer import Proposer
from mbv3.search.rnn import RnnSampler
from mbv3.search.surrogate import SurrogateSampler
from mbv3.space import SearchSpace

__all__ = ["OWN_SAMPLERS", "SAMPLERS", "make_sampler", "register_sampler"]

_FIRST = 0.1  # of the trials, before Optuna's samplers propose


def _nsga2(space: SearchSpace, seed: int) -> OptunaSampler:
    def make(seed: int, trials: int) -> BaseSampler:
        return Nsga2(seed=seed, population_size=min(50, max(5, int(_FIRST * trials))))

    return OptunaSampler(space, seed, make, startup=_FIRST, two=True)


def _tpe(space: SearchSpace, seed: int) -> OptunaSampler:
    def make(seed: int, trials: int) -> BaseSampler:
        return TPESampler(seed=seed, multivariate=False, n_startup_trials=5)

    return OptunaSampler(space, seed, make, startup=_FIRST)


def _gp(space: SearchSpace, seed: int) -> OptunaSampler:
    def make(seed: int, trials: int) -> BaseSampler:
        return GPSampler(seed=seed, n_startup_trials=5)

    return OptunaSampler(space, seed, make, startup=1e-9, tries=2)  # the fewest, as each takes long


# name: (space, seed) -> a sampler of ours, or one of Optuna's
SAMPLERS: dict[str, Callable[[SearchSpace, int], Proposer | BaseSampler]] = {
    "surrogate": SurrogateSampler,
    "rnn": RnnSampler,
    "evolution": EvolutionSampler,
    "nsga2": _nsga2,
    "tpe": _tpe,
    "gp": _gp,
    "random": RandomSampler,
}
OWN_SAMPLERS = tuple(SAMPLERS)  # of every process


def register_sampler(name: str, make: Callable[[SearchSpace, int], Proposer | BaseSampler]) -> None:
    """Make a sampler known by `name`, as `--sampler` and `Options` take it. `make(space, seed)` returns a Proposer,
    which a search makes once, or a sampler of Optuna's, which it makes again for every trial.

    Raises:
        BadInput: the name is taken.
    """
    if name in SAMPLERS:
        raise BadInput(f"a sampler cannot be registered as {name!r}: there are {', '.join(SAMPLERS)}; take a new name")
    SAMPLERS[name] = make


def make_sampler(sampler: str | BaseSampler | Proposer, space: SearchSpace, seed: int) -> Proposer:
    """A sampler by name, or an object as one.

    Raises:
        BadInput: an unknown name.
    """
    if isinstance(sampler, Proposer):
        return sampler
    if isinstance(sampler, BaseSampler):
        return OptunaSampler(space, seed, sampler)
    if sampler not in SAMPLERS:
        raise BadInput(f"--sampler must be one of {', '.join(SAMPLERS)} (got {sampler!r})")
    make = SAMPLERS[sampler]
    made = make(space, seed)
    return made if isinstance(made, Proposer) else OptunaSampler(space, seed, _again(make, space))


def _again(
    make: Callable[[SearchSpace, int], Proposer | BaseSampler], space: SearchSpace
) -> Callable[[int, int], BaseSampler]:
    def made(seed: int, trials: int) -> BaseSampler:
        sampler = make(space, seed)
        assert isinstance(sampler, BaseSampler)
        return sampler

    return made
