"""The search stage where accuracy and latency are closed forms: the best network within the target, and NetAdapt's
starts."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput, Unreachable
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.search import Limit, Trial
from mbv3.search import solve as solved_under
from mbv3.space import Genome, SearchSpace, SpaceLimits
from mbv3.stages.gap import most_accurate
from mbv3.stages.judge import Judge
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.reach import search_limits, unmet_together
from mbv3.stages.search import SpaceLatency, write_trials

__all__ = ["Solution", "best_at_random", "solve", "solve_targets"]

WINDOWS = 5  # limits between the target and the ratio, so that the starts are spread over it
TRIES = 3  # solutions under the target: one alone misses the best of many in a few of a hundred runs
KEPT = 40  # networks of each limit that trials.csv holds


@dataclass(frozen=True, slots=True)
class Solution:
    """`best`: the most accurate network within the target. `starts`: accurate networks above it, for NetAdapt, the most
    accurate first. `trials`: what was scored best, these among it. `evaluations`: how many networks were scored.
    `bound`: an accuracy that no network within the target exceeds; None where the judge is not the ImageNet model."""

    best: Trial
    starts: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    evaluations: int
    bound: float | None = None

    @property
    def gap(self) -> float | None:
        """Points that a network within the target can be better at most."""
        return None if self.bound is None else max(self.bound - self.best.accuracy, 0.0)


def solve(
    space: SearchSpace,
    judge: Judge,
    cost: SpaceLatency,
    target_ms: float,
    *,
    ratio: float = 1.25,
    count: int = 20,
    aim: float = 1.0,
    seed: int = 0,
    estimated: bool = False,
    limits: SpaceLimits | None = None,
    first: Sequence[Genome] = (),
    keep: Keep | None = None,
) -> Generator[Event, None, Solution]:
    """The most accurate network of `space` that takes at most `aim` times `target_ms`, and up to `count` networks of
    `target_ms` to `ratio` times as much (1: none): the best ones under each of a few limits. All are within `limits`.
    Their reward is their accuracy as a share of 1. `first`: networks that the evolution begins with.

    Raises:
        BadInput: the judge has no closed form.
        Unreachable: no network of the space was found within the target and the limits.
    """
    if judge.accuracies is None:
        raise BadInput(f"--sampler solve needs a closed form of the accuracy (got {judge.kind}); use rnn or evolution")
    score = judge.accuracies
    limits = limits or SpaceLimits()
    others = search_limits(limits)
    began = time.monotonic()
    yield StageStart("search", f"solve: the best of {space.size:.2g} networks within {target_ms:g} ms")
    shares = [aim, *(1 + (ratio - 1) * (i + 1) / WINDOWS for i in range(WINDOWS) if ratio > 1)]
    found: dict[Genome, tuple[float, float]] = {}
    starts: list[Genome] = []
    best: Genome | None = None
    bound: float | None = None
    evaluations = 0
    for i, share in enumerate(shares):
        within = [Limit(cost.many, share * target_ms), *others]
        whole = i == 0
        if whole:
            done = solved_under(space.sizes, score, within, seed=TRIES * seed, first=first, keep=KEPT)
            evaluations += done.evaluations
            for n in range(1, TRIES):  # the last one begins with what all others found
                known = done.best if n == TRIES - 1 else first
                again = solved_under(space.sizes, score, within, seed=TRIES * seed + n, first=known, keep=KEPT)
                evaluations += again.evaluations
                best_of = sorted({*done.best, *again.best}) or [again.genome]
                values = score(np.array(best_of, dtype=np.int64)).tolist()
                ranked = [g for _, g in sorted(zip((-v for v in values), best_of, strict=True))]
                better = max(done, again, key=lambda d: (d.feasible, d.value))
                # it is among them also where more networks than are kept are equal to the last digit but one
                ranked = list(dict.fromkeys((better.genome, *ranked)))
                done = replace(better, best=tuple(ranked[:KEPT]) if better.feasible else ())
        else:
            done = solved_under(
                space.sizes, score, within, seed=seed, population=400, generations=12, starts=2, first=list(found),
                keep=KEPT,
            )  # fmt: skip
            evaluations += done.evaluations
        genomes = np.array(done.best, dtype=np.int64).reshape(-1, len(space.sizes))
        ms, percent = cost.many(genomes), score(genomes)
        found |= {g: (a, t) for g, a, t in zip(done.best, percent.tolist(), ms.tolist(), strict=True)}
        if whole:
            if not done.feasible and limits.every:
                raise unmet_together(space, limits, cost, share * target_ms)
            if not done.feasible:
                raise Unreachable(
                    f"no network of space {space.name} was found within {target_ms:g} ms", *cost.range_ms()
                )
            best = done.genome
            bound = most_accurate(judge, cost, share * target_ms, [best, *done.best], limits)
        else:
            above = [g for g in done.best if g not in starts and found[g][1] > target_ms]
            starts += above[: -(-count // WINDOWS)]
        spent = time.monotonic() - began
        left = spent / (i + 1) * (len(shares) - i - 1)
        yield Progress("search", i + 1, len(shares), f"within {share * target_ms:.3g} ms {done.value:.2f} %", left)
    assert best is not None
    numbers = {g: n for n, g in enumerate(sorted(found, key=lambda g: found[g][1]))}

    def trial(g: Genome) -> Trial:
        return Trial(numbers[g], g, *found[g], found[g][0] / 100, "complete")

    ordered = sorted(starts, key=lambda g: (-found[g][0], g))[:count]
    solution = Solution(trial(best), tuple(map(trial, ordered)), tuple(map(trial, numbers)), evaluations, bound)
    write_trials(keep or Memory(), solution.trials, estimated)
    text = f"{solution.best.accuracy:.2f} % within {target_ms:g} ms, {evaluations:,} networks scored"
    if solution.gap is not None:
        text += f"; at most {solution.gap:.2f} points better is possible under this table and model"
    yield Note("search", text)
    return solution


def solve_targets(
    space: SearchSpace, judge: Judge, cost: SpaceLatency, targets_ms: Sequence[float], **how: Any
) -> Generator[Event, None, dict[float, Solution]]:
    """`solve` for rising targets in one pass: what was scored best for one begins the next, so that a larger target's
    network is never the worse one. A target without a solution is left out; `how` as for `solve`."""
    found: dict[float, Solution] = {}
    known: tuple[Genome, ...] = ()
    for target_ms in targets_ms:
        try:
            found[target_ms] = yield from solve(space, judge, cost, target_ms, first=known, **how)
        except Unreachable:
            continue
        known = tuple(t.genome for t in found[target_ms].trials)
    return found


def best_at_random(
    space: SearchSpace,
    judge: Judge,
    cost: SpaceLatency,
    most_ms: float,
    n: int,
    seed: int = 0,
    limits: SpaceLimits | None = None,
) -> Trial | None:
    """The most accurate of `n` random networks within `most_ms` and `limits`; None where none is."""
    assert judge.accuracies is not None
    limits = limits or SpaceLimits()
    rng = np.random.default_rng((seed, n))
    best: tuple[float, Sequence[int], float] | None = None
    for start in range(0, n, 50_000):
        genomes: NDArray[np.int64] = space.sample(rng, min(50_000, n - start))
        ms = cost.many(genomes)
        inside = (ms <= most_ms) & limits.within(genomes)
        genomes, ms = genomes[inside], ms[inside]
        if not len(genomes):
            continue
        percent = judge.accuracies(genomes)
        i = int(np.argmax(percent))
        if best is None or percent[i] > best[0]:
            best = float(percent[i]), genomes[i].tolist(), float(ms[i])
    if best is None:
        return None
    return Trial(0, tuple(best[1]), best[0], best[2], best[0] / 100, "complete")
