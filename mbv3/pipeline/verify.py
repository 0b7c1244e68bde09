"""`mbv3 verify RUN`: rebuild, recount, re-measure, compare with what the run claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbv3.errors import BadInput
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.nn import build
from mbv3.pipeline.options import Options
from mbv3.pipeline.rundir import RunDir
from mbv3.pipeline.tables import reference_at
from mbv3.spec import count, read_spec
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
    options = Options.of(dict(r["args"]))
    spec = read_spec(path / "mobilenetv3.yaml")
    counts = count(spec)
    checks: list[dict[str, Any]] = []

    def check(name: str, claimed: Any, found: Any, ok: bool) -> None:
        checks.append({"check": name, "claimed": claimed, "found": found, "ok": ok})

    check("parameters", r["params"], counts.params, r["params"] == counts.params)
    check("MAdds", r["madds"], counts.madds, r["madds"] == counts.madds)
    net = build(spec)
    net.load_state_dict(read_weights(path / "weights.safetensors"))
    built = sum(p.numel() for p in net.parameters())
    check("parameters of the torch network", counts.params, built, built == counts.params)
    check("output of the ONNX file against torch", "1e-4", *_onnx_error(path, net, spec.resolution))
    table = LatencyTable.load(path / "latency-table.csv")
    predicted = table.predict(spec, estimate=True).ms * float(r.get("correction", 1.0))
    same = abs(predicted / r["predicted_ms"] - 1) < 1e-6
    check("predicted ms", r["predicted_ms"], predicted, same)
    measured: float | None = None
    reference_ms: float | None = None
    if r["measured_ms"] is not None and not options.estimate_only:
        runtime = open_runtime(options.runtime, options.threads)
        table.require(runtime.fingerprint, str(path / "latency-table.csv"))
        scale = r["scale"]
        reference = reference_at(float(scale["width"]), spec.resolution, spec.head.classes)
        again = Device(runtime, reference, table.reference_ms).networks([spec], rounds=24)
        measured, reference_ms = again.ms[0], again.raw_reference_ms
        close = abs(measured / r["measured_ms"] - 1) <= TOLERANCE
        check("measured ms, against the reference in the same rounds", r["measured_ms"], measured, close)
    return {
        **{k: r.get(k) for k in ("target_ms", "predicted_ms", "accuracy", "spec", "exit")},
        "measured_ms": measured,
        "reference_ms": table.reference_ms,
        "raw_reference_ms": reference_ms,
        "checks": checks,
        "ok": all(c["ok"] for c in checks),
    }


def _onnx_error(path: Path, net: torch.nn.Module, resolution: tuple[int, int]) -> tuple[float, bool]:
    import onnxruntime

    x = np.random.default_rng(0).standard_normal((1, 3, *resolution), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(path / "mobilenetv3.onnx"), providers=["CPUExecutionProvider"])
    [onnx_out] = session.run(None, {"input": x})
    with torch.inference_mode():
        torch_out = net.eval()(torch.from_numpy(x)).numpy()
    error = float(np.abs(onnx_out - torch_out).max() / max(float(np.abs(torch_out).max()), 1e-9))
    return error, error <= 1e-4
