"""scripts/keep_*.py: what stays in results/ of a run, and that no folder of a machine does."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mbv3.record import SearchRecord, as_json, load_as

HERE = Path(__file__).resolve().parents[1]
GOLDEN = HERE / "golden" / "run-0.1.0"


def script(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; it writes in `root`/results."""
    monkeypatch.syspath_prepend(HERE.parent / "scripts")
    spec = importlib.util.spec_from_file_location(name, HERE.parent / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", root)
    (root / "results").mkdir()
    return module


def kept(root: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((root / "results" / "some.json").read_text("utf-8"))
    return value


def test_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(GOLDEN, run)
    record = json.loads((run / "run.json").read_text())
    record["command"] += " --data /home/me/data/flowers"
    record["init"] = {"file": "/home/me/large.safetensors", "sha256": "0" * 64, "network": "mobilenet_v3_large"}
    (run / "run.json").write_text(json.dumps(record))
    module = script("keep_result", tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["keep_result.py", str(run), "some", "abc1234"])
    module.main()
    value = kept(tmp_path)
    assert "/home" not in json.dumps(value) and value["command"].endswith("--data data/flowers")
    assert value["init"]["file"] == "large.safetensors"
    assert (value["commit"], value["n"]) == ("abc1234", 1) and "table_report" in value
    whole = as_json(load_as(GOLDEN, SearchRecord))
    same = whole.keys() - module.LEFT_OUT - {"command"}
    assert {k: value[k] for k in same} == {k: whole[k] for k in same}
    assert not value.keys() & module.LEFT_OUT
    assert (tmp_path / "results" / "some.yaml").read_bytes() == (GOLDEN / "mobilenetv3.yaml").read_bytes()


def test_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = json.loads((HERE.parent / "results" / "train-bccd.json").read_text("utf-8"))
    record = {k: v for k, v in record.items() if k not in ("commit", "runs")}
    (run / "run.json").write_text(json.dumps({**record, "notes": ["images of /home/me/BCCD; 3 left out"]}))
    for name, text in (("log.txt", "reading /home/me/BCCD\n"), ("network.yaml", "name: x\n"), ("curve.png", "png")):
        (run / name).write_text(text)
    module = script("keep_training", tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["keep_training.py", str(run), "some", "abc1234"])
    module.main()
    value = kept(tmp_path)
    assert value["notes"] == ["images of BCCD; 3 left out"]
    assert {k: value[k] for k in record if k != "notes"} == {k: v for k, v in record.items() if k != "notes"}
    assert (value["commit"], value["runs"]) == ("abc1234", 1)
    assert (tmp_path / "results" / "some.log").read_text() == "reading BCCD\n"
    monkeypatch.setattr(sys, "argv", ["keep_training.py", str(run), "seeds.jsonl", "abc1234"])
    module.main()
    with pytest.raises(SystemExit, match=r"run: its weights are in results/seeds.jsonl already"):
        module.main()
    (only,) = (tmp_path / "results" / "seeds.jsonl").read_text().splitlines()
    line = json.loads(only)
    assert (line["seed"], line["commit"]) == (record["args"]["seed"], "abc1234")
    assert line["metrics"] == record["metrics"] and line["command"] == record["command"]
