"""The choice among trials whose scores are noisy: the best are scored again, on images that did not choose them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mbv3.events import Event, Note, Progress, StageStart
from mbv3.search import Genomes, Trial
from mbv3.stages.judge import SupernetJudge
from mbv3.stages.search import pick_seed, seeds
from mbv3.training import ClassAnswers, class_answers

__all__ = ["Chosen", "answered_best", "choose_seed", "finalists", "smoothed"]

FINALISTS, LAST = 24, 8  # trials that answer the first of the fresh images, and those that answer the rest
FIRST = 3 / 8  # of the fresh images
_PENALTIES = tuple(10.0**e for e in np.arange(-2, 3.5, 0.5))


@dataclass(frozen=True, slots=True)
class Chosen:
    """A trial, its top-1 in percent and the standard error of that; they are of fresh images where there are any."""

    trial: Trial
    top1: float
    error: float | None


def finalists(trials: Sequence[Trial], target_ms: float, seed_ratio: float, count: int = FINALISTS) -> list[Trial]:
    """The best `count` of those that `pick_seed` chooses among, the best first; no network twice. Raises: Mbv3Error: no
    trial has a finite reward."""
    return list({t.genome: t for t in reversed(seeds(trials, target_ms, seed_ratio))}.values())[::-1][:count]


def smoothed(genomes: Genomes, sizes: tuple[int, ...], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noisy scores (n,) of genomes (n, genes), each replaced by what all of them say: a ridge through one-hot choices,
    whose penalty predicts best each score that is left out. On NAS-Bench-Macro it brings the order of shared weights
    nearer to that of the true accuracies (results/supernet.jsonl)."""
    offsets = np.cumsum([0, *sizes[:-1]])
    hot = np.zeros((len(genomes), sum(sizes)))
    np.put_along_axis(hot, genomes + offsets, 1.0, axis=1)
    x, mean = hot - hot.mean(0), scores.mean()
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    best, found = math.inf, np.full(len(scores), mean)
    for penalty in _PENALTIES:
        weights = s**2 / (s**2 + penalty)
        fitted = mean + (u * weights) @ (u.T @ (scores - mean))
        own = 1 / len(scores) + (u**2 * weights).sum(1)  # of each score in its own fit
        error = float((((scores - fitted) / np.maximum(1 - own, 1e-6)) ** 2).mean())
        if error < best:
            best, found = error, fitted
    return found


def answered_best(
    count: int, images: int, answer: Callable[[int, NDArray[np.int64]], ClassAnswers]
) -> Generator[Event, None, tuple[int, dict[int, ClassAnswers]]]:
    """Which of `count` networks to take, and what those of the last round answered on all `images`.

    `answer(i, index)`: network i on the images `index`. All answer FIRST of the images, and the LAST of lowest
    cross-entropy the rest of them. The order by cross-entropy is nearer to that of whole trainings than the one by
    top-1 (results/supernet.jsonl).
    """
    order = np.random.default_rng(0).permutation(images)
    first = max(1, round(FIRST * images)) if count > LAST else images
    given: dict[int, ClassAnswers] = {}
    for i in range(count):
        given[i] = answer(i, np.sort(order[:first]))
        yield Progress("search", i + 1, count, f"{given[i].score:.2f} %")
    if count > LAST:
        given = {i: given[i] for i in sorted(given, key=lambda i: _rank(given[i], i))[:LAST]}
        for n, (i, before) in enumerate(list(given.items())):
            rest = answer(i, np.sort(order[first:]))
            given[i] = ClassAnswers(
                np.concatenate([before.loss, rest.loss]), np.concatenate([before.right, rest.right])
            )  # fmt: skip
            yield Progress("search", n + 1, LAST, f"{given[i].score:.2f} %")
    return min(given, key=lambda i: _rank(given[i], i)), given


def _rank(given: ClassAnswers, i: int) -> tuple[float, int]:
    """Smaller is better; what is no number is worst."""
    return given.rank if math.isfinite(given.rank) else math.inf, i


def choose_seed(
    trials: Sequence[Trial], judge: SupernetJudge, target_ms: float, seed_ratio: float = 1.25
) -> Generator[Event, None, Chosen]:
    """What NetAdapt starts from. The best of many noisy scores owes its place to luck, too, and is below its score. So
    the scores are smoothed over all trials, and the best few and the best score are scored again on choosing images
    that no trial has seen, in two rounds. Without such images the smoothed scores decide.

    Raises:
        Mbv3Error: no trial has a finite reward.
    """
    by_number = {t.number: t for t in trials}
    first = pick_seed(trials, target_ms, seed_ratio)
    even = finalists(_smoothed(trials, judge.scorer.supernet.space.sizes), target_ms, seed_ratio)
    found = list({t.number: t for t in (first, *(by_number[t.number] for t in even))}.values())[:FINALISTS]
    fresh, size = judge.fresh, judge.scorer.size
    if fresh is None:
        best = by_number[even[0].number]
        score = judge.scorer(best.genome)
        return Chosen(best, score.top1, score.sigma)
    yield StageStart("search", f"the best {len(found)} scored again on up to {len(fresh)} other images")

    def answer(i: int, index: NDArray[np.int64]) -> ClassAnswers:
        return class_answers(judge.scorer.network(found[i].genome), fresh.take(index), size)

    i, given = yield from answered_best(len(found), len(fresh), answer)
    taken = given[i]
    yield Note("search", f"scored again, the network that is taken has {taken.score:.1f} +- {taken.error:.1f} %")
    return Chosen(found[i], taken.score, taken.error)


def _smoothed(trials: Sequence[Trial], sizes: tuple[int, ...]) -> list[Trial]:
    """The trials that have a score, with smoothed ones."""
    good = [t for t in trials if t.state == "complete"]
    scores = smoothed(np.array([t.genome for t in good]), sizes, np.array([t.accuracy for t in good]))
    return [replace(t, accuracy=float(s)) for t, s in zip(good, scores, strict=True)]
