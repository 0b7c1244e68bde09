"""Building a table: time every layer of a plan, then whole networks for the calibration. It can be interrupted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput, MissingLayerError
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.latency.calibration import NetworkTime, kinds, reread, weights_mb, written_mb
from mbv3.latency.device import layer_bytes, network_bytes
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.protocol import shares
from mbv3.latency.runner import LEAST, Journal, Measurements, RunnerError, header, kit_id, measure
from mbv3.latency.runtime import Runtime
from mbv3.latency.sessions import Run
from mbv3.latency.table import LatencyTable, Timed, timed
from mbv3.latency.timers import InProcess, Timer
from mbv3.spec import ArchSpec, LayerKey, count, dump_spec, lower

__all__ = [
    "ERROR",
    "MINUTES",
    "BuildPlan",
    "build_table",
    "build_with",
    "check_minutes",
    "network_time",
    "noise_warning",
    "saved",
    "table_of",
    "table_path",
    "work_of",
]

STAGE = "table"
ERROR, MINUTES = 1.0, 3.0  # timing ends when random error adds at most this many percent, or after this many minutes
OTHERS, CLOCK, HEAT, NOISY = 0.15, 1.05, 3.0, 8.0  # reported as causes of noise above: cores, a ratio, %, %


@dataclass(frozen=True)
class BuildPlan:
    """What a table must hold: layers, whole networks for the calibration, and the reference network. `passes`: over all
    of them at least."""

    keys: tuple[LayerKey, ...]
    calibration: tuple[tuple[str, ArchSpec], ...]
    reference: ArchSpec
    about: Mapping[str, Any]  # JSON-ready: space, scale
    passes: int = LEAST


def check_minutes(minutes: float) -> None:
    """Raises: BadInput unless `minutes` is a usable time limit."""
    if not 0 < minutes <= 10_000:
        raise BadInput(f"--minutes must be more than 0 and at most 10000 (got {minutes:g})")


def work_of(plan: BuildPlan, *, error: float, minutes: float) -> dict[str, Any]:
    """The work order of `plan` as the runner reads it, JSON-ready.

    Timing ends when random error adds at most `error` percent to a prediction's error, or after `minutes`.

    Raises:
        MissingLayerError: `plan.keys` lacks layers of a calibration network.
        BadInput: `error` or `minutes` is out of range, or the plan has no whole networks.
    """
    if not 0 < error <= 100:
        raise BadInput(f"--error must be more than 0 and at most 100 percent (got {error:g})")
    check_minutes(minutes)
    if not plan.calibration:
        raise BadInput(
            "a plan without whole networks cannot be calibrated; add at least one network to plan.calibration"
        )
    keys = tuple(dict.fromkeys(plan.keys))
    index = {k: i for i, k in enumerate(keys)}
    used = [[x.key for x in lower(spec)] for _, spec in plan.calibration]
    if absent := [str(k) for k in dict.fromkeys(k for ks in used for k in ks) if k not in index]:
        raise MissingLayerError(absent)
    return {
        "keys": [str(k) for k in keys],
        "networks": [[label, dump_spec(spec)] for label, spec in plan.calibration],
        "reference_spec": dump_spec(plan.reference),
        "about": dict(plan.about),
        "layer_bytes": [layer_bytes(k) for k in keys],
        "network_bytes": [network_bytes(spec) for _, spec in plan.calibration],
        "uses": [[index[k] for k in ks] for ks in used],
        "noise": error,
        "seconds": 60 * minutes,
        **({} if plan.passes == LEAST else {"passes": plan.passes}),
    }


def network_time(label: str, spec: ArchSpec, table: LatencyTable, ms: float, *, estimate: bool = False) -> NetworkTime:
    """A measured network with the sums that the calibration needs.

    Raises:
        MissingLayerError: layers without a measurement, all listed, unless `estimate`.
    """
    missing = table.missing(spec)
    if missing and not estimate:
        raise MissingLayerError(str(k) for k in missing)
    keys = [x.key for x in lower(spec)]
    hot = [table.hot_ms(k, estimate=estimate) for k in keys]
    is_of_kind = np.array([kinds(k) for k in keys], dtype=float)  # (layers, KINDS)
    return NetworkTime(
        label=label,
        ms=ms,
        hot_ms=sum(hot),
        mb=sum(map(weights_mb, keys)),
        madds=count(spec).madds,
        written_mb=sum(map(written_mb, keys)),
        reread_ms=sum(ms * reread(k) for k, ms in zip(keys, hot, strict=True)),
        kinds_ms=tuple((np.array(hot) @ is_of_kind).tolist()),
        kinds_n=tuple(is_of_kind.sum(axis=0).tolist()),
    )


def table_path(folder: Path, fingerprint: Fingerprint, about: Mapping[str, Any]) -> Path:
    """Where the cache keeps the table of this device, space and scale."""
    w, r = about["width"], about["resolution"]
    return folder / "tables" / f"{fingerprint.id}-{about['space']}-{about['space_id'][:8]}-w{w:g}-r{r}.csv"


def build_table(
    runtime: Runtime, plan: BuildPlan, path: Path, *, error: float = ERROR, minutes: float = MINUTES
) -> Generator[Event, None, LatencyTable]:
    """Measure `plan` with `runtime` on this machine and write the table to `path`; returns it.

    The arguments, events, errors and the behaviour after an interruption are those of `build_with`.
    """
    keys, specs = list(dict.fromkeys(plan.keys)), [*(spec for _, spec in plan.calibration), plan.reference]

    def opened(i: int) -> Run:
        return runtime.layer(keys[i]) if i < len(keys) else runtime.network(specs[i - len(keys)])

    fingerprint = runtime.fingerprint
    timer = InProcess(opened, len(keys) + len(specs) - 1, fingerprint.threads)
    return (yield from build_with(timer, fingerprint, plan, path, error=error, minutes=minutes, overwrite=True))


def build_with(
    timer: Timer,
    fingerprint: Fingerprint,
    plan: BuildPlan,
    path: Path,
    *,
    error: float = ERROR,
    minutes: float = MINUTES,
    overwrite: bool = False,
) -> Generator[Event, None, LatencyTable]:
    """Measure `plan` with `timer` and write the table to `path`; returns the table as it was written.

    Every step is appended to `path` + ".partial" at once; the same call after an interruption continues there.
    `overwrite`: what that file holds of another plan or device is dropped; otherwise it is an error.

    Raises:
        BadInput: `path` cannot be written, or another process builds the same table.
        MissingLayerError: `plan.keys` lacks layers of a calibration network; raised before anything is timed.
    """
    work = work_of(plan, error=error, minutes=minutes)
    partial = path.with_name(path.name + ".partial")
    journal = _open_journal(partial, work, fingerprint, overwrite)
    measured = journal.measured
    try:
        size = f"{measured.n_layers} layers and {measured.n_networks} calibration networks"
        yield StageStart(STAGE, f"timing {size} on {fingerprint.cpu}, for about {minutes:g} minutes")
        if measured.layers:
            yield Note(STAGE, f"{measured.seconds:.0f} s of measurements from before an interruption are kept")
        try:
            for done, total in measure(work, timer, journal):
                yield Progress(STAGE, done, total, "steps", measured.seconds / done * (total - done))
        except OSError as e:  # the disk is full
            raise BadInput(
                f"{partial}: cannot be written ({e.strerror}); free some disk space, and run the same command again: "
                "what was measured is kept"
            ) from None
        table = saved(table_of(plan, fingerprint, measured, work), path)
        partial.unlink(missing_ok=True)  # while it is still locked, so no other process can have written to it
    finally:
        journal.close()
    yield from noise_warning(table)
    n = f"{len(table.layers)} layers, {len(table.networks)} calibration networks"
    yield Note(STAGE, f"{n} measured in {measured.seconds:.0f} s")
    return table


def _open_journal(partial: Path, work: Mapping[str, Any], fingerprint: Fingerprint, overwrite: bool) -> Journal:
    """The journal of `work` at `partial`, continued where it exists. Raises: BadInput."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        return Journal(partial, work, header(kit_id(work), fingerprint), overwrite=overwrite)
    except RunnerError as e:
        raise BadInput(str(e)) from None
    except OSError as e:
        raise BadInput(f"{partial}: cannot be written ({e.strerror}); name a place that can be: "
                       "--out FILE, or MBV3_CACHE=DIR for all tables") from None  # fmt: skip


