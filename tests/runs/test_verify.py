"""A finished run: what is in it, and what `mbv3 verify` says once somebody changed it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mbv3.events import result
from mbv3.graph import network_model
from mbv3.nn import build
from mbv3.runs import verify
from mbv3.spec import count, read_spec
from mbv3.stages import read_photos
from mbv3.training import save_weights

from .conftest import TARGET, Said, record, rows
from .driven import Run

Command = Callable[..., Said]
GOLDEN = Path(__file__).parents[1] / "golden" / "run-0.1.0"


@pytest.fixture
def copy(whole: Run, tmp_path: Path) -> Path:
    shutil.copytree(whole.path, tmp_path / "run")
    return tmp_path / "run"


def test_run_json(whole: Run, folder: Path) -> None:
    r: dict[str, Any] = record(whole.path)
    assert json.loads(whole.out) == r
    assert (r["format"], r["status"], r["exit"], r["spec"]) == ("mbv3-run/1", "done", 0, "mobilenetv3.yaml")
    assert r["target_ms"] == float(TARGET) and 0 < r["predicted_ms"] <= r["target_ms"] < r["seed_ms"]
    assert r["measured_ms"] is None  # the device was a table
    assert r["reference_ms"] == 3.0
    assert r["accuracy"]["kind"] == "supernet" and 0 <= r["accuracy"]["value"] <= 100
    assert r["command"].startswith(f"mbv3-search --target-ms {TARGET} --device ")
    assert r["versions"].keys() >= {"python", "torch", "numpy", "onnxruntime", "optuna", "mbv3-search"}
    assert r["seeds"] == {"search": 0}
    assert r["hashes"]["table"] == hashlib.sha256((folder / "tiny.csv").read_bytes()).hexdigest()
    assert r["hashes"]["data"] == result(read_photos(folder / "images", (32, 32))).sha256
    assert r["device"].keys() >= {"cpu", "threads", "runtime", "runtime_version"}
    assert r["stages"].keys() >= {"table", "images", "accuracy", "search", "netadapt"}
    assert all(s >= 0 for s in r["stages"].values()) and r["total_s"] > 0
    spec = read_spec(whole.path / "mobilenetv3.yaml")
    assert (r["params"], r["madds"]) == (count(spec).params, count(spec).madds)
    assert dict(spec.provenance)["table_sha256"] == r["hashes"]["table"]
    assert any("nothing was timed" in n for n in r["notes"])


def test_files(whole: Run) -> None:
    names = {p.name for p in whole.path.iterdir()}
    assert names >= {
        "mobilenetv3.yaml", "seed.yaml", "curve", "trials.csv", "netadapt.csv", "latency-table.csv",
        "weights.safetensors", "mobilenetv3.onnx", "report.html", "run.json",
    }  # fmt: skip
    # no checkpoint is left, and of the shared weights only these
    assert {n for n in names if n.endswith(".safetensors")} == {"supernet.safetensors", "weights.safetensors"}
    assert all(k.startswith("net/") for k in load_file(whole.path / "supernet.safetensors"))
    trials = rows(whole.path / "trials.csv")
    assert [int(t["number"]) for t in trials] == list(range(30))
    assert {t["estimated"] for t in trials} == {"1"}
    steps = rows(whole.path / "netadapt.csv")
    chosen = [float(s["latency_ms"]) for s in steps if s["chosen"] == "1"]
    assert len(chosen) >= 3 and chosen == sorted(chosen, reverse=True)
    assert len(list((whole.path / "curve").iterdir())) == len(chosen)
    report = (whole.path / "report.html").read_text()
    assert report.startswith("<!") and "http://" not in report.replace("http://www.w3.org", "")


def test_a_whole_run_holds(mbv3: Command, whole: Run) -> None:
    code, out, err = mbv3("verify", whole.path)
    assert code == 0, out + err
    assert "DIFFERS" not in out and out.count(" ok\n") >= 7
    code, out, _ = mbv3("verify", whole.path, "--json")
    value = json.loads(out)
    assert code == 0 and value["ok"] is True
    keys = {"target_ms", "predicted_ms", "measured_ms", "reference_ms", "accuracy", "spec", "exit", "checks", "ok"}
    assert value.keys() >= keys


def _yaml(run: Path) -> None:
    """Another nonlinearity: every count stays."""
    file = run / "mobilenetv3.yaml"
    text = file.read_text()
    assert "nl: RE," in text
    file.write_text(text.replace("nl: RE,", "nl: HS,", 1))


def _wider(run: Path) -> None:
    file = run / "mobilenetv3.yaml"
    text = file.read_text()
    assert "features: 32" in text
    file.write_text(text.replace("features: 32", "features: 40"))


def _weights(run: Path) -> None:
    state = load_file(run / "weights.safetensors")
    name = next(k for k, v in state.items() if v.dim() == 4)
    state[name] = state[name] + 0.1
    save_file(state, run / "weights.safetensors")


def _onnx(run: Path) -> None:
    (run / "mobilenetv3.onnx").write_bytes(b"not a network")


def _json(**changes: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / "run.json").write_text(json.dumps({**record(run), **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (_yaml, "SHA-256 of mobilenetv3.yaml"),
        (_yaml, "output of the ONNX file against torch"),
        (_wider, "weights fit the network"),
        (_wider, "parameters"),
        (_weights, "SHA-256 of weights.safetensors"),
        (_weights, "output of the ONNX file against torch"),
        (_onnx, "output of the ONNX file against torch"),
        (_json(params=1), "parameters"),
        (_json(madds=1), "MAdds"),
        (_json(predicted_ms=0.5), "predicted ms"),
        (_json(predicted_ms=None), "predicted ms"),
        (_json(correction=0.5), "predicted ms"),
        (_json(target_ms=1.0), "target ms"),
    ],
    ids=lambda v: None if isinstance(v, str) else getattr(v, "__name__", None),
)
def test_a_changed_run_differs(mbv3: Command, copy: Path, change: Callable[[Path], None], check: str) -> None:
    change(copy)
    code, out, err = mbv3("verify", copy)
    assert code == 1 and "Traceback" not in err, out + err
    [line] = [x for x in out.splitlines() if x.startswith(check + "  ")]
    assert line.endswith("DIFFERS"), out


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("mobilenetv3.yaml", "", "1 fault"),
        ("mobilenetv3.yaml", None, "no such spec file"),
        ("weights.safetensors", "x", "not a safetensors file"),
        ("weights.safetensors", None, "no such weights file"),
        ("latency-table.csv", "x", "not a latency table"),
        ("run.json", "{", "cannot be read"),
        ("run.json", None, "not a run directory"),
    ],
)
def test_a_spoilt_run_is_refused(mbv3: Command, copy: Path, name: str, text: str | None, words: str) -> None:
    if text is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(text)
    code, out, err = mbv3("verify", copy)
    assert (code, out) == (2, "") and words in err and "Traceback" not in err


@pytest.mark.parametrize(("name", "value"), [("madds", "many"), ("hashes", []), ("accuracy", {"value": "high"})])
def test_an_edited_record_is_refused(mbv3: Command, copy: Path, name: str, value: object) -> None:
    _json(**{name: value})(copy)
    code, out, err = mbv3("verify", copy)
    assert (code, out) == (2, "") and f"{copy}/run.json: " in err and f"\n  {name}" in err
    assert "; the file was edited" in err and "Traceback" not in err


def test_a_run_of_0_1_0_without_its_weights_is_refused(mbv3: Command) -> None:
    code, out, err = mbv3("verify", GOLDEN)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert "weights.safetensors: no such weights file" in err


def test_a_run_of_0_1_0_holds(tmp_path: Path) -> None:
    """Version 0.1.0 counted and predicted as this version does; only the weights, made here, are not its own."""
    run = tmp_path / "run"
    shutil.copytree(GOLDEN, run)
    spec = read_spec(run / "mobilenetv3.yaml")
    state = build(spec, 0).state_dict()
    save_weights(run / "weights.safetensors", state, network=spec.name)
    (run / "mobilenetv3.onnx").write_bytes(network_model(spec, {k: v.numpy() for k, v in state.items()}))
    result = verify(run)
    assert [c.check for c in result.checks if not c.ok] == ["SHA-256 of weights.safetensors"]
    assert {c.check for c in result.checks} == {
        "SHA-256 of mobilenetv3.yaml", "SHA-256 of weights.safetensors", "target ms", "parameters", "MAdds",
        "parameters of the torch network", "output of the ONNX file against torch", "predicted ms",
    }  # fmt: skip
    value = result.as_dict()
    assert value["ok"] is result.ok is False and value["measured_ms"] is None
    assert value["accuracy"]["kind"] == "imagenet" and value["checks"][2]["check"] == "target ms"


def test_an_unfinished_run_is_refused(mbv3: Command, copy: Path) -> None:
    _json(status="interrupted")(copy)
    code, _, err = mbv3("verify", copy)
    assert code == 2 and f"the run is interrupted, so there is no result to verify; go on with --resume {copy}" in err
