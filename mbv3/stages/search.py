"""The search stage: trials over a space under a reward, and the network that goes on to NetAdapt."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.samplers import BaseSampler

from mbv3.errors import BadInput, Mbv3Error
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.search import LIMIT, Proposer, Reward, Search, Trial, make_reward
from mbv3.space import Additive, Genome, SearchSpace, SpaceLimits, tabulate
from mbv3.spec import LayerKey
from mbv3.stages.budget import Budget
from mbv3.stages.judge import Judge
from mbv3.stages.keep import Keep, Memory
from mbv3.tables import Latency, SeveralLatency

__all__ = [
    "TRIALS",
    "SpaceLatency",
    "affordable",
    "default_w",
    "pick_seed",
    "pick_starts",
    "search",
    "space_latency",
    "write_trials",
]

TRIALS = {"imagenet": 4000, "supernet": 240, "train": 24}
LEAST_SCORED, MOST_SCORED = 16, 400  # trials with shared weights, whose time decides
COLUMNS = ("number", "genome", "accuracy", "latency_ms", "reward", "estimated", "state", "sampler_state")
_FILE, _BATCH = "trials.csv", 20


class SpaceLatency:
    """Calibrated latency in ms of every network of a space, as a sum over its layers. `estimated`: of some layers it is
    a cost model's."""

    def __init__(self, additive: Additive, constant_ms: float, estimated: bool = False) -> None:
        self.additive, self.constant_ms, self.estimated = additive, constant_ms, estimated

    def __call__(self, genome: Genome) -> float:
        return float(self.additive(np.array([genome]))[0]) + self.constant_ms

    def many(self, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, genes) to (n,) ms."""
        return self.additive(genomes) + self.constant_ms

    def parts(self, most_ms: float) -> list[tuple[Additive, float, float]]:
        """`many(genomes) <= most_ms` as sums: (sum over layers, constant, the most of both together)."""
        return [(self.additive, self.constant_ms, most_ms)]

    def range_ms(self) -> tuple[float, float]:
        """The fastest and the slowest network's."""
        least, most = (self.additive.extreme(largest)[0] + self.constant_ms for largest in (False, True))
        return least, most


