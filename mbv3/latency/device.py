"""A device that is at hand: layers and whole networks measured against the reference network."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.protocol import noise_floor, shares
from mbv3.latency.runner import grouped, grouped_evenly
from mbv3.latency.runtime import Runtime
from mbv3.latency.table import Timed
from mbv3.latency.timers import NETWORK_ROUNDS, NETWORKS_S, time_layers, time_networks
from mbv3.spec import ArchSpec, LayerKey, lower, lower_key

__all__ = ["Device", "Measured"]

NEAR = 10  # layers of known time that another is told against
FAST = 2  # percentile of the few runs of a layer: what disturbs only adds
PARTS, MOST_PARTS = 4, 32
NOISE = 0.7  # percent; what a table's error of 2 % hardly feels


@dataclass(frozen=True, slots=True)
class Measured:
    """Whole networks timed in the same rounds as the reference.

    `ms` are at the table's reference: t / t_reference_now * t_reference_table, the mean of `parts` with their
    `shares`; these are the same on sessions opened anew: what differs between them is chance.
    `raw_reference_ms` is the reference's time now.
    """

    ms: tuple[float, ...]
    parts: tuple[tuple[float, ...], ...]
    raw_reference_ms: float
    drift: float  # coefficient of variation of the reference over the rounds

    @classmethod
    def of(cls, times: Sequence[Sequence[float]], reference: Sequence[float], drift: float) -> Measured:
        """From the ms of every network in each part, and the reference's raw ms in each group of each part."""
        parts = tuple(zip(*times, strict=True))
        weights = shares(parts).tolist() if parts else []
        ms = tuple(sum(w * t for w, t in zip(weights, part, strict=True)) for part in parts)
        return cls(ms, parts, sum(reference) / len(reference), drift)

    @property
    def errors_ms(self) -> tuple[float, ...]:
        """Standard error of each of `ms`, from how much its parts differ."""
        return tuple(statistics.stdev(p) / math.sqrt(len(p)) for p in self.parts)

    @property
    def noise_floor(self) -> float:
        """RMSPE in percent that a perfect prediction of `ms` would show."""
        return noise_floor(self.parts)


def layer_bytes(key: LayerKey) -> int:
    layer = lower_key(key)
    return 4 * (2 * layer.params + sum(op.cout * op.hout * op.wout for op in layer.ops)) + 300_000


def network_bytes(spec: ArchSpec) -> int:
    """Weights, once as given and once as the runtime packs them, and the activations alive at one time."""
    ops = [op for layer in lower(spec) for op in layer.ops]
    return 4 * (2 * sum(op.params for op in ops) + 4 * max(op.cout * op.hout * op.wout for op in ops)) + 2_000_000


def chunks(keys: Sequence[LayerKey]) -> list[list[LayerKey]]:
    """Runs of keys that may be open together."""
    return [[keys[i] for i in group] for group in grouped(range(len(keys)), [layer_bytes(k) for k in keys])]


def _scale(now: float, known_now: NDArray[np.float64], known: NDArray[np.float64]) -> float:
    """By what a layer that takes `now` is to be multiplied, from the NEAR in size of those `known`."""
    near = np.argsort(np.abs(np.log(known_now / now)), kind="stable")[:NEAR]
    # the mean without the outer quarters: no row decides, and less is left to chance than by the median
    return float(trim_mean(known[near] / known_now[near], 0.25))


