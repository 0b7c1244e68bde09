"""Published networks beside each other: what they take on a device, and their published accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mbv3.accuracy import Published, zoo
from mbv3.latency import Device
from mbv3.spec import ArchSpec
from mbv3.tables import Latency

__all__ = ["PublishedTime", "published_times"]

PART_S = 10.0  # of a part of a measurement; every part takes three rounds at least
NEAR = 1.2  # times the target: what a first look finds slower is not timed again


@dataclass(frozen=True, slots=True)
class PublishedTime:
    """A published network and its ms at batch 1 with their standard error.

    `estimated`: how much of the ms comes from a cost model because the table lacks the layers, 0 to 1; None of a
    measurement."""

    network: Published
    ms: float
    error_ms: float
    estimated: float | None


def published_times(
    on: Latency | Device, target_ms: float | None = None, networks: Sequence[Published] | None = None
) -> list[PublishedTime]:
    """`networks`, by default all of the zoo, predicted by a Latency or measured whole on a Device, interleaved; those
    within `target_ms`, most accurate first, and of equal ones the faster first.

    Weights of one network are timed as one. With a target, a first look of two rounds leaves out what is much slower.
    """
    every = zoo() if networks is None else tuple(networks)
    specs = [p.spec() for p in every]
    if isinstance(on, Device):
        # none of these changes how fast it is
        alike = [replace(s, name="zoo", bn_eps=1e-3, bn_momentum=0.01, provenance=()) for s in specs]
        times = _measured(on, list(dict.fromkeys(alike)), target_ms)
        found = [PublishedTime(p, *times[s], None) for p, s in zip(every, alike, strict=True) if s in times]
    else:
        predicted = zip(every, specs, on(specs), strict=True)
        found = [PublishedTime(p, ms, *on.error_ms(s)) for p, s, ms in predicted]
    within = [f for f in found if target_ms is None or f.ms <= target_ms]
    return sorted(within, key=lambda f: (-f.network.top1, f.ms))


def _measured(device: Device, specs: list[ArchSpec], target_ms: float | None) -> dict[ArchSpec, tuple[float, float]]:
    """(ms, standard error) of each network that may be within the target."""
    if target_ms is not None:
        look = device.networks(specs, rounds=1, parts=2)
        specs = [s for s, ms in zip(specs, look.ms, strict=True) if ms <= NEAR * target_ms]
    if not specs:
        return {}
    measured = device.networks(specs, max_s=PART_S)
    return dict(zip(specs, zip(measured.ms, measured.errors_ms, strict=True), strict=True))
