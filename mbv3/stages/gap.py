"""How far a solution can be from the best network at most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mbv3.accuracy import SpaceTop1
from mbv3.search import upper_bound
from mbv3.space import Genome, SpaceLimits, chain_of
from mbv3.stages.judge import Judge
from mbv3.stages.search import SpaceLatency

__all__ = ["most_accurate"]

SECONDS = 2.0  # a bound from less time holds too, and is larger


def most_accurate(
    judge: Judge,
    cost: SpaceLatency,
    most_ms: float,
    found: Sequence[Genome],
    limits: SpaceLimits | None = None,
    *,
    seconds: float | None = None,
) -> float | None:
    """A predicted accuracy in percent that no network of the space within `most_ms` and `limits` exceeds; None where
    the judge is not the ImageNet model. `found`: networks within them, the best first. `seconds`:
    by default SECONDS."""
    top1 = judge.accuracies
    if not isinstance(top1, SpaceTop1) or not found:
        return None
    shapes = top1.sums.shapes
    costs = [(chain_of(shapes, part, constant), most) for part, constant, most in cost.parts(most_ms)]
    costs += [(chain_of(shapes, limit.cost), limit.most) for limit in (limits or SpaceLimits()).every]
    spent = SECONDS if seconds is None else seconds
    known = float(top1.worth(top1.sums(np.array(found[:1], dtype=np.int64)))[0])
    bound = upper_bound(top1.sums, top1.worth, top1.slopes, costs, known, first=found, seconds=spent)
    return float(top1.percent(np.array([bound]))[0])
