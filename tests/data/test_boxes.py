"""VOC and COCO boxes: the same data set both ways, and what is wrong with annotations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mbv3.data import Annotated, BoxSet, find_boxes, split_boxes
from mbv3.data.boxes import Boxes, Kind
from mbv3.errors import BadInput
from mbv3.nn import iou

# file: (width, height), [(name, left, top, right, bottom)]
SCENE = {
    "one": ((40, 20), [("cat", 4.0, 2.0, 20.0, 12.0), ("dog", 0.0, 0.0, 40.0, 20.0)]),
    "two": ((30, 30), [("cat", 3.0, 6.0, 9.0, 30.0)]),
    "three": ((10, 10), []),
}


def image(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 10, 10)).save(path)


def thing(name: str, x0: float, y0: float, x1: float, y1: float) -> str:
    return (
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
    )


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    base = tmp_path / "voc" / "VOC2007"
    (base / "ImageSets/Main").mkdir(parents=True)
    (base / "Annotations").mkdir()
    for stem, (size, objects) in SCENE.items():
        image(base / f"JPEGImages/{stem}.jpg", size)
        text = "<annotation>" + "".join(thing(*o) for o in objects) + "</annotation>"
        (base / f"Annotations/{stem}.xml").write_text(text)
    (base / "ImageSets/Main/train.txt").write_text("one\nthree\n")
    (base / "ImageSets/Main/val.txt").write_text("two  1\n")
    return tmp_path / "voc"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    base = tmp_path / "coco"
    (base / "annotations").mkdir(parents=True)
    for part, stems in (("train", ("one", "three")), ("val", ("two",))):
        images, annotations = [], []
        for stem in stems:
            size, objects = SCENE[stem]
            image(base / f"{part}2017/{stem}.jpg", size)
            images.append({"id": len(images) + 7, "file_name": f"{stem}.jpg", "width": size[0], "height": size[1]})
            for name, x0, y0, x1, y1 in objects:
                annotations.append(
                    {"id": len(annotations), "image_id": images[-1]["id"], "category_id": {"cat": 3, "dog": 90}[name],
                     "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
                )  # fmt: skip
        categories = [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (base / f"annotations/instances_{part}2017.json").write_text(json.dumps(document))
    return base


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_both_kinds_give_the_same_boxes(kind: str, request: pytest.FixtureRequest) -> None:
    parts = find_boxes(request.getfixturevalue(kind))
    assert set(parts) == {"training", "validation"} and parts["training"].classes == ("cat", "dog")
    train = parts["training"]
    assert [p.stem for p in train.files] == ["one", "three"] and train.sizes.tolist() == [[20, 40], [10, 10]]
    np.testing.assert_allclose(train.boxes[0].edges, [[0.1, 0.1, 0.5, 0.6], [0, 0, 1, 1]], rtol=1e-6)
    assert train.boxes[0].labels.tolist() == [0, 1] and len(train.boxes[1]) == 0 and train.mended == ()
    np.testing.assert_allclose(parts["validation"].boxes[0].edges, [[0.1, 0.2, 0.3, 1.0]], rtol=1e-6)


def test_voc_in_a_folder_a_part(voc: Path) -> None:
    (voc / "VOC2007").rename(voc / "train")
    shutil.rmtree(voc / "train/ImageSets")
    shutil.copytree(voc / "train", voc / "valid")
    for part, stems in (("train", ("two",)), ("valid", ("one", "three"))):
        for stem in stems:
            (voc / part / f"Annotations/{stem}.xml").unlink()
    parts = find_boxes(voc)
    assert [p.relative_to(voc).as_posix() for p in parts["training"].files] == [
        "train/JPEGImages/one.jpg", "train/JPEGImages/three.jpg"
    ]  # fmt: skip
    assert [p.parent.parent.name for p in parts["validation"].files] == ["valid"]
    (voc / "valid").rename(voc / "VOC2012")
    with pytest.raises(BadInput, match=r"holds 2 Pascal VOC data sets: .*VOC2012, .*train; give one of them"):
        find_boxes(voc)


def test_what_voc_lists_for_a_score_is_not_learned_from(voc: Path) -> None:
    (voc / "VOC2007/ImageSets/Main/train.txt").unlink()
    parts = find_boxes(voc)
    assert [p.stem for p in parts["training"].files] == ["one", "three"]
    assert [p.stem for p in parts["validation"].files] == ["two"]


def test_of_two_coco_files_none_is_guessed(coco: Path) -> None:
    boxes = coco / "annotations/instances_train2017.json"
    (coco / "annotations/captions_train2017.json").write_bytes(boxes.read_bytes())
    assert len(find_boxes(coco)["training"].files) == 2
    boxes.rename(coco / "annotations/cells_train2017.json")
    with pytest.raises(BadInput, match=r"several files .*: captions_train2017.json, cells_train2017"):
        find_boxes(coco)


def test_boxes_outside_and_without_area_are_mended_and_told(voc: Path) -> None:
    file = voc / "VOC2007/Annotations/one.xml"
    objects = [("cat", -5.0, 2.0, 20.0, 12.0), ("cat", 5.0, 5.0, 5.0, 9.0), ("dog", 50.0, 2.0, 60.0, 9.0)]
    file.write_text("<annotation>" + "".join(thing(*o) for o in objects) + "</annotation>")
    with pytest.raises(BadInput) as e:
        (voc / "VOC2007/JPEGImages/three.jpg").unlink()
        find_boxes(voc)
    assert "three.xml: an annotation without its image three in JPEGImages" in str(e.value)
    parts = find_boxes(voc, skip_broken=True)
    train = parts["training"]
    np.testing.assert_allclose(train.boxes[0].edges, [[0, 0.1, 0.5, 0.6]], rtol=1e-6)
    lines = "\n".join(train.mended)
    assert "1 boxes cut to their image, for instance" in lines and "(-4, 2, 20, 12) in 40x20" in lines
    assert "2 boxes without area left out" in lines and "1 faulty annotations left out" in lines


def test_all_faults_of_voc_are_listed(voc: Path) -> None:
    base = voc / "VOC2007"
    (base / "ImageSets/Main/train.txt").write_text("one\nthree\ngone\nnoxml\nempty\n")
    (base / "Annotations/one.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    (base / "Annotations/three.xml").write_text("<annotation><object>")
    image(base / "JPEGImages/noxml.jpg", (4, 4))
    (base / "JPEGImages/empty.jpg").write_bytes(b"")
    (base / "Annotations/empty.xml").write_text("<annotation/>")
    with pytest.raises(BadInput) as e:
        find_boxes(voc)
    for line in (
        "5 fault(s)", "one.xml: an object without name or box", "three.xml: no element found", "gone.xml: an",
        "noxml.xml: no such annotation", "empty.jpg: cannot be opened as an image",
    ):  # fmt: skip
        assert line in str(e.value)


def test_all_faults_of_coco_are_listed(coco: Path) -> None:
    file = coco / "annotations/instances_train2017.json"
    document = json.loads(file.read_text())
    document["images"].append({"id": 99, "file_name": "gone.jpg"})
    document["annotations"] += [
        {"id": 50, "image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"id": 51, "image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]},
        {"id": 52, "image_id": 7, "category_id": 3, "bbox": [0, 0, 1]},
        {"id": 53, "image_id": 1234, "category_id": 3, "bbox": [0, 0, 1, 1]},
    ]
    file.write_text(json.dumps(document))
    with pytest.raises(BadInput) as e:
        find_boxes(coco)
    text = str(e.value)
    assert "4 fault(s)" in text and "an annotation without its image gone.jpg" in text
    assert all(f"annotation {n}: needs the image_id of an image" in text for n in (51, 52, 53))
    file.write_text("{")
    with pytest.raises(BadInput, match=r"instances_train2017.json: no COCO annotations \(JSONDecodeError"):
        find_boxes(coco)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["annotations"][0].update(bbox=[10**400, 0, 1, 1]), "a bbox of four"),
        (lambda d: d["annotations"][0].update(bbox=[0, 0, True, 1]), "a bbox of four"),
        (lambda d: d["images"][0].update(height=10**400), "no COCO annotations .OverflowError"),
        (lambda d: [c.update(name=None) for c in d["categories"]], "a known category_id"),
        (lambda d: d["images"].append({"id": None, "file_name": "x.jpg"}), "1 images have no id .* x.jpg"),
        (lambda d: d["images"].append({"id": [7], "file_name": "x.jpg"}), "1 images have no id .* x.jpg"),
    ],
)
def test_numbers_and_names_that_cannot_be(coco: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    file = coco / "annotations/instances_train2017.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(BadInput, match=said):
        find_boxes(coco)


def test_a_part_is_found_by_whole_words_and_no_image_is_in_two(coco: Path, voc: Path) -> None:
    folder = coco / "annotations"
    train, val = folder / "instances_train2017.json", folder / "instances_val2017.json"
    (folder / "instances_trainval2017.json").write_text(train.read_text())
    (folder / "image_info_test2017.json").write_text(json.dumps({"images": [], "categories": []}))
    val.unlink()
    assert set(find_boxes(coco)) == {"training"}
    val.write_text(train.read_text())
    (coco / "val2017").rename(coco / "moved")
    (coco / "images").mkdir()
    for name in ("one", "three"):
        (coco / f"train2017/{name}.jpg").rename(coco / f"images/{name}.jpg")
    with pytest.raises(BadInput, match=r"2 image\(s\) are in its training part and in its validation part.*one\.jpg"):
        find_boxes(coco)
    (voc / "VOC2007/ImageSets/Main/train.txt").rename(voc / "VOC2007/ImageSets/Main/trainval.txt")
    assert set(find_boxes(voc)) == {"training", "validation"}
    (voc / "VOC2007/ImageSets/Main/trainval.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(BadInput, match=r"1 image\(s\) are in its training part and in its validation part.*two\.jpg"):
        find_boxes(voc)


def test_boxes_of_another_size_or_turn_are_faults(coco: Path, voc: Path) -> None:
    image(coco / "train2017/one.jpg", (80, 40))  # scaled after it was annotated
    with pytest.raises(BadInput, match=r"one.jpg: its annotation is of 40x20, the image as it is shown 80x40"):
        find_boxes(coco)
    file = voc / "VOC2007/Annotations/one.xml"
    text = file.read_text()
    declared = "<size><width>40</width><height>20</height></size>"
    file.write_text(text.replace("<annotation>", f"<annotation>{declared}"))
    assert find_boxes(voc)["training"].mended == ()
    for orientation, upright in ((6, False), (3, True)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (40, 20)).save(voc / "VOC2007/JPEGImages/one.jpg", exif=exif)
        if upright:  # of the declared size either way: which of the two was annotated, nobody knows
            [line] = find_boxes(voc)["training"].mended
            assert line.startswith("1 photographs turned upright")
        else:
            with pytest.raises(BadInput, match=r"one.jpg: its annotation is of 40x20.* 20x40"):
                find_boxes(voc)


def test_crowds_are_not_learned_from(coco: Path) -> None:
    file = coco / "annotations/instances_train2017.json"
    document = json.loads(file.read_text())
    document["annotations"][1]["iscrowd"] = 1
    file.write_text(json.dumps(document))
    train = find_boxes(coco)["training"]
    assert train.boxes[0].kinds.tolist() == [Kind.PLAIN, Kind.CROWD]
    data = BoxSet(np.zeros((2, 8, 8, 3), np.uint8), train.boxes, train.sizes, train.classes, "")
    _, [(boxes, labels)] = data.batch(np.array([0]), (8, 8), "none", np.random.default_rng(0))
    assert labels.tolist() == [1] and len(boxes) == 1


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such data folder"):
        find_boxes(tmp_path / "none")
    with pytest.raises(BadInput, match=r"neither COCO .* nor Pascal VOC"):
        find_boxes(tmp_path)


def test_boxes_follow_their_objects() -> None:
    """A red square on blue: after every change the box still holds what is red."""
    pixels = np.zeros((1, 60, 60, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[0, 20:40, 10:30] = (255, 0, 0)
    edges = np.array([[10 / 60, 20 / 60, 30 / 60, 40 / 60]], np.float32)
    data = BoxSet(pixels, [Boxes(edges, np.array([4]), np.array([0]))], np.array([[60, 60]]), tuple("abcde"), "")
    for seed in range(60):
        image_, [(boxes, labels)] = data.batch(np.array([0]), (60, 60), "ssd", np.random.default_rng(seed))
        assert labels.tolist() == [5]
        red = image_[0, ..., 0].astype(int) > image_[0, ..., 2].astype(int)
        y, x = np.nonzero(red)
        seen = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32) / 60
        assert iou(torch.from_numpy(seen), boxes)[0, 0] > 0.8
    _, [(boxes, _)] = data.batch(np.array([0]), (60, 60), "none", np.random.default_rng(0))
    np.testing.assert_array_equal(boxes.numpy(), edges)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_held_out_has_a_box(seed: int) -> None:
    """Also where most images have none; and every class keeps an image to learn from."""
    none = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    one = Boxes(np.array([[0, 0, 0.5, 0.5]], np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64))
    data = Annotated(tuple(Path(f"{i}") for i in range(24)), (one, one, *[none] * 22), np.full((24, 2), 32), ("a",))
    training, held = split_boxes(data, seed, "there")
    assert len(held.files) == 2 and sorted(map(len, held.boxes)) == [0, 1] and sum(map(len, training.boxes)) == 1
    with pytest.raises(BadInput, match="there: every image with a box is the only one of some class"):
        split_boxes(data.take(np.arange(1, 24)), seed, "there")
