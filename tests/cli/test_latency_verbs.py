"""`mbv3 latency` on the real runtime, small enough to be quick; nothing here depends on how fast the machine is."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mbv3.latency import LatencyTable

from .conftest import Said

Command = Callable[..., Said]

# The build is killed when it begins its third chunk of eight layers.
_KILLED_BUILD = """\
import os, signal, sys
from mbv3.latency import runner, timers
runner.CHUNK_LAYERS = 8
original, calls = timers.time_layers, 0
def time_layers(*a, **k):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*a, **k)
timers.time_layers = time_layers
from mbv3.cli import main
main(sys.argv[1:])
"""


def test_a_killed_build_keeps_its_rows_and_the_table_serves(
    mbv3: Command, space: Path, spec: Path, own_cache: Path, tmp_path: Path
) -> None:
    build = ["latency", "build", "--space", str(space), "--minutes", "0.02"]
    done = subprocess.run([sys.executable, "-c", _KILLED_BUILD, *build], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [partial] = (own_cache / "tables").iterdir()
    assert partial.name.endswith(".csv.partial")
    measured = [json.loads(line) for line in partial.read_text().splitlines()][1:]
    assert [len(line["layers"]) for line in measured] == [8, 8]
    with partial.open("a") as f:
        f.write('{"pass": 0, "layers": [1')

    out = tmp_path / "copy.csv"
    code, said, err = mbv3(*build, "--out", out, "--json")
    assert code == 0 and "s of measurements from before an interruption are kept" in err
    [kept] = (own_cache / "tables").iterdir()
    assert kept.name + ".partial" == partial.name and kept.read_bytes() == out.read_bytes()
    table = LatencyTable.load(out)
    final = table.layers
    assert all(t.n >= 3 * 3 * 2 for t in final.values())  # three passes of three rounds of two runs, at least
    assert json.loads(said).keys() >= {"layers", "reference_ms", "report"}

    before = kept.read_bytes()
    code, said, err = mbv3(*build)  # the cache answers
    assert code == 0 and "using the latency table of" in err and kept.read_bytes() == before
    assert f"{len(final)} layers on " in said

    code, said, _ = mbv3("latency", "predict", spec, "--device", out, "--json")
    value = json.loads(said)
    assert code == 0 and value.keys() >= {"ms", "reference_ms", "estimated"}
    assert value["ms"] > 0 and value["reference_ms"] == table.reference_ms and value["estimated"] is True

    table_elsewhere = replace(table, fingerprint=replace(table.fingerprint, cpu="Another 9000"))
    table_elsewhere.save(tmp_path / "elsewhere.csv")
    forced = ("latency", "predict", spec, "--device", tmp_path / "elsewhere.csv", "--force-table")
    code, said, _ = mbv3(*forced, "--json")
    assert code == 0 and "measured elsewhere (cpu differ)" in json.loads(said)["caveat"] and value["caveat"] is None
    assert "but: forced: " in mbv3(*forced)[1]

    code, said, _ = mbv3("latency", "predict", spec, "--space", space, "--json")  # at hand: what lacks is measured
    here = json.loads(said)
    assert code == 0 and here["ms"] > 0 and here["estimated"] is False

    code, said, err = mbv3("latency", "check", "--space", space, "--networks", "4", "--minutes", "0.1", "--json",
                           "--plot", tmp_path / "check.png")  # fmt: skip
    assert code == 0 and (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG"), err
    wanted = {"n", "rmspe", "bias", "within_5", "within_10", "spearman", "noise_floor", "baselines"}
    assert json.loads(said).keys() >= wanted and json.loads(said)["n"] == 4

    code, said, err = mbv3("latency", "check", "--space", space, "--networks", "4", "--minutes", "0.1", *forced[3:],
                           "--plot", tmp_path / "forced.svg")  # fmt: skip
    assert code == 0 and "but: forced: " in said and (tmp_path / "forced.svg").exists(), err

    code, said, _ = mbv3("show", spec, "--device", out, "--json")
    shown = json.loads(said)
    assert code == 0 and shown["predicted_ms"] == pytest.approx(value["ms"])
    assert {"ms", "estimated"} <= shown["rows"][0].keys()

    nets, moved = tmp_path / "nets.csv", tmp_path / "moved.csv"
    like = ("latency", "measure", "--like", out, "--space", space, "--networks", "12", "--minutes", "0.1")
    code, said, err = mbv3(*like, "--out", nets)
    assert code == 0 and "12 networks, noise floor" in said, err
    code, said, err = mbv3(
        "latency", "transfer", out, "--measured", nets, "--space", space, "--fit", "8", "--out", moved
    )  # fmt: skip
    assert code == 0 and "errors (on 4 networks not used in the fit on 8):" in said, err
    assert "ms relative to" in said and ", depthwise " in said and ", the rest " in said
    assert LatencyTable.load(moved).fingerprint == table.fingerprint
    code, _, err = mbv3("latency", "transfer", out, "--measured", nets, "--space", space, "--fit", "20", "--out", moved)
    assert code == 2 and "at least 8 measured networks to fit on (got 12)" in err

    listed = nets.read_text()
    other = re.sub(r'# space_id: "....', '# space_id: "0000', listed)
    assert other != listed
    nets.write_text(other)  # as of the same space at another scale
    code, _, err = mbv3("latency", "transfer", out, "--measured", nets, "--space", space, "--fit", "8", "--out", moved)
    assert (
        code == 2 and "its networks are of another space or scale than" in err and "mbv3 latency measure --like" in err
    )
    nets.write_text(listed)

    code, _, err = mbv3("latency", "transfer", out, "--measured", nets, "--space", space, "--name", "X", "--out", moved)
    assert code == 2 and "says itself what device it was measured on; leave --name out" in err

    code, _, err = mbv3("latency", "check", "--device", out, "--networks", "4")  # another space than the table's
    assert code == 2 and "give --space FILE" in err and "Traceback" not in err, err


def test_a_kit_goes_out_and_a_table_comes_back(mbv3: Command, space: Path, spec: Path, tmp_path: Path) -> None:
    kit, table = tmp_path / "kit", tmp_path / "board.csv"
    code, said, err = mbv3("latency", "kit", "--space", space, "--minutes", "0.02", "--out", kit)
    assert code == 0 and "run.py" in said and sum(f.stat().st_size for f in kit.rglob("*")) < 60e6, err
    done = subprocess.run([sys.executable, "run.py"], cwd=kit, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code, said, err = mbv3("latency", "import", kit, kit / "results.jsonl", "--out", table)
    assert code == 0 and "errors (leave-one-out" in said, err
    code, said, err = mbv3("latency", "predict", spec, "--device", table)
    assert code == 0 and "ms predicted on" in said and "was measured by a kit on" in err
    nets = tmp_path / "nets.csv"
    specs = [f"mobilenet_v3_small@{w / 20:g}" for w in range(5, 15)]
    nets.write_text("network,ms\n" + "".join(f"{s},{i + 1}\n" for i, s in enumerate(specs)))
    moved = tmp_path / "moved.csv"
    name = ("--name", "Pixel 99")
    code, _, err = mbv3("latency", "transfer", table, "--measured", nets, "--space", space, "--out", moved, *name)
    assert code == 0 and LatencyTable.load(moved).fingerprint.cpu == "Pixel 99", err
    code, _, err = mbv3("latency", "predict", spec, "--device", moved)
    assert code == 0 and "was fitted to 10 whole networks measured on its device" in err and "by a kit" not in err
    code, _, err = mbv3("latency", "check", "--device", moved, "--space", space, "--networks", "4")
    assert code == 2 and "runtime" in err  # it is of another device

    code, _, err = mbv3("latency", "kit", "--space", space, "--minutes", "0.02", "--out", kit)
    assert code == 2 and "exists; give another --out" in err
    code, _, err = mbv3("latency", "import", kit, spec, "--out", table)
    assert code == 2 and "cannot be read as the results of a kit" in err


def test_measure(mbv3: Command, spec: Path) -> None:
    code, out, _ = mbv3("latency", "measure", spec, "--json")
    value = json.loads(out)
    assert code == 0 and value.keys() >= {"ms", "reference_ms", "estimated"}
    assert value["estimated"] is False and 0 < value["ms"] < value["reference_ms"]


def test_devices_are_listed_with_their_errors(mbv3: Command, tmp_path: Path) -> None:
    code, out, _ = mbv3("latency", "devices", "--json")
    value = json.loads(out)
    assert code == 0 and list(value) == ["this-cpu", "pixel-1", "note-10"]
    assert all(value[name]["estimated"] and value[name]["blocks"]["rmspe"] > 0 for name in ("pixel-1", "note-10"))
    code, out, _ = mbv3("latency", "devices")
    assert code == 0 and "the fit uses none of them, except V3-Large" in out and "error on networks is not" in out

    code, out, err = mbv3("show", "mobilenet_v3_large", "--device", "pixel-1", "--json")
    shown = json.loads(out)
    assert code == 0 and shown["estimated"] == len(shown["rows"]) and 43 < shown["predicted_ms"] < 59  # 51 published
    assert "every time is estimated from published measurements, nothing was measured here" in err
    code, out, err = mbv3("latency", "predict", "mobilenet_v2", "--device", "note-10", "--json")
    assert code == 0 and json.loads(out)["estimated"] is True and "no whole network is published" in err
    code, _, err = mbv3("latency", "predict", "mobilenet_v2", "--device", "pixel-2")
    assert code == 2 and "pixel-2: no such latency table" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("build", "--scale", "auto"), "--scale auto needs a target"),
        (("build", "--scale", "9"), "width 0.1 to 4"),
        (("build", "--threads", "99"), "--threads must be from 1 to"),
        (("build", "--space", "nowhere"), "'nowhere' is neither a YAML file"),
        (("check", "--networks", "1"), "--networks must be from 4 to 1000"),
        (("check", "--plot", "x.jpg"), "--plot must name a .png, .svg or .pdf file (got x.jpg)"),
        (("check", "--device", "none.csv"), "none.csv: no such latency table"),
        (("predict", "nothing"), "'nothing' is neither a YAML file"),
        (("measure",), "give one SPEC, or --like TABLE.csv"),
        (("measure", "--like", "none.csv"), "--out NETS.csv is needed"),
        (("measure", "mobilenet_v2", "--out", "n.csv"), "--out: a list of times needs --like TABLE.csv"),
        (("measure", "--like", "none.csv", "--out", "/proc/none/n.csv"), "/proc/none/n.csv: cannot be written"),
        (("measure", "--like", "none.csv", "--out", "/tmp"), "/tmp: is a folder; name a file"),
        (("measure", "--like", "none.csv", "--out", "n.csv", "--minutes", "nan"), "--minutes must be more than 0"),
        (("check", "--minutes", "-3"), "--minutes must be more than 0 and at most 10000 (got -3)"),
        (("check", "--plot", "/proc/none/x.png"), "/proc/none/x.png: cannot be written"),
        (("check", "--seed", "-1"), "--seed must not be negative (got -1)"),
        (("build", "--device", "", "--out", "t.csv"), "--device is empty; name a device, or leave it out for this CPU"),
        (("kit", "--out", "k.zip", "--minutes", "20000"), "at most 10000 (got 20000)"),
        (("measure", "--like", "none.csv", "--out", "n.csv"), "none.csv: no such latency table"),
        (("transfer", "none.csv", "--measured", "n.csv", "--out", "t.csv"), "none.csv: no such latency table"),
        (("build", "--device", "ssh://board"), "--out TABLE.csv is needed with --device"),
        (("build", "--device", "board", "--out", "t.csv"), "--device must be ssh://"),
        (("build", "--device", "adb:X", "--out", "t.csv"), "--runtime onnxruntime: adb:X is timed by LiteRT's"),
        (("build", "--device", "adb:X", "--out", "t.csv", "--runtime", "litert"), "adb:X needs --benchmark PATH"),
        (("build", "--benchmark", "/data/local/tmp/benchmark_model"), "--benchmark is for --device adb:SERIAL"),
        (
            ("kit", "--out", "k.zip", "--runtime", "ncnn"),
            "--runtime must be one of onnxruntime, onnxruntime-int8, litert",
        ),
        (("measure", "mobilenet_v2", "--runtime", "tensorrt"), "--runtime must be one of"),
    ],
)
def test_refusals(mbv3: Command, own_cache: Path, args: tuple[str, ...], words: str) -> None:
    code, out, err = mbv3("latency", *args)
    assert (code, out) == (2, "") and words in err and "Traceback" not in err
    assert not own_cache.exists()
