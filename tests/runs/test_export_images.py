"""The images of `mbv3 export --data`: three sets without a common image, and whose classes they have."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3.errors import BadInput
from mbv3.runs.export_images import MOST, examples
from mbv3.spec import ArchSpec, Classify, load_spec, with_head


def filled(folder: Path, names: list[str], n: int, first: int = 0) -> Path:
    """`n` images of one grey each and a white corner in every class folder; no two are alike."""
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            grey = np.full((8, 8, 3), first + c * n + i, np.uint8)
            grey[7, 7] = 255  # an image of one value is remarked on
            Image.fromarray(grey).save(folder / name / f"{i}.png")
    return folder


def of(tiny: ArchSpec, classes: int) -> ArchSpec:
    assert isinstance(tiny.head, Classify)
    return with_head(tiny, replace(tiny.head, classes=classes))


def greys(sets: tuple[object, ...]) -> list[set[float]]:
    return [{round(float(x[0, 0, 0, 0]), 4) for x in s.images} for s in sets]  # type: ignore[attr-defined]


def test_a_third_each_and_none_in_two(tiny_spec: ArchSpec, tmp_path: Path) -> None:
    folder = filled(tmp_path, ["a", "b", "c"], 10)
    sets, notes = examples(str(folder), of(tiny_spec, 3), ())
    assert [len(s) for s in sets] == [10, 10, 10]
    assert notes == (f"{folder} has no part `test`: top-1 is of images that the network may have learned",)
    one, two, three = greys(sets)
    assert len(one | two | three) == 30
    for s in sets:  # classes in the order of their names, as their greys were drawn
        values = [round(float(x[0, 0, 0, 0] * 0.229 + 0.485) * 255) for x in s.images]
        assert s.labels is not None and [v // 10 for v in values] == s.labels.tolist()
    again, _ = examples(str(folder), of(tiny_spec, 3), ())
    assert greys(again) == [one, two, three]


def test_a_part_to_test_on_reports(tiny_spec: ArchSpec, tmp_path: Path) -> None:
    filled(tmp_path / "train", ["a", "b"], 12)
    filled(tmp_path / "test", ["a", "b"], 4, first=200)
    sets, notes = examples(str(tmp_path), of(tiny_spec, 2), ())
    assert [len(s) for s in sets] == [12, 12, 8] and not notes
    bright = (200 / 255 - 0.485) / 0.229 - 0.01
    assert [min(g) > bright for g in greys(sets)] == [False, False, True]


def test_sets_are_bounded(tiny_spec: ArchSpec, tmp_path: Path) -> None:
    folder = filled(tmp_path, ["a"], 210)
    shutil.move(folder / "a", folder / "deeper")
    sets, notes = examples(str(folder), of(tiny_spec, 2), ())
    assert [len(s) for s in sets] == [MOST[0], 70, 70]
    assert sets[0].labels is None and "answers in int8 are compared with those in fp32" in notes[0]


@pytest.mark.parametrize(
    ("folders", "labels", "classes", "index"),
    [
        (["cat", "dog"], ("dog", "bird", "cat"), 3, {2, 0}),  # a training's own names
        (["017", "4"], (), 20, {17, 4}),  # numbers of classes
        (["x", "y"], (), 2, {0, 1}),  # as many as the classes, by name
        (["x", "y"], (), 5, None),
        (["x", "y"], ("dog", "bird", "cat"), 3, None),
    ],
)
def test_whose_classes(
    tiny_spec: ArchSpec, tmp_path: Path, folders: list[str], labels: tuple[str, ...], classes: int,
    index: set[int] | None,
) -> None:  # fmt: skip
    sets, notes = examples(str(filled(tmp_path, folders, 9)), of(tiny_spec, classes), labels)
    if index is None:
        assert all(s.labels is None for s in sets)
        assert f"its 2 class folders are not the network's {classes} classes" in notes[0]
        assert f"or their numbers, 0 to {classes - 1}" in notes[0]
    else:
        assert (
            len(notes) == 1
            and "no part `test`" in notes[0]
            and {int(v) for s in sets if s.labels is not None for v in s.labels} == index
        )


def test_a_folder_that_is_no_class(tiny_spec: ArchSpec, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"class folder\(s\) fish are none of the network's 2 classes; remove them"):
        examples(str(filled(tmp_path, ["cat", "dog", "fish"], 5)), of(tiny_spec, 2), ("cat", "dog"))


def test_few_images_do_everything(tiny_spec: ArchSpec, tmp_path: Path) -> None:
    (learn, choose, report), notes = examples(str(filled(tmp_path, ["a", "b"], 4)), of(tiny_spec, 2), ())
    assert learn is choose is report and len(learn) == 8
    assert "8 images are too few to keep some back (12 at least)" in notes[0]


def test_masks_have_no_classes(tmp_path: Path) -> None:
    spec = replace(load_spec("lraspp_m-v3s-d8"), resolution=(32, 64))
    filled(tmp_path, ["images"], 15)
    (learn, _, _), notes = examples(str(tmp_path), spec, ())
    assert learn.labels is None and not notes and learn.images[0].shape == (1, 3, 32, 64)
