"""The timing protocol: everything interleaved, nothing timed alone.

Noise is drift over time (two equal networks timed one after the other differ by up to 20 %, run by run
interleaved by less than 1 %), so every item is visited once a round, in shuffled order, with the reference
network among them; the statistic is the 10th percentile, and an item's time is reported relative to the
reference of the same rounds.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3.latency.sessions import Run

__all__ = ["Samples", "interleave", "p10"]

Clock = Callable[[], float]


def p10(samples: Sequence[float] | NDArray[np.float64]) -> float:
    """The 10th percentile, the statistic of every time in mbv3."""
    return float(np.percentile(np.asarray(samples), 10))


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
    """No garbage collection; this thread on one core."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    cores = os.sched_getaffinity(0) if pin and hasattr(os, "sched_setaffinity") else None
    try:
        if cores:
            os.sched_setaffinity(0, {max(cores)})  # core 0 takes the interrupts on most machines
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
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
