"""A run directory with everything in it, written by hand from real specs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from mbv3.spec import ArchSpec, MBConv, dump_spec, load_spec, make_divisible

NAME = "found <script>alert(1)</script> & $x^2$"


def cut(spec: ArchSpec) -> ArchSpec:
    """`spec` with two expansions a quarter smaller, as NetAdapt would leave it."""
    rows = list(spec.rows)
    for i in (4, 11):
        row = rows[i]
        assert isinstance(row, MBConv)
        exp = make_divisible(row.exp * 0.75)
        rows[i] = replace(row, exp=exp, se=make_divisible(exp / 4))
    return replace(spec, rows=tuple(rows), name=NAME)


def record(**changes: Any) -> dict[str, Any]:
    spec = cut(load_spec("mobilenet_v3_large"))
    paths = [path for path, _, _ in spec.convs()] + ["head"]
    data: dict[str, Any] = {
        "format": "mbv3-run/1",
        "version": "0.1.0",
        "command": "mbv3-search --target-ms 50 --out results/first",
        "args": {"target_ms": 50.0, "device": "this-cpu"},
        "status": "done",
        "exit": 0,
        "device": {
            "cpu": "AMD EPYC 9B14",
            "vector": "avx2",
            "cores": 2,
            "system": "Linux x86_64",
            "kernel": "6.1",
            "governor": "unreadable",
            "runtime": "onnxruntime",
            "runtime_version": "1.31.1",
            "threads": 1,
            "precision": "fp32",
            "batch": 1,
            "load_at_start": 0.5,
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "seeds": {"search": 0},
        "hashes": {"table": "sha256:0f3a", "data": "sha256:77aa"},
        "scale": {
            "space": "mnasnet-imagenet",
            "width": 1.5,
            "resolution": 416,
            "why": "the reference takes 5.9 ms at 224 px",
        },
        "target_ms": 50.0,
        "predicted_ms": 49.71,
        "measured_ms": 49.38,
        "measured_error_ms": 0.21,
        "raw_reference_ms": 48.4,
        "reference_ms": 47.9,
        "reference": "mobilenet_v3_large@1.5, 416 px",
        "accuracy": {
            "value": 66.1,
            "kind": "imagenet",
            "unit": "%",
            "note": "predicted top-1 of a short training",
        },
        "references": [
            {"name": "mobilenet_v3_large", "ms": 47.9, "accuracy": None},
            {"name": "mobilenet_v2", "ms": 51.5, "accuracy": None},
            {"name": "mnasnet_a1", "ms": 63.0, "accuracy": 65.2},
            {"name": "mobilenet_v3_small", "ms": 19.2, "accuracy": None},
        ],
        "spec": "mobilenetv3.yaml",
        "seed_ms": 61.0,
        "stages": {"scale": 3.2, "table": 55.0, "search": 12.0, "netadapt": 300.0, "verdict": 9.0},
        "notes": ["Two layers were estimated <b>not</b> measured."],
        "comparison": [
            {
                "name": "found",
                "ms": 1.01,
                "params": 1234567,
                "madds": 21700000,
                "top1": 81.2,
                "sigma": 0.39,
                "n": 10000,
            },
            {
                "name": "mobilenet_v3_small",
                "ms": 1.2,
                "params": 2542856,
                "madds": 56500000,
                "top1": 79.6,
                "sigma": 0.4,
                "n": 10000,
            },
        ],
        "rows_ms": [
            {"path": path, "ms": 0.4 + 0.35 * (i % 7), "estimated": i in (5, 12)} for i, path in enumerate(paths)
        ],
    }
    return {**data, **changes}


def trials(n: int = 240) -> str:
    rng = Random(7)
    lines = ["number,genome,accuracy,latency_ms,reward,estimated,state"]
    for i in range(n):
        ms = rng.uniform(24, 88)
        accuracy = 60.5 + 3.6 * (ms / 24) ** 0.5 - abs(rng.gauss(0, 1.2))
        state = "failed" if i % 40 == 39 else "complete"
        value = "nan" if i % 50 == 49 or state == "failed" else f"{accuracy:.4f}"
        lines.append(f"{i},{i % 3}-{i % 5}-{i % 4},{value},{ms:.4f},{accuracy:.4f},{i % 6 == 0},{state}")
    return "\n".join(lines) + "\n"


def netadapt(steps: int = 11, proposals: int = 14) -> str:
    rng = Random(3)
    lines = ["step,proposal,kind,where,before,after,latency_ms,delta_ms,accuracy,delta_accuracy,loss,score,chosen"]
    ms, accuracy = 61.0, 66.9
    lines.append(f"0,0,seed,,,,{ms},0,{accuracy},0,1.4,,1")
    for step in range(1, steps + 1):
        best = rng.randrange(proposals)
        for p in range(proposals):
            kind, where = ("expansion", f"rows[{p}]") if p % 3 else ("bottleneck", f"rows[{p}:{p + 2}]")
            delta, loss = (
                -rng.uniform(0.9, 1.2),
                -rng.uniform(0.02, 0.06) if p == best else -rng.uniform(0.08, 0.5),
            )
            row = (ms + delta, delta, accuracy + loss, loss, 1.4 - loss, loss / -delta)
            numbers = ",".join(f"{v:.4f}" for v in row)
            lines.append(f"{step},{p},{kind},{where},{240 - p},{200 - p},{numbers},{int(p == best)}")
            if p == best:
                after = (ms + delta, accuracy + loss)
        ms, accuracy = after
    return "\n".join(lines) + "\n"


REPORT = {
    "n": 20,
    "rmspe": 2.17,
    "bias": -0.4,
    "within_5": 95.0,
    "within_10": 100.0,
    "spearman": 0.998,
    "how": "leave-one-out over the calibration networks",
    "noise_floor": 1.52,
    "baselines": {
        "plain_sum": {"rmspe": 5.31, "bias": -4.1, "within_5": 45.0, "within_10": 95.0, "spearman": 0.991},
        "madds": {"rmspe": 10.1, "bias": 1.2, "within_5": 30.0, "within_10": 70.0, "spearman": 0.949},
    },
}


def table(report: dict[str, Any] | None = None) -> str:
    rng = Random(5)
    lines = ['# format: "mbv3-table/4"', "# device: " + json.dumps({"cpu": "AMD EPYC 9B14"})]
    lines.append("# report: " + json.dumps(REPORT if report is None else report))
    lines.append("kind,key,ms,n,mean,std,predicted")
    lines += [f'layer,"mbconv:{i},40,40",{0.1 + i / 100:.4f},30,0.2,0.01,' for i in range(60)]
    for role in ("calibration", "check"):
        for i in range(20):
            ms = rng.uniform(22, 90)
            lines.append(f"network,{role}:{i}-1-2,{ms:.4f},30,{ms * 1.02:.4f},0.4,{ms * rng.gauss(1, 0.02):.4f}")
    return "\n".join(lines) + "\n"


def write(folder: Path, **changes: Any) -> Path:
    """A complete run directory; `changes` replace fields of run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    seed = replace(load_spec("mobilenet_v3_large"), name="seed")
    (folder / "run.json").write_text(json.dumps(record(**changes)))
    (folder / "trials.csv").write_text(trials())
    (folder / "netadapt.csv").write_text(netadapt())
    (folder / "latency-table.csv").write_text(table())
    (folder / "mobilenetv3.yaml").write_text(dump_spec(cut(seed)))
    (folder / "seed.yaml").write_text(dump_spec(seed))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run directory."""
    return write(tmp_path / "first run")


@pytest.fixture
def sample() -> SimpleNamespace:
    """The functions that write the parts of a run directory."""
    return SimpleNamespace(write=write, record=record, trials=trials, netadapt=netadapt, table=table, name=NAME)
