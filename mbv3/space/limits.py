"""Limits beside the milliseconds: the most parameters, multiply-adds and megabytes of weights that a network may have,
as numbers of one network and as closed forms over the genomes of a space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3.space.additive import Additive, tabulate
from mbv3.space.model import Genome, SearchSpace
from mbv3.spec import ArchSpec, Layer, lower, lower_key

__all__ = ["Limits", "SpaceLimit", "SpaceLimits"]


def _megabytes(layer: Layer) -> float:
    """What a layer takes of a weights file, in MB of 10^6 bytes: parameters, mean and variance of its batch norms in
    fp32, and their counters in int64."""
    norms = [op.cout for op in layer.ops if op.kind == "conv" and op.bn is not None]
    return (4 * (layer.params + 2 * sum(norms)) + 8 * len(norms)) / 1e6


# name: (cost of a layer, unit, how a figure is divided to be printed)
_COSTS: dict[str, tuple[Callable[[Layer], float], str, float]] = {
    "params": (lambda layer: layer.params, "M parameters", 1e6),
    "madds": (lambda layer: layer.madds, "M MAdds", 1e6),
    "mb": (_megabytes, "MB of weights", 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that a network may have; None is no limit. `mb`: megabytes (10^6 bytes) of its fp32 weights file, batch
    norms not folded; an exported file, where they are, is smaller."""

    params: int | None = None
    madds: int | None = None
    mb: float | None = None

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """(name, most) of every limit that there is."""
        return ((name, most) for name in _COSTS if (most := getattr(self, name)) is not None)

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def of(self, spec: ArchSpec) -> dict[str, float]:
        """What `spec`, as it is deployed, has of everything that is limited."""
        if not self:
            return {}
        layers = lower(spec)
        return {name: sum(_COSTS[name][0](layer) for layer in layers) for name, _ in self}

    def hold(self, spec: ArchSpec) -> bool:
        """Whether `spec`, as it is deployed, is within every limit."""
        return all(self.of(spec)[name] <= most for name, most in self)

    def on(self, space: SearchSpace) -> SpaceLimits:
        """The limits as closed forms over a space."""
        return SpaceLimits(
            tuple(SpaceLimit(n, tabulate(space, lambda k, n=n: _COSTS[n][0](lower_key(k))), m) for n, m in self)  # type: ignore[misc]
        )

    def __str__(self) -> str:
        return ", ".join(f"{_flag(name)} {_text(name, most)}" for name, most in self)


def _flag(name: str) -> str:
    return f"--max-{name}"


def _text(name: str, cost: float) -> str:
    _, unit, divisor = _COSTS[name]
    return f"{cost / divisor:.3g} {unit}"


@dataclass(frozen=True, slots=True)
class SpaceLimit:
    """One limit over a space: `cost` of every genome, `most` that it may be."""

    name: str
    cost: Additive
    most: float

    @property
    def flag(self) -> str:
        """The option that sets it."""
        return _flag(self.name)

    def text(self, cost: float) -> str:
        """`cost` with its unit."""
        return _text(self.name, cost)

    @property
    def least(self) -> float:
        """The exact least of the space."""
        return self.cost.extreme(False)[0]


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """Every limit over one space."""

    every: tuple[SpaceLimit, ...] = ()

    def within(self, genomes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, genes) to (n,): within all limits."""
        inside = np.ones(len(genomes), dtype=bool)
        for limit in self.every:
            inside &= limit.cost(genomes) <= limit.most
        return inside

    def hold(self, genome: Genome) -> bool:
        """Whether one genome is within all limits."""
        return bool(self.within(np.array([genome]))[0])

    def share(self, genome: Genome) -> float:
        """1 within all limits; beyond, the product of limit / cost, as a hard reward has it for the time (Tan 2019,
        arXiv:1807.11626, alpha 0 and beta -1)."""
        share = 1.0
        for limit in self.every:
            share *= min(1.0, limit.most / float(limit.cost(np.array([genome]))[0]))
        return share

    def unmet(self) -> list[str]:
        """A line for each limit that no network of the space meets, with what its networks have."""
        lines = []
        for limit in self.every:
            least, most = limit.least, limit.cost.extreme(True)[0]
            if least > limit.most:
                lines.append(
                    f"{limit.flag} {limit.text(limit.most)}: they have {limit.text(least)} to {limit.text(most)}"
                )
        return lines
