"""The choice among trials whose scores are noisy: the best are scored again, on images that did not choose them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from mbv3.errors import Mbv3Error
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.search import Trial
from mbv3.stages.judge import SupernetJudge
from mbv3.stages.search import pick_seed
from mbv3.stages.tune import Answers, answers, better_by

__all__ = ["Chosen", "choose_seed", "finalists", "first_of"]

FINALISTS = 8


@dataclass(frozen=True, slots=True)
class Chosen:
    """A trial, its top-1 in percent and the standard error of that; they are of fresh images where there are any."""

    trial: Trial
    top1: float
    error: float | None


def finalists(trials: Sequence[Trial], target_ms: float, seed_ratio: float, count: int = FINALISTS) -> list[Trial]:
    """The `count` trials that `pick_seed` would choose, one after the other without those before, the best first; no
    network twice."""
    left, found = list(trials), list[Trial]()
    while left and len(found) < count:
        try:
            best = pick_seed(left, target_ms, seed_ratio)
        except Mbv3Error:  # none of them has a finite reward
            break
        found.append(best)
        left = [t for t in left if t.genome != best.genome]
    return found


def first_of(found: Sequence[Trial], fresh: Sequence[Answers]) -> int:
    """The number of the trial to take: of those that are not behind the best on the fresh images by more than the
    standard error of the difference over common images, the fastest."""
    best = max(range(len(found)), key=lambda i: (fresh[i].top1, -i))
    level = []
    for i, given in enumerate(fresh):
        behind, error = better_by(fresh[best], given)
        if behind <= error:
            level.append(i)
    return min(level, key=lambda i: (found[i].latency_ms, i))


def choose_seed(
    trials: Sequence[Trial], judge: SupernetJudge, target_ms: float, seed_ratio: float = 1.25
) -> Generator[Event, None, Chosen]:
    """What NetAdapt starts from. The best of many noisy scores owes its place to luck, too, and is below its score. So
    the best few are scored again on choosing images that no trial has seen, and what differs by less than the error is
    decided by time. Without such images it is the best score, with its error.

    Raises:
        Mbv3Error: no trial has a finite reward.
    """
    best = pick_seed(trials, target_ms, seed_ratio)
    found = finalists(trials, target_ms, seed_ratio)
    fresh, size = judge.fresh, judge.scorer.size
    if fresh is None or len(found) < 2:
        n = len(judge.scorer.held_out)
        p = min(max(best.accuracy / 100, 1 / (2 * n)), 1 - 1 / (2 * n))
        return Chosen(best, best.accuracy, 100 * float(np.sqrt(p * (1 - p) / n)))
    yield StageStart("search", f"the best {len(found)} scored again on {len(fresh)} other images")
    given: list[Answers] = []
    for i, trial in enumerate(found):
        given.append(answers(judge.scorer.network(trial.genome), fresh, size))
        yield Progress("search", i + 1, len(found), f"{given[-1].top1:.2f} %")
    i = first_of(found, given)
    first, taken = given[0], given[i]
    yield Note(
        "search",
        f"scored again, the best of the search has {first.top1:.1f} +- {first.error:.1f} % ({best.accuracy:.1f} % on "
        f"the images that chose it), the one that is taken {taken.top1:.1f} +- {taken.error:.1f} %",
    )
    return Chosen(found[i], taken.top1, taken.error)
