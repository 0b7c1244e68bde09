"""`mbv3 show` and `mbv3 export`, and what they do not load."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import mbv3 as package
from mbv3.cli import main, verbs
from mbv3.export import TARGETS
from mbv3.training import save_weights

from .conftest import SPEC, Said

Command = Callable[..., Said]


@pytest.mark.parametrize(
    ("name", "params", "madds"),
    [
        ("mobilenet_v3_large", 5_483_032, 216.6),
        ("mobilenet_v3_small", 2_542_856, 56.5),
        ("mobilenet_v2", 3_504_872, None),
        ("mnasnet_b1", 4_383_312, None),
    ],
)
def test_published_counts(mbv3: Command, name: str, params: int, madds: float | None) -> None:
    code, out, err = mbv3("show", name)
    assert (code, err) == (0, "")
    last = out.splitlines()[-1]
    assert last.startswith(f"{params:,} parameters, ")
    assert madds is None or last == f"{params:,} parameters, {madds} M MAdds"


@pytest.mark.parametrize("name", ["mnasnet_a1", "mobilenet_v3_large@0.75", "small.yaml"])
def test_show_json(mbv3: Command, name: str, spec: Path) -> None:
    asked = spec if name == "small.yaml" else name
    code, out, _ = mbv3("show", asked, "--json")
    value = json.loads(out)
    assert code == 0 and value.keys() == {"name", "params", "madds", "rows"}
    counts = package.count(package.load_spec(asked))
    assert (value["params"], value["madds"]) == (counts.params, counts.madds)
    assert sum(r["params"] for r in value["rows"]) == counts.params
    assert sum(r["madds"] for r in value["rows"]) == counts.madds
    assert all(r.keys() >= {"path", "op", "in", "params", "madds"} for r in value["rows"])


def test_show_rows(mbv3: Command, spec: Path) -> None:
    _, out, _ = mbv3("show", spec)
    first, head, *rows, _ = out.splitlines()
    assert first == "small, input 32x32"
    assert head.split()[:4] == ["row", "input", "op", "k"]
    assert [r.split()[:4] for r in rows[1:3]] == [
        ["rows[0]", "16x16x8", "mbconv", "3"], ["rows[1]", "16x16x8", "mbconv", "5"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["1 fault"]),
        (SPEC[: SPEC.index("head")], ["head"]),
        (SPEC.replace("k: 3, exp: 16", "k: 3.0, exp: true"), ["2 faults", "rows[0].k", "3.0", "rows[0].exp", "True"]),
        (SPEC.replace("exp: 24, out: 16", "exp: 24, out: 16, skip: identity"), ["rows[1]", "identity"]),
        (SPEC.replace("exp: 24", "exp: 99999999999999999999"), ["rows[1].exp", "99999999999999999999"]),
        (SPEC + "wings: 2\n", ["wings"]),
        ("x" * 50_000_000, ["1,000,000"]),
    ],
    ids=["empty", "truncated", "mistyped", "residual", "huge number", "unknown key", "50 MB"],
)
def test_a_bad_spec(mbv3: Command, tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    out_file = tmp_path / "bad.onnx"
    for args in (("show", file), ("export", file, "--to", "onnx", "--out", out_file)):
        code, out, err = mbv3(*args)
        assert (code, out) == (2, "") and err.startswith("error: ") and "Traceback" not in err
        for word in ("bad.yaml", *words):
            assert word in err, err
    assert not out_file.exists()


def test_bad_names(mbv3: Command) -> None:
    code, _, err = mbv3("show", "mobilenet_v4")
    assert code == 2 and "'mobilenet_v4' is neither" in err and "mobilenet_v3_large" in err
    code, _, err = mbv3("show", "mobilenet_v2@wide")
    assert code == 2 and "width after @ must be a number" in err and "'wide'" in err
    code, _, err = mbv3("show")
    assert code == 2 and "usage:" in err and "SPEC" in err
    code, _, err = mbv3("fly")
    assert code == 2 and "invalid choice: 'fly'" in err
    code, _, err = mbv3("latency")
    assert code == 2 and "ACTION" in err


def test_export_equals_torch(mbv3: Command, spec: Path, tmp_path: Path) -> None:
    net = package.build(package.load_spec(spec), 3).eval()
    save_weights(tmp_path / "w.safetensors", net.state_dict())
    out = tmp_path / "small.onnx"
    assert mbv3("export", spec, "--to", "onnx", "--weights", tmp_path / "w.safetensors", "--out", out) == (
        0, f"{out}\n", "",
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    [got] = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {"input": x})
    with torch.inference_mode():
        expected = net(torch.from_numpy(x)).numpy()
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_export_refuses(mbv3: Command, spec: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    save_weights(wrong, {"a": torch.zeros(2)})
    out = tmp_path / "small.onnx"
    code, _, err = mbv3("export", spec, "--to", "onnx", "--weights", wrong, "--out", out)
    assert code == 2 and err.startswith("error: ") and not out.exists()
    code, _, err = mbv3("export", spec, "--to", "onnx", "--weights", tmp_path / "no", "--out", out)
    assert code == 2 and "no such weights file" in err
    code, _, err = mbv3("export", spec, "--to", "onnx", "--out", wrong / "x.onnx")
    assert code == 2 and "cannot be written" in err
    code, _, err = mbv3("export", spec, "--to", "caffe")
    assert code == 2 and "--to must be one of onnx, litert, torchvision" in err and "(got caffe)" in err
    code, _, err = mbv3("export", spec)
    assert code == 2 and "--to is missing" in err


FRAMEWORKS = {
    "onnx": ["mobilenetv3.onnx"],
    "litert": ["mobilenetv3.tflite"],
    "torchvision": ["mobilenetv3.py", "mobilenetv3.safetensors"],
    "timm": ["mobilenetv3.py", "mobilenetv3.safetensors"],
    "mmpretrain": ["mobilenetv3.py", "mobilenetv3.safetensors", "mobilenetv3_config.py"],
    "mmseg": ["mobilenetv3.py", "mobilenetv3.safetensors", "mobilenetv3_config.py"],
}


def test_the_command_knows_every_target(mbv3: Command) -> None:
    assert tuple(FRAMEWORKS) == TARGETS
    _, said, _ = mbv3("export", "--help")
    assert all(target in said for target in TARGETS)


@pytest.mark.parametrize("to", TARGETS)
def test_export_to_a_folder(mbv3: Command, tmp_path: Path, to: str) -> None:
    out = tmp_path / "out"
    name = "lraspp_m-v3s-d8" if to == "mmseg" else "mobilenet_v3_small"
    code, said, err = mbv3("export", name, "--to", to, "--out", out, "--json")
    assert code == 0 and err.startswith("weights are random (seed 0): give --weights FILE for trained ones\n")
    record = json.loads(said)
    params = package.count(package.load_spec(name)).params
    assert (record["params"], record["to"], record["precision"], record["weights"]) == (params, to, "fp32", None)
    assert sorted(record["files"]) == [str(out / name) for name in FRAMEWORKS[to]]
    assert sorted(p.name for p in out.iterdir()) == FRAMEWORKS[to]
    code, said, err = mbv3("export", name, "--to", to, "--out", out)
    assert (code, said) == (2, "") and "already exists, and nothing is overwritten" in err


def test_what_is_refused_leaves_nothing(mbv3: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = mbv3("export", "mnasnet_a1", "--to", "torchvision", "--out", out)
    assert code == 2 and err.count("rows[") == 8 and "gate: " in err and "squeezes 72 channels to 24 (got 6)" in err
    code, _, err = mbv3("export", "mobilenet_v2", "--to", "litert", "--precision", "int8", "--out", out)
    assert code == 2 and "no quantizer comes with its package" in err
    for to, name, cure in (("onnx", "a.tflite", "a .onnx file or a new folder"), ("timm", "a.onnx", "a new folder")):
        code, _, err = mbv3("export", "mobilenet_v2", "--to", to, "--out", tmp_path / name)
        assert code == 2 and f"--to {to} --out " in err and f"of a file of another target; give {cure}" in err
    code, _, err = mbv3("export", "mobilenet_v2", "--to", "onnx", "--data", tmp_path, "--out", out)
    assert code == 2 and ": calibrates int8; add --precision int8, or leave --data out" in err
    save_weights(tmp_path / "w", package.build(package.load_spec("mobilenet_v3_small")).state_dict())
    code, _, err = mbv3("export", "mobilenet_v3_large", "--to", "timm", "--weights", tmp_path / "w", "--out", out)
    assert (
        code == 2
        and "missing: rows.1" in err
        and "mis-shaped: rows." in err
        and re.search(r"mis-shaped: and \d+ more", err)
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w"]


def test_int8_is_calibrated_on_images_or_says_so(mbv3: Command, spec: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        (tmp_path / "data" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / f"class{i % 2}" / f"{i}.png")
    common = ("export", spec, "--to", "onnx", "--precision", "int8", "--out")
    code, _, err = mbv3(*common, tmp_path / "random.onnx")
    assert code == 0 and "one random image" in err
    code, _, err = mbv3(*common, tmp_path / "real.onnx", "--data", tmp_path / "data")
    assert code == 0 and "one random image" not in err
    assert "4 images are too few to keep some back" in err and "on the 4 images that it was calibrated on" in err
    real, random = ((tmp_path / f"{name}.onnx").read_bytes() for name in ("real", "random"))
    assert real != random and b"QuantizeLinear" in real
    (tmp_path / "flat/images").mkdir(parents=True)
    for image in (tmp_path / "data").rglob("*.png"):
        image.rename(tmp_path / "flat/images" / image.name)
    (tmp_path / "flat/masks").mkdir()
    (tmp_path / "flat/masks/0.png").write_bytes(b"no image, and not asked for")
    code, said, err = mbv3(*common, tmp_path / "flat.onnx", "--data", tmp_path / "flat", "--json")
    assert code == 0 and "there are no class folders" in err and "int8 answers as fp32 on" in err
    about = json.loads(said)["int8"]
    assert about["images"] == {"calibrated": 4, "chosen": 4, "reported": 4} and not about["held_out"]
    assert about["fp32_top1"] is None and about["times_as_fast"] > 0
    code, _, err = mbv3(*common, tmp_path / "none.onnx", "--data", tmp_path / "data")
    assert code == 2 and f"{tmp_path / 'data'}: holds no images" in err and not (tmp_path / "none.onnx").exists()
    spec.write_text(spec.read_text().replace("resolution: 32", "resolution: 32, channels: 1"))
    code, _, err = mbv3(*common, tmp_path / "gray.onnx", "--data", tmp_path / "data")
    assert code == 2 and "images have 3 channels, and this network takes 1" in err


@pytest.mark.parametrize(("to", "said"), [("onnx", 1), ("litert", 1), ("torchvision", 0)])
def test_what_an_app_must_know_is_printed(mbv3: Command, tmp_path: Path, to: str, said: int) -> None:
    net = package.build(package.load_spec("mobilenet_v3_small"))
    names = ["axolotl", *map(str, range(999))]
    save_weights(tmp_path / "w", net.state_dict(), classes=json.dumps(names))
    code, _, err = mbv3(
        "export", "mobilenet_v3_small", "--to", to, "--weights", tmp_path / "w", "--out", tmp_path / "o"
    )
    assert code == 0 and err.count("minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)") == said
    assert err.count("its 1000 classes in order are axolotl, 0, 1, 2, 3, ...; the file holds both") == said


def test_random_weights_say_so(mbv3: Command, spec: Path, tmp_path: Path) -> None:
    code, _, err = mbv3("export", spec, "--to", "onnx", "--out", tmp_path / "r.onnx")
    assert code == 0 and "weights are random" in err


@pytest.mark.parametrize("argv", [["--help"], ["show", "mobilenet_v3_large"], ["show", "mobilenet_v2", "--json"]])
def test_quick_verbs_load_no_torch(argv: list[str]) -> None:
    code = (
        "import sys\nfrom mbv3.cli import main\n"
        f"try:\n    main({argv!r})\nexcept SystemExit as e:\n    assert not e.code\n"
        "heavy = {'torch', 'pandas', 'optuna', 'onnx', 'onnxruntime', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["latency", "build", "--space", "mnasnet"], "what was timed is kept: give the same command again"),
        (["latency", "measure", "mobilenet_v2"], "nothing is kept"),
        (["export", "mobilenet_v2", "--to", "onnx"], "nothing is kept"),
        (["train", "--resume", "my run"], "trained is kept. Go on with: mbv3 train --resume 'my run'"),
    ],
)
def test_an_interruption_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    def interrupted(args: argparse.Namespace) -> int:
        verbs._current.update({"verb": "mbv3 train", "run": args.resume} if args.verb == "train" else {})
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "_current", {})
    monkeypatch.setattr(verbs, "run", interrupted)
    assert main(argv) == 4
    assert capsys.readouterr().err.strip().endswith(said)


def test_a_name_that_a_terminal_cannot_show_ends_nothing(tmp_path: Path, spec: Path) -> None:
    out = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.onnx")
    done = subprocess.run([sys.executable, "-m", "mbv3", "export", str(spec), "--to", "onnx", "--out", out],
                          capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(out).exists() and rb"caf\udce9.onnx" in done.stdout
