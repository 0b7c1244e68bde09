"""Latency of any network: predicted from a table, or measured whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mbv3.latency import Device, LatencyTable
from mbv3.spec import ArchSpec

__all__ = ["VERDICT_PARTS", "Latency", "Whole", "measure_whole"]

KNOWN_ROWS = 48  # of the table, timed again beside rows that it lacks; each is off by some percent
WHOLE_S = 2.0  # seconds of a part
VERDICT_PARTS = 8  # a part is off by about 1.5 %, so their mean by 0.5 %


@dataclass(frozen=True, slots=True)
class Whole:
    """A network timed whole: its ms, their standard error, the reference's raw ms in the same rounds."""

    ms: float
    error_ms: float
    raw_reference_ms: float

    @property
    def most_ms(self) -> float:
        """What it takes at most, but for chance: two standard errors above `ms`."""
        return self.ms + 2 * self.error_ms


def measure_whole(device: Device, spec: ArchSpec, parts: int = VERDICT_PARTS) -> Whole:
    """`spec` timed whole on `parts` sessions, twelve rounds or more each, fewer of a slow network."""
    measured = device.networks([spec], parts=parts, seed=parts, max_s=WHOLE_S)
    return Whole(measured.ms[0], measured.errors_ms[0], measured.raw_reference_ms)


class Latency:
    """Latency of any network for a run: from the table, missing layers measured where the device is at hand and
    estimated where it is not; corrected by whole-network measurements of the networks that the run is near."""

    def __init__(
        self,
        table: LatencyTable,
        device: Device | None,
        dress: Callable[[ArchSpec], ArchSpec] = lambda spec: spec,
        *,
        passes: int = 1,
    ) -> None:
        self.table = table
        self.device = device
        self.dress = dress  # what makes the network that is deployed, and timed, of a classifier
        self.passes = passes  # over rows measured on demand
        self.correction = 1.0
        most = max((t.n for t in table.layers.values()), default=0)  # those of the table's build, not rows on demand
        by_time = sorted((k for k, t in table.layers.items() if 2 * t.n >= most), key=table.hot_ms)
        ms = np.log([table.hot_ms(k) for k in by_time])
        evenly = np.linspace(ms[0], ms[-1], KNOWN_ROWS) if by_time else ()  # of all sizes
        self._known = {by_time[i]: table.hot_ms(by_time[i]) for i in (int(np.abs(ms - at).argmin()) for at in evenly)}

    @property
    def fine(self) -> int:
        """Grain in channels at which cliffs can be seen."""
        return 2 if self.device is not None else 0

    def __call__(self, specs: Sequence[ArchSpec]) -> list[float]:
        """Predicted ms of each network; layers that the table lacks are measured first, interleaved.

        By default in one pass, where the table takes more: NetAdapt asks for hundreds at a time and compares
        neighbouring counts of one layer, whose times it makes monotone.
        """
        if self.device is not None:
            missing = list(dict.fromkeys(k for s in specs for k in self.table.missing(s)))
            self.table = self.table.with_layers(self.device.layers(missing, self._known, passes=self.passes))
        out = []
        for spec in specs:
            prediction = self.table.predict(spec, estimate=self.device is None)
            out.append(prediction.ms * self.correction)
        return out

    def measure(self, spec: ArchSpec, parts: int) -> Whole | None:
        """`spec` timed whole on `parts` sessions; None without a device."""
        return None if self.device is None else measure_whole(self.device, spec, parts)

    def correct(self, spec: ArchSpec, measured_ms: float) -> None:
        """From here on predictions are scaled so that `spec` is predicted as it was measured."""
        self.correction *= measured_ms / self([spec])[0]
