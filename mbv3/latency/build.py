"""Building a table: every layer of a list, then whole networks to calibrate on. Survives an interruption."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput, MissingLayerError
from mbv3.events import Done, Event, Note, Progress, StageStart
from mbv3.latency.calibration import NetworkTime, fit_calibration, kinds, reread, weights_mb, written_mb
from mbv3.latency.device import PARTS, Device, layer_bytes, network_bytes
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.metrics import fidelity
from mbv3.latency.protocol import shares
from mbv3.latency.runner import Journal, RunnerError, Told, header, kit_id, measure
from mbv3.latency.runtime import Runtime
from mbv3.latency.sessions import Run
from mbv3.latency.table import LatencyTable, Timed, timed
from mbv3.latency.timers import NETWORK_ROUNDS, InProcess, Timer
from mbv3.spec import ArchSpec, LayerKey, count, dump_spec, lower

__all__ = [
    "CHECK_MINUTES",
    "ERROR",
    "MINUTES",
    "BuildPlan",
    "build_table",
    "build_with",
    "check_minutes",
    "check_table",
    "network_time",
    "noise_warning",
    "table_of",
    "table_path",
    "work_of",
]

STAGE = "table"
ERROR, MINUTES = 1.0, 3.0  # a table is timed until chance adds so many percent at most, or for so long
CHECK_MINUTES = 4.0  # so long the networks of a check are timed while their noise is over what it can bear
OTHERS, CLOCK, HEAT, NOISY = 0.15, 1.05, 3.0, 8.0  # cores, a ratio, percent, percent: what is told as a cause of noise


@dataclass(frozen=True)
class BuildPlan:
    """What a table is to hold: layers, whole networks to calibrate on, and the reference network."""

    keys: tuple[LayerKey, ...]
    calibration: tuple[tuple[str, ArchSpec], ...]
    reference: ArchSpec
    about: Mapping[str, Any]  # JSON-ready: space, scale


def check_minutes(minutes: float) -> None:
    """Raises: BadInput for a time that nothing can be timed for."""
    if not 0 < minutes <= 10_000:
        raise BadInput(f"--minutes must be more than 0 and at most 10000 (got {minutes:g})")


def work_of(plan: BuildPlan, *, error: float, minutes: float) -> dict[str, Any]:
    """What is to be timed for `plan`, as the runner reads it: until chance adds no more than `error` percent to a
    prediction's error, or `minutes` are used.

    Raises:
        MissingLayerError: `plan.keys` leaves out layers of a calibration network.
        BadInput: an error or minutes that cannot be, or no whole networks.
    """
    if not 0 < error <= 100:
        raise BadInput(f"--error must be a part of 100 percent (got {error:g})")
    check_minutes(minutes)
    if not plan.calibration:
        raise BadInput("a plan without whole networks cannot be calibrated; give at least one")
    keys = tuple(dict.fromkeys(plan.keys))
    index = {k: i for i, k in enumerate(keys)}
    used = [[x.key for x in lower(spec)] for _, spec in plan.calibration]
    if left_out := [str(k) for k in dict.fromkeys(k for ks in used for k in ks) if k not in index]:
        raise MissingLayerError(left_out)
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
    }


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
    mine = np.array([kinds(k) for k in keys], dtype=float)
    return NetworkTime(
        label=label,
        ms=ms,
        hot_ms=sum(hot),
        mb=sum(map(weights_mb, keys)),
        madds=count(spec).madds,
        written_mb=sum(map(written_mb, keys)),
        reread_ms=sum(ms * reread(k) for k, ms in zip(keys, hot, strict=True)),
        kinds_ms=tuple((np.array(hot) @ mine).tolist()),
        kinds_n=tuple(mine.sum(axis=0).tolist()),
    )


def table_path(folder: Path, fingerprint: Fingerprint, about: Mapping[str, Any]) -> Path:
    """Where the cache keeps the table of this device, space and scale."""
    w, r = about["width"], about["resolution"]
    return folder / "tables" / f"{fingerprint.id}-{about['space']}-{about['space_id'][:8]}-w{w:g}-r{r}.csv"


def build_table(
    runtime: Runtime, plan: BuildPlan, path: Path, *, error: float = ERROR, minutes: float = MINUTES
) -> Iterator[Event]:
    """`build_with` sessions of `runtime` on this machine. Raises: as that."""
    keys, specs = list(dict.fromkeys(plan.keys)), [*(spec for _, spec in plan.calibration), plan.reference]

    def opened(i: int) -> Run:
        return runtime.layer(keys[i]) if i < len(keys) else runtime.network(specs[i - len(keys)])

    fingerprint = runtime.fingerprint
    timer = InProcess(opened, len(keys) + len(specs) - 1, fingerprint.threads)
    yield from build_with(timer, fingerprint, plan, path, error=error, minutes=minutes, anew=True)


def build_with(
    timer: Timer,
    fingerprint: Fingerprint,
    plan: BuildPlan,
    path: Path,
    *,
    error: float = ERROR,
    minutes: float = MINUTES,
    anew: bool = False,
) -> Iterator[Event]:
    """Measure `plan` with `timer`, write the table to `path`, yield progress and at last Done with `path`.

    What is measured goes to `path` + ".partial" at once; the same call after an interruption goes on there. `anew`:
    what that file holds of another plan or device is dropped; otherwise it is an error.

    Raises:
        BadInput: the place cannot be written, or another process is building the same table.
        MissingLayerError: `plan.keys` leaves out layers of a calibration network; before anything is timed.
    """
    work = work_of(plan, error=error, minutes=minutes)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(partial, work, header(kit_id(work), fingerprint), anew=anew)
    except RunnerError as e:
        raise BadInput(str(e)) from None
    except OSError as e:
        raise BadInput(f"{partial}: cannot be written ({e.strerror})") from None
    told = journal.told
    try:
        what = f"{told.n_layers} layers and {told.n_networks} calibration networks"
        yield StageStart(STAGE, f"timing {what} on {fingerprint.cpu}, for about {minutes:g} minutes")
        if told.layers:
            yield Note(STAGE, f"what was measured before an interruption, {told.seconds:.0f} s of it, is kept")
        try:
            for done, total in measure(work, timer, journal):
                yield Progress(STAGE, done, total, "steps", told.seconds / done * (total - done))
        except OSError as e:  # the disk is full
            raise BadInput(f"{partial}: cannot be written ({e.strerror}); what was measured is kept") from None
        table = table_of(plan, fingerprint, told, work)
        table.save(path)
        partial.unlink(missing_ok=True)  # still locked: nobody can have begun to write into it
    finally:
        journal.close()
    yield from noise_warning(table)
    done_text = f"{len(table.layers)} layers, {len(table.networks)} calibration networks ({told.seconds:.0f} s)"
    yield Done(STAGE, done_text, {"path": str(path), "report": table.report})


def table_of(plan: BuildPlan, fingerprint: Fingerprint, told: Told, work: Mapping[str, Any]) -> LatencyTable:
    """The table of `plan` from what was measured for it. Raises: ValueError where that makes no table."""
    references = [ms for now in told.references[: told.passes] for ms in now]
    reference_ms = sum(references) / len(references)
    rows, weights = {}, shares(told.sums(work["uses"]))
    for i, key in enumerate(dict.fromkeys(plan.keys)):
        rows[key] = _merged([told.layers[p][i] for p in range(told.passes)], weights, reference_ms)
    table = LatencyTable(
        fingerprint=fingerprint,
        reference=_reference(plan, reference_ms),
        layers=rows,
        about={**plan.about, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "setting": _settings(told)},
    )
    parts = told.parts()
    ms = (reference_ms * np.array(parts) @ shares(parts)).tolist()
    table = table.calibrated(
        network_time(label, spec, table, t) for (label, spec), t in zip(plan.calibration, ms, strict=True)
    )
    if table.report is None:
        return table
    floor, layers = told.noise(work["uses"])
    noise = {
        "noise_floor": floor,
        "layer_noise": layers,
        "asked": work["noise"],
        "drift": round(100 * told.drift, 1),
        "passes": told.passes,
        "seconds": round(told.seconds),
        "timed_s": round(told.timed_s),
        "conditions": _conditions(told),
    }
    return replace(table, report={**table.report, **noise})


def _merged(
    passes: Sequence[tuple[float, int, float, float]], weights: NDArray[np.float64], reference_ms: float
) -> Timed:
    """One measurement from (p10, runs, mean, deviation) of each pass, told over the reference's."""
    ms, n, mean, std = (np.array(column) for column in zip(*passes, strict=True))
    whole = float((n * mean).sum() / n.sum())
    variance = float((n * (std**2 + (mean - whole) ** 2)).sum() / n.sum())
    return timed(float(ms @ weights) * reference_ms, n.sum(), whole * reference_ms, variance**0.5 * reference_ms)


