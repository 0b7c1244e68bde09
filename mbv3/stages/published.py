"""Published networks beside each other: what they take on a device, and their published accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mbv3.accuracy import Published, zoo
from mbv3.latency import Device
from mbv3.tables import Latency

__all__ = ["PublishedTime", "published_times"]


@dataclass(frozen=True, slots=True)
class PublishedTime:
    """A published network and its ms at batch 1; `error_ms` is the standard error of a measurement, None of a
    prediction."""

    network: Published
    ms: float
    error_ms: float | None


def published_times(
    on: Latency | Device, target_ms: float | None = None, networks: Sequence[Published] | None = None
) -> list[PublishedTime]:
    """`networks`, by default all of the zoo, predicted by a Latency or measured whole on a Device, interleaved; those
    within `target_ms`, most accurate first, and of equal ones the faster first."""
    every = zoo() if networks is None else tuple(networks)
    specs = [p.spec() for p in every]
    if isinstance(on, Device):
        measured = on.networks(specs)
        found = [PublishedTime(*row) for row in zip(every, measured.ms, measured.errors_ms, strict=True)]
    else:
        found = [PublishedTime(p, ms, None) for p, ms in zip(every, on(specs), strict=True)]
    within = [f for f in found if target_ms is None or f.ms <= target_ms]
    return sorted(within, key=lambda f: (-f.network.top1, f.ms))
