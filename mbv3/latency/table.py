"""The latency table: hot layer times, whole networks, calibration and error report of one device, in one CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.errors import BadInput, ForeignTable, MissingLayerError, shown
from mbv3.files import write_atomic
from mbv3.latency.calibration import AS_SUMMED, BASE, KINDS, Calibration, NetworkTime, fit_calibration, occurring
from mbv3.latency.costmodel import FEATURES, CostModel, fit_cost_model
from mbv3.latency.fingerprint import Fingerprint
from mbv3.latency.metrics import fidelity
from mbv3.spec import ArchSpec, LayerKey, lower, parse_key, parse_resolution

__all__ = ["LatencyTable", "Prediction", "Timed"]

FORMAT = "mbv3-table/4"
BY = "abcde"
MAX_TABLE_BYTES = 30_000_000
_COLUMNS = ("kind", "key", "ms", "n", "mean", "std", "predicted")


@dataclass(frozen=True, slots=True)
class Timed:
    """One measurement in ms of the table: p10, and number, mean and standard deviation of its runs."""

    ms: float
    n: int
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted latency in ms. `estimated` is the number of layers that were estimated by the cost model."""

    ms: float
    estimated: int
    rows: tuple[tuple[str, float, bool], ...]  # path, ms, estimated


def positive_ms(value: Any) -> float:
    """`value` as a time in ms. Raises: ValueError unless it is one."""
    ms = float(value)
    if not 0 < ms < 1e7:  # False for NaN
        raise ValueError(f"{value} is not a time in ms")
    return ms


def timed(ms: Any, n: Any, mean: Any, std: Any) -> Timed:
    """A measurement, checked. Raises: ValueError unless it is one."""
    row = Timed(positive_ms(ms), int(n), positive_ms(mean), float(std))
    if row.n < 1 or not 0 <= row.std < 1e7:
        raise ValueError(f"{n} runs with a standard deviation of {std} ms are not a measurement")
    return row


def _sums(label: str, hot_ms: Any, madds: Any, *amounts: Any) -> None:
    """Raises: ValueError unless the sums of a network's layers are such: a time, and amounts that are finite and not
    negative."""
    positive_ms(hot_ms)
    for amount in (madds, *amounts):
        if not 0 <= float(amount) < math.inf:
            raise ValueError(f"{label}: {amount} is no sum over layers")


