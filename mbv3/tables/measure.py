"""Whole networks measured on this machine: one of them, or a list for a transfer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mbv3.latency import Device, LatencyTable, Measured, MeasuredNetworks, Runtime, check_minutes
from mbv3.space import SearchSpace
from mbv3.spec import ArchSpec
from mbv3.tables.check import check_count, informative_networks
from mbv3.tables.plan import space_id
from mbv3.tables.reference import reference_at, reference_of

__all__ = [
    "AIM",
    "VERDICT_PARTS",
    "VERDICT_S",
    "MeasuredList",
    "MeasuredTime",
    "Whole",
    "measure_list",
    "measure_network",
    "measure_verdict",
    "measure_whole",
]

WHOLE_S = 1.5  # seconds of a part, and three rounds at least
AIM = 0.985  # of the target: the verdict asks for two of its own standard errors below the target, about 1 %
VERDICT_PARTS = 8  # the error of a part is about 1.5 %, so that of their mean is 0.5 %
VERDICT = (VERDICT_PARTS // 2, VERDICT_PARTS // 2, VERDICT_PARTS)  # parts of a verdict before each look
VERDICT_S = sum(VERDICT) * WHOLE_S  # of a fast network


@dataclass(frozen=True, slots=True)
class Whole:
    """A network measured whole: its time and standard error in ms of the table, and the raw ms of the reference."""

    ms: float
    error_ms: float
    raw_reference_ms: float

    @property
    def most_ms(self) -> float:
        """Upper bound: two standard errors above `ms`."""
        return self.ms + 2 * self.error_ms

    @property
    def least_ms(self) -> float:
        """Lower bound: two standard errors below `ms`."""
        return self.ms - 2 * self.error_ms

    @classmethod
    def of(cls, parts: Sequence[Measured]) -> Whole:
        """From measurements of one network, every part of which counts alike."""
        ms = [t for m in parts for t in m.parts[0]]
        error = statistics.stdev(ms) / math.sqrt(len(ms))
        return cls(statistics.fmean(ms), error, statistics.fmean(m.raw_reference_ms for m in parts))


def measure_whole(device: Device, spec: ArchSpec, parts: int = VERDICT_PARTS) -> Whole:
    """`spec` measured whole in `parts` parts, each with new sessions and twelve rounds or more, fewer if it is slow."""
    return Whole.of([device.networks([spec], parts=parts, seed=parts, max_s=WHOLE_S)])


def measure_verdict(device: Device, spec: ArchSpec, target_ms: float) -> Whole:
    """`spec` measured whole until it is clear that it is over `target_ms`, or not within it by two standard errors; at
    most in twice VERDICT_PARTS, because what is found within is delivered and measured again."""
    done: list[Measured] = []
    for parts in VERDICT:
        done.append(device.networks([spec], parts=parts, seed=VERDICT_PARTS + len(done), max_s=WHOLE_S))
        whole = Whole.of(done)
        if (whole.least_ms if len(done) == 1 else whole.most_ms) > target_ms:
            break
    return whole


@dataclass(frozen=True, slots=True)
class MeasuredTime:
    """A network measured without a table: `ratio` is its time over that of `reference`, measured in the same rounds."""

    ratio: float
    ratio_error: float
    reference: ArchSpec
    reference_ms: float

    @property
    def ms(self) -> float:
        return self.ratio * self.reference_ms

    @property
    def error_ms(self) -> float:
        """Standard error of `ms`, without that of the reference."""
        return self.ratio_error * self.reference_ms


def measure_network(spec: ArchSpec, runtime: Runtime) -> MeasuredTime:
    """`spec` measured whole beside MobileNetV3-Large at 224 px."""
    reference = reference_at(1.0, 224)
    whole = measure_whole(Device(runtime, reference, 1.0), spec)  # the reference counts as 1 ms: times are ratios
    return MeasuredTime(whole.ms, whole.error_ms, reference, whole.raw_reference_ms)


@dataclass(frozen=True, slots=True)
class MeasuredList:
    """Networks measured whole, and the RMSPE in percent that a perfect prediction of them would show."""

    networks: MeasuredNetworks
    noise_floor: float


def measure_list(
    table: LatencyTable,
    space: SearchSpace,
    runtime: Runtime,
    networks: int = 40,
    *,
    seed: int = 0,
    minutes: float = 2.0,
) -> MeasuredList:
    """Measure `networks` networks of the (scaled) space of `table` with `runtime`, for `transfer_list`.

    The first ten are those that a transfer of `table` learns most from. `minutes`: networks are measured this long
    while their noise is above the limit.

    Raises:
        BadInput: a number of networks or minutes out of range, or the space has no networks left.
    """
    check_count(networks)
    check_minutes(minutes)
    chosen = informative_networks(table, space, networks, seed)
    device = Device(runtime, reference_of(table))
    measured = device.networks([spec for _, spec in chosen], more_s=60 * minutes, max_s=15 * minutes)
    times = tuple(zip((label for label, _ in chosen), measured.ms, strict=True))
    found = MeasuredNetworks(times, runtime.fingerprint, device.reference_ms, space_id(space))
    return MeasuredList(found, measured.noise_floor)