def saved(table: LatencyTable, path: Path) -> LatencyTable:
    """`table`, written to `path` and read back: the file rounds times, and every later reader gets the rounded ones."""
    table.save(path)
    return LatencyTable.load(path)


def table_of(
    plan: BuildPlan, fingerprint: Fingerprint, measured: Measurements, work: Mapping[str, Any]
) -> LatencyTable:
    """The table of `plan` from its measurements. Raises: ValueError where they do not make a table."""
    references = [ms for now in measured.references[: measured.passes] for ms in now]
    reference_ms = sum(references) / len(references)
    rows, weights = {}, shares(measured.sums(work["uses"]))
    for i, key in enumerate(dict.fromkeys(plan.keys)):
        rows[key] = _merged([measured.layers[p][i] for p in range(measured.passes)], weights, reference_ms)
    table = LatencyTable(
        fingerprint=fingerprint,
        reference=_reference(plan, reference_ms),
        layers=rows,
        about={**plan.about, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "setting": _settings(measured)},
    )
    parts = measured.parts()
    ms = (reference_ms * np.array(parts) @ shares(parts)).tolist()
    table = table.calibrated(
        network_time(label, spec, table, t) for (label, spec), t in zip(plan.calibration, ms, strict=True)
    )
    if table.report is None:
        return table
    floor, layers = measured.noise(work["uses"])
    noise = {
        "noise_floor": floor,
        "layer_noise": layers,
        "asked": work["noise"],
        "drift": round(100 * measured.drift, 1),
        "passes": measured.passes,
        "seconds": round(measured.seconds),
        "timed_s": round(measured.timed_s),
        "conditions": _conditions(measured),
    }
    return replace(table, report={**table.report, **noise})


