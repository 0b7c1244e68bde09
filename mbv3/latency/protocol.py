"""The timing protocol: everything interleaved, nothing timed alone.

Noise is drift over time (two equal networks timed one after the other differ by up to 20 %, run by run
interleaved by less than 1 %), so every item is visited once a round, in shuffled order, with the reference
network among them; the statistic is the 10th percentile, and an item's time is reported relative to the
reference of the same rounds.
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

from mbv3.latency.conditions import undisturbed
from mbv3.latency.sessions import Run

__all__ = ["Samples", "interleave", "noise_floor", "p10", "shares", "sums"]

Clock = Callable[[], float]


def p10(samples: Sequence[float] | NDArray[np.float64]) -> float:
    """The 10th percentile, the statistic of every time but those of layers on demand (`device.FAST`)."""
    return float(np.percentile(np.asarray(samples), 10))


FEWEST = 3  # rounds
MANY = 8  # networks: what so many share a calibration takes up, and how noisy a part was can be told from them


def _weighed(times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of the parts of (networks, parts), inverse to the variance of what differs by chance between networks,
    and that variance, relative."""
    n, k = times.shape
    weights, variance = np.full(k, 1 / k), np.zeros(k)
    for _ in range(6):
        off = times / (times @ weights)[:, None] - 1
        off -= off.mean(axis=0)  # what all networks of a part share comes from the reference in it
        seen = (off**2).sum(axis=0) / (n - 1)
        # a part's share in the mean that it is held against makes it look nearer than it is, the others' further:
        # seen = (1 - 2 weight) * variance + the mean's own
        own = float((weights**2 * seen / (1 - 2 * weights)).sum() / (1 + (weights**2 / (1 - 2 * weights)).sum()))
        variance = (seen - own) / (1 - 2 * weights)
        variance = np.maximum(variance, 0.1 * float(np.median(seen)))
        if variance.min() <= 0:
            return np.full(k, 1 / k), variance
        weights = 1 / variance / (1 / variance).sum()
        if (most := float(weights.max())) > 0.45:  # no part alone
            even = (most - 0.45) / (most - 1 / k)
            weights = (1 - even) * weights + even / k
    return weights, variance


def shares(parts: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """How much each part counts in the mean time of a network: the less, the noisier it was, where there are networks
    and parts enough to tell. `parts[i][p]` is the time of network i in part p, over the reference's."""
    times = np.array(parts, dtype=float)
    n, k = times.shape
    return _weighed(times)[0] if n >= MANY and k >= 4 else np.full(k, 1 / k)


def noise_floor(parts: Sequence[Sequence[float]]) -> float:
    """RMSPE in percent that a perfect prediction of networks' mean times (with `shares`) would show: what differs
    between parts, which are on sessions opened anew, is chance. Of many networks what they share is left out."""
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
    """Of every network the sum of its layers in each pass: `layers[i][p]` is the time of layer i in pass p, `uses[j]`
    the layers of network j."""
    times = np.array(layers, dtype=float)
    return [times[list(use)].sum(axis=0).tolist() for use in uses]


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw run times in ms: `items[i][r]` and `anchor[r]` hold those of round r."""

    items: tuple[tuple[tuple[float, ...], ...], ...]
    anchor: tuple[tuple[float, ...], ...]

    def anchor_ms(self) -> float:
        return p10([t for r in self.anchor for t in r])

    def ms(self, i: int) -> float:
        """p10 of item i."""
        return p10([t for r in self.items[i] for t in r])

    @property
    def timed_s(self) -> float:
        """Seconds of all runs that were timed."""
        return sum(t for item in (*self.items, self.anchor) for r in item for t in r) / 1e3

    def anchor_variation(self) -> float:
        """Coefficient of variation of the reference between rounds: what drift there was."""
        medians = [float(np.median(r)) for r in self.anchor]
        return float(np.std(medians) / np.mean(medians)) if len(medians) > 1 else 0.0


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """No garbage collection, no disturbance that can be helped."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with undisturbed(threads):
            yield
    finally:
        if enabled:
            gc.enable()


def _visit(run: Run, runs: int, clock: Clock) -> tuple[float, ...]:
    run()  # hot: what ran before has emptied the caches
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
    anchor_every: int = 24,
    threads: int = 1,
    clock: Clock = time.perf_counter,
) -> Samples:
    """Time `items` and `anchor` in shuffled order for `rounds` rounds, or more, up to twenty times as many, until
    `min_s` seconds have passed: a disturbance of a tenth of a second must not cover all runs of short items.

    Each visit is one unmeasured run and then `min_runs` to `max_runs` measured ones, more for short items, until about
    `min_visit_ms` are timed. After `max_s` seconds no round begins but the first FEWEST. The anchor begins every round
    and is visited again every `anchor_every` items, at least twice a round if there are two items.
    With more than one of `threads` a run is not kept on one core.
    """
    rng = np.random.default_rng(seed)
    kept: list[list[tuple[float, ...]]] = [[] for _ in items]
    anchors: list[tuple[float, ...]] = []
    counts = [min_runs] * len(items)
    every = max(1, min(anchor_every, (len(items) + 1) // 2))
    with _quiet(threads):
        began, r = clock(), 0
        while r < rounds or (r < 20 * rounds and clock() - began < min_s):
            now: list[float] = [*_visit(anchor, 1, clock)]
            for n, i in enumerate(rng.permutation(len(items))):
                times = _visit(items[i], counts[i], clock)
                if r == 0:
                    counts[i] = int(np.clip(min_visit_ms / max(min(times), 1e-3), min_runs, max_runs))
                    if counts[i] > len(times):
                        times += _visit(items[i], counts[i] - len(times), clock)
                kept[i].append(times)
                if (n + 1) % every == 0 and n + 1 < len(items):  # not at the end: it begins the next round
                    now += _visit(anchor, 1, clock)
            anchors.append(tuple(now))
            r += 1
            if r >= FEWEST and clock() - began >= max_s:
                break
    return Samples(tuple(tuple(k) for k in kept), tuple(anchors))
