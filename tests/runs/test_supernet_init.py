"""`mbv3-search --space ofa-mbv3 --init FILE`: a network of OFA's supernet with its weights, without images and with."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mbv3.accuracy import OFA, imagenet
from mbv3.export import read_supernet
from mbv3.latency import LatencyTable
from mbv3.nn import build
from mbv3.runs import find_events
from mbv3.space import SearchSpace, load_space, scale
from mbv3.spec import load_spec
from mbv3.training import save_weights
from tests.ofa_weights import tensors

from .conftest import Said, computed_table, record, rows
from .driven import drive
from .test_find import ended

TEXT = """\
format: mbv3-space/1
name: few
input: {resolution: 64}
scales: {widths: [1], sides: [32, 48, 64]}
bn: {eps: 0.00001, momentum: 0.1}
stem: {k: 3, out: 16, nl: HS, s: 2}
blocks:
  - {name: block0, s: 1, out: 16, e: 1, k: 3, nl: RE}
  - {name: block1_1, s: 2, out: 24, e: [3, 6], k: [3, 5], nl: RE}
  - {name: block1_2, s: 1, out: 24, e: 3, k: [3, 7], l: [0, 1], nl: RE}
  - {name: block2, s: 2, out: 40, e: [3, 4], k: [3, 5], se: 1, nl: RE}
  - {name: block3, s: 2, out: 80, e: 3, k: [3, 5], nl: HS}
  - {name: block4, s: 1, out: 112, e: 3, k: [3, 7], se: 1, nl: HS}
  - {name: block5, s: 2, out: 160, e: 3, k: [3, 5], se: 1, nl: HS}
