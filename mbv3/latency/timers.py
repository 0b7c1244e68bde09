"""Timing one step of a pass: sessions of this process, interleaved. A kit contains a copy of this file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from mbv3.latency.conditions import Watch, setting
from mbv3.latency.protocol import interleave, p10
from mbv3.latency.sessions import Run

__all__ = [
    "LAYER_ROUNDS",
    "NETWORKS_S",
    "NETWORK_ROUNDS",
    "SLOW_MS",
    "InProcess",
    "Timer",
    "time_layers",
    "time_networks",
]

LAYERS_S, NETWORKS_S = 0.3, 1.2  # least time in s for a chunk of layers, and for one part of networks
# Rounds of a pass. A disturbance lasts for seconds, so many rounds of few runs are better than few rounds of many runs:
# over 36 networks the error of a part was 1.5 % with twelve rounds, 3 % with three rounds of two runs, 9 % with one
# round of five. But every visit starts with a run that is not timed, and every pass opens all sessions: so two runs a
# visit, and one of items that take so long that the next run is another moment.
LAYER_ROUNDS, NETWORK_ROUNDS = 10, 14
SLOW_MS = 5.0


class Timer(Protocol):
    """Times models by number: first the layers of a work order, then its networks, then the reference network.

    Each method visits `models` and the reference in shuffled order, for at most about `most_s` seconds. It returns a
    line of the journal without the model numbers: `reference_ms`; `ms`, for a layer (p10, runs, mean, deviation) and
    for a network p10; for networks `drift`, the variation of the reference between rounds; `timed`, seconds in timed
    runs; `s`, seconds in all; `conditions` by name."""

    def layers(self, models: Sequence[int], *, seed: int, most_s: float) -> dict[str, Any]: ...

    def networks(self, models: Sequence[int], *, seed: int, most_s: float) -> dict[str, Any]: ...


def time_layers(
    opened: Sequence[Run],
    anchor: Run,
    *,
    rounds: int,
    seed: int,
    max_s: float = math.inf,
    max_runs: int = 4,
    threads: int = 1,
) -> tuple[list[list[float]], float, float]:
    """Run times in ms of each open layer, the p10 of the anchor, and the seconds in timed runs, of one pass."""
    samples = interleave(
        opened, anchor, rounds=rounds, seed=seed, min_s=LAYERS_S, max_s=max_s, min_runs=2,
        max_runs=max_runs, slow_ms=SLOW_MS, threads=threads,
    )  # fmt: skip
    return [[t for r in item for t in r] for item in samples.items], samples.anchor_ms(), samples.timed_s


def time_networks(
    opened: Sequence[Run],
    anchor: Run,
    *,
    rounds: int,
    seed: int,
    min_s: float = NETWORKS_S,
    max_s: float = math.inf,
    threads: int = 1,
) -> tuple[list[float], float, float]:
    """p10 in ms of each open network, the variation of the anchor between rounds, and the seconds in timed runs, of one
    part."""
    samples = interleave(
        opened, anchor, rounds=rounds, seed=seed, min_s=min_s, max_s=max_s, min_runs=2, max_runs=2, slow_ms=SLOW_MS,
        threads=threads,
    )  # fmt: skip
    return [samples.ms(i) for i in range(len(opened))], samples.anchor_variation(), samples.timed_s


def _row(times: Sequence[float]) -> list[float | int]:
    return [p10(times), len(times), float(np.mean(times)), float(np.std(times))]


class InProcess:
    """A Timer for sessions of this process: `opened(i)` opens model i; `reference` is the number of the reference."""

    def __init__(
        self,
        opened: Callable[[int], Run],
        reference: int,
        threads: int = 1,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._opened, self._reference, self._threads, self._clock = opened, reference, threads, clock
        self._written: set[int] = set()

    @cached_property
    def _anchor(self) -> Run:
        return self._opened(self._reference)

    def _step(
        self, models: Sequence[int], timed: Callable[[list[Run], Run], tuple[dict[str, Any], float]]
    ) -> dict[str, Any]:
        anchor, watch, began = self._anchor, Watch(), self._clock()
        sessions = [self._opened(i) for i in models]
        if not self._written.issuperset(models):  # the time for writing and quantizing the models does not count
            self._written.update(models)
            began = self._clock()
        entry, timed_s = timed(sessions, anchor)
        took = {"s": round(self._clock() - began, 3), "timed": round(timed_s, 3)}
        return {**entry, **took, "conditions": {**watch.seen(), **setting(self._threads)}}

    def layers(self, models: Sequence[int], *, seed: int, most_s: float) -> dict[str, Any]:
        def timed(sessions: list[Run], anchor: Run) -> tuple[dict[str, Any], float]:
            times, now, timed_s = time_layers(
                sessions, anchor, rounds=LAYER_ROUNDS, seed=seed, max_s=most_s, threads=self._threads
            )
            return {"reference_ms": now, "ms": [_row(t) for t in times]}, timed_s

        return self._step(models, timed)

    def networks(self, models: Sequence[int], *, seed: int, most_s: float) -> dict[str, Any]:
        def timed(sessions: list[Run], anchor: Run) -> tuple[dict[str, Any], float]:
            ms, drift, timed_s = time_networks(
                sessions, anchor, rounds=NETWORK_ROUNDS, seed=seed, max_s=most_s, threads=self._threads
            )
            return {"reference_ms": ms[-1], "drift": drift, "ms": ms[:-1]}, timed_s

        # the reference is opened and visited like the others: visited more often it would be faster
        return self._step([*models, self._reference], timed)