def _fingerprint(given: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of a header. Raises: TypeError, ValueError: a part is missing, unknown or of another type."""
    for field in fields(Fingerprint):
        value = given.get(field.name, field.default)
        if value is not MISSING and type(value) is not {"str": str, "int": int}[str(field.type)]:
            raise ValueError(f"fingerprint.{field.name} is {shown(value)}")
    return Fingerprint(**given)


def _about_of(header: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the header says of the space that the table is of. Raises: ValueError, BadInput where it cannot be."""
    for name in ("reference", "calibration", "fingerprint"):
        if not isinstance(header[name], dict):
            raise ValueError(f"{name} is no mapping")
    for name in ("report", "about"):
        if not isinstance(header[name], dict | None):
            raise ValueError(f"{name} is no mapping")
    about: Mapping[str, Any] | None = header["about"]
    if about is not None and not 0 < float(about.get("width", 1)) < 100:
        raise ValueError(f"about.width is {about['width']}")
    if about is not None and "resolution" in about:
        parse_resolution(str(about["resolution"]))
    return about


def _by_kind(values: Iterable[float], names: Iterable[str]) -> tuple[float, ...]:
    """Values by kind for KINDS; a kind that the table is not about has 0. Raises: KeyError for an unknown kind."""
    given = dict(zip(names, map(float, values), strict=True))
    if unknown := given.keys() - set(KINDS):
        raise KeyError(f"{min(unknown)} is no kind of layer that is known here")
    return tuple(given.get(kind, 0.0) for kind in KINDS)


def _seal(head: str, body: str) -> str:
    """SHA-256 of the header and the rows: every prediction depends on both."""
    return hashlib.sha256((head + body).encode()).hexdigest()


@dataclass(frozen=True)
class LatencyTable:
    """Hot times of layers on one device, calibrated on whole networks.

    `about` holds what else is known: the space and scale that it was built for, the reference network, the date.
    A table with a `model` and without rows estimates every layer: the profile of a phone.
    """

    fingerprint: Fingerprint
    reference: Mapping[str, Any]  # {"spec": name, "width": w, "resolution": r, "ms": t}
    layers: Mapping[LayerKey, Timed]
    networks: tuple[NetworkTime, ...] = ()
    calibration: Calibration = AS_SUMMED
    report: Mapping[str, Any] | None = None
    about: Mapping[str, Any] | None = None
    model: CostModel | None = None  # of a device that is known by published measurements only

    @property
    def reference_ms(self) -> float:
        return float(self.reference["ms"])

    @cached_property
    def cost_model(self) -> CostModel:
        """Estimates layers without a row."""
        return self.model or fit_cost_model(list(self.layers), [t.ms for t in self.layers.values()])

    def hot_ms(self, key: LayerKey, *, estimate: bool = False) -> float:
        """Hot latency of one layer in ms. Raises: MissingLayerError for a layer without a row, unless `estimate`."""
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
        missing = self.missing(spec)
        if missing and not estimate:
            raise MissingLayerError(str(k) for k in missing)
        c = self.calibration
        rows = []
        for layer in lower(spec):
            key = layer.key
            rows.append((layer.path, c.layer_ms(key, self.hot_ms(key, estimate=True)), key in missing))
        return Prediction(sum(r[1] for r in rows) + c.c, sum(r[2] for r in rows), tuple(rows))

    def latency_ms(self, spec: ArchSpec, *, estimate: bool = False) -> float:
        """Predicted batch-1 latency of `spec` on the table's device, in ms; lower is faster.

        Raises:
            MissingLayerError: layers without a measurement; `.missing` lists every one.
        """
        return self.predict(spec, estimate=estimate).ms

    def with_layers(self, rows: Mapping[LayerKey, Timed]) -> LatencyTable:
        """The table with further rows."""
        return replace(self, layers={**self.layers, **rows})

    def calibrated(self, networks: Iterable[NetworkTime]) -> LatencyTable:
        """The table with a calibration fitted on `networks` and its leave-one-out errors as the report."""
        nets = tuple(networks)
        calibration = fit_calibration(nets)
        held = [fit_calibration(n for n in nets if n is not m)(m) for m in nets]
        measured = [n.ms for n in nets]
        report: dict[str, Any] | None = None
        if nets:
            report = {**fidelity(held, measured), "how": "leave-one-out over the calibration networks"}
            report["baselines"] = {"plain_sum": fidelity([n.hot_ms for n in nets], measured)}
        return replace(self, networks=nets, calibration=calibration, report=report)

    def require(self, here: Fingerprint, source: str) -> None:
        """Raises: ForeignTable when the table was measured on another device, runtime or thread count."""
        differing = self.fingerprint.differences(here)
        if differing:
            raise ForeignTable(source, differing)

    # ---- CSV

    def dumps(self) -> str:
        """The table as text: header comments with JSON values, rows; sealed by their count and a SHA-256."""
        body = io.StringIO()
        w = csv.writer(body, lineterminator="\n")
        w.writerow(_COLUMNS)
        for key, t in self.layers.items():
            w.writerow(["layer", str(key), repr(float(t.ms)), t.n, f"{t.mean:.6f}", f"{t.std:.6f}", ""])
        for n in self.networks:
            predicted = self.calibration(n)
            w.writerow(["network", n.label, f"{n.ms:.6f}", "", "", "", f"{predicted:.6f}"])
        text, c, of = body.getvalue(), self.calibration, occurring(self.networks)
        header = {
            "format": FORMAT,
            "fingerprint": self.fingerprint.as_dict(),
            "reference": dict(self.reference),
            "calibration": {
                **{k: getattr(c, k) for k in BY},
                **{part: {KINDS[i]: getattr(c, part)[i] for i in of} for part in ("kinds", "each")},
            },
            "report": dict(self.report) if self.report else None,
            "about": dict(self.about) if self.about else None,
            "networks": [
                [
                    *(n.label, n.hot_ms, n.mb, n.madds, n.written_mb, n.reread_ms),
                    *([part[i] for i in of] for part in (n.kinds_ms, n.kinds_n)),
                ]
                for n in self.networks
            ],
        }
        if self.model is not None:
            coefficients = dict(zip(FEATURES, self.model.coefficients.tolist(), strict=True))
            header["model"] = {"coefficients": coefficients, "error": self.model.error}
        head = "".join(f"# {k}: {json.dumps(v)}\n" for k, v in header.items())
        seal = {"rows": len(self.layers) + len(self.networks), "sha256": _seal(head, text)}
        return f"{head}# seal: {json.dumps(seal)}\n{text}"

    def save(self, path: Path) -> None:
        """Write the CSV in one step: a reader never sees an incomplete file."""
        write_atomic(path, self.dumps())

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Read a table.

        Raises:
            BadInput: missing, truncated, edited or not a table.
        """
        path = Path(path)
        try:
            if path.stat().st_size > MAX_TABLE_BYTES:
                raise BadInput(f"{path}: a latency table has at most {MAX_TABLE_BYTES:,} bytes; is this one?")
            text = path.read_text("utf-8")
        except FileNotFoundError:
            raise BadInput(f"{path}: no such latency table; build one with: mbv3 latency build") from None
        except (OSError, ValueError) as e:  # not UTF-8, or not a file name
            raise BadInput(f"{path}: cannot be read as a latency table ({e})") from None
        return cls.loads(text, str(path))

    @classmethod
    def loads(cls, text: str, source: str = "table") -> LatencyTable:
        """Parse the text of a table. Raises: BadInput."""
        header: dict[str, Any] = {}
        lines = text.split("\n")
        n = 0
        head = ""
        for n, line in enumerate(lines):
            if not line.startswith("# "):
                break
            name, _, value = line[2:].partition(": ")
            if name in header:
                raise BadInput(f"{source}: line {n + 1}: {name!r} is there a second time; keep one")
            try:
                header[name] = json.loads(value)
            except (ValueError, RecursionError):
                raise BadInput(f"{source}: line {n + 1}: the value of {name!r} is not valid JSON") from None
            head += "" if name == "seal" else line + "\n"
        if str(header.get("format")).startswith("mbv3-table/") and header["format"] != FORMAT:
            raise BadInput(
                f"{source}: is a table of another format ({header['format']!r}, not {FORMAT!r}); measure it again "
                "with: mbv3 latency build"
            )
        if header.get("format") != FORMAT:
            raise BadInput(f"{source}: not a latency table (its first line must be '# format: \"{FORMAT}\"')")
        body = "\n".join(lines[n:])
        seal = header.get("seal")
        seal = seal if isinstance(seal, dict) else {}
        try:
            rows = list(csv.reader(io.StringIO(body)))
        except csv.Error as e:
            raise BadInput(f"{source}: not a valid latency table ({e})") from None
        if _seal(head, body) != seal.get("sha256"):
            have = max(len(rows) - 1, 0)
            what = (
                f"{have} of {seal.get('rows')} rows are there: it was truncated, or rows were removed"
                if have != seal.get("rows")
                else "a value was edited"
            )
            raise BadInput(
                f"{source}: its content does not match the seal in its header ({what}); "
                "measure it again with: mbv3 latency build"
            )
        if tuple(rows[0] if rows else ()) != _COLUMNS:
            raise BadInput(f"{source}: not a valid latency table (its columns must be {','.join(_COLUMNS)})")
        try:
            return cls._parse(header, rows[1:])
        except BadInput as e:
            raise BadInput(f"{source}: not a valid latency table ({e})") from None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise BadInput(f"{source}: not a valid latency table ({type(e).__name__}: {e})") from None

    @classmethod
    def _parse(cls, header: Mapping[str, Any], rows: list[list[str]]) -> LatencyTable:
        about = _about_of(header)
        layers: dict[LayerKey, Timed] = {}
        measured: list[tuple[str, float]] = []  # a list, because two networks may have the same label
        for kind, key, ms, n, mean, std, _ in rows:
            try:
                if kind == "layer":
                    layer = parse_key(key)
                    if layer in layers:
                        raise ValueError("this layer has two rows; keep one")
                    layers[layer] = timed(ms, n, mean, std)
                else:
                    measured.append((key, positive_ms(ms)))
            except ValueError as e:
                raise ValueError(f"{key}: {e}") from None
        networks = []
        given = header["calibration"]
        names = tuple(given["kinds"])
        if not set(names) >= set(BASE):
            raise KeyError(f"calibration.kinds lacks {', '.join(sorted(set(BASE) - set(names)))}")
        for (label, ms_), (same, hot, mb, madds, *more) in zip(measured, header["networks"], strict=True):
            if label != same:
                raise ValueError(f"network {label!r} is in the row where the header has {same!r}")
            written, reread, *by_kind = more
            if len(by_kind) != 2 or any(len(parts) != len(names) for parts in by_kind):
                raise ValueError(f"network {label!r} does not give the sums of all {len(names)} kinds of layers")
            kinds_ms, kinds_n = (_by_kind(parts, names) for parts in by_kind)
            by_mb = float(written), float(reread)
            _sums(label, hot, madds, mb, *by_mb, *kinds_ms, *kinds_n)
            networks.append(NetworkTime(label, ms_, float(hot), float(mb), int(madds), *by_mb, kinds_ms, kinds_n))
        reference = header["reference"]
        positive_ms(reference["ms"])
        by = {k: float(given[k]) for k in BY}
        factors, each = (_by_kind(given[part].values(), given[part]) for part in ("kinds", "each"))
        calibration = Calibration(**by, kinds=factors, each=each)
        if not all(map(math.isfinite, (*by.values(), *factors, *each))):
            raise ValueError("the calibration has numbers that are not finite")
        model = None
        if "model" in header:
            given = header["model"]["coefficients"]
            coefficients = np.array([float(given[f]) for f in FEATURES])
            if not (np.isfinite(coefficients).all() and (coefficients >= 0).all()):
                raise ValueError("the cost model has coefficients that are negative or not finite")
            model = CostModel(coefficients, float(header["model"]["error"]))
        return cls(
            fingerprint=_fingerprint(header["fingerprint"]),
            reference=reference,
            layers=layers,
            networks=tuple(networks),
            calibration=calibration,
            report=header["report"],
            about=about,
            model=model,
        )
