"""Which table a command uses: the one in the cache, a new one, or a file."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
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
    load_profile,
    noise_warning,
    open_runtime,
    profile_names,
    table_path,
)

__all__ = ["TABLE_MINUTES", "open_table", "profile_caveat", "read_table"]

TABLE_MINUTES = 2.0  # of a run; `mbv3 latency build` beforehand gives it a table that was timed for longer


def open_table(
    runtime: Runtime,
    plan: BuildPlan,
    *,
    rebuild: bool = False,
    error: float | None = None,
    minutes: float = MINUTES,
) -> Generator[Event, None, LatencyTable]:
    """The cache's table for `plan`, built if it is not there.

    Where `error` is given, a table that is noisier and was timed for clearly less than `minutes` is measured anew."""
    path = table_path(cache_folder(), runtime.fingerprint, plan.about)
    if path.exists() and not rebuild:
        try:
            table = LatencyTable.load(path)
            table.require(runtime.fingerprint, str(path))
            date = (table.about or {}).get("date")
            if error is None or not _rougher(table, error, minutes):
                yield Note("table", f"using the latency table of {date} in {path} (--rebuild-table measures it anew)")
                if error is not None:
                    yield from noise_warning(table, error)
                return table
            yield Note("table", f"the latency table of {date} in {path} is noisier than asked for; it is measured anew")
        except BadInput as e:
            yield Note("table", f"{e}; it is measured anew", warning=True)
    yield from build_table(runtime, plan, path, error=ERROR if error is None else error, minutes=minutes)
    return LatencyTable.load(path)


def _rougher(table: LatencyTable, error: float, minutes: float) -> bool:
    """Whether a table is noisier than asked for and was given clearly less time than is given now."""
    report = dict(table.report or {})
    noise = math.hypot(report.get("noise_floor", 0.0), report.get("layer_noise", 0.0))
    return bool(noise > error and report.get("seconds", 0.0) < 0.8 * 60 * minutes)


def read_table(path: str, runtime: str, threads: int, force: bool) -> tuple[LatencyTable, str | None]:
    """A table given as a file or by a profile's name, and a caveat where its times are not those of this device.

    Raises:
        BadInput: neither a table nor a profile.
        ForeignTable: it was measured on another device, runtime or thread count, unless `force`.
    """
    table = load_profile(path) if path in profile_names() else LatencyTable.load(path)
    if table.model is not None:
        return table, profile_caveat(table)
    about, f = dict(table.about or {}), table.fingerprint
    moved = _transferred(path, about["transferred"]) if "transferred" in about else None
    if moved is not None and f.runtime == "unknown":  # nobody can tell whether it is this device's
        return table, moved
    by = "a kit" if "kit" in about else "benchmark_model" if f.runtime_version.startswith("benchmark_model") else None
    if by:  # brought here on purpose
        return table, f"{path} was measured by {by} on {f}: times are of that device and nothing is timed here"
    here = open_runtime(runtime, threads).fingerprint
    differing = [name for name, _, _ in f.differences(here)]
    if not differing:
        return table, moved
    if not force:
        table.require(here, path)
    return table, f"forced: the latency table {path} was measured elsewhere ({', '.join(differing)} differ)"


def _transferred(path: str, moved: Mapping[str, Any]) -> str:
    return (
        f"{path} was fitted to {moved['fitted_on']} whole networks of its device; its layers' times are those on "
        f"{moved['cpu']}, {moved['runtime']}, {moved['threads']} thread(s), a factor for each kind of work"
    )


def profile_caveat(table: LatencyTable) -> str:
    """What must be said wherever a profile's times are shown."""
    about = dict(table.about or {})
    errors = [abs(float(n["error"])) for n in about.get("networks", ())]
    known = f"whole networks as published are off by {min(errors):.0f} to {max(errors):.0f} %" if errors else (
        f"blocks held out are off by {about['blocks']['rmspe']:.1f} % RMSPE, no whole network is published"
    )  # fmt: skip
    return f"{about['profile']}: every time is estimated from published measurements, nothing was timed; {known}"
