"""How well shared weights rank: their scores of a few networks near the target against trainings of each alone."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mbv3.events import Event, Note, Progress, StageStart
from mbv3.record import Ranking
from mbv3.search import Genomes, around
from mbv3.space import Genome, SearchSpace, SpaceLimits
from mbv3.stages.halving import FIRST, PROBED, SETTLED, scratch_steps
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.search import SpaceLatency
from mbv3.stages.tune import scratch_fit, scratch_step_seconds, trained
from mbv3.supernet import SupernetAccuracy

__all__ = ["CHECKED", "FEWEST", "LEAST_TAU", "check_ranking", "kendall", "near_target", "ranking_text"]

STAGE = "ranking"
FEWEST, CHECKED = 3, 6  # networks that are trained alone: at least, and by default
LEAST = 20  # steps of each: after fewer a network answers as chance has it
LEAST_TAU = 0.2  # below it shared weights are not worth more than what is known without them
WITHIN = 0.05  # of the target: networks of equal ms
DRAWN, ROUNDS = 4000, 12  # genomes, and times that they are changed towards the target
SCORES = 3  # of a network: alone, and by shared weights with and without recalibration


def kendall(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """Kendall's tau-b and its interval of 95 % (Fieller 1957: atanh of tau has the variance .437 / (n - 4)); the whole
    of -1 to 1 for four networks or fewer. 0 where all of one side are equal."""
    n = len(one)
    a, b = (np.sign(np.subtract.outer(v, v)) for v in (one, other))
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    tau = float((a * b).sum()) / size if size else 0.0
    if n <= 4:
        return tau, -1.0, 1.0
    most = 1 - 1 / (n * (n - 1))  # a whole agreement of few is no certainty
    z, half = math.atanh(min(most, max(-most, tau))), 1.96 * math.sqrt(0.437 / (n - 4))
    return tau, math.tanh(z - half), math.tanh(z + half)


def near_target(
    space: SearchSpace, cost: SpaceLatency, target_ms: float, *, n: int = 1000, limits: SpaceLimits | None = None,
    seed: int = 0,
) -> Genomes:  # fmt: skip
    """Up to `n` different genomes (n, genes) whose predicted ms are within 5 % of the target, of a uniform draw that is
    changed towards it gene by gene; where there are too few, the nearest."""
    rng = np.random.default_rng((seed, 31))
    genomes = space.sample(rng, DRAWN)
    most = limits or SpaceLimits()

    def away(of: Genomes) -> NDArray[np.float64]:
        return np.asarray(np.abs(np.log(np.maximum(cost.many(of), 1e-12) / target_ms)))

    distance = away(genomes)
    for _ in range(ROUNDS * len(space.sizes)):
        far = np.flatnonzero(distance > WITHIN)
        if len(genomes) - len(far) >= n or not len(far):
            break
        tried = around(space.sizes, genomes[far], rng, 1.0)
        nearer = away(tried)
        better = nearer < distance[far]
        genomes[far[better]], distance[far[better]] = tried[better], nearer[better]
    _, index = np.unique(genomes, axis=0, return_index=True)
    index = np.sort(index)
    index = index[most.within(genomes[index])]
    good = index[distance[index] <= WITHIN]
    if len(good) < CHECKED:
        good = index[np.argsort(distance[index], kind="stable")[:CHECKED]]
    return genomes[good[:n]]


def check_ranking(
    scorer: SupernetAccuracy,
    genomes: Sequence[Genome],
    images: Images,
    *,
    networks: int = CHECKED,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    keep: Keep | None = None,
) -> Generator[Event, None, Ranking | None]:
    """Train up to `networks` of `genomes` alone for `steps` each, by default what `seconds` allow on this machine, and
    compare the order of their losses on the choosing images with that of the scores of the shared weights.

    None where fewer than three networks can be trained for at least 20 steps.

    Raises:
        Diverged: a training's loss is not finite.
    """
    keep = keep or Memory()
    space = scorer.supernet.space

    def decide() -> tuple[int, int]:
        count = min(networks, len(genomes))
        if steps is not None:
            return count, steps
        if seconds is None:
            return count, max(LEAST, scratch_steps(images, None) // FIRST)
        each, fixed = _step_seconds(scorer, genomes, images), SCORES * _score_seconds(scorer, genomes[0])
        count = min(count, int(seconds / (LEAST * each + fixed)))
        return count, int((seconds / max(count, 1) - fixed) / each)

    count, each = (int(v) for v in keep.value("ranking", decide))
    if count < FEWEST:
        return None
    yield StageStart(STAGE, f"{count} networks near the target learn alone for {each} steps", seconds)
    alone, shared, plain = [], [], []
    for i, genome in enumerate(genomes[:count]):
        recipe = scratch_fit(images, images.size, each, seed=seed)
        recipe = replace(recipe, recalibrate=min(recipe.recalibrate, SETTLED))
        spec = space.spec(genome)
        tuned = yield from trained(f"ranking-{each}-{i}", spec, None, images, recipe, keep=keep)
        alone.append(-float(tuned.chosen_on.loss.mean()))
        shared.append(-scorer(genome).loss)
        plain.append(-scorer.unsettled(genome).loss)
        yield Progress(STAGE, i + 1, count, f"{space.name}-{'-'.join(map(str, genome))}")
    truth = np.array(alone)
    tau, low, high = kendall(np.array(shared), truth)
    without = kendall(np.array(plain), truth)[0]
    found = Ranking(
        tau=round(tau, 4), low=round(low, 4), high=round(high, 4), n=count,
        tau_without_recalibration=round(without, 4), steps=each,
    )  # fmt: skip
    yield Note(STAGE, ranking_text(found))
    return found


def ranking_text(r: Ranking) -> str:
    """A ranking in words."""
    return (
        f"shared weights rank {r.n} networks of the target's ms with Kendall's tau {r.tau:.2f} ({r.low:.2f} to "
        f"{r.high:.2f}) as {r.steps} steps of training each alone do; {r.tau_without_recalibration:.2f} without "
        "recalibrated batch norms"
    )


def _score_seconds(scorer: SupernetAccuracy, genome: Genome) -> float:
    """Seconds of a score by shared weights; the first one chooses kernels."""
    scorer(genome)
    began = time.monotonic()
    scorer(genome)
    return time.monotonic() - began


def _step_seconds(scorer: SupernetAccuracy, genomes: Sequence[Genome], images: Images) -> float:
    """Seconds of a training step of the first of `genomes` alone."""
    return scratch_step_seconds(scorer.supernet.space.spec(genomes[0]), images, PROBED)
