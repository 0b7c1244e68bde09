"""A list of whole networks measured on one device, as a CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbv3.errors import BadInput
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.table import positive_ms

__all__ = ["MeasuredNetworks", "read_networks"]

FORMAT = "mbv3-networks/3"
_HEADER = ("format", "fingerprint", "reference_ms", "space_id", "seal")


@dataclass(frozen=True)
class MeasuredNetworks:
    """Whole networks measured on one device: (network, ms) of each; where known the fingerprint of the device, and the
    id of the scaled space that the names of the networks refer to."""

    times: tuple[tuple[str, float], ...]
    fingerprint: Fingerprint | None = None
    reference_ms: float | None = None
    space_id: str | None = None

    def dumps(self) -> str:
        """As CSV: columns `network,ms` after header comments with the device, the space and a seal of the rows."""
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
    """Read a CSV with the columns `network` and `ms`, written by `dumps` or by hand.

    Raises:
        BadInput: the file is missing or no such CSV; it was written by `dumps` and is incomplete or edited; a network
            occurs twice; a time is impossible (all faulty rows are listed).
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines(keepends=True)
    except (OSError, ValueError) as e:
        raise BadInput(f"{path}: cannot be read as a list of measured networks ({e})") from None
    header = _take_header(path, lines)
    if "format" in header and (header["format"] != FORMAT or header.get("seal") != _seal("".join(lines))):
        raise BadInput(
            f"{path}: is incomplete, was edited, or has another format (its format is {header['format']!r}, here "
            f"{FORMAT!r}); measure again, or remove its header lines to use it as a list of your own"
        )
    try:
        rows = list(csv.DictReader(lines))
        fingerprint = Fingerprint(**header["fingerprint"]) if "fingerprint" in header else None
        reference_ms = positive_ms(header["reference_ms"]) if "reference_ms" in header else None
    except (csv.Error, TypeError, ValueError) as e:
        raise BadInput(f"{path}: is not a list of measured networks ({e}); it needs the columns network,ms") from None
    return MeasuredNetworks(_times(path, rows), fingerprint, reference_ms, header.get("space_id"))


def _take_header(path: Path, lines: list[str]) -> dict[str, Any]:
    """The header, whose comment lines are removed from `lines`. Raises: BadInput."""
    header: dict[str, Any] = {}
    while lines and lines[0].startswith("#"):
        name, _, value = lines.pop(0)[1:].strip().partition(": ")
        if name not in _HEADER:  # a comment of the user
            continue
        try:
            header[name] = json.loads(value)
        except (ValueError, RecursionError):
            raise BadInput(f"{path}: the value of {name!r} in its header is not valid JSON") from None
    return header


def _times(path: Path, rows: Sequence[Mapping[str, str]]) -> tuple[tuple[str, float], ...]:
    """(network, ms) of every row. Raises: BadInput, which lists all faulty rows."""
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
            faults.append(f"row {n}: the network is empty")
        if row["network"] in times:
            faults.append(f"row {n}: {row['network']} occurs twice")
        times[row["network"]] = ms
    if faults:
        listed = "\n".join(f"  {f}" for f in faults[:20])
        raise BadInput(f"{path}: {len(faults)} faulty row(s); correct them or measure again\n{listed}")
    return tuple(times.items())
