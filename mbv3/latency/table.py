"""The latency table: hot layer times, whole networks, calibration and trust report of one device, in one CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear

from mbv3.errors import BadInput, ForeignTable, MissingLayerError
from mbv3.latency.costmodel import CostModel, fit_cost_model
from mbv3.latency.fingerprint import Fingerprint
from mbv3.spec import ArchSpec, LayerKey, lower, lower_key, parse_key

__all__ = ["Calibration", "LatencyTable", "NetworkTime", "Prediction", "Timed", "fit_calibration", "weights_mb"]

FORMAT = "mbv3-table/1"
MAX_TABLE_BYTES = 30_000_000
_COLUMNS = ("kind", "key", "ms", "n", "mean", "std", "predicted")


@dataclass(frozen=True, slots=True)
class Timed:
    """One measurement: p10 in ms at the table's reference, and the raw summary of its n runs."""

    ms: float
    n: int
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class NetworkTime:
    """A whole network measured for calibration or check. `hot_ms` is its plain sum, `mb` its weights."""

    label: str
    ms: float
    hot_ms: float
    mb: float
    madds: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """predicted ms = a * sum of hot layer times + b * weights in MB + c."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0

    def __call__(self, hot_ms: Any, mb: Any) -> Any:
        return self.a * hot_ms + self.b * mb + self.c


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted latency in ms. `estimated` counts the layers that come from the cost model."""

    ms: float
    estimated: int
    rows: tuple[tuple[str, float, bool], ...]  # path, ms, estimated


def weights_mb(key: LayerKey) -> float:
    """Weights of a layer in megabytes (fp32): in a network they come cold from memory, in the table hot from cache."""
    return lower_key(key).params * 4e-6


def fit_calibration(networks: Iterable[NetworkTime]) -> Calibration:
    """Least squares of relative errors over whole networks, a and b not negative."""
    nets = list(networks)
    if len(nets) < 4:
        return Calibration()
    t = np.array([n.ms for n in nets])
    x = np.array([[n.hot_ms, n.mb, 1.0] for n in nets]) / t[:, None]
    smallest = float(t.min())
    solution = lsq_linear(x, np.ones(len(t)), bounds=([0.1, 0, -0.3 * smallest], [10, np.inf, 0.3 * smallest]))
    a, b, c = (float(v) for v in solution.x)
    return Calibration(a, b, c)