def _settings(told: Told) -> dict[str, list[float]]:
    """Cores and priorities that were timed on, as far as they are known; a build gone on with may have several."""
    return {
        name: sorted({c[name] for c in told.conditions if name in c})
        for name in ("core", "nice")
        if any(name in c for c in told.conditions)
    }


def _conditions(told: Told) -> dict[str, float]:
    """What else the machine did meanwhile, as far as it can be seen."""
    out = {}
    for name in ("others", "stolen"):
        if seen := [c[name] for c in told.conditions if name in c]:
            out[name] = round(statistics.fmean(seen), 2)
    if clocks := [c["mhz"] for c in told.conditions if "mhz" in c]:
        out["mhz_low"], out["mhz_high"] = min(clocks), max(clocks)
    third = max(1, told.passes // 3)
    first, last = (statistics.median(map(min, part)) for part in (told.references[:third], told.references[-third:]))
    out["slower"] = round(100 * (last / first - 1), 1)  # percent, from the first third of the passes to the last
    return out


def noise_warning(table: LatencyTable, error: float | None = None) -> Iterator[Note]:
    """Why a table is noisier than `error` percent, or than it was asked to be, where it is."""
    report = dict(table.report or {})
    if "asked" not in report or "layer_noise" not in report:
        return
    noise, seen = math.hypot(report["noise_floor"], report["layer_noise"]), dict(report["conditions"])
    asked = report["asked"] if error is None else error
    if noise <= asked:
        return
    why = []
    if seen.get("others", 0) > OTHERS:
        why.append(f"other programs kept {seen['others']:.1f} of {table.fingerprint.cores} cores busy; end them")
    if seen.get("stolen", 0) > OTHERS:
        why.append(f"the host of this virtual machine took {seen['stolen']:.1f} of its cores for others")
    if seen.get("mhz_high", 0) > CLOCK * seen.get("mhz_low", math.inf):
        why.append(f"the clock went between {seen['mhz_low']:.0f} and {seen['mhz_high']:.0f} MHz; fix its governor")
    if seen["slower"] > HEAT:
        why.append(f"the reference became {seen['slower']:.0f} % slower from beginning to end, as with heat; cool it")
    if report["drift"] > NOISY:
        why.append(f"the reference network varied by {report['drift']:.0f} % within seconds")
    told = "; ".join(why) or "no cause can be seen from inside (neighbours in the same machine?); give more --minutes"
    yield Note(
        STAGE,
        f"chance makes up {noise:.3g} % of a prediction's error after {report['seconds'] / 60:.1f} minutes, more than "
        f"the {asked:g} % asked for: {told}",
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


def check_table(
    device: Device,
    table: LatencyTable,
    networks: Sequence[tuple[str, ArchSpec]],
    panel: Sequence[tuple[NetworkTime, ArchSpec]] = (),
    *,
    rounds: int = NETWORK_ROUNDS,
    minutes: float = CHECK_MINUTES,
) -> dict[str, Any]:
    """The trust report: predict and measure networks that the table has not seen.

    `panel`: calibration networks of the table, timed again in the same rounds; with at least eight the calibration is
    fitted anew on them and on those of the build, brought to now by the median change, as milliseconds wander between
    two hours and not equally for every network. A table that `transfer` made is only brought to now. `as_built` holds
    the figures without that, `drift` the median change of the panel since the table was built, in percent. `minutes`:
    so long is timed while the noise is over what a check can bear.
    """
    measured = device.networks(
        [s for _, s in networks] + [s for _, s in panel], rounds=rounds, seed=1, more_s=60 * minutes,
        max_s=60 * minutes / PARTS,
    )  # fmt: skip
    t, again = list(measured.ms[: len(networks)]), measured.ms[len(networks) :]
    nets = [network_time(label, spec, table, ms, estimate=True) for (label, spec), ms in zip(networks, t, strict=True)]
    now = dict(zip((n.label for n, _ in panel), again, strict=True))
    drift = float(np.median([now[n.label] / n.ms for n, _ in panel])) if panel else 1.0
    # with what the build measured too, brought to now: one measurement alone would add more noise
    brought = [replace(n, ms=n.ms * drift) for n in table.networks]
    known = [replace(n, ms=(n.ms + now.get(n.label, n.ms)) / 2) for n in brought]
    moved = "transferred" in (table.about or {})  # too few networks and too little of its own for a calibration
    anew = len(now) >= 8 and not moved
    calibration = fit_calibration(known) if anew else table.calibration
    predicted = [(drift if moved else 1.0) * calibration(n) for n in nets]
    slope = sum(t) / max(sum(n.madds for n in nets), 1)
    errors = [abs(p / m - 1) for p, m in zip(predicted, t, strict=True)]
    worst = max(range(len(nets)), key=errors.__getitem__)
    told = zip(nets, predicted, t, strict=True)
    return {
        **fidelity(predicted, t),
        "noise_floor": measured.noise_floor,
        "calibrated_on": len(now) if anew else 0,
        "as_built": fidelity([table.calibration(n) for n in nets], t),
        "drift": round(100 * (drift - 1), 2),
        "reference_drift": round(100 * (measured.raw_reference_ms / table.reference_ms - 1), 2),
        "worst": {"network": nets[worst].label, "predicted_ms": predicted[worst], "measured_ms": t[worst]},
        "baselines": {
            "plain_sum": fidelity([n.hot_ms for n in nets], t),
            "madds": fidelity([slope * n.madds for n in nets], t),
        },
        "networks": [
            {
                "network": n.label,
                "predicted_ms": p,
                "measured_ms": m,
                "plain_sum_ms": n.hot_ms,
                "madds_ms": slope * n.madds,
            }
            for n, p, m in told
        ],
    }
