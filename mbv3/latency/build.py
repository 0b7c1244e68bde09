"""Building a table: every layer of a list, then whole networks to calibrate on. Survives an interruption."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.errors import BadInput, MissingLayerError
from mbv3.events import Done, Event, Note, Progress, StageStart
from mbv3.latency.calibration import NetworkTime, fit_calibration, kinds, weights_mb
from mbv3.latency.device import Device, Measured, chunks
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.metrics import fidelity
from mbv3.latency.runtime import Runtime
from mbv3.latency.table import LatencyTable, Timed, positive_ms, timed
from mbv3.spec import ArchSpec, LayerKey, count, dump_spec, lower, parse_key

__all__ = ["BuildPlan", "assemble", "build_table", "check_table", "network_time", "noise_warning", "table_path"]

STAGE = "table"
NOISY = 8.0  # percent
PASSES = 3
MORE_S = 90.0  # so long whole networks are timed while their noise is over what a table can bear


@dataclass(frozen=True)
class BuildPlan:
    """What a table is to hold: layers, whole networks to calibrate on, and the reference network."""

    keys: tuple[LayerKey, ...]
    calibration: tuple[tuple[str, ArchSpec], ...]
    reference: ArchSpec
    about: Mapping[str, Any]  # JSON-ready: space, scale


class _Partial:
    """The rows measured so far, one JSON line each; a half-written last line is ignored."""

    def __init__(self, path: Path, fingerprint: Fingerprint, reference: str) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a+", encoding="utf-8", errors="replace", newline="")
        except OSError as e:
            raise BadInput(f"{path}: cannot be written ({e.strerror})") from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise BadInput(f"{path}: another process is building this table; wait for it, or end it") from None
        self.reference_ms: float | None = None
        self.rows: dict[LayerKey, Timed] = {}
        self.file.seek(0)
        good = 0
        for line in self.file.read().split("\n")[:-1]:
            try:
                self._take(json.loads(line), fingerprint, reference)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError, BadInput):
                break
            good += len(line) + 1
        self.file.truncate(good)  # what was written whole is never written again
        self._sync()

    def _take(self, entry: Any, fingerprint: Fingerprint, reference: str) -> None:
        """One line of an earlier run. Raises: what a line that is not of this build leads to."""
        if self.reference_ms is None:
            if entry["fingerprint"] != fingerprint.id or entry["reference"] != reference:
                raise ValueError
            self.reference_ms = positive_ms(entry["reference_ms"])
        else:
            self.rows[parse_key(entry["key"])] = timed(entry["ms"], entry["n"], entry["mean"], entry["std"])

    def start(self, fingerprint: Fingerprint, reference: str, reference_ms: float) -> None:
        self.reference_ms = reference_ms
        entry = {"fingerprint": fingerprint.id, "reference": reference, "reference_ms": reference_ms}
        self.file.write(json.dumps(entry) + "\n")
        self._sync()

    def add(self, rows: Mapping[LayerKey, Timed]) -> None:
        for key, t in rows.items():
            entry = {"key": str(key), "ms": t.ms, "n": t.n, "mean": t.mean, "std": t.std}
            self.file.write(json.dumps(entry) + "\n")
        self.rows.update(rows)
        self._sync()

    def _sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def network_time(label: str, spec: ArchSpec, table: LatencyTable, ms: float, *, estimate: bool = False) -> NetworkTime:
    """A measured network with what the calibration needs to know of it.

    Raises:
        MissingLayerError: layers without a measurement, all listed, unless `estimate`.
    """
    missing = table.missing(spec)
    if missing and not estimate:
        raise MissingLayerError(str(k) for k in missing)
    keys = [x.key for x in lower(spec)]
    hot = [table.hot_ms(k, estimate=estimate) for k in keys]
    parts = np.array(hot) @ np.array([kinds(k) for k in keys], dtype=float)
    mb = sum(weights_mb(k) for k in keys)
    return NetworkTime(label, ms, sum(hot), mb, count(spec).madds, tuple(parts.tolist()))


def table_path(folder: Path, fingerprint: Fingerprint, about: Mapping[str, Any]) -> Path:
    """Where the cache keeps the table of this device, space and scale."""
    w, r = about["width"], about["resolution"]
    return folder / "tables" / f"{fingerprint.id}-{about['space']}-{about['space_id'][:8]}-w{w:g}-r{r}.csv"


def build_table(runtime: Runtime, plan: BuildPlan, path: Path, *, rounds: int = 12) -> Iterator[Event]:
    """Measure `plan` on `runtime`, write the table to `path`, yield progress and at last Done with `path`.

    Rows go to `path` + ".partial" as they are measured; the same call after an interruption goes on there.

    Raises:
        BadInput: the place cannot be written, or another process is building the same table.
        MissingLayerError: `plan.keys` leaves out layers of a calibration network; before anything is timed.
    """
    planned = set(plan.keys)
    needed = dict.fromkeys(x.key for _, spec in plan.calibration for x in lower(spec))
    if left_out := [str(k) for k in needed if k not in planned]:
        raise MissingLayerError(left_out)
    fingerprint = runtime.fingerprint
    name = hashlib.sha256(dump_spec(plan.reference).encode()).hexdigest()
    partial = _Partial(path.with_name(path.name + ".partial"), fingerprint, name)
    try:
        start = time.monotonic()
        device = Device(runtime, plan.reference, partial.reference_ms)
        if partial.reference_ms is None:
            partial.start(fingerprint, name, device.reference_ms)
        keys = tuple(dict.fromkeys(plan.keys))
        todo = [k for k in mixed(keys) if k not in partial.rows]
        kept = len(keys) - len(todo)
        if kept:
            yield Note(STAGE, f"{kept} layers were measured before an interruption and are kept")
        yield from _layers(device, partial, todo, kept)
        measured = yield from _networks(device, [s for _, s in plan.calibration], rounds)
        table = assemble(plan, fingerprint, device.reference_ms, partial.rows, measured)
        table.save(path)
        partial.path.unlink(missing_ok=True)  # still locked: nobody can have begun to write into it
    finally:
        partial.close()
    yield from noise_warning(table)
    took = time.monotonic() - start
    yield Done(
        STAGE,
        f"{len(table.layers)} layers, {len(table.networks)} calibration networks ({took:.0f} s)",
        {"path": str(path), "report": table.report},
    )


def assemble(
    plan: BuildPlan, fingerprint: Fingerprint, reference_ms: float, rows: Mapping[LayerKey, Timed], measured: Measured
) -> LatencyTable:
    """The table of `plan` from its measured layers and calibration networks."""
    table = LatencyTable(
        fingerprint=fingerprint,
        reference=_reference(plan, reference_ms),
        layers={k: rows[k] for k in dict.fromkeys(plan.keys)},
        about={**plan.about, "date": datetime.now(UTC).strftime("%Y-%m-%d")},
    )
    table = table.calibrated(
        network_time(label, spec, table, ms) for (label, spec), ms in zip(plan.calibration, measured.ms, strict=True)
    )
    if table.report is None:
        return table
    noise = {"noise_floor": measured.noise_floor, "drift": round(100 * measured.drift, 1)}
    return replace(table, report={**table.report, **noise})


def noise_warning(table: LatencyTable) -> Iterator[Note]:
    """What a table measured on a busy device should be read with."""
    drift = float((table.report or {}).get("drift", 0.0))
    if drift > NOISY:
        yield Note(
            STAGE,
            f"the reference network varied by {drift:.0f} % between rounds: another program was busy on that device, "
            "or its clock changed; predictions may be off by as much. Close it and measure again",
            warning=True,
        )


def _reference(plan: BuildPlan, ms: float) -> dict[str, Any]:
    return {
        "spec": plan.about["reference"],
        "width": plan.about["width"],
        "resolution": list(plan.reference.resolution),
        "classes": plan.reference.head.classes,
        "ms": ms,
    }


def mixed(keys: Sequence[LayerKey]) -> list[LayerKey]:
    """The order in which layers are timed. In that of the network, a disturbance while one chunk is timed would fall on
    all layers of one depth, and bias every network that is deep or wide there."""
    return [keys[i] for i in np.random.default_rng(0).permutation(len(keys))]


def _layers(device: Device, partial: _Partial, todo: Sequence[LayerKey], kept: int) -> Iterator[Event]:
    total = len(todo) + kept
    yield StageStart(STAGE, f"timing {total} layers and the calibration networks on {device.fingerprint.cpu}")
    start, done = time.monotonic(), 0
    for n, chunk in enumerate(chunks(todo)):
        partial.add(device.layers(chunk, passes=PASSES, seed=n))
        done += len(chunk)
        left = (time.monotonic() - start) / done * (len(todo) - done)
        yield Progress(STAGE, kept + done, total, "layers", left)


def _networks(device: Device, specs: Sequence[ArchSpec], rounds: int) -> Generator[Event, None, Measured]:
    """Time networks in the same rounds; these are not interrupted, so progress is told before and after."""
    yield Progress(STAGE, 0, rounds, f"{len(specs)} calibration networks, one to three minutes", None)
    measured = device.networks(specs, rounds=rounds, more_s=MORE_S)
    yield Progress(STAGE, rounds, rounds, f"{len(specs)} calibration networks", 0.0)
    return measured


def check_table(
    device: Device,
    table: LatencyTable,
    networks: Sequence[tuple[str, ArchSpec]],
    panel: Sequence[tuple[NetworkTime, ArchSpec]] = (),
    *,
    rounds: int = 12,
) -> dict[str, Any]:
    """The trust report: predict and measure networks that the table has not seen.

    `panel`: calibration networks of the table, timed again in the same rounds; with at least eight the calibration is
    fitted anew on them, as milliseconds wander between two hours and not equally for every network. `as_built` holds
    the figures without that, `drift` the median change of the panel since the table was built, in percent.
    """
    measured = device.networks([s for _, s in networks] + [s for _, s in panel], rounds=rounds, seed=1, more_s=MORE_S)
    t, again = list(measured.ms[: len(networks)]), measured.ms[len(networks) :]
    nets = [network_time(label, spec, table, ms, estimate=True) for (label, spec), ms in zip(networks, t, strict=True)]
    now = [replace(n, ms=ms) for (n, _), ms in zip(panel, again, strict=True)]
    calibration = fit_calibration(now) if len(now) >= 8 else table.calibration
    predicted = [calibration(n) for n in nets]
    drift = float(np.median([n.ms / old.ms for n, (old, _) in zip(now, panel, strict=True)])) if panel else 1.0
    slope = sum(t) / max(sum(n.madds for n in nets), 1)
    errors = [abs(p / m - 1) for p, m in zip(predicted, t, strict=True)]
    worst = max(range(len(nets)), key=errors.__getitem__)
    return {
        **fidelity(predicted, t),
        "noise_floor": measured.noise_floor,
        "calibrated_on": len(now) if len(now) >= 8 else 0,
        "as_built": fidelity([table.calibration(n) for n in nets], t),
        "drift": round(100 * (drift - 1), 2),
        "reference_drift": round(100 * (measured.raw_reference_ms / table.reference_ms - 1), 2),
        "worst": {"network": nets[worst].label, "predicted_ms": predicted[worst], "measured_ms": t[worst]},
        "baselines": {
            "plain_sum": fidelity([n.hot_ms for n in nets], t),
            "madds": fidelity([slope * n.madds for n in nets], t),
        },
    }
