"""Which table is used: the one in the cache, a new one, a file, or the profile of a phone."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbv3.errors import BadInput
from mbv3.events import Event, Note
from mbv3.files import cache_folder
from mbv3.latency import (
    ERROR,
    MINUTES,
    BuildPlan,
    LatencyTable,
    Runtime,
    build_table,
    check_runtime,
    load_profile,
    measure_over_adb,
    measure_over_ssh,
    noise_warning,
    open_runtime,
    profile_names,
    table_path,
)
from mbv3.tables.lean import serves
from mbv3.tables.plan import SPACE, scaled_space, table_plan

__all__ = [
    "TABLE_MINUTES",
    "OpenTable",
    "build_remote",
    "choose_table",
    "open_table",
    "profile_caveat",
    "read_table",
]

TABLE_MINUTES = 2.0  # of a run; a table from `mbv3 latency build` may have been measured for longer


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A table in use. `caveat` must be printed with every figure from it; `runtime` is None where the table is of a
    device that is not at hand."""

    table: LatencyTable
    caveat: str | None = None
    runtime: Runtime | None = None


def choose_table(
    device: str | None,
    runtime: str = "onnxruntime",
    threads: int = 1,
    *,
    space: str = SPACE,
    scale: str = "1",
    force: bool = False,
    rebuild: bool = False,
    error: float | None = None,
    minutes: float = MINUTES,
) -> Generator[Event, None, OpenTable]:
    """The table `device`, a file or the name of a profile; where it is None the one of this machine for `space` at
    `scale`, from the cache or measured now.

    Raises:
        BadInput: no such table, space, scale or runtime.
        ForeignTable: the file is of another device, runtime or thread count, unless `force`.
    """
    if device:
        table, caveat = read_table(device, runtime, threads, force)
        if caveat:
            yield Note("table", caveat, warning=True)
        return OpenTable(table, caveat)
    here = open_runtime(runtime, threads)
    plan = table_plan(scaled_space(space, scale))
    table = yield from open_table(here, plan, rebuild=rebuild, error=error, minutes=minutes)
    return OpenTable(table, None, here)


def open_table(
    runtime: Runtime,
    plan: BuildPlan,
    *,
    rebuild: bool = False,
    error: float | None = None,
    minutes: float = MINUTES,
) -> Generator[Event, None, LatencyTable]:
    """The table of `plan` for this machine: from the cache, else measured now. Returns it. A whole table serves a plan
    of a part of it, and a part one near its target.

    Where `error` is given, a table that is noisier and was measured for clearly less than `minutes` is measured again.
    """
    path = table_path(cache_folder(), runtime.fingerprint, plan.about)
    if path.exists() and not rebuild:
        try:
            table = LatencyTable.load(path)
            table.require(runtime.fingerprint, str(path))
            date = (table.about or {}).get("date")
            if not serves(table, plan):
                yield Note("table", f"the latency table in {path} holds a part of the layers only; measuring again")
            elif error is None or not _is_noisier(table, error, minutes):
                yield Note("table", f"using the latency table of {date} in {path} (--rebuild-table measures it again)")
                if error is not None:
                    yield from noise_warning(table, error)
                return table
            else:
                text = f"the latency table of {date} in {path} is noisier than requested; measuring it again"
                yield Note("table", text)
        except BadInput as e:
            yield Note("table", f"{e}; measuring it again", warning=True)
    return (yield from build_table(runtime, plan, path, error=ERROR if error is None else error, minutes=minutes))


def build_remote(
    target: str,
    plan: BuildPlan,
    runtime: str,
    threads: int,
    out: Path,
    *,
    benchmark: str | None = None,
    error: float = ERROR,
    minutes: float = MINUTES,
) -> Generator[Event, None, LatencyTable]:
    """Measure `plan` on the device `target`, which is `ssh://...` or `adb:SERIAL`, and write the table to `out`.

    `benchmark`: path of LiteRT's benchmark_model on an adb device.

    Raises:
        BadInput: the device cannot be reached or used; see `measure_over_ssh` and `measure_over_adb`.
    """
    if target.startswith("adb:"):
        events = measure_over_adb(target, benchmark, plan, runtime, threads, out, error=error, minutes=minutes)
    else:
        events = measure_over_ssh(target, plan, runtime, threads, out, error=error, minutes=minutes)
    return (yield from events)


def _is_noisier(table: LatencyTable, error: float, minutes: float) -> bool:
    """Whether a table is noisier than requested and had clearly less time than is allowed now."""
    report = dict(table.report or {})
    noise = math.hypot(report.get("noise_floor", 0.0), report.get("layer_noise", 0.0))
    return bool(noise > error and report.get("seconds", 0.0) < 0.8 * 60 * minutes)


def read_table(path: str, runtime: str, threads: int, force: bool) -> tuple[LatencyTable, str | None]:
    """A table from a file or the name of a profile, and a caveat where its times are not those of this device.

    Raises:
        BadInput: neither a table nor a profile; no such runtime.
        ForeignTable: it was measured on another device, runtime or thread count, unless `force`.
    """
    check_runtime(runtime)
    table = load_profile(path) if path in profile_names() else LatencyTable.load(path)
    if table.model is not None:
        return table, profile_caveat(table)
    about, f = dict(table.about or {}), table.fingerprint
    transferred = _transfer_caveat(path, about["transferred"]) if "transferred" in about else None
    if transferred is not None and f.runtime == "unknown":  # it cannot be compared with this device
        return table, transferred
    by = "a kit" if "kit" in about else "benchmark_model" if f.runtime_version.startswith("benchmark_model") else None
    if by:  # a table of another device on purpose
        return (
            table,
            f"{path} was measured by {by} on {f}: its times are those of that device; nothing is measured here",
        )
    here = open_runtime(runtime, threads).fingerprint
    differing = [name for name, _, _ in f.differences(here)]
    if not differing:
        return table, transferred
    if not force:
        table.require(here, path)
    return table, f"forced: the latency table {path} was measured elsewhere ({', '.join(differing)} differ)"


def _transfer_caveat(path: str, transferred: Mapping[str, Any]) -> str:
    return (
        f"{path} was fitted to {transferred['fitted_on']} whole networks measured on its device; the times of its "
        f"layers were measured on {transferred['cpu']}, {transferred['runtime']}, {transferred['threads']} thread(s), "
        "and scaled by a factor for each kind of work"
    )


def profile_caveat(table: LatencyTable) -> str:
    """The caveat for every time from the profile of a phone."""
    about = dict(table.about or {})
    errors = [abs(float(n["error"])) for n in about.get("networks", ())]
    if errors:
        known = f"the error on published whole networks is {min(errors):.0f} to {max(errors):.0f} %"
    else:
        known = f"the error on held-out blocks is {about['blocks']['rmspe']:.1f} % RMSPE, no whole network is published"
    return (
        f"{about['profile']}: every time is estimated from published measurements, nothing was measured here; {known}"
    )
