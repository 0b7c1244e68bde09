"""`mbv3 verify RUN`: rebuild the network, recount, predict and measure again, and compare with what the run claims."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbv3.accuracy import imagenet
from mbv3.errors import BadInput
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.nn import Maps, build
from mbv3.record import Accuracy, SearchRecord, load_as
from mbv3.runs.options import Options
from mbv3.runs.prepare import table_name
from mbv3.runs.rundir import file_sha256
from mbv3.spec import ArchSpec, Dense, count, read_spec, widths_of, with_head, with_widths
from mbv3.tables import SeveralLatency, Whole, measure_verdict, reference_of
from mbv3.training import read_weights
from mbv3.typed_json import json_ready

__all__ = ["Check", "Verified", "verify"]

TOLERANCE = 0.05  # of the claimed ms: what a time may differ by between two hours of one machine
ONNX_TOLERANCE, ROUNDING = 1e-4, 16.0  # of the largest output; times what torch is off by in single precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One claim of a run beside what was found."""

    check: str
    claimed: object
    found: object
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The checks of a finished run, its claims, and the times found now; None where nothing could be timed."""

    target_ms: float
    predicted_ms: float | None
    accuracy: Accuracy | None
    spec: str | None
    exit: int | None
    measured_ms: float | None
    reference_ms: float  # of the table
    raw_reference_ms: float | None
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Every claim holds."""
        return all(c.ok for c in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """What `mbv3 verify --json` prints."""
        return {**json_ready(self), "ok": self.ok}


def verify(path: str | Path) -> Verified:
    """Check the finished run in `path` against its files, and on its device where it was measured.

    Raises:
        BadInput: not a run directory, a file of it cannot be read, or the run is not finished.
    """
    path = Path(path)
    record = load_as(path, SearchRecord)
    if record.status != "done":
        raise BadInput(f"{path}: the run is {record.status}, so there is no result to verify; "
                       f"go on with --resume {path}")  # fmt: skip
    options = _options(path, record)
    spec = read_spec(path / "mobilenetv3.yaml")
    trained = "weights.safetensors" in record.hashes
    weights = read_weights(path / "weights.safetensors") if trained else None
    table = LatencyTable.load(path / "latency-table.csv")
    checks = [
        *_hashes(path, record),
        _target(record, spec),
        *_counts(record, spec),
        *([_head(record, options, spec)] if options.under_head and (record.head or options.data is None) else []),
        *_network(path, spec, weights),
        *_accuracy(record, options, spec),
        *_prediction(path, record, options, table, spec),
        *_limits(record, options, spec),
    ]
    now: Whole | None = None
    if not options.estimate_only:
        now = _measure(path, options, table, spec, record.target_ms)
        checks.append(_measurement(record, now))
    return Verified(
        target_ms=record.target_ms,
        predicted_ms=record.predicted_ms,
        accuracy=record.accuracy,
        spec=record.spec,
        exit=record.exit,
        measured_ms=now.ms if now is not None else None,
        reference_ms=table.reference_ms,
        raw_reference_ms=now.raw_reference_ms if now is not None else None,
        checks=tuple(checks),
    )


def _options(path: Path, record: SearchRecord) -> Options:
    try:
        return Options.of(dict(record.args))
    except TypeError as e:
        raise BadInput(f"{path / 'run.json'}: its args were edited ({e})") from None


def _equal(name: str, claimed: object, found: object) -> Check:
    return Check(check=name, claimed=claimed, found=found, ok=claimed == found)


def _near(name: str, claimed: float | None, found: float, tolerance: float) -> Check:
    """Within a share of the claim; without a claim nothing is near it."""
    ok = claimed is not None and abs(found - claimed) <= tolerance * claimed
    return Check(check=name, claimed=claimed, found=found, ok=ok)


def _hashes(path: Path, record: SearchRecord) -> Iterator[Check]:
    for name in ("mobilenetv3.yaml", "weights.safetensors"):
        if name in record.hashes:
            claimed, found = record.hashes[name], file_sha256(path / name)
            yield Check(check=f"SHA-256 of {name}", claimed=claimed[:12], found=found[:12], ok=claimed == found)


def _target(record: SearchRecord, spec: ArchSpec) -> Check:
    return _equal("target ms", record.target_ms, dict(spec.provenance).get("target_ms"))


def _counts(record: SearchRecord, spec: ArchSpec) -> tuple[Check, Check]:
    counts = count(spec)
    return _equal("parameters", record.params, counts.params), _equal("MAdds", record.madds, counts.madds)


def _head(record: SearchRecord, options: Options, spec: ArchSpec) -> Check:
    """The head that was asked for, against the claimed one and that of the network."""
    classes = options.dense_classes if options.data is None else record.classes
    wanted = f"{options.dense}, {classes} classes"
    claimed = f"{record.head}, {record.classes} classes"
    asked, has = with_head(spec, options.dense, classes).head, spec.head
    if options.data is not None and isinstance(asked, Dense) and type(has) is type(asked):  # cuts are of the head too
        most = widths_of(asked)
        within = {k: most[k] for k, n in widths_of(has).items() if n <= most.get(k, 0)}
        has = with_widths(has, within) if within.keys() == most.keys() else has
    same = asked == has and wanted == claimed
    return Check(check="head", claimed=claimed, found=wanted if same else "another", ok=same)


def _accuracy(record: SearchRecord, options: Options, spec: ArchSpec) -> Iterator[Check]:
    """The ImageNet model's answer for the network; for a backbone under a head there is none."""
    claimed = record.accuracy
    if claimed is not None and claimed.kind == "imagenet" and claimed.recipe is not None and not options.under_head:
        found = round(imagenet(spec, recipe=claimed.recipe).value, 3)
        yield _equal("predicted ImageNet top-1", claimed.value, found)


def _network(path: Path, spec: ArchSpec, weights: dict[str, Tensor] | None) -> Iterator[Check]:
    """The torch network has the parameters of the spec and, where it was trained, takes the weights and computes what
    the ONNX file does."""
    net = build(spec)
    built = sum(p.numel() for p in net.parameters())
    yield _equal("parameters of the torch network", count(spec).params, built)
    if weights is None:
        return
    try:
        net.load_state_dict(weights)
    except RuntimeError as e:  # torch lists every tensor that is missing or of another shape
        differences = len(str(e).splitlines()) - 1
        yield Check(check="weights fit the network", claimed="yes", found=f"no: {differences} difference(s)", ok=False)
    else:
        error, most = _onnx_error(path / "mobilenetv3.onnx", net, spec.resolution)
        ok = isinstance(error, float) and error <= most
        yield Check(check="output of the ONNX file against torch", claimed=f"{most:.0e}", found=error, ok=ok)


def _onnx_error(file: Path, net: torch.nn.Module, resolution: tuple[int, int]) -> tuple[float | str, float]:
    """The largest difference of the outputs to those of torch in double precision, over the largest of an output, or
    the reason where the file cannot be run; and the most that it may be. A network whose batch norms divide by next to
    nothing rounds more than others, folded ten times as much: ROUNDING times what torch itself is off by is allowed
    too."""
    import onnxruntime  # here, so that the other verbs start without it

    # smooth as images are
    coarse = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32))
    x = torch.nn.functional.interpolate(coarse, resolution, mode="bilinear").numpy()
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        onnx_outs = session.run(None, {"input": x})
    except Exception as e:  # ONNX Runtime has an exception of its own for every reason
        return f"does not run: {type(e).__name__}", ONNX_TOLERANCE
    single = _outputs(net, torch.from_numpy(x))
    exact = _outputs(copy.deepcopy(net).double(), torch.from_numpy(x).double())
    shapes = [[y.shape for y in outs] for outs in (onnx_outs, exact)]
    if shapes[0] != shapes[1]:
        return f"shape {shapes[0]}, not {shapes[1]}", ONNX_TOLERANCE
    return _off(onnx_outs, exact), max(ONNX_TOLERANCE, ROUNDING * _off(single, exact))


