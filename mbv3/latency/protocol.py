"""The timing protocol: everything interleaved, nothing timed alone.

Noise is drift over time (two equal networks timed one after the other differ by up to 20 %, run by run
interleaved by less than 1 %), so every item is visited once a round, in shuffled order, with the reference
network among them.

A network's time is the 10th percentile of its runs, told over the reference's of the same rounds. A layer's is the 2nd
percentile of its runs in all passes together, as it is: a disturbance only adds, and a short run finds a moment without
one. 200 layers of one server core, timed in several of its states from quiet to 16 % slower throughout, differed
between two of these by 3.2 % (RMS) so told, by 5.2 % in the means of their passes' 10th percentiles, in which small
layers suffer more than large ones; by 2.7 % in their fastest runs, but those of large layers were erratic, and so were
sums.
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

__all__ = ["Layers", "Samples", "fast", "interleave", "low", "noise_floor", "p10", "shares"]

Clock = Callable[[], float]


def p10(samples: Sequence[float] | NDArray[np.float64]) -> float:
    """The 10th percentile, the statistic of networks."""
    return float(np.percentile(np.asarray(samples), 10))


FEWEST = 3  # rounds
FAST = 2  # percent: the percentile of a layer's runs
LOWEST = 8  # of the runs of one pass are kept
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


def low(runs: Sequence[float]) -> list[float]:
    """The fastest of `runs`: as many as `fast` may ask for of some passes."""
    return sorted(runs)[:LOWEST]


def fast(lows: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 2nd percentile of the runs of each layer: `lows[i]` are the fastest of its `n[i]`, in any order."""
    ordered = np.sort(lows, axis=1)
    rank = np.minimum(FAST / 100 * (n - 1), np.isfinite(ordered).sum(axis=1) - 1)
    floor = np.floor(rank).astype(int)
    each = np.arange(len(ordered))
    below, above = ordered[each, floor], ordered[each, np.minimum(np.ceil(rank).astype(int), ordered.shape[1] - 1)]
    return np.asarray(below + (above - below) * (rank - floor))


class Layers:
    """Runs of layers in several passes. `passes[p][i]` is (fastest runs, number of runs) of layer i in pass p; each of
    `steps` is a pass and the layers that were timed together in it.

    A step is slowed down where three quarters of its layers were faster than in every other pass, to that: a build may
    be gone on with on a machine that has got slower, or be let run faster for a moment. Whole passes would not need it.
    """

    def __init__(
        self,
        passes: Sequence[Sequence[tuple[Sequence[float], int]]],
        steps: Sequence[tuple[int, Sequence[int]]] = (),
    ) -> None:
        self._lows = np.full((len(passes[0]), len(passes), LOWEST), np.inf)
        for p, rows in enumerate(passes):
            for i, (runs, _) in enumerate(rows):
                self._lows[i, p, : len(runs)] = low(runs)
        self._n = np.array([[n for _, n in rows] for rows in passes], dtype=float).T
        fastest = self._lows.min(axis=2)
        for p, ids in steps if len(passes) > 1 else ():
            mine = list(ids)
            others = np.delete(fastest[mine], p, axis=1).min(axis=1)
            self._lows[mine, p] /= min(1.0, float(np.percentile(fastest[mine, p] / others, 75)))

    def ms(self) -> NDArray[np.float64]:
        """The time of each layer."""
        return self._of(self._lows, self._n)

    @staticmethod
    def _of(lows: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
        return fast(lows.reshape(len(lows), -1), n.sum(axis=1))

    def chance(self, uses: Sequence[Sequence[int]]) -> float:
        """What chance adds, in percent, to sums of layers: `uses[j]` are those of network j. By leaving out each pass
        in turn (jackknife, Tukey 1958); of many networks what they share is left out, as a calibration takes it up."""
        n, k = len(uses), self._n.shape[1]
        if not n or k < 2:
            return 0.0
        without = np.stack(
            [self._of(np.delete(self._lows, p, axis=1), np.delete(self._n, p, axis=1)) for p in range(k)], axis=1
        )
        sums = np.array([without[list(use)].sum(axis=0) for use in uses])
        off = sums / sums.mean(axis=1, keepdims=True) - 1
        free = n
        if n >= MANY:
            off = off - off.mean(axis=0)
            free = n - 1
        return round(100 * float(np.sqrt((off**2).sum() / free * (k - 1) / k)), 3)


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
