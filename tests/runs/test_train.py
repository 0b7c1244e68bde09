"""`mbv3 train` from end to end on small images, for every task."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from mbv3.errors import BadInput
from mbv3.events import Note, RunStarted
from mbv3.export import FRAMEWORKS
from mbv3.nn import build
from mbv3.runs import train_events
from mbv3.spec import ArchSpec, dump_spec, load_spec, parse_spec, with_head
from mbv3.tasks import TASKS, registry, smallest_map
from mbv3.training import read_weights, save_weights

from .training import quick, run


def test_classify(tiny_spec: ArchSpec, classes: Path, tmp_path: Path) -> None:
    result, said = quick(tiny_spec, classes, tmp_path / "o", epochs=25.0, optimizer="adamw", lr=5e-3, ema=0.9)
    assert result.metrics["top1"] > 80 and result.metrics.keys() == {"top1"}  # two classes have no top 5
    assert (result.n, result.judged_on, result.record.status, result.record.exit) == (16, "test", "done", 0)
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert names == {
        ".lock", "run.json", "network.yaml", "weights.safetensors", "log.csv", "log.txt", "curve.png",
        "predictions.png",
    }  # fmt: skip
    spec = parse_spec((tmp_path / "o/network.yaml").read_text(), "n")
    assert spec.head.classes == 2
    build(spec).load_state_dict(read_weights(tmp_path / "o/weights.safetensors"))
    for name in ("curve.png", "predictions.png"):
        with Image.open(tmp_path / "o" / name) as picture:
            assert min(picture.size) > 100
    text = (tmp_path / "o/log.txt").read_text()
    assert "epoch 25 of 25: loss " in text and "waiting for images" in text and "min left" in text
    assert len((tmp_path / "o/log.csv").read_text().splitlines()) == 26
    assert any(t.startswith("46 images of 2 classes, 2 held out, 16 for the test") for t in said)


def test_the_score_of_every_class(
    tiny_spec: ArchSpec, classes: Path, tmp_path: Path, mbv3: Callable[..., tuple[int, str, str]]
) -> None:
    """The lowest first; a class in no test image has none, and a name cannot steer the terminal."""
    for part in ("train", "test"):
        (classes / part / "red").rename(classes / part / "a\x1b[31mb")
        shutil.copytree(classes / part / "green", classes / part / "green too")
    shutil.rmtree(classes / "test/green too")
    (tmp_path / "net.yaml").write_text(dump_spec(tiny_spec))
    out = tmp_path / "o"
    code, said, err = mbv3("train", tmp_path / "net.yaml", "--data", classes, "--epochs", 2, "--batch", 8, "--out", out)
    assert code == 0, err
    each = json.loads((out / "run.json").read_text())["by_class"]
    assert list(each) == ["a\x1b[31mb", "green", "green too"] and each["green too"] is None
    lower, higher = sorted((each[name], name) for name in list(each)[:2])
    names = {"green": "green", "a\x1b[31mb": r"'a\x1b[31mb'"}
    line = f"by class   {names[lower[1]]}: {lower[0]:.1f} %, {names[higher[1]]}: {higher[0]:.1f} %"
    assert lower[0] < higher[0] and line in said.splitlines()


def test_segment(tiny_spec: ArchSpec, masks: Path, tmp_path: Path) -> None:
    result, _ = quick(tiny_spec, masks, tmp_path / "o", task="segment", epochs=25.0, lr=0.01, output_stride=8)
    assert result.record.classes == ("ground", "red", "green") and result.metrics.keys() == {"miou", "pixels"}
    assert result.metrics["pixels"] > 70 and result.n == 6
    each = result.by_class
    assert set(each) == {"ground", "red", "green"} and list(each.values()) == sorted(each.values())
    assert sum(each.values()) / 3 == pytest.approx(result.metrics["miou"], abs=0.002)
    spec = parse_spec((tmp_path / "o/network.yaml").read_text(), "n")
    assert type(spec.head).__name__ == "LRASPP" and spec.head.classes == 3
    # the network that came out goes in again, for its own task only
    again, said = run(spec, data=str(masks), out=tmp_path / "p", task="segment", epochs=1.0, batch=8,
                      init=str(tmp_path / "o/weights.safetensors"), lr=1e-6)  # fmt: skip
    assert any(t.startswith("weights of ") and "new:" not in t for t in said)
    assert again.metrics["pixels"] == pytest.approx(result.metrics["pixels"], abs=8)
    with pytest.raises(BadInput, match=r"--task classify: tiny has a head for segment; give that task"):
        run(spec, data=str(masks), out=tmp_path / "q")


def test_detect(tiny_spec: ArchSpec, boxes: Path, tmp_path: Path) -> None:
    result, said = quick(tiny_spec, boxes, tmp_path / "o", task="detect", epochs=3.0)
    assert result.metrics.keys() == {"map50", "map"} and result.record.classes == ("green", "red")
    assert 0 <= result.metrics["map"] <= result.metrics["map50"] <= 100 and result.judged_on == "held-out"
    assert sum(result.by_class.values()) / 2 == pytest.approx(result.metrics["map50"], abs=0.002)
    spec = parse_spec((tmp_path / "o/network.yaml").read_text(), "n")
    assert spec.head.classes == 3  # and the background
    assert any("16 images of 2 classes, 4 held out" in t for t in said)


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_a_named_classifier_takes_the_shape_of_the_images(
    task: str, tiny_spec: ArchSpec, masks: Path, boxes: Path, tmp_path: Path
) -> None:
    """Where nobody asks for another; a network from a file keeps its own."""
    folder = masks if task == "segment" else boxes
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            wide = image.resize((2 * image.width, image.height), Image.Resampling.NEAREST)
        wide.save(path)
    if task == "detect":
        for path in folder.rglob("*.json"):
            document = json.loads(path.read_text())
            for one in document["annotations"]:
                x, y, w, h = one["bbox"]
                one["bbox"] = [2 * x, y, 2 * w, h]
            path.write_text(json.dumps(document))
    file = tmp_path / "mine.yaml"
    file.write_text(dump_spec(tiny_spec))

    def begun(spec: ArchSpec | str, out: str, **options: Any) -> tuple[tuple[int, int], list[str]]:
        said = []
        events = train_events(spec, data=str(folder), task=task, out=tmp_path / out, **options)
        for event in events:
            said += [event.text] if isinstance(event, Note) and event.text.startswith("input ") else []
            if not isinstance(event, (Note, RunStarted)):
                break
        events.close()
        assert all(text in (tmp_path / out / "log.txt").read_text() for text in said)
        return parse_spec((tmp_path / out / "network.yaml").read_text(), "n").resolution, said

    said = ["input 224x448, by the shape of the images; --resolution takes another"]
    assert begun("mobilenet_v3_small@0.35", "a") == ((224, 448), said)
    assert begun("mobilenet_v3_small@0.35", "b", resolution="64") == ((64, 64), [])
    assert begun(str(file), "c") == (tiny_spec.resolution, []) and begun(tiny_spec, "d") == (tiny_spec.resolution, [])


def test_an_auxiliary_head_is_trained_too(tiny_spec: ArchSpec, masks: Path, tmp_path: Path) -> None:
    result, _ = quick(tiny_spec, masks, tmp_path / "o", task="segment", head="fcn", output_stride=16)
    state = read_weights(tmp_path / "o/weights.safetensors")
    fresh = build(parse_spec((tmp_path / "o/network.yaml").read_text(), "n"), 0).state_dict()
    moved = [k for k in state if k.startswith("aux.") and k.endswith("weight") and not torch.equal(state[k], fresh[k])]
    assert moved and result.record.status == "done"


def test_a_teacher_answers_under_the_padding_of_its_training(
    tiny_spec: ArchSpec, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = with_head(load_spec("mobilenet_v3_small@0.5"), load_spec("mobilenet_v3_small").head, 2)
    names = FRAMEWORKS["timm"].names(larger)
    back, state = dict(names.modules), {}
    for key, value in build(larger, 1).state_dict().items():
        module, _, leaf = key.rpartition(".")
        as_conv = back[module] in names.as_conv and leaf == "weight"
        state[f"{back[module]}.{leaf}"] = value[..., None, None].clone() if as_conv else value
    torch.save(state, tmp_path / "tf_mobilenetv3_small_050.pth")
    (tmp_path / "larger.yaml").write_text(dump_spec(larger))
    built: list[ArchSpec] = []
    monkeypatch.setattr("mbv3.runs.train_run.build", lambda spec, seed: (built.append(spec), build(spec, seed))[1])
    _, said = quick(tiny_spec, classes, tmp_path / "taught", teacher=str(tmp_path / "larger.yaml"), epochs=1.0,
                    teacher_weights=str(tmp_path / "tf_mobilenetv3_small_050.pth"))  # fmt: skip
    assert {spec.padding for spec in built} == {"tensorflow"}
    assert any(t.startswith("teacher: ") and "TensorFlow's padding" in t for t in said)


def test_distillation_and_init(
    tiny_spec: ArchSpec, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(tiny_spec, classes, tmp_path / "teacher")
    spec, weights = tmp_path / "teacher/network.yaml", tmp_path / "teacher/weights.safetensors"
    quick(tiny_spec, classes, tmp_path / "plain")
    quick(tiny_spec, classes, tmp_path / "taught", teacher=str(spec), teacher_weights=str(weights))
    a, b = (read_weights(tmp_path / n / "weights.safetensors") for n in ("plain", "taught"))
    assert any(not torch.equal(a[k], b[k]) for k in a)
    other = tmp_path / "five.safetensors"
    save_weights(other, build(with_head(tiny_spec, tiny_spec.head, 5), 1).state_dict())
    result, said = quick(tiny_spec, classes, tmp_path / "init", init=str(other))
    assert any("new: the head (2 tensors)" in t for t in said)
    assert "recipe finetune (default with --init): adamw, cosine" in (tmp_path / "init/log.txt").read_text()
    assert result.record.recipe["optimizer"] == "adamw"
    assert result.record.recipe["hold_norms"] is False and min(smallest_map(tiny_spec)) == 1
    larger, _ = quick(tiny_spec, classes, tmp_path / "larger", init=str(other), resolution="64")
    assert larger.record.recipe["hold_norms"] is True
    result, _ = quick(tiny_spec, classes, tmp_path / "asked", init=str(other), recipe="small-data")
    assert "recipe small-data (as asked): sgd, cosine" in (tmp_path / "asked/log.txt").read_text()
    assert "recipe small-data (default without --init): sgd" in (tmp_path / "plain/log.txt").read_text()
    assert result.record.recipe["optimizer"] == "sgd"
    wide = replace(tiny_spec, stem=replace(tiny_spec.stem, out=16))
    save_weights(other, build(wide, 1).state_dict())
    with monkeypatch.context() as m:
        m.setattr("mbv3.tasks.pixels.store_pixels", lambda *_, **__: pytest.fail("decoded first"))
        message = r"weights of another network(.|\n)*of another shape: stem.conv.weight"
        with pytest.raises(BadInput, match=message):
            quick(tiny_spec, classes, tmp_path / "wrong", init=str(other))
        with pytest.raises(BadInput, match=message):
            quick(tiny_spec, classes, tmp_path / "t3", teacher=str(spec), teacher_weights=str(other))
    save_weights(other, build(load_spec("mobilenet_v2"), 0).state_dict())
    with pytest.raises(BadInput, match=r"weights of another network(.|\n)*they fit mobilenet_v2: give it as SPEC"):
        quick(tiny_spec, classes, tmp_path / "wrong", init=str(other))
    with pytest.raises(BadInput, match=r"needs its weights; add --teacher-weights FILE"):
        quick(tiny_spec, classes, tmp_path / "t2", teacher=str(spec))


def test_half_precision(tiny_spec: ArchSpec, classes: Path, tmp_path: Path) -> None:
    result, _ = quick(tiny_spec, classes, tmp_path / "o", precision="bf16")
    assert result.record.recipe["precision"] == "bf16" and result.record.status == "done"
    weights = read_weights(tmp_path / "o/weights.safetensors")
    assert {v.dtype for k, v in weights.items() if "num_batches" not in k} == {torch.float32}


def test_strides_are_taken_away_from_the_front(tiny_spec: ArchSpec, classes: Path, tmp_path: Path) -> None:
    _, said = quick(tiny_spec, classes, tmp_path / "o", unstride=2, epochs=0.2)
    spec = parse_spec((tmp_path / "o/network.yaml").read_text(), "n")
    assert [spec.stem.s, *(r.s for r in spec.rows)] == [1, 1, 2, 2, 2]
    assert any("last map 4x4" in t for t in said) and not any("--unstride" in t for t in said)
    _, said = quick(tiny_spec, classes, tmp_path / "p", epochs=0.2)
    assert any("last map is 1x1: --unstride 1 or 2" in t for t in said)


def test_memory_does_not_grow_with_epochs(tiny_spec: ArchSpec, classes: Path, tmp_path: Path) -> None:
    def live() -> int:
        gc.collect()
        return sum(o.nbytes for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter))

    told: dict[str, int] = {}
    for event in train_events(tiny_spec, data=str(classes), out=tmp_path / "o", epochs=30.0, batch=8, score_every=1):
        if isinstance(event, Note) and event.text.startswith(("epoch 3 ", "epoch 29 ")):
            told[event.text.split()[1]] = live()
    # less than the weights of one epoch, were they kept
    weights = sum(v.nbytes for v in read_weights(tmp_path / "o/weights.safetensors").values())
    assert told["29"] - told["3"] < weights < told["3"]


def test_a_task_is_its_module_and_a_line_of_the_registry(
    tiny_spec: ArchSpec, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options, shape, training and run take a task that no other file knows."""

    class Coarse(type(TASKS["classify"])):  # type: ignore[misc]
        name = "coarse"
        augments = ("none",)
        refuses = MappingProxyType({"dropout": "cannot be used: coarse answers need none"})

    module = ModuleType("coarse_task")
    module.TASK = Coarse()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "coarse_task", module)
    monkeypatch.setitem(registry._MODULES, "coarse", "coarse_task")
    result, _ = quick(tiny_spec, classes, tmp_path / "o", task="coarse", augment="none", epochs=0.2)
    assert result.record.task == "coarse" and "--task coarse" in result.record.command
    with pytest.raises(BadInput, match=r"--dropout cannot be used: coarse answers need none \(got 0.1\)"):
        quick(tiny_spec, classes, tmp_path / "p", task="coarse", augment="none", dropout=0.1)
    with pytest.raises(
        BadInput, match=r"--augment must be one of none for --task coarse \(got shift, from recipe small"
    ):
        quick(tiny_spec, classes, tmp_path / "q", task="coarse")