tail: {k: 1, out: 960, nl: HS}
head: {features: 1280, features_bias: false, nl: HS, dropout: 0.1, classes: 1000}
"""


def middle_ms(table: LatencyTable, space: SearchSpace, classes: int) -> float:
    """Between the smallest and the largest network at 48 px."""
    at = scale(space, 1.0, 48, classes)
    ends = [at.spec(tuple(end * (n - 1) for n in space.sizes)) for end in (0, 1)]
    return round(sum(table.predict(spec, estimate=True).ms for spec in ends) / 2, 3)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A part of OFA's space, a table of it, random weights of the whole supernet, and a target inside."""
    where = tmp_path_factory.mktemp("supernet")
    (where / "few.yaml").write_text(TEXT)
    space = load_space(where / "few.yaml")
    table = computed_table(scale(space, 1.0, 48))
    table.save(where / "few.csv")
    torch.save({"state_dict": tensors(1.0)}, where / "ofa_mbv3_d234_e346_k357_w1.0")
    return {
        "target_ms": middle_ms(table, space, 1000), "device": str(where / "few.csv"), "space": str(where / "few.yaml"),
        "init": str(where / "ofa_mbv3_d234_e346_k357_w1.0"),
    }  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run without images. Copy before you change anything in it."""
    out = tmp_path_factory.mktemp("without") / "run"
    ended(find_events(out=out, **given))
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 40 images of 48 px."""
    where, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for c, name in enumerate(("dark", "light")):
        (where / name).mkdir()
        for i in range(40):
            pixels = rng.integers(100 * c, 156 + 100 * c, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(where / name / f"{i}.png")
    return where


@pytest.fixture(scope="module")
def with_photos(given: dict[str, Any], photos: Path) -> dict[str, Any]:
    """The same with images of two classes, whose networks are faster."""
    target_ms = middle_ms(LatencyTable.load(Path(given["device"])), load_space(given["space"]), 2)
    return {**given, "target_ms": target_ms, "data": str(photos), "final_epochs": 2}


@pytest.fixture(scope="module")
def learned(with_photos: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with images. Copy before you change anything in it."""
    out = tmp_path_factory.mktemp("with") / "run"
    ended(find_events(out=out, **with_photos))
    return out


def arguments(given: dict[str, Any], **changes: Any) -> list[str]:
    values = {**given, **changes}
    pairs = [("--" + k.strip("_").replace("_", "-"), v) for k, v in values.items() if v is not None]
    return [str(x) for pair in pairs for x in pair]


def test_without_images_a_network_its_weights_and_its_file(run: Path, given: dict[str, Any]) -> None:
    r: Any = record(run)
    assert (r["status"], r["exit"]) == ("done", 0)
    assert r["predicted_ms"] <= given["target_ms"] and r["measured_ms"] is None
    assert r["init"]["file"] == given["init"] and r["init"]["network"] == "supernet ofa-mbv3-w1.0"
    assert len(r["init"]["sha256"]) == 64
    assert r["accuracy"]["kind"] == "imagenet" and r["accuracy"]["recipe"] == "ofa-dynast"
    assert "delivered weights after their batch norms are recalibrated" in r["accuracy"]["note"]
    assert any("taken on images at its resolution: --data DIR" in note for note in r["notes"])
    spec, weights = load_spec(str(run / "mobilenetv3.yaml")), load_file(run / "weights.safetensors")
    assert dict(spec.provenance)["weights"] == f"supernet ofa-mbv3-w1.0, sha256 {r['init']['sha256']}"
    shared = read_supernet(Path(given["init"])).state(spec)
    assert all(torch.equal(weights[name], value) for name, value in shared.items())
    net = build(spec, 0)
    net.load_state_dict(weights, strict=False)
    x = np.random.default_rng(0).standard_normal((1, 3, *spec.resolution)).astype(np.float32)
    with torch.no_grad():
        mine = net.eval()(torch.from_numpy(x))
    session = onnxruntime.InferenceSession(run / "mobilenetv3.onnx", providers=["CPUExecutionProvider"])
    [theirs] = session.run(None, {session.get_inputs()[0].name: x})
    assert isinstance(mine, torch.Tensor)
    np.testing.assert_allclose(theirs, mine.numpy(), rtol=1e-3, atol=1e-3 * float(mine.abs().max()))


def test_the_found_network_is_the_best_of_its_space(run: Path, given: dict[str, Any]) -> None:
    table = LatencyTable.load(Path(given["device"]))
    space = scale(load_space(given["space"]), 1.0, 48)
    genomes = np.array(np.meshgrid(*(range(n) for n in space.sizes))).reshape(len(space.sizes), -1).T
    best = max(
        imagenet(spec, recipe=OFA).value
        for spec in (space.spec(tuple(int(v) for v in g)) for g in genomes)
        if table.predict(spec, estimate=True).ms <= given["target_ms"]
    )
    assert load_spec(str(run / "mobilenetv3.yaml")).resolution == (48, 48)
    assert record(run)["accuracy"]["value"] == pytest.approx(best, abs=1e-3)  # type: ignore[index]


def test_the_command_prints_the_sha256(search: Callable[..., Said], given: dict[str, Any], tmp_path: Path) -> None:
    code, _, err = search(*arguments(given, out=tmp_path / "run"))
    assert code == 0, err
    assert record(tmp_path / "run")["init"]["sha256"] in err  # type: ignore[index]


def test_with_images_it_is_settled_fine_tuned_and_delivered(learned: Path, with_photos: dict[str, Any]) -> None:
    r: Any = record(learned)
    assert (r["status"], r["exit"]) == ("done", 0)
    assert r["init"]["network"] == "supernet ofa-mbv3-w1.0" and r["predicted_ms"] <= with_photos["target_ms"]
    assert r["accuracy"]["kind"] == "report" and "held-out images, answered once" in r["accuracy"]["note"]
    spec = load_spec(str(learned / "mobilenetv3.yaml"))
    assert spec.head.classes == 2
    weights = load_file(learned / "weights.safetensors")
    build(spec, 0).load_state_dict(weights)
    settled = rows(learned / "subnets.csv")
    assert {row["resolution"] for row in settled} == {"32", "48"} and len(settled) >= 3
    assert all(float(row["ms"]) <= with_photos["target_ms"] for row in settled)
    kept = {row["network"] for row in settled if row["stays"] == "1"}
    trained = {row["network"] for row in rows(learned / "candidates.csv")}
    assert kept <= trained and {"alike", "last"} <= {row["round"] for row in rows(learned / "candidates.csv")}
    assert {"found", "random of the space"} & {row["name"] for row in r["comparison"]}
    left = {p.name for p in learned.iterdir()}
    assert not [n for n in left if n.startswith(("road-", "pixels-"))]
    assert {"report.html", "mobilenetv3.onnx", "seed.yaml", "latency-table.csv"} <= left


def test_the_claims_hold(mbv3: Callable[..., Said], run: Path, learned: Path) -> None:
    for whole in (run, learned):
        code, out, err = mbv3("verify", whole)
        assert code == 0, out + err


def test_killed_and_resumed_it_is_the_same(learned: Path, with_photos: dict[str, Any], tmp_path: Path) -> None:
    args = [*arguments(with_photos), "--out", str(tmp_path / "run")]
    # while the weights of candidates are settled, and in the start's training
    killed = drive(*args, fate="SIGKILL mbv3.stages.subnets:learn_head:2")
    assert killed.code == -signal.SIGKILL, killed.err
    again = drive("--resume", str(killed.path), fate="SIGKILL mbv3.training.loop:one_step:2")
    assert again.code == -signal.SIGKILL, again.err
    done = drive("--resume", str(killed.path), "--json")
    assert done.code == 0, done.err
    mine, whole = json.loads(done.out), record(learned)
    for name in ("accuracy", "baselines", "comparison", "init", "predicted_ms"):
        assert mine[name] == whole[name], name
    a, b = load_file(learned / "weights.safetensors"), load_file(killed.path / "weights.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_finished_run_is_not_done_again(
    search: Callable[..., Said], learned: Path, run: Path, tmp_path: Path
) -> None:
    for n, whole in enumerate((run, learned)):
        copy = tmp_path / str(n)
        shutil.copytree(whole, copy)
        code, _, err = search("--resume", copy)
        assert code == 0 and "is finished" in err


def test_a_resumed_run_wants_the_same_weights(
    search: Callable[..., Said], run: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    other = tmp_path / "other"
    torch.save(tensors(1.0, seed=1), other)
    r = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(
        json.dumps({**r, "status": "interrupted", "args": {**r["args"], "init": str(other)}})
    )
    code, _, err = search("--resume", copy)
    assert code == 2 and "is not the file of weights that this run began with" in err


def test_without_weights_it_says_what_to_download(
    search: Callable[..., Said], given: dict[str, Any], tmp_path: Path
) -> None:
    code, _, err = search("--target-ms", "20", "--device", "note-10", "--space", "ofa-mbv3", "--scale", "1x32",
                          "--trials", "5", "--out", tmp_path / "run")  # fmt: skip
    assert code in (0, 1, 3)
    [line] = [line for line in err.splitlines() if "download" in line]
    assert "ofa_mbv3_d234_e346_k357_w1.0" in line and "--init FILE" in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": "ofa-mbv3-w1.2"}, "give --space ofa-mbv3-w1.0"),
        ({"space": "ofa-mbv3", "scale": "1.25"}, "the weights of --init have one width"),
        ({"space": "mobilenetv3"}, "have one width; write `scales"),
        ({"space": None}, "--space ofa-mbv3"),
        ({"sampler": "rnn", "delta": "0.1"}, "--sampler, --delta: with --space"),
        ({"init": "missing"}, "no such weights file"),
        ({"target_ms": 0.01}, "a target of 0.01 ms cannot be met"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    search: Callable[..., Said], given: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    code, _, err = search(*arguments(given, out=tmp_path / "run", **changes))
    assert code == (3 if "cannot be met" in said else 2) and said in err, err


def test_the_weights_of_one_network(search: Callable[..., Said], given: dict[str, Any], tmp_path: Path) -> None:
    save_weights(tmp_path / "one.safetensors", build(load_spec("mobilenet_v3_small"), 0).state_dict())
    code, _, err = search(*arguments(given, init=tmp_path / "one.safetensors", out=tmp_path / "run"))
    assert code == 2 and "one network, not the shared ones of a supernet" in err
    assert not (tmp_path / "run").exists()


def test_shared_weights_where_a_network_is_asked_for(
    search: Callable[..., Said], mbv3: Callable[..., Said], folder: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    from_ = {"from_": "mobilenet_v3_small", "space": None, "data": folder / "images"}
    code, _, err = search(*arguments(given, **from_, out=tmp_path / "run"))
    assert code == 2 and "shared weights of a supernet, not those of one network" in err
    code, _, err = mbv3(
        "train", "mobilenet_v3_small", "--data", folder / "images", "--init", given["init"], "--out", tmp_path / "t"
    )
    assert code == 2 and "shared weights of a supernet, not those of one network" in err


def test_broken_weights(search: Callable[..., Said], given: dict[str, Any], tmp_path: Path) -> None:
    whole = tensors(1.0)
    whole["final_expand_layer.bn.weight"][3] = float("inf")
    save_file(whole, tmp_path / "inf.safetensors")
    code, _, err = search(*arguments(given, init=tmp_path / "inf.safetensors", out=tmp_path / "run"))
    assert code == 2 and "broken weights" in err and "final_expand_layer.bn.weight" in err