def _merged(
    passes: Sequence[tuple[float, int, float, float]], weights: NDArray[np.float64], reference_ms: float
) -> Timed:
    """One measurement from the (p10, runs, mean, deviation) of each pass, each in units of the reference's time."""
    ms, n, mean, std = (np.array(column) for column in zip(*passes, strict=True))
    whole = float((n * mean).sum() / n.sum())
    variance = float((n * (std**2 + (mean - whole) ** 2)).sum() / n.sum())
    return timed(float(ms @ weights) * reference_ms, n.sum(), whole * reference_ms, variance**0.5 * reference_ms)


def _settings(measured: Measurements) -> dict[str, list[float]]:
    """Cores and priorities of the timed thread, where known; a build that was interrupted may have several."""
    return {
        name: sorted({c[name] for c in measured.conditions if name in c})
        for name in ("core", "nice", "realtime")
        if any(name in c for c in measured.conditions)
    }


def _conditions(measured: Measurements) -> dict[str, float]:
    """What else the machine did during the measurement, where it can be observed."""
    out = {}
    for name in ("others", "stolen"):
        if seen := [c[name] for c in measured.conditions if name in c]:
            out[name] = round(statistics.fmean(seen), 2)
    if clocks := [c["mhz"] for c in measured.conditions if "mhz" in c]:
        out["mhz_low"], out["mhz_high"] = min(clocks), max(clocks)
    third = max(1, measured.passes // 3)
    first, last = (
        statistics.median(map(min, part)) for part in (measured.references[:third], measured.references[-third:])
    )
    out["slower"] = round(100 * (last / first - 1), 1)  # percent, from the first third of the passes to the last
    return out


def noise_warning(table: LatencyTable, error: float | None = None) -> Iterator[Note]:
    """A warning with the likely causes where a table is noisier than `error` percent, or than its build asked for."""
    report = dict(table.report or {})
    if "asked" not in report or "layer_noise" not in report:
        return
    noise, limit = math.hypot(report["noise_floor"], report["layer_noise"]), report["asked"] if error is None else error
    if noise <= limit:
        return
    causes = "; ".join(_noise_causes(report, table.fingerprint.cores)) or (
        "no cause can be observed from here (perhaps other virtual machines on the same host); give more --minutes"
    )
    yield Note(
        STAGE,
        f"random error makes up {noise:.3g} % of a prediction's error after {report['seconds'] / 60:.1f} minutes, more "
        f"than the {limit:g} % requested: {causes}",
        warning=True,
    )


def _noise_causes(report: Mapping[str, Any], cores: int) -> list[str]:
    """What a table's report shows of other programs, the host, the clock and heat, each with its cure."""
    seen, causes = dict(report["conditions"]), []
    if seen.get("others", 0) > OTHERS:
        causes.append(f"other programs kept {seen['others']:.1f} of {cores} cores busy; stop them")
    if seen.get("stolen", 0) > OTHERS:
        causes.append(f"the host of this virtual machine gave {seen['stolen']:.1f} of its cores to other guests")
    if seen.get("mhz_high", 0) > CLOCK * seen.get("mhz_low", math.inf):
        clock = f"from {seen['mhz_low']:.0f} to {seen['mhz_high']:.0f} MHz"
        causes.append(f"the clock varied {clock}; set a fixed frequency governor")
    if seen["slower"] > HEAT:
        causes.append(f"the reference network became {seen['slower']:.0f} % slower during the build; cool the device")
    if report["drift"] > NOISY:
        causes.append(f"the reference network varied by {report['drift']:.0f} % within seconds")
    return causes


def _reference(plan: BuildPlan, ms: float) -> dict[str, Any]:
    return {
        "spec": plan.about["reference"],
        "width": plan.about["width"],
        "resolution": list(plan.reference.resolution),
        "classes": plan.reference.head.classes,
        "ms": ms,
    }
