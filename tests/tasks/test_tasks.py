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

from mbv3.data import Annotated
from mbv3.data.boxes import Boxes
from mbv3.errors import BadInput
from mbv3.events import Event, Note, result, watched
from mbv3.nn import build
from mbv3.progress import drain, silent
from mbv3.spec import ArchSpec, SSDLite, head_names, load_spec, with_head
from mbv3.tasks import TASKS, Source, shaped, task_of
from mbv3.tasks.detect import _small
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


def drawn(*images: tuple[tuple[int, int], dict[int, float]]) -> Annotated:
    """Images of (height, width), each with square boxes: class to side in pixels."""
    boxes = []
    for (h, w), sides in images:
        edges = [[0, 0, side / w, side / h] for side in sides.values()]
        made = np.array(edges, np.float32).reshape(-1, 4), np.array(list(sides), np.int64)
        boxes.append(Boxes(*made, np.zeros(len(sides), np.int64)))
    sizes = np.array([size for size, _ in images], np.int64)
    return Annotated(tuple(Path(f"{i}.png") for i in range(len(images))), tuple(boxes), sizes, ("ant", "bee", "wasp"))


SQUARE = (640, 640)


@pytest.mark.parametrize(
    ("images", "at", "said"),
    [
        ([(SQUARE, {0: 40, 1: 400})] * 3, (320, 320), "(median side in pixels: ant 20; COCO calls"),
        ([(SQUARE, {0: 40, 1: 400})] * 3, (512, 512), None),  # 32 px there
        ([(SQUARE, {0: 12, 1: 56, 2: 300})] * 3, (320, 320), "ant 6, bee 28; COCO"),
        ([(SQUARE, {0: 12})] * 3, (640, 640), None),  # the images show no more of them
        ([(SQUARE, {0: 12})] * 3, (512, 512), None),  # the largest that is recommended
        # the class that is small is in a few large images only
        ([((100, 100), {1: 60})] * 8 + [((1000, 1000), {0: 100, 1: 600})] * 4, (224, 224), "ant 22; COCO"),
        ([((100, 100), {1: 60})] * 8 + [((1000, 1000), {0: 100, 1: 600})] * 4, (320, 320), None),
        # and a few have most of its boxes
        ([(SQUARE, {0: 12})] * 2 + [(SQUARE, {0: 64})] * 3, (320, 320), None),
    ],
)
def test_boxes_that_are_small_are_reported_with_an_input_that_shows_them_larger(
    images: list[Any], at: tuple[int, int], said: str | None
) -> None:
    notes = [e.text for e in _small(drawn(*images), at) if isinstance(e, Note)]
    assert len(notes) == (said is not None) and all(said is not None and said in text for text in notes)
    for text in notes:
        h, w = (int(v) for v in text.partition("--resolution ")[2].split()[0].split("x"))
        assert h * w > at[0] * at[1] and h == w


def test_no_input_as_large_as_the_images_is_said_to_be_small() -> None:
    """Whatever the rounding: it shows all that there is, and a step up of the grid is no other input."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        side = int(rng.integers(320, 1200))
        boxes = {int(c): float(rng.uniform(4, 60)) for c in range(3)}
        assert not list(_small(drawn(*[((side, side), boxes)] * 3), (side, side)))


def test_only_a_training_is_told_of_an_input(tiny_spec: ArchSpec, boxes: Path) -> None:
    """A search chooses it."""
    task, said = TASKS["detect"], dict[bool, list[str]]()
    spec = shaped(replace(tiny_spec, resolution=(32, 32)), task)
    for apart in (False, True):
        notes: list[Event] = []
        result(watched(task.load(spec, Source(path=boxes, apart=apart)), notes.append))
        said[apart] = [e.text for e in notes if isinstance(e, Note) and e.text.startswith("boxes are small at 32x32")]
    assert len(said[False]) == 1 and not said[True]


def test_a_part_without_a_box_is_told(tiny_spec: ArchSpec, boxes: Path) -> None:
    file = boxes / "val/_annotations.coco.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    task, notes = TASKS["detect"], list[Event]()
    result(watched(task.load(shaped(tiny_spec, task), Source(path=boxes)), notes.append))
    assert any(isinstance(e, Note) and e.warning and "validation part has no box" in e.text for e in notes)


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
