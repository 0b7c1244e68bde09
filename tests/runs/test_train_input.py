"""What a user of `mbv3 train` can do wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3.errors import BadInput
from mbv3.spec import ArchSpec

from .training import quick, run


@pytest.fixture
def spoil(classes: Path) -> Callable[[], list[str]]:
    def put() -> list[str]:
        folder = classes / "train" / "red"
        (folder / "zero.png").write_bytes(b"")
        (folder / "text.jpg").write_text("no image")
        (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:200])
        huge = Image.new("L", (20, 20))
        huge.save(folder / "huge.png")
        data = bytearray((folder / "huge.png").read_bytes())
        data[16:24] = (30000).to_bytes(4, "big") * 2  # a header that claims 900 million pixels
        (folder / "huge.png").write_bytes(data)
        return ["zero.png", "text.jpg", "cut.png", "huge.png"]

    return put


def test_broken_images_are_listed_or_left_out(
    tiny_spec: ArchSpec, classes: Path, tmp_path: Path, spoil: Callable[[], list[str]]
) -> None:
    Image.new("CMYK", (40, 30)).save(classes / "train/red/cmyk.jpg")
    Image.new("L", (30, 40)).save(classes / "train/red/grey.png")
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(classes / "train/red/deep.png")
    quick(tiny_spec, classes, tmp_path / "odd", epochs=0.2)  # unusual, and as good as any
    names = spoil()
    with pytest.raises(BadInput) as e:
        quick(tiny_spec, classes, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    assert "4 of " in str(e.value) and "--skip-broken" in str(e.value)
    assert all(n in str(e.value) for n in names)
    result, said = quick(tiny_spec, classes, tmp_path / "p", skip_broken=True)
    assert any(t.startswith("4 of ") and "are left out" in t for t in said) and result.record.status == "done"


def test_masks_of_one_class_are_refused_and_absent_classes_told(
    tiny_spec: ArchSpec, masks: Path, tmp_path: Path
) -> None:
    (masks / "classes.txt").write_text("ground\nred\ngreen\nblue\n")
    _, said = quick(tiny_spec, masks, tmp_path / "o", task="segment", epochs=0.2)
    assert "no training mask holds class(es) blue" in said
    (masks / "classes.txt").unlink()
    for file in masks.glob("*/masks/*.png"):  # as most programs write two classes
        Image.fromarray(np.where(np.asarray(Image.open(file)) > 0, 255, 0).astype(np.uint8)).save(file)
    with pytest.raises(BadInput, match=r"hold only class 0 beside 255, which is ignored: write the second class as 1"):
        quick(tiny_spec, masks, tmp_path / "p", task="segment")
    for file in masks.glob("*/masks/*.png"):
        Image.fromarray(np.where(np.asarray(Image.open(file)) > 0, 254, 0).astype(np.uint8)).save(file)
    with pytest.raises(BadInput, match=r"holds images and masks, and no class folders; add --task segment"):
        quick(tiny_spec, masks, tmp_path / "p")
    with pytest.raises(BadInput, match=r"class indices 0, 254, ... 254; number the classes 0, 1, 2"):
        quick(tiny_spec, masks, tmp_path / "p", task="segment")


def test_a_part_to_score_on_may_have_one_image_of_a_class(tiny_spec: ArchSpec, classes: Path, tmp_path: Path) -> None:
    for file in sorted((classes / "test/red").iterdir())[1:]:
        file.unlink()
    result, _ = quick(tiny_spec, classes, tmp_path / "o", epochs=0.2)
    assert result.n == 9


def test_options_that_cannot_be(tiny_spec: ArchSpec, classes: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"recipe": "magic"}, r"--recipe must be one of small-data"),
        ({"epochs": -1.0}, r"--epochs must be a number from 0.001"),
        ({"lr": float("nan")}, r"--lr must be a number"),
        ({"resolution": "0"}, r"--resolution must be a side or HEIGHTxWIDTH such as 512x1024"),
        ({"augment": "ssd"}, r"--augment must be one of none, shift, .* for --task classify \(got ssd\)"),
        ({"recipe": "mmseg"}, r"\(got scale, from recipe mmseg, which is for another task\)"),
        ({"task": "dance"}, r"--task must be one of classify, segment, detect"),
        ({"head": "lraspp"}, r"--head and --output-stride give a classifier the head of another"),
        ({"task": "detect", "test": "x"}, r"--test is for class folders; .* \(got '.*/x'\)"),
        ({"batch": 2.5}, r"--batch must be a whole number from 2 to 1000000 \(got 2.5\)"),
        ({"dice": 1.0}, r"--dice is for --task segment \(got 1.0\)"),
        (
            {"recipe": "small-segment", "augment": "shift"},
            r"--recipe small-segment: its Dice loss is for --task segment ",
        ),
        ({"task": "detect", "dice": 1.0}, r"--dice is for --task segment \(got 1.0\)"),
        ({"task": "detect", "output_stride": 16}, r"--output-stride is for --task segment"),
        (
            {"task": "detect", "label_smoothing": 0.1},
            r"--label-smoothing cannot be used: SSD's loss has none \(got 0.1\)",
        ),
        ({"distill": 0.3}, r"--distill needs a --teacher \(got 0.3\)"),
        ({"optimizer": "adamw"}, r"--optimizer: the learning rate of recipe small-data is for sgd; give --lr"),
    ):
        with pytest.raises(BadInput, match=message):
            quick(tiny_spec, classes, tmp_path / "x", **options)
    with pytest.raises(BadInput, match=r"--data is missing: class folders"):
        run(tiny_spec, data=None, out=tmp_path / "y")
    with pytest.raises(BadInput, match=r"SPEC is missing"):
        run(None, data=str(classes), out=tmp_path / "y")
    with pytest.raises(BadInput, match=r"tiny takes 1 channels; training images have 3"):
        run(replace(tiny_spec, in_channels=1), data=str(classes), out=tmp_path / "y")
    flat = replace(tiny_spec, rows=tiny_spec.rows[:1])
    with pytest.raises(BadInput, match=r"--unstride 3: tiny has only 2 strides to remove"):
        run(flat, data=str(classes), out=tmp_path / "z", unstride=3)