def _outputs(net: torch.nn.Module, x: Tensor) -> list[NDArray[np.float64]]:
    with torch.inference_mode():
        out = net.eval()(x)
    return [y.double().numpy() for y in ([*out.classes, *out.boxes] if isinstance(out, Maps) else [out])]


def _off(outs: Sequence[NDArray[np.float64]], exact: Sequence[NDArray[np.float64]]) -> float:
    pairs = zip(outs, exact, strict=True)
    return max(float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-9)) for a, b in pairs)


def _prediction(
    path: Path, record: SearchRecord, options: Options, table: LatencyTable, spec: ArchSpec
) -> Iterator[Check]:
    correction = 1.0 if record.correction is None else record.correction
    if not record.devices:
        yield _near("predicted ms", record.predicted_ms, table.predict(spec, estimate=True).ms * correction, 1e-4)
        return
    tables = [LatencyTable.load(path / table_name(i)) for i in range(len(record.devices))]
    for device, own in zip(record.devices, tables, strict=True):
        yield _near(f"predicted ms on {device.name}", device.ms, own.predict(spec, estimate=True).ms, 1e-4)
    yield _near("predicted ms", record.predicted_ms, SeveralLatency(tables, options.weights)([spec])[0], 1e-4)


def _limits(record: SearchRecord, options: Options, spec: ArchSpec) -> Iterator[Check]:
    """What the network has of everything that is limited, counted again."""
    has = options.limits.of(spec)
    for limit in record.limits:
        found = has.get(limit.name, float("nan"))
        ok = abs(found - limit.found) <= 1e-5 * limit.found and found <= limit.most
        yield Check(check=f"--max-{limit.name} {limit.most:g}", claimed=limit.found, found=found, ok=ok)


def _measure(path: Path, options: Options, table: LatencyTable, spec: ArchSpec, target_ms: float) -> Whole:
    runtime = open_runtime(options.runtime, options.threads)
    table.require(runtime.fingerprint, str(path / "latency-table.csv"))
    return measure_verdict(Device(runtime, reference_of(table), table.reference_ms), spec, target_ms)


def _measurement(record: SearchRecord, now: Whole) -> Check:
    name = "measured ms, beside the reference in the same rounds"
    return _near(name, record.measured_ms, now.ms, TOLERANCE)
