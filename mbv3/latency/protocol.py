"""The timing protocol: everything interleaved, nothing timed alone.

Noise is drift over time (two equal networks timed one after the other differ by up to 20 %, run by run
interleaved by less than 1 %), so every item is visited once a round, in shuffled order, with the reference
network among them; the statistic is the 10th percentile, and an item's time is reported relative to the
reference of the same rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3.latency.conditions import undisturbed
from mbv3.latency.sessions import Run

__all__ = ["Samples", "carried", "interleave", "noise_floor", "p10"]

Clock = Callable[[], float]


def p10(samples: Sequence[float] | NDArray[np.float64]) -> float:
    """The 10th percentile, the statistic of every time in mbv3."""
    return float(np.percentile(np.asarray(samples), 10))


MANY = 8  # networks: what so many share, a calibration takes up


def noise_floor(parts: Sequence[Sequence[float]]) -> float:
    """RMSPE in percent that a perfect prediction of networks' mean times would show: the root of their mean squared
    relative standard error. `parts[i]` are the times of network i, each over the reference of the same rounds, on
    sessions opened anew: what differs between them is chance.

    What all networks of a part share comes from the reference in it; of many networks it is left out, as a calibration
    on them takes it up.
    """
    if not parts:
        return 0.0
    times = np.array(parts)
    off = times / times.mean(axis=1, keepdims=True) - 1
    n, k = off.shape
    free = n * (k - 1)
    if n >= MANY:
        off = off - off.mean(axis=0)
        free = (n - 1) * (k - 1)
    return round(100 * float(np.sqrt((off**2).sum() / free / k)), 3)


def carried(layers: Sequence[Sequence[float]], uses: Sequence[Sequence[int]]) -> float:
    """RMSPE in percent that chance in the layers' mean times adds to the sums of networks: `layers[i]` are the times of
    layer i in each pass, `uses[j]` the layers of network j."""
    if not uses:
        return 0.0
    times = np.array(layers)
    mean, variance = times.mean(axis=1), times.var(axis=1, ddof=1) / times.shape[1]
    squares = [float(variance[u].sum() / mean[u].sum() ** 2) for u in map(list, uses)]
    return round(100 * float(np.sqrt(np.mean(squares))), 3)


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw run times in ms: `items[i][r]` and `anchor[r]` hold those of round r."""

    items: tuple[tuple[tuple[float, ...], ...], ...]
    anchor: tuple[tuple[float, ...], ...]

    def anchor_ms(self, rounds: slice = slice(None)) -> float:
        return p10([t for r in self.anchor[rounds] for t in r])

    def ms(self, i: int, rounds: slice = slice(None)) -> float:
        """p10 of item i."""
        return p10([t for r in self.items[i][rounds] for t in r])

    def anchor_variation(self) -> float:
        """Coefficient of variation of the reference between rounds: what drift there was."""
        medians = [float(np.median(r)) for r in self.anchor]
        return float(np.std(medians) / np.mean(medians)) if len(medians) > 1 else 0.0


@contextmanager
def _quiet(pin: bool) -> Iterator[None]:
    """No garbage collection, no disturbance that can be helped."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with undisturbed(pin):
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
    min_visit_ms: float = 0.6,
    max_runs: int = 8,
    min_runs: int = 1,
    anchor_every: int = 24,
    pin: bool = True,
    clock: Clock = time.perf_counter,
    between: Callable[[int], None] = lambda done: None,
) -> Samples:
    """Time `items` and `anchor` in shuffled order for `rounds` rounds, or more, up to twenty times as many, until
    `min_s` seconds have passed: a disturbance of a tenth of a second must not cover all runs of short items.

    Each visit is one unmeasured run and then `min_runs` to `max_runs` measured ones, more for short items,
    until about `min_visit_ms` are timed. The anchor begins every round and is visited again every `anchor_every`
    items, at least twice a round if there are two items. `between(done)` is called after every round.
    """
    rng = np.random.default_rng(seed)
    kept: list[list[tuple[float, ...]]] = [[] for _ in items]
    anchors: list[tuple[float, ...]] = []
    counts = [min_runs] * len(items)
    every = max(1, min(anchor_every, (len(items) + 1) // 2))
    with _quiet(pin):
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
            between(r)
    return Samples(tuple(tuple(k) for k in kept), tuple(anchors))
