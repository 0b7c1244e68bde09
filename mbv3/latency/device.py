"""This machine as a device: layers and whole networks, measured beside the reference network."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.protocol import noise_floor, shares
from mbv3.latency.runner import grouped, grouped_evenly
from mbv3.latency.runtime import Runtime
from mbv3.latency.table import Timed
from mbv3.latency.timers import NETWORK_ROUNDS, NETWORKS_S, time_layers, time_networks
from mbv3.spec import ArchSpec, LayerKey, lower, lower_key

__all__ = ["Device", "Measured"]

NEAR = 10  # layers with a known time that scale the time of a new one
FAST = 2  # percentile of the few runs of a layer: a disturbance only adds time
PARTS, MOST_PARTS = 4, 32
NOISE = 0.7  # percent; negligible beside a table's error of 2 %


@dataclass(frozen=True, slots=True)
class Measured:
    """Whole networks timed in the same rounds as the reference.

    `ms` are in ms of the table: t / t_reference_now * t_reference_table, the mean of `parts` weighted by their
    `shares`. Each of `parts` uses new sessions, so a difference between them is random error. `raw_reference_ms` is the
    time of the reference now."""

    ms: tuple[float, ...]
    parts: tuple[tuple[float, ...], ...]
    raw_reference_ms: float
    drift: float  # coefficient of variation of the reference over the rounds

    @classmethod
    def of(cls, times: Sequence[Sequence[float]], reference: Sequence[float], drift: float) -> Measured:
        """From (parts, networks) times in ms, and the raw ms of the reference in each group of each part."""
        parts = tuple(zip(*times, strict=True))
        weights = shares(parts).tolist() if parts else []
        ms = tuple(sum(w * t for w, t in zip(weights, part, strict=True)) for part in parts)
        return cls(ms, parts, sum(reference) / len(reference), drift)

    @property
    def errors_ms(self) -> tuple[float, ...]:
        """Standard error of each of `ms`, from the differences between its parts."""
        return tuple(statistics.stdev(p) / math.sqrt(len(p)) for p in self.parts)

    @property
    def noise_floor(self) -> float:
        """RMSPE in percent that a perfect prediction of `ms` would show."""
        return noise_floor(self.parts)


def layer_bytes(key: LayerKey) -> int:
    layer = lower_key(key)
    return 4 * (2 * layer.params + sum(op.cout * op.hout * op.wout for op in layer.ops)) + 300_000


def network_bytes(spec: ArchSpec) -> int:
    """Bytes of the weights, as given and as the runtime packs them, and of the activations that exist together."""
    ops = [op for layer in lower(spec) for op in layer.ops]
    return 4 * (2 * sum(op.params for op in ops) + 4 * max(op.cout * op.hout * op.wout for op in ops)) + 2_000_000


def chunks(keys: Sequence[LayerKey]) -> list[list[LayerKey]]:
    """`keys` in groups that may be open together."""
    return [[keys[i] for i in group] for group in grouped(range(len(keys)), [layer_bytes(k) for k in keys])]


def _scale(now: float, known_now: NDArray[np.float64], known: NDArray[np.float64]) -> float:
    """The factor from ms now to ms of the table for a layer that takes `now`, from the NEAR known layers of its
    size."""
    near = np.argsort(np.abs(np.log(known_now / now)), kind="stable")[:NEAR]
    from scipy.stats import trim_mean  # a second to import, needed for rows on demand only

    # without the outer quarters no single row decides, and the random error is smaller than that of the median
    return float(trim_mean(known[near] / known_now[near], 0.25))


class Device:
    """This machine with one runtime, and the reference network that its times are relative to.

    `reference_ms`: the reference's time in the table; without it the reference is measured now."""

    def __init__(self, runtime: Runtime, reference: ArchSpec, reference_ms: float | None = None) -> None:
        self.runtime = runtime
        self.reference = reference
        self._anchor = runtime.network(reference)
        self.reference_ms = 1.0
        self.reference_ms = self._reference_now() if reference_ms is None else reference_ms

    def _reference_now(self) -> float:
        """Measured as `networks` does, between other sessions, not in a loop with its weights in cache."""
        return self.networks([self.reference]).raw_reference_ms

    @property
    def fingerprint(self) -> Fingerprint:
        return self.runtime.fingerprint

    def layers(
        self, keys: Sequence[LayerKey], known: Mapping[LayerKey, float] | None = None, *, passes: int = 1
    ) -> dict[LayerKey, Timed]:
        """Hot times of layers that a table lacks, in ms of the table.

        Each of `passes` goes over all layers, chunk by chunk, in new sessions. One pass is quick and has an error of a
        few percent a layer. With several, a disturbance shorter than a pass over several chunks does not spoil every
        pass of a layer. `known` maps layers of the table to their ms; they are timed beside each chunk, and each new
        layer is scaled by the NEAR known ones of its size, because a disturbance changes small and large layers by
        different factors. Without `known` all are scaled by the reference network.
        """
        known_keys, known_ms = list(known or {}), np.array(list((known or {}).values()))
        n = len(known_keys)
        groups = [[*known_keys, *chunk] for chunk in chunks(keys)]
        runs: list[list[list[list[float]]]] = [[] for _ in groups]
        references: list[list[float]] = [[] for _ in groups]
        for p, g in itertools.product(range(passes), range(len(groups))):
            seed = p * len(groups) + g
            # the place of a session in memory changes its time, so the order of opening is random
            # another order than that of the visits
            order = np.random.default_rng((seed, 1)).permutation(len(groups[g]))
            opened = [self.runtime.layer(groups[g][i]) for i in order]
            items = [opened[i] for i in np.argsort(order)]
            times, reference_ms, _ = time_layers(
                items, items[0] if n else self._anchor, rounds=3, seed=seed, max_runs=2,
                threads=self.fingerprint.threads,
            )  # fmt: skip
            del items, opened
            references[g].append(reference_ms)
            runs[g].append(times)
        out = {}
        for group, timed, reference in zip(groups, runs, references, strict=True):
            every = [np.concatenate(times) for times in zip(*timed, strict=True)]
            fast = np.array([np.percentile(times, FAST) for times in every])
            for i, key in enumerate(group[n:], n):
                scale = _scale(fast[i], fast[:n], known_ms) if n else self.reference_ms / min(reference)
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
        """Whole networks, interleaved with the reference network in the same rounds.

        There are `parts` (2 or more) of `rounds` each, in new sessions, because the place of a session's weights in
        memory changes its time. The reference is visited like the other networks: visited more often it would be
        faster.

        `more_s`: further parts are timed for this many seconds while the noise floor is above NOISE. `max_s`: after
        this many seconds no further round of a part starts, except the first three."""
        # networks that do not fit in memory together are timed in groups, each with the reference
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
