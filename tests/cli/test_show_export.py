"""`mbv3 show` and `mbv3 export`, and what they do not load."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import mbv3 as package
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
    assert code == 2 and "invalid choice: 'caffe'" in err


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
