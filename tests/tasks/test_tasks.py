"""Every task keeps one contract; a new one is a file and a line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mbv3.errors import BadInput
from mbv3.events import Event, Note, result, watched
from mbv3.nn import build
from mbv3.progress import drain, silent
from mbv3.spec import ArchSpec, SSDLite, head_names, load_spec, with_head
from mbv3.tasks import TASKS, Source, shaped, task_of
from mbv3.tasks.pixels import input_of
from mbv3.training import RECIPES, measure

FOLDERS = {"classify": "classes", "segment": "masks", "detect": "boxes"}


@pytest.mark.parametrize("name", TASKS)
def test_contract(name: str, tiny_spec: ArchSpec, request: pytest.FixtureRequest) -> None:
    """Loaded without a run, a task's data trains, is scored and drawn."""
    task = TASKS[name]
    assert task.name == name and task.recipe in RECIPES and RECIPES[task.recipe].augment in task.augments
    spec = shaped(tiny_spec, task)
    assert task_of(spec) is task
    data = drain(
        task.load(spec, Source(path=request.getfixturevalue(FOLDERS[name]), augment=task.augments[-1])), silent
    )
    assert len(data.classes) >= 2 and data.outputs in (len(data.classes), len(data.classes) + 1)
    assert len(data.train) > len(data.validation) > 0 and len(data.sha256) == 64
    net = build(with_head(spec, spec.head, data.outputs), 0).eval()
    metrics = measure(net, data.validation, data.metric(data.validation), spec.resolution, 4)
    assert data.main_metric in metrics and all(0 <= v <= 100 for v in metrics.values())
    panels = data.panels(net, data.validation, spec.resolution)
    assert panels and all(p.pixels.shape == (*spec.resolution, 3) for p in panels)
    pixels, target = data.train.batch(np.arange(2), spec.resolution, task.augments[-1], np.random.default_rng(0))
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    loss = data.objective(fit_of(task.recipe, spec))(net.train()(x), target, x)
    assert loss.isfinite() and loss > 0


def fit_of(recipe: str, spec: ArchSpec) -> Any:
    from mbv3.training import recipe_for

    return recipe_for(recipe, 100, spec.resolution)


def test_the_fingerprint_is_of_images_and_truth(tiny_spec: ArchSpec, masks: Path) -> None:
    task = TASKS["segment"]

    def sha256() -> str:
        return drain(task.load(shaped(tiny_spec, task), Source(path=masks)), silent).sha256

    before = sha256()
    assert sha256() == before
    (masks / "classes.txt").write_text("ground\nred\nblue\n")
    assert sha256() != before


def test_every_head_belongs_to_one_task() -> None:
    spec = load_spec("mobilenet_v3_small")
    for head in head_names():
        assert [n for n, t in TASKS.items() if t.owns(with_head(spec, head, 3).head)] == [
            task_of(with_head(spec, head, 3)).name
        ]
    assert isinstance(with_head(spec, TASKS["detect"].head).head, SSDLite)


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(BadInput, match=r"--task must be one of classify, segment, detect \(got dance\)"):
        TASKS["dance"]


def test_names_of_tasks_load_no_torch() -> None:
    code = "import sys, mbv3.tasks\nassert list(mbv3.tasks.TASKS)\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_head_goes_on_a_classifier_only(tiny_spec: ArchSpec) -> None:
    segment = shaped(tiny_spec, TASKS["segment"], output_stride=8)
    assert shaped(segment, TASKS["segment"]) == segment
    with pytest.raises(
        BadInput, match=r"give a classifier the head of another task; tiny is a network for --task segm"
    ):
        shaped(segment, TASKS["segment"], head="lraspp")
    with pytest.raises(BadInput, match=r"--task detect: tiny has a head for segment"):
        shaped(segment, TASKS["detect"])
    with pytest.raises(BadInput, match=r"tiny takes 1 channels; training images have 3"):
        shaped(replace(tiny_spec, in_channels=1), TASKS["classify"])


@pytest.mark.parametrize(("side", "asked"), [(32, "320x320"), (96, "320x320"), (128, None)])
def test_boxes_that_are_small_are_reported_with_an_input_that_shows_them(
    tiny_spec: ArchSpec, tmp_path: Path, side: int, asked: str | None
) -> None:
    """Images of 256 px. Of one class all boxes have 64 px there, of the other the half has more."""
    images, boxes = [], []
    (tmp_path / "train").mkdir()
    for i in range(30):
        Image.fromarray(np.full((256, 256, 3), 8 * i, np.uint8)).save(tmp_path / f"train/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png"})
        boxes.append({"id": 2 * i, "image_id": i, "category_id": 1, "bbox": [0, 0, 64, 64]})
        boxes.append({"id": 2 * i + 1, "image_id": i, "category_id": 2, "bbox": [0, 0, 256, 256 if i % 3 else 16]})
    names = [{"id": 1, "name": "nut"}, {"id": 2, "name": "wheel"}]
    document = {"images": images, "annotations": boxes, "categories": names}
    (tmp_path / "train/_annotations.coco.json").write_text(json.dumps(document))
    task, notes = TASKS["detect"], list[Event]()
    spec = shaped(replace(tiny_spec, resolution=(side, side)), task)
    for apart in (False, True):
        result(watched(task.load(spec, Source(path=tmp_path, apart=apart)), notes.append))
    said = [e.text for e in notes if isinstance(e, Note) and "half of the boxes" in e.text]
    text = f"half of the boxes of nut are under {side // 4} px a side at {side}x{side}, small ones as COCO has it: " \
           f"--resolution {asked} would show more of them"  # fmt: skip
    assert len(said) == (asked is not None) and all(s.startswith(text) for s in said)


@pytest.mark.parametrize(
    ("shape", "scale", "made"),
    [
        ((480, 640), 1.0, (448, 576)),  # not more than 512 x 512 has
        ((480, 640), 0.8, (384, 512)),
        ((480, 640), 0.1, (288, 384)),  # nor less than 320 x 320
        ((90, 120), 1.0, (288, 384)),
        ((2000, 20), 1.0, (3200, 32)),  # a network's stride at least
    ],
)
def test_an_input_of_the_shape_of_the_images(shape: tuple[int, int], scale: float, made: tuple[int, int]) -> None:
    assert input_of(shape, scale) == made
