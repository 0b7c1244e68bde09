"""A table for another device or setting from few whole networks timed there (Lee 2021, HELP, asks the same of ten).

The rows stay those of the table's own device; the calibration, which tells kinds of layers apart, is fitted anew.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mbv3.errors import BadInput
from mbv3.latency.build import network_time
from mbv3.latency.calibration import fit_calibration
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.metrics import fidelity
from mbv3.latency.table import LatencyTable, positive_ms
from mbv3.spec import ArchSpec

__all__ = ["MeasuredNetworks", "read_networks", "transfer"]

FORMAT = "mbv3-networks/2"
LEAST = 8
_HEADER = ("format", "fingerprint", "reference_ms", "space_id", "seal")


@dataclass(frozen=True)
class MeasuredNetworks:
    """Whole networks timed on one device: (network, ms), its fingerprint where the file says it, and the id of the
    scaled space in which genomes name them."""

    times: tuple[tuple[str, float], ...]
    fingerprint: Fingerprint | None = None
    reference_ms: float | None = None
    space_id: str | None = None

    def dumps(self) -> str:
        """As a CSV: `network,ms`, after a header comment with the device, the space and a seal of the rows."""
        body = io.StringIO()
        w = csv.writer(body, lineterminator="\n")
        w.writerow(["network", "ms"])
        w.writerows([name, f"{ms:.6f}"] for name, ms in self.times)
        out = io.StringIO()
        out.write(f"# format: {json.dumps(FORMAT)}\n")
        if self.fingerprint is not None:
            out.write(f"# fingerprint: {json.dumps(self.fingerprint.as_dict())}\n")
        if self.reference_ms is not None:
            out.write(f"# reference_ms: {self.reference_ms!r}\n")
        if self.space_id is not None:
            out.write(f"# space_id: {json.dumps(self.space_id)}\n")
        out.write(f"# seal: {json.dumps(_seal(body.getvalue()))}\n")
        return out.getvalue() + body.getvalue()


def _seal(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def read_networks(path: Path) -> MeasuredNetworks:
    """A CSV with the columns `network` and `ms`, our own or one written by hand.

    Raises:
        BadInput: missing, not such a CSV, one of ours that was cut or edited, a network twice, a time that cannot be
            (all rows at fault listed).
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines(keepends=True)
    except (OSError, ValueError) as e:
        raise BadInput(f"{path}: cannot be read as a list of measured networks ({e})") from None
    header: dict[str, Any] = {}
    while lines and lines[0].startswith("#"):
        name, _, value = lines.pop(0)[1:].strip().partition(": ")
        if name not in _HEADER:  # a remark of somebody's
            continue
        try:
            header[name] = json.loads(value)
        except (ValueError, RecursionError):
            raise BadInput(f"{path}: the value of {name!r} in its header is not valid JSON") from None
    if "format" in header and (header["format"] != FORMAT or header.get("seal") != _seal("".join(lines))):
        raise BadInput(
            f"{path}: is not whole, was edited, or is of another version (format {header['format']!r}, here "
            f"{FORMAT!r}); measure again, or give a list of your own: network,ms without a header of ours"
        )
    try:
        rows = list(csv.DictReader(lines))
        fingerprint = Fingerprint(**header["fingerprint"]) if "fingerprint" in header else None
        reference_ms = positive_ms(header["reference_ms"]) if "reference_ms" in header else None
    except (csv.Error, TypeError, ValueError) as e:
        raise BadInput(f"{path}: is not a list of measured networks ({e})") from None
    if not rows or not {"network", "ms"} <= set(rows[0]):
        raise BadInput(f"{path}: needs the columns network,ms and a row for each network")
    times: dict[str, float] = {}
    faults: list[str] = []
    for n, row in enumerate(rows, 1):
        try:
            ms = positive_ms(row["ms"])
        except (ValueError, TypeError):
            faults.append(f"row {n}: {row['ms']!r} is not a time in ms")
            continue
        if not row["network"]:
            faults.append(f"row {n}: names no network")
        if row["network"] in times:
            faults.append(f"row {n}: {row['network']} is there twice")
        times[row["network"]] = ms
    if faults:
        raise BadInput(f"{path}: {len(faults)} row(s) at fault\n" + "\n".join(f"  {f}" for f in faults[:20]))
    return MeasuredNetworks(tuple(times.items()), fingerprint, reference_ms, header.get("space_id"))


def transfer(
    table: LatencyTable,
    networks: Sequence[tuple[str, ArchSpec, float]],
    fingerprint: Fingerprint,
    reference: tuple[ArchSpec, float | None],
    fit: int = 10,
) -> LatencyTable:
    """`table` for the device on which `networks` (label, network, ms) were timed: the calibration is fitted on the
    first `fit` of them, the report is on the others. `reference`: the table's reference network and its ms there, None
    where it is not known and is predicted.

    Raises:
        BadInput: too few networks.
    """
    if fit < LEAST or len(networks) < fit:
        raise BadInput(f"a transfer needs at least {LEAST} measured networks to fit on (got {min(fit, len(networks))})")
    nets = [network_time(label, spec, table, ms, estimate=True) for label, spec, ms in networks]
    some, rest = nets[:fit], nets[fit:]
    calibration = fit_calibration(some)
    report: dict[str, Any] | None = None
    if rest:
        t = [n.ms for n in rest]
        scale = sum(n.ms for n in some) / sum(n.hot_ms for n in some)
        report = {
            **fidelity([calibration(n) for n in rest], t),
            "how": f"on {len(rest)} networks not used in the fit on {fit}",
            "noise_floor": None,
            "baselines": {"table_scaled": fidelity([scale * n.hot_ms for n in rest], t)},
        }
    source = {"cpu": table.fingerprint.cpu, "runtime": table.fingerprint.runtime, "threads": table.fingerprint.threads}
    about = {k: v for k, v in (table.about or {}).items() if k not in ("kit", "benchmark")}
    spec, ms = reference
    reference_ms = ms or calibration(network_time("reference", spec, table, 1.0, estimate=True))
    return replace(
        table,
        reference={**table.reference, "ms": reference_ms},
        fingerprint=fingerprint,
        networks=tuple(nets),
        calibration=calibration,
        report=report,
        about={**about, "transferred": {**source, "fitted_on": fit}},
    )
