"""What times a step of a pass: sessions of this process, interleaved. Travels in a kit as it is."""

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

__all__ = ["LAYER_ROUNDS", "NETWORKS_S", "NETWORK_ROUNDS", "InProcess", "Timer", "time_layers", "time_networks"]

LAYERS_S, NETWORKS_S = 0.3, 1.2  # at least so long are a chunk of layers, and one part of networks, timed
# Rounds of a pass. What spoils a time lasts for seconds, so many rounds of few runs beat few of many: over 36 networks
# a part of twelve rounds was off by 1.5 %, of three rounds with two runs by 3 %, of one round with five by 9 %. But
# every visit begins with a run that is not timed, and every pass with opening all anew: two runs a visit, not one.
LAYER_ROUNDS, NETWORK_ROUNDS = 10, 14


class Timer(Protocol):
    """Times models that it knows by number: the layers of a work, behind them its networks, at last the reference.

    Each method visits them all in mixed order, the reference among them, for about `most_s` seconds at most, and
    returns a journal's line but for what was timed: `reference_ms`; `ms`, of a layer (p10, runs, mean, deviation), of a
    network p10; `drift`, the reference's variation between rounds, with networks; `timed`, the seconds of timed runs,
    `s`, those of all; `conditions` by their names.
    """

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
    """Run times in ms of each open layer, and the anchor's p10, of one pass; and the seconds of all timed runs."""
    samples = interleave(
        opened, anchor, rounds=rounds, seed=seed, min_s=LAYERS_S, max_s=max_s, min_runs=2,
        max_runs=max_runs, threads=threads,
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
    """p10 in ms of each open network in one part, the anchor's variation between rounds, the seconds of all timed
    runs."""
    samples = interleave(
        opened, anchor, rounds=rounds, seed=seed, min_s=min_s, max_s=max_s, min_runs=2, max_runs=2, threads=threads
    )
    return [samples.ms(i) for i in range(len(opened))], samples.anchor_variation(), samples.timed_s


def _row(times: Sequence[float]) -> list[float | int]:
    return [p10(times), len(times), float(np.mean(times)), float(np.std(times))]


class InProcess:
    """A Timer on sessions that `opened(i)` opens, each on `threads`; `reference` is the number of the reference."""

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
        if not self._written.issuperset(models):  # writing and quantizing the models is no timing
            self._written.update(models)
            began = self._clock()
        said, timed_s = timed(sessions, anchor)
        took = {"s": round(self._clock() - began, 3), "timed": round(timed_s, 3)}
        return {**said, **took, "conditions": {**watch.seen(), **setting(self._threads)}}

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

        # the reference is one of them in turn, opened anew and visited as they are: timed more often it would be hotter
        return self._step([*models, self._reference], timed)
