"""The choice among proposals (Howard 2019, section 4.2, arXiv:1905.02244)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scored", "choose", "ratio"]


@dataclass(frozen=True, slots=True)
class Scored:
    """A network's latency in ms (lower is better), accuracy in percent (higher) and loss (lower)."""

    latency_ms: float
    accuracy: float
    loss: float


def ratio(seed: Scored, proposal: Scored) -> float:
    """dAcc / |dLatency| in points per ms, higher is better. dAcc is usually negative: least loss per ms saved."""
    return (proposal.accuracy - seed.accuracy) / max(abs(seed.latency_ms - proposal.latency_ms), 1e-9)


def choose(seed: Scored, proposals: Sequence[Scored], noise: float = 0.0) -> int:
    """The index of the proposal with the largest dAcc / |dLatency|.

    Departure from the paper, which takes the largest ratio whatever its noise: accuracies that differ by less than
    `noise` points count as equal. Among proposals equal to the best one, the one with the smallest increase of the loss
    per ms is chosen. Proposals with a value that is not finite are never chosen.

    Raises:
        ValueError: no proposal has finite values.
    """
    finite = [i for i, p in enumerate(proposals) if all(map(math.isfinite, (p.latency_ms, p.accuracy, p.loss)))]
    if not finite:
        raise ValueError("no proposal has a finite score")
    ratios = {i: ratio(seed, proposals[i]) for i in finite}
    best = max(finite, key=ratios.__getitem__)

    def saved(i: int) -> float:
        return max(abs(seed.latency_ms - proposals[i].latency_ms), 1e-9)

    tied = [i for i in finite if ratios[best] - ratios[i] <= noise / saved(i)]
    return min(tied, key=lambda i: ((proposals[i].loss - seed.loss) / saved(i), i))
