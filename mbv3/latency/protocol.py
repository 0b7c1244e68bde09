"""The timing protocol: all items are interleaved, none is timed alone.

Noise is drift over time: two equal networks timed one after the other differ by up to 20 %, interleaved run by run by
less than 1 %. So every item is visited once a round, in shuffled order, with the reference network among them. The
statistic is the 10th percentile, and a time is reported relative to the reference in the same rounds.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3.latency.conditions import run_clock, undisturbed
from mbv3.latency.sessions import Run

__all__ = ["Samples", "interleave", "noise_floor", "p10", "shares", "sums"]

Clock = Callable[[], float]


def p10(samples: Sequence[float] | NDArray[np.float64]) -> float:
    """The 10th percentile: the statistic of all times, except of rows measured on demand (`device.FAST`)."""
    return float(np.percentile(np.asarray(samples), 10))


FEWEST = 3  # rounds
MANY = 8  # networks: with this many the noise of a part can be estimated, and a calibration absorbs a common factor


def _weighed(times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For times (networks, parts): the weight of each part, inverse to the variance of its random error, and that
    variance, relative."""
    n, k = times.shape
    weights, variance = np.full(k, 1 / k), np.zeros(k)
    for _ in range(6):
        off = times / (times @ weights)[:, None] - 1
        off -= off.mean(axis=0)  # an error common to all networks of a part comes from its reference
        seen = (off**2).sum(axis=0) / (n - 1)
        # each part contributes to the mean that it is compared with, so its variance is underestimated:
        # seen = (1 - 2 weight) * variance + variance of the mean
        own = float((weights**2 * seen / (1 - 2 * weights)).sum() / (1 + (weights**2 / (1 - 2 * weights)).sum()))
        variance = (seen - own) / (1 - 2 * weights)
        variance = np.maximum(variance, 0.1 * float(np.median(seen)))
        if variance.min() <= 0:
            return np.full(k, 1 / k), variance
        weights = 1 / variance / (1 / variance).sum()
        if (most := float(weights.max())) > 0.45:  # no single part may dominate
            even = (most - 0.45) / (most - 1 / k)
            weights = (1 - even) * weights + even / k
    return weights, variance


def shares(parts: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Weight of each part in the mean time of a network: noisier parts get less, where there are enough networks and
    parts to estimate that. `parts[i][p]` is the time of network i in part p in units of the reference's."""
    times = np.array(parts, dtype=float)
    n, k = times.shape
    return _weighed(times)[0] if n >= MANY and k >= 4 else np.full(k, 1 / k)


def noise_floor(parts: Sequence[Sequence[float]]) -> float:
    """RMSPE in percent that a perfect prediction of the networks' mean times (with `shares`) would show. The parts use
    new sessions, so a difference between parts is random error. With many networks their common factor is left out."""
    if not parts:
        return 0.0
    times = np.array(parts, dtype=float)
    n, k = times.shape
    if n >= MANY and k >= 4:
        weights, variance = _weighed(times)
        return round(100 * float(np.sqrt((weights**2 * variance).sum())), 3)
    off = times / times.mean(axis=1, keepdims=True) - 1
    free = n * (k - 1)
    if n >= MANY:
        off = off - off.mean(axis=0)
        free = (n - 1) * (k - 1)
    return round(100 * float(np.sqrt((off**2).sum() / free / k)), 3)


def sums(layers: Sequence[Sequence[float]], uses: Sequence[Sequence[int]]) -> list[list[float]]:
    """(networks, passes): sums of layer times; `layers[i][p]` is the time of layer i in pass p, `uses[j]` lists the
    layers of network j."""
    times = np.array(layers, dtype=float)
    return [times[list(use)].sum(axis=0).tolist() for use in uses]


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw run times in ms: `items[i][r]` and `anchor[r]` are those of round r."""

    items: tuple[tuple[tuple[float, ...], ...], ...]
    anchor: tuple[tuple[float, ...], ...]

    def anchor_ms(self) -> float:
        return p10([t for r in self.anchor for t in r])

    def ms(self, i: int) -> float:
        """p10 of item i."""
        return p10([t for r in self.items[i] for t in r])

    @property
    def timed_s(self) -> float:
        """Seconds in all timed runs."""
        return sum(t for item in (*self.items, self.anchor) for r in item for t in r) / 1e3

    def anchor_variation(self) -> float:
        """Coefficient of variation of the reference between rounds: a measure of drift."""
        medians = [float(np.median(r)) for r in self.anchor]
        return float(np.std(medians) / np.mean(medians)) if len(medians) > 1 else 0.0


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """No garbage collection, and `undisturbed`."""
    enabled = gc.isenabled()
    gc.collect(1)  # of the oldest generation, all that the process holds, it took half a second
    gc.disable()
    try:
        with undisturbed(threads):
            yield
    finally:
        if enabled:
            gc.enable()


def _visit(run: Run, runs: int, clock: Clock) -> tuple[float, ...]:
    run()  # not timed: the caches hold the data of the item before
    times = []
    for _ in range(runs):
        t = clock()
        run()
        times.append((clock() - t) * 1e3)
    return tuple(times)


def interleave(
    items: Sequence[Run],
    anchor: Run,
    *,
    rounds: int,
    seed: int,
    min_s: float = 0.0,
    max_s: float = math.inf,
    min_visit_ms: float = 0.6,
    max_runs: int = 8,
    min_runs: int = 1,
    slow_ms: float = math.inf,
    anchor_every: int = 24,
    threads: int = 1,
    clock: Clock | None = None,
) -> Samples:
    """Time `items` and `anchor` in shuffled order for `rounds` rounds, or more (at most twenty times as many) until
    `min_s` seconds have passed: a disturbance of 0.1 s must not cover all runs of short items.

    A visit is one run that is not timed and then `min_runs` to `max_runs` timed runs, more for short items, until about
    `min_visit_ms` are timed, and one of an item that takes `slow_ms` or more. After `max_s` seconds no further round
    starts, except the first FEWEST. Every round starts with the anchor, which is visited again after every
    `anchor_every` items, at least twice a round if there are two items. With more than one thread the runs are not
    pinned to one core. Runs are timed by the `run_clock` of the anchor, or all by `clock`.
    """
    rng = np.random.default_rng(seed)
    kept: list[list[tuple[float, ...]]] = [[] for _ in items]
    anchors: list[tuple[float, ...]] = []
    counts = [1] * len(items)
    every = max(1, min(anchor_every, (len(items) + 1) // 2))
    with _quiet(threads):
        wall, clock = clock or time.perf_counter, clock or run_clock(anchor, threads)
        began, r = wall(), 0
        while r < rounds or (r < 20 * rounds and wall() - began < min_s):
            now: list[float] = [*_visit(anchor, 1, clock)]
            for n, i in enumerate(rng.permutation(len(items))):
                times = _visit(items[i], counts[i], clock)
                if r == 0:
                    took = max(min(times), 1e-3)
                    counts[i] = 1 if took >= slow_ms else int(np.clip(min_visit_ms / took, min_runs, max_runs))
                    if counts[i] > len(times):
                        times += _visit(items[i], counts[i] - len(times), clock)
                kept[i].append(times)
                if (n + 1) % every == 0 and n + 1 < len(items):  # not at the end: the next round starts with it
                    now += _visit(anchor, 1, clock)
            anchors.append(tuple(now))
            r += 1
            if r >= FEWEST and wall() - began >= max_s:
                break
    return Samples(tuple(tuple(k) for k in kept), tuple(anchors))