class WorstLatency(SpaceLatency):
    """The largest of the latencies on several devices."""

    def __init__(self, devices: Sequence[SpaceLatency]) -> None:
        super().__init__(devices[0].additive, devices[0].constant_ms, any(d.estimated for d in devices))
        self.devices = tuple(devices)

    def __call__(self, genome: Genome) -> float:
        return max(device(genome) for device in self.devices)

    def many(self, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(np.max([device.many(genomes) for device in self.devices], axis=0), dtype=np.float64)

    def parts(self, most_ms: float) -> list[tuple[Additive, float, float]]:
        return [part for device in self.devices for part in device.parts(most_ms)]

    def range_ms(self) -> tuple[float, float]:
        """No network is faster than the first; the second is exact."""
        ranges = [device.range_ms() for device in self.devices]
        return max(least for least, _ in ranges), max(most for _, most in ranges)


def space_latency(space: SearchSpace, latency: Latency, estimated: float = 1.0) -> SpaceLatency:
    """The latency of every network of a space, on one device or on several. Rows that a table lacks are estimated, and
    count `estimated` times; `near_rows` measures those that matter."""
    if isinstance(latency, SeveralLatency):
        each = [space_latency(space, device) for device in latency.devices]
        if latency.weights is None:
            return WorstLatency(each)
        mean = Additive.weighted([c.additive for c in each], latency.weights)
        constant = sum(w * c.constant_ms for w, c in zip(latency.weights, each, strict=True))
        return SpaceLatency(mean, constant, any(c.estimated for c in each))
    table = latency.table
    calibration = table.calibration

    lacking: list[LayerKey] = []

    def ms(key: LayerKey) -> float:
        hot = table.hot_ms(key, estimate=True)
        if key not in table.layers:
            lacking.append(key)
            hot *= estimated
        return calibration.layer_ms(key, hot)

    additive = tabulate(space, ms)
    return SpaceLatency(additive, calibration.c, bool(lacking))


def default_w(reward: str, target_ms: float, large_ms: float) -> float:
    """The reward's exponent for a target, where MobileNetV3-Large takes `large_ms`: the paper's -0.15 belongs to its
    small network, a third of the large one's time (Howard 2019, section 4.1)."""
    if reward == "tunas":
        return -0.1
    return -0.15 if target_ms < 0.4 * large_ms else -0.07


def search(
    space: SearchSpace,
    judge: Judge,
    latency_ms: Callable[[Genome], float],
    target_ms: float,
    *,
    sampler: str | BaseSampler | Proposer | None = None,
    reward: str | Reward = LIMIT,
    w: float = -0.07,
    trials: int | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    estimated: bool = False,
    limits: SpaceLimits | None = None,
    keep: Keep | None = None,
) -> Generator[Event, None, list[Trial]]:
    """Score `trials` networks of `space`, no network twice; returns them in order, fewer where the space has no more.

    `sampler` defaults to surrogate where a score costs time, else to evolution. `target_ms` is TAR of the reward; under
    the reward `limit` nothing above it is scored. `trials` defaults to TRIALS of the judge's kind, with shared weights
    to what the budget's share allows. `estimated` marks the trials of a table whose device is not at hand. Beyond
    `limits` a reward is multiplied by limit / cost.

    Raises:
        BadInput: an unknown sampler or reward, or a limit that no network was found within.
    """
    budget, keep = budget or Budget(60.0), keep or Memory()
    history = _finished(space, keep, estimated)
    goal = make_reward(reward, target_ms, w) if isinstance(reward, str) else reward
    limits = limits or SpaceLimits()
    wanted = keep.value("trials", lambda: trials or affordable(space, judge, budget))
    free = judge.accuracies is not None
    with _one_thread(free):  # it learns from the history, as the run did that left it
        study = Search(
            space, judge.accuracy, latency_ms, goal, sampler=sampler or ("evolution" if free else "surrogate"),
            seed=seed, history=history, target_ms=target_ms, hard=reward == LIMIT, trials=wanted,
            accuracies=judge.accuracies, share=limits.share,
        )  # fmt: skip
    done, pending = list(history), list[Trial]()
    began, before = time.monotonic(), len(done)
    yield StageStart(
        "search",
        f"{study.sampler_name}: {wanted} trials of {space.size:.2g} networks, reward "
        f"{reward if isinstance(reward, str) else getattr(reward, '__name__', 'of your own')}"
        f"{'' if reward == LIMIT else f' with w {w:g}'}, "
        f"TAR {target_ms:g} ms" + (f", going on after {before}" if before else ""),
    )
    try:
        with _one_thread(free):
            shown = 0.0
            for trial in study.run(wanted):
                done.append(trial)
                pending.append(trial)
                if len(done) % _BATCH == 0 or len(done) >= wanted:
                    keep.append_rows(_FILE, COLUMNS, [_row(t, estimated) for t in pending])
                    pending = []
                now = time.monotonic()
                if now - shown > 1 or len(done) >= wanted:
                    shown = now
                    rate = (len(done) - before) / max(now - began, 1e-9)
                    best = max((t.reward for t in done if t.state == "complete"), default=float("nan"))
                    yield Progress("search", len(done), wanted, f"best reward {best:.4f}", (wanted - len(done)) / rate)
    finally:
        if pending:
            keep.append_rows(_FILE, COLUMNS, [_row(t, estimated) for t in pending])
    if study.exhausted:
        if not done:
            raise BadInput(
                f"no network of space {space.name} was found within {target_ms:g} ms; give a larger --target-ms, a "
                "smaller --scale, or another --reward"
            )
        what = f"within {target_ms:g} ms " if reward == LIMIT else ""
        yield Note("search", f"the search ended after {len(done)} trials: no network {what}is left to score")
    return done


def affordable(space: SearchSpace, judge: Judge, budget: Budget) -> int:
    """Trials by default; with shared weights as many as their share of the budget scores, by the second of two."""
    if judge.kind != "supernet" or not budget.timed:
        return TRIALS.get(judge.kind, TRIALS["supernet"])
    middle = tuple(n // 2 for n in space.sizes)
    judge.accuracy(middle)
    began = time.monotonic()
    judge.accuracy(middle)
    fit = int(budget.seconds("search") / (time.monotonic() - began))
    return min(MOST_SCORED, max(LEAST_SCORED, fit))


@contextmanager
def _one_thread(alone: bool) -> Iterator[None]:
    """One thread of torch where the score is free: the controller's matrices are too small to share."""
    threads = torch.get_num_threads()
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_trials(keep: Keep, trials: Sequence[Trial], estimated: bool) -> None:
    """The whole of trials.csv."""
    keep.write_rows(_FILE, COLUMNS, [_row(t, estimated) for t in trials])


def _row(t: Trial, estimated: bool) -> dict[str, object]:
    # repr keeps every bit: a resumed study must see the rewards that the first one saw
    return {
        "number": t.number, "genome": "-".join(map(str, t.genome)), "accuracy": repr(t.accuracy),
        "latency_ms": repr(t.latency_ms), "reward": repr(t.reward), "estimated": int(estimated), "state": t.state,
        "sampler_state": t.sampler_state,
    }  # fmt: skip


def _trial(space: SearchSpace, row: Mapping[str, str]) -> Trial:
    return Trial(
        int(row["number"]), space.genome(row["genome"]), float(row["accuracy"]), float(row["latency_ms"]),
        float(row["reward"]), row["state"], row["sampler_state"],
    )  # fmt: skip


def _finished(space: SearchSpace, keep: Keep, estimated: bool) -> list[Trial]:
    """Trials of an interrupted search, up to the first that cannot be read; the others are dropped from the file."""
    rows = keep.rows(_FILE)
    trials: list[Trial] = []
    for row in rows:
        try:
            trial = _trial(space, row)
        except (ValueError, KeyError, TypeError, BadInput):
            break
        if trial.number != len(trials):
            break
        trials.append(trial)
    if rows:
        write_trials(keep, trials, estimated)
    return trials


def within_of(trials: Sequence[Trial], target_ms: float) -> Trial | None:
    """The most accurate trial within the target; None where none is."""
    good = [t for t in trials if t.state == "complete" and t.latency_ms <= target_ms]
    return max(good, key=lambda t: (t.accuracy, -t.latency_ms, -t.number), default=None)


def pick_starts(trials: Sequence[Trial], target_ms: float, seed_ratio: float = 1.25, count: int = 20) -> list[Trial]:
    """What NetAdapt starts from where a start costs seconds: up to `count` of the most accurate networks between the
    target and `seed_ratio` times it, and the most accurate one within the target.

    Raises:
        Mbv3Error: no trial has a finite reward.
    """
    first = pick_seed(trials, target_ms, seed_ratio)
    window = {
        t.genome: t
        for t in sorted(trials, key=lambda t: (t.accuracy, -t.latency_ms, -t.number))
        if t.state == "complete" and target_ms <= t.latency_ms <= seed_ratio * target_ms
    }
    below = within_of(trials, target_ms)
    chosen = [first, *([below] if below is not None else []), *list(window.values())[::-1][:count]]
    return list({t.genome: t for t in chosen}.values())


def pick_seed(trials: Sequence[Trial], target_ms: float, seed_ratio: float = 1.25) -> Trial:
    """The network handed to NetAdapt: the most accurate between the target and `seed_ratio` times it; else the nearest
    one above; else, as nothing needs shrinking, the most accurate below.

    Raises:
        Mbv3Error: no trial has a finite reward.
    """
    return seeds(trials, target_ms, seed_ratio)[0]


def seeds(trials: Sequence[Trial], target_ms: float, seed_ratio: float = 1.25) -> list[Trial]:
    """Those of the trials that `pick_seed` chooses among, the most accurate first: all between the target and
    `seed_ratio` times it; else the nearest one above; else all. Raises: Mbv3Error."""
    good = [t for t in trials if t.state == "complete"]
    if not good:
        raise Mbv3Error("the search has no finite trial: every accuracy or latency was not a number")
    window = [t for t in good if target_ms <= t.latency_ms <= 1.02 * seed_ratio * target_ms]
    above = [t for t in good if t.latency_ms > target_ms]
    if above and not window:
        return [min(above, key=lambda t: (t.latency_ms, t.number))]
    return sorted(window or good, key=lambda t: (-t.accuracy, t.latency_ms, t.number))
