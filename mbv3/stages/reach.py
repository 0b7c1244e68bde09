"""Limits that nothing meets: which one binds, and what the space could reach."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import Unreachable
from mbv3.search import Limit, solve
from mbv3.space import SearchSpace, SpaceLimits
from mbv3.spec import pixels
from mbv3.stages.search import SpaceLatency

__all__ = ["check_limits", "search_limits", "unmet_together"]


def search_limits(limits: SpaceLimits) -> list[Limit]:
    """The limits as the solver takes them."""
    return [Limit(limit.cost, limit.most) for limit in limits.every]


def _where(space: SearchSpace) -> str:
    return f"networks of space {space.name} at width {space.width:g}, {pixels(space.resolution)} px"


def check_limits(space: SearchSpace, limits: SpaceLimits, cost: SpaceLatency, fixed: bool) -> None:
    """Raises: Unreachable where a limit on its own is met by no network of the space."""
    unmet = limits.unmet()
    if unmet:
        cure = "; --scale auto fits the space to the limits" if fixed else "; another --space may meet it"
        raise Unreachable(f"no network is within a limit: {_where(space)}; {'; '.join(unmet)}{cure}", *cost.range_ms())


def unmet_together(space: SearchSpace, limits: SpaceLimits, cost: SpaceLatency, target_ms: float) -> Unreachable:
    """The error where no network was found within the target and all limits, though each alone can be met."""
    every = [Limit(cost.many, target_ms), *search_limits(limits)]
    names = [f"{target_ms:g} ms", *(f"{limit.flag} {limit.text(limit.most)}" for limit in limits.every)]
    texts = [_ms, *(limit.text for limit in limits.every)]
    least = []
    for i, (one, name, text) in enumerate(zip(every, names, texts, strict=True)):
        others = [limit for j, limit in enumerate(every) if j != i]

        def below(genomes: NDArray[np.int64], one: Limit = one) -> NDArray[np.float64]:
            return -one.cost(genomes)

        found = solve(space.sizes, below, others, population=400, generations=12, starts=3)
        if found.feasible:
            least.append(f"within the others the least is {text(-found.value)} of {name}")
    return Unreachable(
        f"each limit can be met alone, but no {_where(space).removeprefix('networks')} was found within all of "
        f"{', '.join(names)}; {'; '.join(least)}",
        *cost.range_ms(),
    )


def _ms(cost: float) -> str:
    return f"{cost:.3g} ms"
