"""`mbv3 verify RUN`: rebuild, recount, re-measure, compare with what the run claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbv3.errors import BadInput
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.nn import build
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir, file_sha256
from mbv3.spec import count, read_spec, with_head
from mbv3.tables import measure_whole, reference_of
from mbv3.training import read_weights

__all__ = ["verify"]

TOLERANCE = 0.05  # of the claimed ms: what a time may differ by between two hours of one machine


def verify(path: Path) -> dict[str, Any]:
    """Checks of a finished run, each {"check", "claimed", "found", "ok"}, and `ok` over all.

    Raises:
        BadInput: not a run directory, or the run is not finished.
    """
    run = RunDir.open(path)
    r = run.record
    if r["status"] != "done":
        raise BadInput(f"{path}: the run is {r['status']}, so there is no result to verify; go on with --resume {path}")
    try:
        options = Options.of(r["args"])
    except TypeError as e:
        raise BadInput(f"{path / 'run.json'}: its args were edited ({e})") from None
    spec = read_spec(path / "mobilenetv3.yaml")
    counts = count(spec)
    checks: list[dict[str, Any]] = []

    def check(name: str, claimed: Any, found: Any, ok: bool) -> None:
        checks.append({"check": name, "claimed": claimed, "found": found, "ok": ok})

    state = read_weights(path / "weights.safetensors")
    for name in ("mobilenetv3.yaml", "weights.safetensors"):
        if name in r["hashes"]:  # a run of an older version has none
            now = file_sha256(path / name)
            check(f"SHA-256 of {name}", str(r["hashes"][name])[:12], now[:12], r["hashes"][name] == now)
    target = dict(spec.provenance).get("target_ms")
    check("target ms", r.get("target_ms"), target, r.get("target_ms") == target)
    check("parameters", r.get("params"), counts.params, r.get("params") == counts.params)
    check("MAdds", r.get("madds"), counts.madds, r.get("madds") == counts.madds)
    if options.segment:
        wanted = f"{options.dense}, {options.dense_classes} classes"
        named = f"{r.get('head')}, {r.get('classes')} classes"
        same = with_head(spec, options.dense, options.dense_classes).head == spec.head and wanted == named
        check("head", named, wanted if same else "another", same)
    net = build(spec)
    built = sum(p.numel() for p in net.parameters())
    check("parameters of the torch network", counts.params, built, built == counts.params)
    try:
        net.load_state_dict(state)
    except RuntimeError as e:  # torch lists every tensor that is missing or of another shape
        check("weights fit the network", "yes", f"no: {len(str(e).splitlines()) - 1} difference(s)", False)
    else:
        check("output of the ONNX file against torch", "1e-4", *_onnx_error(path, net, spec.resolution))
    table = LatencyTable.load(path / "latency-table.csv")
    predicted = table.predict(spec, estimate=True).ms * _number(r.get("correction", 1.0))
    claimed = _number(r.get("predicted_ms"))
    check("predicted ms", r.get("predicted_ms"), predicted, abs(predicted / claimed - 1) < 1e-4)
    measured: float | None = None
    reference_ms: float | None = None
    if not options.estimate_only:
        runtime = open_runtime(options.runtime, options.threads)
        table.require(runtime.fingerprint, str(path / "latency-table.csv"))
        reference = reference_of(table)
        again = measure_whole(Device(runtime, reference, table.reference_ms), spec)
        measured, reference_ms = again.ms, again.raw_reference_ms
        close = abs(measured / _number(r.get("measured_ms")) - 1) <= TOLERANCE
        check("measured ms, against the reference in the same rounds", r.get("measured_ms"), measured, close)
    return {
        **{k: r.get(k) for k in ("target_ms", "predicted_ms", "accuracy", "spec", "exit")},
        "measured_ms": measured,
        "reference_ms": table.reference_ms,
        "raw_reference_ms": reference_ms,
        "checks": checks,
        "ok": all(c["ok"] for c in checks),
    }


def _number(claimed: Any) -> float:
    """A claimed number; what is none agrees with nothing."""
    return float(claimed) if type(claimed) in (int, float) and claimed else float("nan")


def _onnx_error(path: Path, net: torch.nn.Module, resolution: tuple[int, int]) -> tuple[float | str, bool]:
    """The largest relative difference and whether it will do; a reason where the file cannot be run."""
    import onnxruntime

    # smooth, as images are: white noise, which it never saw, is hard on a network that was tuned on a small task alone
    coarse = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32))
    x = torch.nn.functional.interpolate(coarse, resolution, mode="bilinear").numpy()
    try:
        session = onnxruntime.InferenceSession(str(path / "mobilenetv3.onnx"), providers=["CPUExecutionProvider"])
        [onnx_out] = session.run(None, {"input": x})
    except Exception as e:  # ONNX Runtime has an exception of its own for every reason
        return f"does not run: {type(e).__name__}", False
    with torch.inference_mode():
        torch_out = net.eval()(torch.from_numpy(x)).numpy()
    if onnx_out.shape != torch_out.shape:
        return f"shape {onnx_out.shape}, not {torch_out.shape}", False
    error = float(np.abs(onnx_out - torch_out).max() / max(float(np.abs(torch_out).max()), 1e-9))
    return error, error <= 1e-4
