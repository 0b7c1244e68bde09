"""The search stage by several workers: networks are scored by all who open one study."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from mbv3.errors import BadInput
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.search import LIMIT, SharedSearch, Trial, make_reward
from mbv3.stages.job import Job
from mbv3.stages.judge import Judge
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.search import write_trials

__all__ = ["Study", "search_shared"]

_KEPT_S = 10.0  # between two times that trials.csv is written


@dataclass(frozen=True, slots=True)
class Study:
    """`storage`: what --storage takes, a study of which has `name`. `place`: of this worker among those that begin
    together, 0 that of the run itself. `gone(worker)`: whether it is known to have ended. `beat_s`, `grace_s`: between
    two signs of life of a worker, and how long without one its networks are left to it."""

    storage: str
    name: str
    place: int = 0
    gone: Callable[[str], bool] = lambda worker: False
    beat_s: float = 15.0
    grace_s: float = 60.0


def search_shared(
    job: Job, judge: Judge, study: Study, *, keep: Keep | None = None
) -> Generator[Event, None, list[Trial]]:
    """Score networks of the study beside other workers until it has `job.trials`; returns all, whoever scored them, in
    the order in which they were begun.

    Raises:
        BadInput: a storage that cannot be reached, a study of another search, or a target that no network is within.
    """
    keep, space = keep or Memory(), job.space.space()
    hard = job.reward == LIMIT
    search = SharedSearch(
        space, judge.accuracy, job.latency, make_reward(job.reward, job.target_ms, job.w), storage=study.storage,
        name=study.name, about=job.about, sampler=job.sampler, seed=job.seed, target_ms=job.target_ms, hard=hard,
        trials=job.trials, share=job.limits.on(space).share, place=study.place, beat_s=study.beat_s,
        grace_s=study.grace_s, gone=study.gone,
    )  # fmt: skip
    search.offer(job.text())
    began = kept = time.monotonic()
    shown = -math.inf
    before: int | None = None
    yield StageStart("search", f"{job.sampler}: {job.trials} trials of {space.size:.2g} networks in the study "
                     f"{study.name}, which workers share; reward {job.reward}, TAR {job.target_ms:g} ms")  # fmt: skip
    try:
        for at in search.run():
            before, now = at.ended if before is None else before, time.monotonic()
            if now - shown > 1 or at.ended >= job.trials:
                shown, done = now, at.ended - before
                text = f"best reward {at.best:.4f}, {at.running} at work"
                left = (job.trials - at.ended) * (now - began) / done if done else None
                yield Progress("search", at.ended, job.trials, text, left)
            if now - kept > _KEPT_S:
                kept = now
                write_trials(keep, search.trials, job.latency.estimated)
    finally:
        write_trials(keep, search.trials, job.latency.estimated)
    if search.exhausted:
        if not search.trials:
            raise BadInput(
                f"no network of space {space.name} was found within {job.target_ms:g} ms; give a larger --target-ms, a "
                "smaller --scale, or another --reward"
            )
        what = f"within {job.target_ms:g} ms " if hard else ""
        yield Note("search", f"the search ended after {len(search.trials)} trials: no network {what}is left to score")
    return search.trials
