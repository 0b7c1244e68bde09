"""A kit from beginning to end: written, run as a process of its own, interrupted, imported, edited."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from mbv3.errors import BadInput
from mbv3.graph import layer_model, layer_tflite
from mbv3.latency import RUNTIMES, BuildPlan, LatencyTable, import_kit, kit_files, this_cpu, write_kit
from mbv3.latency.kit import _strip
from mbv3.latency.runner import fill, kit_id
from mbv3.spec import LayerKey, MBConv

KEY = LayerKey(MBConv(k=5, exp=48, out=24, se=12, nl="HS", s=2, skip="none"), 16, 14, 14)


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python3 run.py` where the package is not installed: its own folder is all that is on the path."""
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "run.py"], cwd=folder, env=env, capture_output=True, text=True)


def sign(folder: Path) -> None:
    """The kit as if it had been made with the code that it holds now."""
    kit = json.loads((folder / "kit.json").read_text())
    for name in kit["code_sha256"]:
        kit["code_sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "kit.json").write_text(json.dumps({**kit, "id": kit_id(kit)}))


@pytest.fixture(scope="module")
def kit(plan: BuildPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit that was run."""
    folder = tmp_path_factory.mktemp("kit") / "kit"
    write_kit(kit_files(plan, "onnxruntime", 1, minutes=0.02), folder)
    done = run(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "results.jsonl")
    return folder


@pytest.mark.parametrize(("runtime", "model"), [("onnxruntime", layer_model), ("litert", layer_tflite)])
def test_a_model_without_weights_is_small_and_whole_again_when_filled(
    runtime: str, model: Callable[[LayerKey], bytes]
) -> None:
    whole = model(KEY)
    body, holes = _strip(whole, runtime)
    floats = sum(int(n) for _, n, _ in holes)
    assert len(body) == len(whole) - 4 * floats and floats > 4000 and len(body) < 8000
    again = fill(body, holes, 3)
    assert len(again) == len(whole) and again != whole and fill(body, holes, 3) == again != fill(body, holes, 4)
    if runtime == "onnxruntime":
        x = np.ones((1, 16, 14, 14), dtype=np.float32)
        ran = [onnxruntime.InferenceSession(m).run(None, {"input": x})[0] for m in (whole, again)]
        assert ran[0].shape == ran[1].shape and 0.2 < ran[1].std() / ran[0].std() < 5  # weights of the same size


def test_a_kit_becomes_a_table(kit: Path, plan: BuildPlan) -> None:
    table = import_kit(kit, kit / "results.jsonl")
    assert table.fingerprint == this_cpu("onnxruntime", onnxruntime.__version__, 1)
    assert tuple(table.layers) == plan.keys and len(table.networks) == len(plan.calibration)
    assert all(t.ms > 0 and t.n >= 3 * 3 * 2 for t in table.layers.values()) and table.reference_ms > 0
    assert table.report is not None and table.report["noise_floor"] >= 0 and (table.about or {})["kit"]
    assert LatencyTable.loads(table.dumps()).dumps() == table.dumps()
    assert table.latency_ms(plan.calibration[0][1]) > 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_killed_run_goes_on_where_it_stopped(runtime: str, plan: BuildPlan, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    write_kit(kit_files(plan, runtime, 1, minutes=0.02), folder)
    # the device is switched off while the third line is written
    runner = folder / "mbv3/latency/runner.py"
    runner.write_text(
        runner.read_text().replace(
            "        self.file.write(json",
            "        if len(self.measured.layers) == 2 and os.path.exists('off'):\n"
            "            self.file.write(b'{\"pass\": 1'); self.file.flush(); os.kill(os.getpid(), 9)\n"
            "        self.file.write(json",
        )
    )
    sign(folder)
    (folder / "off").touch()
    assert run(folder).returncode == -signal.SIGKILL
    results = folder / "results.jsonl"
    kept = results.read_text().split("\n")
    assert len(kept) >= 4 and kept[-1] == '{"pass": 1'
    with pytest.raises(BadInput, match=r"its end is missing; run the kit again, it continues where it stopped"):
        import_kit(folder, results)
    (folder / "off").unlink()
    done = run(folder)
    assert done.returncode == 0, done.stderr
    assert results.read_text().split("\n")[: len(kept) - 1] == kept[:-1]
    f = import_kit(folder, results).fingerprint
    assert f.runtime == runtime.removesuffix("-int8") and f.precision == ("int8" if "int8" in runtime else "fp32")
    before = results.read_bytes()
    assert run(folder).returncode == 0 and results.read_bytes() == before  # nothing left to do


def test_a_run_that_is_left_from_a_cut_connection_is_waited_for(plan: BuildPlan, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    write_kit(kit_files(plan, "onnxruntime", 1, minutes=0.02), folder)
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print('mine', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / "results.jsonl")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline() == b"mine\n"
    with subprocess.Popen(
        [sys.executable, "run.py"], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as second:
        assert second.stderr is not None
        assert "waiting for another process that measures into" in second.stderr.readline()
        other.communicate()
        assert "/" in second.stderr.readline()  # steps
        second.stderr.read()
    assert second.returncode == 0 and import_kit(folder, folder / "results.jsonl").layers


def test_a_device_without_numpy_or_with_an_old_python_is_refused(kit: Path, tmp_path: Path) -> None:
    script = (kit / "run.py").read_text()
    for edited, words in (
        (script.replace("import numpy\n", "import numpy_of_mars\n"), "numpy is not installed .* numpy onnxruntime"),
        (script.replace("(3, 10)", "(9, 9)"), r"this is Python 3\.\d+; run it with Python 3\.10 or newer"),
    ):
        (tmp_path / "run.py").write_text(edited)
        done = run(tmp_path)
        assert done.returncode == 2 and re.search(words, done.stdout) and "Traceback" not in done.stderr


def test_a_zip_holds_the_same(kit: Path, plan: BuildPlan, tmp_path: Path) -> None:
    files = kit_files(plan, "onnxruntime", 1, minutes=0.02)
    write_kit(files, tmp_path / "k.zip")
    with zipfile.ZipFile(tmp_path / "k.zip") as z:
        assert {n: z.read(n) for n in z.namelist()} == {f"k/{n}": b for n, b in files.items()}
    assert (
        import_kit(tmp_path / "k.zip", kit / "results.jsonl").dumps() == import_kit(kit, kit / "results.jsonl").dumps()
    )
    with pytest.raises(BadInput, match=r"k\.zip exists; give another --out"):
        write_kit(files, tmp_path / "k.zip")


def test_what_the_device_lacks_is_said(plan: BuildPlan, tmp_path: Path, kit: Path) -> None:
    folder = tmp_path / "kit"
    write_kit(kit_files(plan, "onnxruntime", 1, minutes=0.02), folder)
    text = (folder / "kit.json").read_text()
    for edited in (text.replace('"threads": 1', '"threads": 2'), text[:-5]):
        (folder / "kit.json").write_text(edited)
        done = run(folder)
        assert done.returncode == 2 and "kit.json: was edited after the kit was made; copy the kit again" in done.stderr
    (folder / "kit.json").write_text(text)
    (folder / "models.bin").write_bytes(b"x" + (folder / "models.bin").read_bytes()[1:])
    done = run(folder)
    assert done.returncode == 2 and "is not the file that the kit was made with; copy the kit again" in done.stderr
    (folder / "models.bin").write_bytes(kit_files(plan, "onnxruntime", 1, minutes=0.02)["models.bin"])
    first, measured = (kit / "results.jsonl").read_text().split("\n", 1)
    header = json.loads(first)
    (folder / "results.jsonl").write_text(json.dumps({**header, "kit": "0" * 64}) + "\n" + measured)
    done = run(folder)
    assert done.returncode == 2 and "holds results of another kit or device; move it away" in done.stderr
    same = {**header, "fingerprint": {**header["fingerprint"], "governor": "powersave", "kernel": "6.99"}}
    (folder / "results.jsonl").write_text(json.dumps(same) + "\n" + measured)  # another governor is no other device
    assert run(folder).returncode == 0
    (folder / "results.jsonl").unlink()
    sessions = folder / "mbv3/latency/sessions.py"
    text = sessions.read_text()
    sessions.write_text(text.replace("    options = onnx", "    raise RuntimeError('opset 99')\n    options = onnx"))
    done = run(folder)
    assert done.returncode == 2 and "sessions.py: was edited after the kit was made; copy the kit again" in done.stderr
    sign(folder)
    done = run(folder)
    assert done.returncode == 2 and "cannot open a model of the kit (opset 99)" in done.stderr
    sessions.write_text(
        text.replace('"onnxruntime", "onnxruntime", "fp32", ("onnxruntime",)', '"o", "o-of-mars", "fp32", ("o_mars",)')
    )
    sign(folder)
    done = run(folder)
    assert done.returncode == 2 and "pip install o-of-mars" in done.stderr and "Traceback" not in done.stderr


Edit = Callable[[list[dict[str, Any]]], Any]


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda e: e.pop(1), "pass 1 does not follow the lines before it"),
        (lambda e: e.insert(1, e[1]), "pass 0 has layers twice"),
        (lambda e: e.pop(), "its end is missing; run the kit again"),
        (lambda e: e.append(e[-1]), "a line after the end"),
        (lambda e: e.insert(3, e[-1]), "the end stands before everything was measured"),
        (lambda e: e[1]["ms"].pop(), r"pass 0 has \d+ times for \d+ layers"),
        (lambda e: e[2]["ms"].append(1.0), r"pass 0 has 9 times for 8 networks"),
        (lambda e: e[1]["ms"][0].clear(), "not enough values"),
        (lambda e: e[1]["ms"][0].__setitem__(0, -1.0), "is -1.0, not a time in ms"),
        (lambda e: e[1]["ms"][0].__setitem__(0, float("nan")), "is nan, not a time in ms"),
        (lambda e: e[1]["ms"][0].__setitem__(2, 1e9), "not a time in ms"),
        (lambda e: e[1]["ms"][0].__setitem__(0, True), "is True, not a time in ms"),
        (lambda e: e[1]["ms"][0].__setitem__(1, 0), "has 0 runs"),
        (lambda e: e[1]["ms"][0].__setitem__(1, 2**62), "runs with a deviation"),
        (lambda e: e[1].__setitem__("s", 10**400), "too large"),
        (lambda e: [r.__setitem__(0, 1e-320) for x in e if "layers" in x for r in x["ms"]], "not a time in ms"),
        (lambda e: e[1]["ms"][0].__setitem__(3, float("inf")), "a deviation of inf ms"),
        (lambda e: e[-2].__setitem__("reference_ms", 0), "the reference is 0, not a time in ms"),
        (lambda e: e[-2].__setitem__("pass", 9), "pass 9 does not follow the lines before it"),
        (lambda e: e[1]["layers"].__setitem__(0, 10**6), "layers that the kit does not ask for"),
        (lambda e: e[2].__setitem__("networks", []), "networks that the kit does not ask for"),
        (lambda e: e[-2].__setitem__("drift", float("inf")), "the drift is inf"),
        (lambda e: e[-2].__setitem__("s", -5), "a step of -5.0 s"),
        (lambda e: e[0].__setitem__("kit", "0" * 64), "it belongs to another kit"),
        (lambda e: e[0]["fingerprint"].__setitem__("runtime", "litert"), "its runtime is 'litert', that of the kit"),
        (lambda e: e[0]["fingerprint"].__setitem__("threads", 2), "its threads is 2, that of the kit 1"),
        (lambda e: e[0]["fingerprint"].pop("cpu"), "cpu"),
        (lambda e: e.clear(), "is not a results file of this kit"),
    ],
)
def test_edited_results_are_refused(kit: Path, tmp_path: Path, edit: Edit, why: str) -> None:
    entries = [json.loads(line) for line in (kit / "results.jsonl").read_text().splitlines()]
    edit(entries)
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(e) + "\n" for e in entries))
    with pytest.raises(BadInput, match=rf"r\.jsonl: .*({why})"):
        import_kit(kit, file)


def test_what_is_no_kit_or_no_results(kit: Path, tmp_path: Path) -> None:
    results = kit / "results.jsonl"
    with pytest.raises(BadInput, match=r"nowhere: is not the folder or zip file of a kit"):
        import_kit(tmp_path / "nowhere", results)
    with pytest.raises(BadInput, match=r"none\.jsonl: no such results file"):
        import_kit(kit, tmp_path / "none.jsonl")
    (tmp_path / "half.jsonl").write_bytes(results.read_bytes()[:-40] + b"\n")
    with pytest.raises(BadInput, match=r"half\.jsonl: cannot be read as the results of a kit"):
        import_kit(kit, tmp_path / "half.jsonl")
    edited = tmp_path / "edited"
    edited.mkdir()
    text = (kit / "kit.json").read_text()
    (edited / "kit.json").write_text(text.replace('"threads": 1', '"threads": 2'))
    with pytest.raises(BadInput, match=r"edited: its kit\.json was edited after it was made"):
        import_kit(edited, results)
    (edited / "kit.json").write_text(text.replace("mbv3-kit/4", "mbv3-kit/1"))
    with pytest.raises(
        BadInput, match=r"is a kit of another format \('mbv3-kit/1', not 'mbv3-kit/4'\); make the kit again"
    ):
        import_kit(edited, results)
    (edited / "kit.json").write_text("[" * 10**5)
    with pytest.raises(BadInput, match=r"edited: is not a kit; make one with"):
        import_kit(edited, results)


def test_a_file_system_without_locks_keeps_nobody_out(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, fcntl, os\n"
        "def flock(*_): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))\n"
        "fcntl.flock = flock\n"
    )
    done = run(kit, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "another process" not in done.stderr
