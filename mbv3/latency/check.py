"""The report of how far a table can be trusted: networks that it has not seen, predicted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np

from mbv3.latency.build import network_time
from mbv3.latency.calibration import Calibration, NetworkTime, fit_calibration
from mbv3.latency.device import PARTS, Device
from mbv3.latency.metrics import Fidelity, fidelity
from mbv3.latency.table import LatencyTable
from mbv3.latency.timers import NETWORK_ROUNDS
from mbv3.spec import ArchSpec

__all__ = ["CHECK_MINUTES", "CheckReport", "CheckedNetwork", "check_table"]

CHECK_MINUTES = 4.0  # networks of a check are timed this long while their noise is above the limit
PANEL = 8  # calibration networks measured again: with fewer the calibration is not fitted again


class CheckedNetwork(TypedDict):
    """One network of a check; times in ms."""

    network: str
    predicted_ms: float
    measured_ms: float
    plain_sum_ms: float  # hot times of its layers added up
    madds_ms: float  # proportional to MAdds


class Worst(TypedDict):
    network: str
    predicted_ms: float
    measured_ms: float


class CheckReport(Fidelity):
    """What `mbv3 latency check` reports; errors in percent. The fields of `Fidelity` are those of the table."""

    noise_floor: float  # RMSPE that a perfect prediction would show
    calibrated_on: int  # calibration networks that were measured again and used in a fit; 0: the table's own fit
    as_built: Fidelity  # with the calibration that the table holds
    drift: float  # median change of the calibration networks since the build, against the reference network
    reference_drift: float  # change of the reference network itself
    worst: Worst
    baselines: dict[str, Fidelity]
    networks: list[CheckedNetwork]


def check_table(
    device: Device,
    table: LatencyTable,
    networks: Sequence[tuple[str, ArchSpec]],
    panel: Sequence[tuple[NetworkTime, ArchSpec]] = (),
    *,
    rounds: int = NETWORK_ROUNDS,
    minutes: float = CHECK_MINUTES,
) -> CheckReport:
    """Predict and measure networks that the table has not seen.

    `panel`: calibration networks of the table, measured again in the same rounds. Milliseconds of one machine differ
    between two hours, and not by the same factor for every network. So with eight or more of them the calibration is
    fitted again, on the mean of both measurements, after the build's are scaled by the median change. A table that
    `transfer` made has too few networks of its own for a fit and is only scaled. `minutes`: networks are timed this
    long while the noise is above the limit of a check.
    """
    timed = device.networks(
        [s for _, s in networks] + [s for _, s in panel], rounds=rounds, seed=1, more_s=60 * minutes,
        max_s=60 * minutes / PARTS,
    )  # fmt: skip
    measured, panel_ms = list(timed.ms[: len(networks)]), timed.ms[len(networks) :]
    nets = [
        network_time(label, spec, table, ms, estimate=True)
        for (label, spec), ms in zip(networks, measured, strict=True)
    ]
    now = dict(zip((n.label for n, _ in panel), panel_ms, strict=True))
    drift = float(np.median([now[n.label] / n.ms for n, _ in panel])) if panel else 1.0
    transferred = "transferred" in (table.about or {})
    fit_again = len(now) >= PANEL and not transferred
    calibration = _calibration_now(table, now, drift) if fit_again else table.calibration
    predicted = [(drift if transferred else 1.0) * calibration(n) for n in nets]
    slope = sum(measured) / max(sum(n.madds for n in nets), 1)
    errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    worst = max(range(len(nets)), key=errors.__getitem__)
    return {
        **fidelity(predicted, measured),
        "noise_floor": timed.noise_floor,
        "calibrated_on": len(now) if fit_again else 0,
        "as_built": fidelity([table.calibration(n) for n in nets], measured),
        "drift": round(100 * (drift - 1), 2),
        "reference_drift": round(100 * (timed.raw_reference_ms / table.reference_ms - 1), 2),
        "worst": {
            "network": nets[worst].label, "predicted_ms": predicted[worst], "measured_ms": measured[worst],
        },
        "baselines": {
            "plain_sum": fidelity([n.hot_ms for n in nets], measured),
            "madds": fidelity([slope * n.madds for n in nets], measured),
        },
        "networks": [
            {"network": n.label, "predicted_ms": p, "measured_ms": m, "plain_sum_ms": n.hot_ms,
             "madds_ms": slope * n.madds}
            for n, p, m in zip(nets, predicted, measured, strict=True)
        ],
    }  # fmt: skip


def _calibration_now(table: LatencyTable, now: dict[str, float], drift: float) -> Calibration:
    """The calibration fitted to the build's networks scaled by `drift`, averaged with those measured again: the new
    measurement alone would be noisier."""
    scaled = [replace(n, ms=n.ms * drift) for n in table.networks]
    return fit_calibration(replace(n, ms=(n.ms + now.get(n.label, n.ms)) / 2) for n in scaled)
