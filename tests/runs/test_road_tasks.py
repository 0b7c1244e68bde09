"""`mbv3-search --init --task segment|detect --data`: masks and boxes decide; what is delivered and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mbv3.errors import BadInput
from mbv3.latency import LatencyTable
from mbv3.nn import build
from mbv3.runs import find_events
from mbv3.spec import ArchSpec, dump_spec, load_spec, with_head
from mbv3.tables import Latency
from mbv3.tasks import TASKS
from mbv3.training import save_weights

from .conftest import Said, record, rows
from .test_find import ended

METRICS = {"segment": ("miou", "mean IoU"), "detect": ("map50", "mAP@.5")}


@pytest.fixture
def given(folder: Path, tiny_spec: ArchSpec, masks: Path, boxes: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Options of a run by task: weights of a classifier, three quarters of the headed network's ms as a target."""
    torch.set_num_threads(1)
    tiny_spec = replace(tiny_spec, rows=tuple(replace(r, exp=96, out=32) for r in tiny_spec.rows))
    (tmp_path / "tiny.yaml").write_text(dump_spec(tiny_spec))
    save_weights(tmp_path / "tiny.safetensors", build(tiny_spec, 0).state_dict(), network="tiny")
    found: dict[str, dict[str, Any]] = {}
    for name, (data, outputs) in {"segment": (masks, 3), "detect": (boxes, 3)}.items():
        made = TASKS[name].headed(tiny_spec)
        [full] = Latency(LatencyTable.load(folder / "tiny.csv"))([with_head(made, made.head, outputs)])
        found[name] = {
            "target_ms": round(0.9 * full, 3), "device": str(folder / "tiny.csv"), "task": name, "data": str(data),
            "final_epochs": 1, "init": str(tmp_path / "tiny.safetensors"), "from_": str(tmp_path / "tiny.yaml"),
        }  # fmt: skip
    return found


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_what_a_run_leaves(
    task: str, given: dict[str, dict[str, Any]], tmp_path: Path, mbv3: Callable[..., Said]
) -> None:
    out, (column, metric) = tmp_path / "run", METRICS[task]
    fixed = {"resolution": "32"} if task == "detect" else {}  # nothing but cuts leads to the target
    ended(find_events(out=out, **given[task], **fixed))
    r: Any = record(out)
    assert (r["status"], r["task"], r["classes"]) == ("done", task, 3)
    assert r["predicted_ms"] <= given[task]["target_ms"]
    assert r["accuracy"]["recipe"] == TASKS[task].finetune
    assert r["accuracy"]["metric"] == metric and 0 <= r["accuracy"]["value"] <= 100
    assert {c["n"] for c in r["comparison"]} == {
        6 if task == "segment" else 2
    }  # of the boxes, one a class was held out
    spec = load_spec(str(out / "mobilenetv3.yaml"))
    assert TASKS[task].owns(spec.head) and spec.head.classes == 3
    start = load_spec(str(out / "seed.yaml"))
    assert (spec.rows, spec.head) != (start.rows, start.head) or (not fixed and spec.resolution != start.resolution)
    state = load_file(out / "weights.safetensors")
    net = build(spec, 0)
    net.load_state_dict(state)
    assert any((state[k] != v).any() for k, v in build(spec, 0).state_dict().items() if k.startswith("head."))
    table = rows(out / "candidates.csv")
    assert {"alike", "last"} <= {row["round"] for row in table} and all(0 <= float(row[column]) <= 100 for row in table)
    assert metric in (out / "report.html").read_text()
    assert not [p for p in out.iterdir() if p.name.startswith(("road-", "pixels-"))]
    code, said, err = mbv3("verify", out)
    assert code == 0, said + err


def test_a_network_with_a_head_of_its_own(
    given: dict[str, dict[str, Any]], tiny_spec: ArchSpec, tmp_path: Path, classes: Path
) -> None:
    """Its head's weights are kept: the classes are those of the images."""
    from mbv3.runs.init_options import inherited

    made = with_head(TASKS["segment"].headed(tiny_spec), TASKS["segment"].headed(tiny_spec).head, 3)
    (tmp_path / "own.yaml").write_text(dump_spec(made))
    state = build(made, 5).state_dict()
    save_weights(tmp_path / "own.safetensors", state, network="own")
    found = inherited(str(tmp_path / "own.safetensors"), made, lambda s: s, 0)
    assert all(torch.equal(found.state[k], v) for k, v in state.items())
    o = {**given["segment"], "init": str(tmp_path / "own.safetensors"), "from_": str(tmp_path / "own.yaml")}
    for changes, said in (
        ({"task": "detect", "data": given["detect"]["data"]}, "has a head for segment; give that task"),
        ({"task": "classify"}, "is no classifier but a network for --task segment"),
        ({"head": "lraspp"}, "give a classifier the head of another task"),
    ):
        more = {**o, **changes}
        if more["task"] == "classify":
            more["data"] = str(classes)
        with pytest.raises(BadInput, match=said):
            ended(find_events(out=tmp_path / "none", **more))
        assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        ("segment", {"classes": 3}, r"--classes is for a search without images"),
        ("segment", {"test": "."}, r"--test is for class folders"),
        ("segment", {"head": "ssdlite"}, r"--head must be one of .*lraspp-torchvision.* \(got ssdlite\)"),
        ("detect", {"head": "lraspp"}, r"--head must be one of ssdlite.* \(got lraspp\)"),
        ("detect", {"output_stride": 16}, r"--output-stride is for --task segment"),
        (
            "detect",
            {"data": None, "init": None, "from_": None, "final_epochs": None},
            r"searches on images: give --data",
        ),
    ],
)
def test_what_is_refused(
    task: str, changes: dict[str, Any], said: str, given: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=said):
        ended(find_events(out=tmp_path / "run", **{**given[task], **changes}))
    assert not (tmp_path / "run").exists()


def test_images_that_cannot_be_used(given: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Nothing is made, and each fault has its message."""
    masks = Path(given["segment"]["data"])
    alone = tmp_path / "alone"
    shutil.copytree(masks / "train" / "images", alone / "images")
    small = tmp_path / "small"
    for part in ("train", "val", "test"):
        for kind, of in (("images", "RGB"), ("masks", "L")):
            (small / part / kind).mkdir(parents=True)
            for i in range(3):
                pixels = np.full((16, 16), i % 2, np.uint8)
                Image.fromarray(pixels).convert(of).save(small / part / kind / f"{i}.png")
    rare = tmp_path / "rare"
    shutil.copytree(masks / "train", rare)
    one = np.asarray(Image.open(rare / "masks" / "0.png")).copy()
    one[:4, :4] = 3
    Image.fromarray(one).save(rare / "masks" / "0.png")
    for data, said in (
        (alone, r"masks: no such folder"),
        (small, r"images are too small for --task segment: the typical one is 16x16 pixels"),
        (rare, r"class\(es\) in too few of its images: 3 \(1\)"),
        (given["detect"]["data"], r"images: no such folder"),
    ):
        with pytest.raises(BadInput, match=said):
            ended(find_events(out=tmp_path / "run", **{**given["segment"], "data": str(data)}))
        assert not (tmp_path / "run").exists()


def test_a_budget_that_trains_nothing_is_told_first(given: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    o = {**given["segment"], "final_epochs": None, "budget_minutes": 0.01}
    with pytest.raises(BadInput, match=r"--budget-minutes 0.01: too short to train anything .* at least [0-9.]+, and "):
        ended(find_events(out=tmp_path / "run", **o))
    assert not (tmp_path / "run" / "latency-table.csv").exists()