class Device:
    """This machine under one runtime, with the reference network that its times are told against."""

    def __init__(self, runtime: Runtime, reference: ArchSpec, reference_ms: float | None = None) -> None:
        self.runtime = runtime
        self.reference = reference
        self._anchor = runtime.network(reference)
        self.reference_ms = self._first(reference_ms)

    def _first(self, reference_ms: float | None) -> float:
        if reference_ms is not None:
            return reference_ms
        # as `networks` times it: in turn with other sessions, not alone in a loop with its weights in cache
        self.reference_ms = 1.0
        return self.networks([self.reference]).raw_reference_ms

    @property
    def fingerprint(self) -> Fingerprint:
        return self.runtime.fingerprint

    def layers(
        self, keys: Sequence[LayerKey], known: Mapping[LayerKey, float] | None = None, *, passes: int = 1
    ) -> dict[LayerKey, Timed]:
        """Hot times of layers in `passes`, each over them all, chunk by chunk, on sessions opened anew. One is quick,
        and off by a few percent a layer; what disturbs for less than a pass over several chunks spoils no layer's every
        pass. They are told against layers whose ms in a table are `known`, timed beside each chunk, each against those
        NEAR it in size: what disturbs, and what few runs miss of the fastest, is not the same for small and large
        layers. Without `known` there is the reference alone."""
        told, told_ms = list(known or {}), np.array(list((known or {}).values()))
        groups = [[*told, *chunk] for chunk in chunks(keys)]
        runs: list[list[list[list[float]]]] = [[] for _ in groups]
        references: list[list[float]] = [[] for _ in groups]
        for p, g in itertools.product(range(passes), range(len(groups))):
            seed = p * len(groups) + g
            # opened in any order: where a session's memory happens to lie moves its time
            order = np.random.default_rng((seed, 1)).permutation(len(groups[g]))  # not that of the visits
            opened = [self.runtime.layer(groups[g][i]) for i in order]
            items = [opened[i] for i in np.argsort(order)]
            times, reference_ms, _ = time_layers(
                items, items[0] if told else self._anchor, rounds=3, seed=seed, max_runs=2,
                threads=self.fingerprint.threads,
            )  # fmt: skip
            del items, opened
            references[g].append(reference_ms)
            runs[g].append(times)
        out = {}
        for group, timed, reference in zip(groups, runs, references, strict=True):
            every = [np.concatenate(times) for times in zip(*timed, strict=True)]
            fast = np.array([np.percentile(times, FAST) for times in every])
            for i, key in enumerate(group[len(told) :], len(told)):
                scale = _scale(fast[i], fast[: len(told)], told_ms) if told else self.reference_ms / min(reference)
                mean, std = float(every[i].mean()), float(every[i].std())
                out[key] = Timed(float(fast[i]) * scale, len(every[i]), mean * scale, std * scale)
        return out

    def networks(
        self,
        specs: Sequence[ArchSpec],
        *,
        rounds: int = NETWORK_ROUNDS,
        parts: int = PARTS,
        seed: int = 0,
        more_s: float = 0.0,
        max_s: float = math.inf,
    ) -> Measured:
        """Whole networks, interleaved with the reference in the same rounds.

        There are `parts` (2 or more) of `rounds` each, on sessions opened anew, as where a session's weights happen to
        lie moves a time too. The reference is one of the networks in turn, visited as the others are: timed more often
        it would run hotter.

        `more_s`: further parts are timed for so many seconds, while the noise floor is over NOISE. `max_s`: after so
        many seconds a part has no further round, but for three.
        """
        # networks that would not fit in memory together are timed in groups, each with the reference
        groups = grouped_evenly([network_bytes(s) for s in specs])
        times: list[list[float]] = []
        reference: list[float] = []
        drift = 0.0
        began = time.monotonic()
        while True:
            part = [0.0] * len(specs)
            for g, mine in enumerate(groups):
                opened = [self.runtime.network(specs[i]) for i in mine]
                opened.append(self.runtime.network(self.reference))
                ms, varied, _ = time_networks(
                    opened, self._anchor, rounds=rounds, seed=parts * (seed + g) + len(times),
                    min_s=NETWORKS_S / len(groups), max_s=max_s / len(groups), threads=self.fingerprint.threads,
                )  # fmt: skip
                for i, t in zip(mine, ms, strict=False):
                    part[i] = t / ms[-1] * self.reference_ms
                reference.append(ms[-1])
                drift = max(drift, varied)
                del opened
            times.append(part)
            if len(times) < parts:
                continue
            measured = Measured.of(times, reference, drift)
            if measured.noise_floor <= NOISE or time.monotonic() - began >= more_s or len(times) >= MOST_PARTS:
                return measured
