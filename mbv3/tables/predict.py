"""Latency of any network, predicted from a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mbv3.latency import Device, LatencyTable, Prediction, Runtime
from mbv3.spec import ArchSpec, LayerKey, keys_of
from mbv3.tables.measure import Whole, measure_verdict, measure_whole
from mbv3.tables.reference import reference_of

__all__ = ["Latency", "PredictedTime", "predict"]

KNOWN_ROWS = 48  # rows of the table that are measured again beside missing ones; each has an error of a few percent
LEAST_KNOWN = 12  # of them, however few are missing: what is measured beside a row takes time too
MISSING_PASSES = 6  # over the rows that one prediction lacks


@dataclass(frozen=True, slots=True)
class PredictedTime:
    """A predicted latency, and the table it is from: `table` holds the rows that were measured for it too."""

    prediction: Prediction
    table: LatencyTable

    @property
    def ms(self) -> float:
        return self.prediction.ms

    @property
    def estimated(self) -> int:
        """Number of rows that no measurement but the cost model gives."""
        return self.prediction.estimated


def predict(spec: ArchSpec, table: LatencyTable, runtime: Runtime | None = None) -> PredictedTime:
    """Predicted batch-1 latency of `spec` in ms.

    Rows that the table lacks are measured with `runtime`, which must be that of the table; without one they are
    estimated by the cost model of the table.
    """
    if runtime is not None and table.missing(spec):
        device = Device(runtime, reference_of(table), table.reference_ms)
        latency = Latency(table, device, passes=MISSING_PASSES)
        latency([spec])
        table = latency.table
    return PredictedTime(table.predict(spec, estimate=True), table)


def _evenly(n: int, most: int) -> list[int]:
    """At most `most` of n indices, evenly."""
    return list(range(n)) if n <= most else [round(i) for i in np.linspace(0, n - 1, most)]


class Latency:
    """Predicted latency of any network of a run.

    Missing rows are measured where the device is at hand, and estimated otherwise. `correct` scales the predictions to
    a whole network that was measured."""

    def __init__(
        self,
        table: LatencyTable,
        device: Device | None = None,
        dress: Callable[[ArchSpec], ArchSpec] = lambda spec: spec,
        *,
        passes: int = 1,
    ) -> None:
        self.table = table
        self.device = device
        self.dress = dress  # from a classifier to the network that is deployed and measured
        self.passes = passes  # over missing rows
        self.until = math.inf  # by time.monotonic(): afterwards missing rows are estimated here too
        self.correction = 1.0
        most = max((t.n for t in table.layers.values()), default=0)  # rows of the build have more runs than later ones
        by_time = sorted((k for k, t in table.layers.items() if 2 * t.n >= most), key=table.hot_ms)
        ms = np.log([table.hot_ms(k) for k in by_time])
        evenly = np.linspace(ms[0], ms[-1], KNOWN_ROWS) if by_time else ()  # rows of all sizes
        self._layer_ms: dict[LayerKey, float] = {}  # calibrated, of layers that were asked for
        self._known = {by_time[i]: table.hot_ms(by_time[i]) for i in (int(np.abs(ms - at).argmin()) for at in evenly)}

    def rough(self, correction: float | None = None) -> Latency:
        """The same without the device: nothing is measured. `correction`: by default the present one."""
        rough = Latency(self.table, None, self.dress)
        rough.correction = self.correction if correction is None else correction
        return rough

    @property
    def fine(self) -> int:
        """Channel step at which cliffs can be seen; 0: estimates show none."""
        return 2 if self.device is not None and time.monotonic() < self.until else 0

    def __call__(self, specs: Sequence[ArchSpec]) -> list[float]:
        """Predicted ms of each network. Missing rows of all of them are measured first, interleaved.

        One pass by default, where a table takes more: NetAdapt asks for hundreds of networks and compares neighbouring
        channel counts of one layer, whose times it makes monotone.
        """
        if time.monotonic() < self.until:
            self.fill(specs, self.passes)
        return [self._ms(spec) * self.correction for spec in specs]

    def missing(self, specs: Sequence[ArchSpec]) -> list[LayerKey]:
        """Layers of the networks that have no row, each once."""
        return list(dict.fromkeys(k for s in specs for k in keys_of(s) if k not in self.table.layers))

    def fill(self, specs: Sequence[ArchSpec], passes: int) -> None:
        """Measure the missing rows of the networks in so many passes, where the device is at hand."""
        if self.device is None or not (missing := self.missing(specs)):
            return
        known = list(self._known)
        some = [known[i] for i in _evenly(len(known), max(LEAST_KNOWN, len(missing) // 3))]
        rows = self.device.layers(missing, {k: self._known[k] for k in some}, passes=passes)
        self.table = self.table.with_layers(rows)
        for key in missing:
            self._layer_ms.pop(key, None)  # it may have been estimated

    def _ms(self, spec: ArchSpec) -> float:
        """What `table.predict` answers, each layer looked up once. Tables only gain rows, for layers not asked for."""
        known = self._layer_ms
        parts = []
        for key in keys_of(spec):
            if key not in known:
                hot = self.table.hot_ms(key, estimate=self.device is None or time.monotonic() >= self.until)
                known[key] = self.table.calibration.layer_ms(key, hot)
            parts.append(known[key])
        return sum(parts) + self.table.calibration.c

    def error_ms(self, spec: ArchSpec) -> tuple[float, float]:
        """(standard error of the predicted ms of `spec`, ms; how much of the ms the table lacks and estimates, 0 to 1).

        Of rows that the table has it is the error on whole networks that the table reports, of estimated rows the
        held-out error of its cost model. Estimated rows of one network are alike, so that their errors add up."""
        self([spec])  # which measures what is missing, where that can be
        ms = self._ms(spec)  # which puts every layer into the dictionary
        estimated = sum(self._layer_ms[k] for k in keys_of(spec) if k not in self.table.layers)
        share = min(estimated / ms, 1.0) if ms > 0 else 1.0
        known = float(dict(self.table.report or {}).get("rmspe", 0.0))
        unknown = share * self.table.cost_model.error if share else 0.0
        error = math.hypot((1.0 - share) * known, unknown) / 100
        return error * ms * self.correction, share

    def measure(self, spec: ArchSpec, parts: int) -> Whole | None:
        """`spec` as `measure_whole` does; None without a device."""
        return None if self.device is None else measure_whole(self.device, spec, parts)

    def verdict(self, spec: ArchSpec, target_ms: float) -> Whole | None:
        """`spec` as `measure_verdict` does; None without a device."""
        return None if self.device is None else measure_verdict(self.device, spec, target_ms)

    def correct(self, spec: ArchSpec, measured_ms: float) -> None:
        """From now on scale predictions so that the prediction for `spec` equals its measured time."""
        self.correction *= measured_ms / self([spec])[0]