@dataclass(frozen=True)
class LatencyTable:
    """Hot times of layers on one device, calibrated on whole networks.

    `about` holds what else is known: space and scale it was built for, reference network, trust report, date.
    """

    fingerprint: Fingerprint
    reference: Mapping[str, Any]  # {"spec": name, "width": w, "resolution": r, "ms": t}
    layers: Mapping[LayerKey, Timed]
    networks: tuple[NetworkTime, ...] = ()
    calibration: Calibration = Calibration()
    report: Mapping[str, Any] | None = None
    about: Mapping[str, Any] | None = None

    @property
    def reference_ms(self) -> float:
        return float(self.reference["ms"])

    @cached_property
    def cost_model(self) -> CostModel:
        """The fit used for layers without a row."""
        return fit_cost_model(list(self.layers), [t.ms for t in self.layers.values()])

    def hot_ms(self, key: LayerKey, *, estimate: bool = False) -> float:
        """Hot latency of one layer. Raises: MissingLayerError unless `estimate`."""
        timed = self.layers.get(key)
        if timed is not None:
            return timed.ms
        if not estimate:
            raise MissingLayerError([str(key)])
        return self.cost_model.ms(key)

    def missing(self, spec: ArchSpec) -> list[LayerKey]:
        """Layers of `spec` that have no row."""
        keys = (x.key for x in lower(spec))
        return list(dict.fromkeys(k for k in keys if k not in self.layers))

    def predict(self, spec: ArchSpec, *, estimate: bool = False) -> Prediction:
        """Predicted batch-1 latency of `spec`, row by row.

        Raises:
            MissingLayerError: rows without a measurement, all listed, unless `estimate`.
        """
        missing = set(self.missing(spec))
        if missing and not estimate:
            raise MissingLayerError(str(k) for k in missing)
        c = self.calibration
        rows = []
        for layer in lower(spec):
            key = layer.key
            rows.append((layer.path, c.a * self.hot_ms(key, estimate=True) + c.b * weights_mb(key), key in missing))
        return Prediction(sum(r[1] for r in rows) + c.c, sum(r[2] for r in rows), tuple(rows))

    def latency_ms(self, spec: ArchSpec, *, estimate: bool = False) -> float:
        """Predicted batch-1 latency of `spec` on the table's device, in ms; lower is faster.

        Raises:
            MissingLayerError: layers without a measurement; `.missing` lists every one.
        """
        return self.predict(spec, estimate=estimate).ms

    def with_layers(self, rows: Mapping[LayerKey, Timed]) -> LatencyTable:
        """A table with further rows."""
        return replace(self, layers={**self.layers, **rows})

    def calibrated(self, networks: Iterable[NetworkTime]) -> LatencyTable:
        """The table with calibration fitted on `networks` and a leave-one-out trust report."""
        from mbv3.latency.metrics import fidelity

        nets = tuple(networks)
        calibration = fit_calibration(nets)
        held = [fit_calibration(n for n in nets if n is not m)(m.hot_ms, m.mb) for m in nets]
        measured = [n.ms for n in nets]
        report = {**fidelity(held, measured), "how": "leave-one-out over the calibration networks"} if nets else None
        if report:
            report["baselines"] = {"plain_sum": fidelity([n.hot_ms for n in nets], measured)}
        return replace(self, networks=nets, calibration=calibration, report=report)

    def require(self, here: Fingerprint, source: str) -> None:
        """Raises: ForeignTable when the table was measured on something else."""
        differing = self.fingerprint.differences(here)
        if differing:
            raise ForeignTable(source, differing)

    # ---- CSV -------------------------------------------------------------------------------------------------

    def dumps(self) -> str:
        """The table as text: header comments with JSON values, rows, sealed by their count and SHA-256."""
        body = io.StringIO()
        w = csv.writer(body, lineterminator="\n")
        w.writerow(_COLUMNS)
        for key, t in self.layers.items():
            w.writerow(["layer", str(key), f"{t.ms:.6f}", t.n, f"{t.mean:.6f}", f"{t.std:.6f}", ""])
        for n in self.networks:
            predicted = self.calibration(n.hot_ms, n.mb)
            w.writerow(["network", n.label, f"{n.ms:.6f}", "", "", "", f"{predicted:.6f}"])
        text = body.getvalue()
        header = {
            "format": FORMAT,
            "fingerprint": self.fingerprint.as_dict(),
            "reference": dict(self.reference),
            "calibration": {"a": self.calibration.a, "b": self.calibration.b, "c": self.calibration.c},
            "report": dict(self.report) if self.report else None,
            "about": dict(self.about) if self.about else None,
            "networks": [[n.label, n.hot_ms, n.mb, n.madds] for n in self.networks],
            "seal": {
                "rows": len(self.layers) + len(self.networks),
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            },
        }
        return "".join(f"# {k}: {json.dumps(v)}\n" for k, v in header.items()) + text

    def save(self, path: Path) -> None:
        """Write the CSV in one step: a reader never meets half a file."""
        from mbv3.files import write_atomic

        write_atomic(path, self.dumps())

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Read a table.

        Raises:
            BadInput: missing, truncated, edited or not a table; the message says where and what to do.
        """
        path = Path(path)
        try:
            if path.stat().st_size > MAX_TABLE_BYTES:
                raise BadInput(f"{path}: a latency table holds at most {MAX_TABLE_BYTES:,} bytes")
            text = path.read_text("utf-8")
        except FileNotFoundError:
            raise BadInput(f"{path}: no such latency table; build one with: mbv3 latency build") from None
        except (OSError, UnicodeDecodeError) as e:
            raise BadInput(f"{path}: cannot be read as a latency table ({e})") from None
        return cls.loads(text, str(path))

    @classmethod
    def loads(cls, text: str, source: str = "table") -> LatencyTable:
        """Parse the text of a table. Raises: BadInput."""
        header: dict[str, Any] = {}
        lines = text.split("\n")
        n = 0
        for n, line in enumerate(lines):  # noqa: B007
            if not line.startswith("# "):
                break
            name, _, value = line[2:].partition(": ")
            try:
                header[name] = json.loads(value)
            except (ValueError, RecursionError):
                raise BadInput(f"{source}: line {n + 1}: the value of {name!r} is not valid JSON") from None
        if header.get("format") != FORMAT:
            raise BadInput(f"{source}: not a latency table (its first line must be '# format: \"{FORMAT}\"')")
        body = "\n".join(lines[n:])
        seal = header.get("seal") or {}
        rows = list(csv.reader(io.StringIO(body)))
        if hashlib.sha256(body.encode()).hexdigest() != seal.get("sha256"):
            have = max(len(rows) - 1, 0)
            what = (
                f"{have} of {seal.get('rows')} rows are there, so it is truncated or rows were removed"
                if have != seal.get("rows")
                else "a value was edited"
            )
            raise BadInput(
                f"{source}: its rows do not match the seal in its header ({what}); "
                "measure it again with: mbv3 latency build"
            )
        try:
            return cls._parse(header, rows[1:])
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise BadInput(f"{source}: not a valid latency table ({type(e).__name__}: {e})") from None

    @classmethod
    def _parse(cls, header: Mapping[str, Any], rows: list[list[str]]) -> LatencyTable:
        layers: dict[LayerKey, Timed] = {}
        measured: dict[str, float] = {}
        for kind, key, ms, n, mean, std, _ in rows:
            value = float(ms)
            if not (math.isfinite(value) and 0 < value < 1e7):
                raise ValueError(f"{key}: {ms} is not a time in ms")
            if kind == "layer":
                layers[parse_key(key)] = Timed(value, int(n), float(mean), float(std))
            else:
                measured[key] = value
        networks = tuple(
            NetworkTime(label, measured[label], hot, mb, madds) for label, hot, mb, madds in header["networks"]
        )
        reference = header["reference"]
        if not float(reference["ms"]) > 0:
            raise ValueError("the reference has no time")
        return cls(
            fingerprint=Fingerprint(**header["fingerprint"]),
            reference=reference,
            layers=layers,
            networks=networks,
            calibration=Calibration(**header["calibration"]),
            report=header["report"],
            about=header["about"],
        )
