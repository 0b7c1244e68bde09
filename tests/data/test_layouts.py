"""Box annotations as the programs of the field lay them out, and those that would give images foreign boxes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mbv3.data import find_boxes, split_boxes
from mbv3.errors import BadInput

SIZE = (40, 20)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (90, 10, 10)).save(path)
    return path


def coco(names: Sequence[str], *, first: Any = 1, classes: Sequence[str] = ("cat",)) -> dict[str, Any]:
    """A box an image, further right with every image; class after class."""
    return {
        "images": [{"id": first + i, "file_name": n, "width": 40, "height": 20} for i, n in enumerate(names)],
        "annotations": [
            {"id": first + i, "image_id": first + i, "category_id": i % len(classes), "bbox": [i, 2, 10, 10]}
            for i in range(len(names))
        ],
        "categories": [{"id": c, "name": name} for c, name in enumerate(classes)],
    }


def write(path: Path, document: Any, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(document, ensure_ascii=False).encode(encoding))


def voc(path: Path, filename: str = "", name: str = "cat", left: int = 0, head: str = "") -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (
        f"{head}<annotation><filename>{filename}</filename><size><width>40</width><height>20</height></size><object>"
        f"<name>{name}</name><bndbox><xmin>{left + 1}</xmin><ymin>3</ymin><xmax>{left + 10}</xmax><ymax>12</ymax>"
        "</bndbox></object></annotation>"
    )
    path.write_bytes(text.encode())
    return text.encode()


def lefts(root: Path, part: str = "training") -> list[tuple[str, int]]:
    """(image below the root, left edge of its only box) of a part."""
    found = find_boxes(root)[part]
    return [(f.relative_to(root).as_posix(), round(40 * float(b.edges[0, 0])))
            for f, b in zip(found.files, found.boxes, strict=True)]  # fmt: skip


def cvat(root: Path) -> str:
    write(root / "annotations/instances_default.json", coco(["a.png", "b.png"]))
    return "images/default"


def cvat_in_folders(root: Path) -> str:
    write(root / "annotations/instances_default.json", coco(["day 1/a.png", "day 1/b.png"]))
    return "images/day 1"


def label_studio(root: Path) -> str:
    write(root / "result.json", coco(["images\\a.png", "images\\b.png"], first=0))
    return "images"


def label_studio_paths(root: Path) -> str:
    write(root / "result.json", coco(["/data/upload/3/a.png", "https://host/x/b.png"]))
    return "images"


def windows(root: Path) -> str:
    write(root / "annotations/instances_train.json", coco(["C:\\Users\\me\\set\\a.png", "set\\b.png"]), "utf-8-sig")
    return "images"


def utf16(root: Path) -> str:
    write(root / "annotations/train.json", coco(["a.png", "b.png"]), "utf-16")
    return "train"


def roboflow(root: Path) -> str:
    write(root / "train/_annotations.coco.json", coco(["a.png", "b.png"]))
    return "train"


def labelme(root: Path) -> str:
    write(root / "annotations.json", coco(["JPEGImages/a.png", "JPEGImages/b.png"]))
    return "JPEGImages"


def fiftyone(root: Path) -> str:
    write(root / "labels.json", coco(["a.png", "b.png"]))
    write(root / "info.json", {"version": 3})
    return "data"


def capitals(root: Path) -> str:
    write(root / "Annotations/instances_Train.json", coco(["A.PNG", "b.png"]))
    return "Images/Train"


def quoted(root: Path) -> str:
    write(root / "annotations/train.json", coco(["a%2Epng", "b.png"]))
    return "images/train"


@pytest.mark.parametrize(
    "layout",
    [cvat, cvat_in_folders, label_studio, label_studio_paths, windows, utf16, roboflow, labelme, fiftyone, capitals,
     quoted],
)  # fmt: skip
def test_coco_as_programs_write_it(tmp_path: Path, layout: Callable[[Path], str]) -> None:
    place = layout(tmp_path)
    for name in "ab":
        image(tmp_path / place / f"{name}.png")
    (tmp_path / place / "._a.png").write_bytes(b"\0\5\x16\7")
    assert lefts(tmp_path) == [(f"{place}/a.png", 0), (f"{place}/b.png", 1)]


def test_cvat_with_subsets(tmp_path: Path) -> None:
    for part, left in (("Train", 0), ("Validation", 1)):
        write(tmp_path / f"annotations/instances_{part}.json", coco(["x.png", "y.png"][left:]))
        image(tmp_path / f"images/{part}/{'xy'[left]}.png")
    image(tmp_path / "images/Train/y.png")
    assert lefts(tmp_path) == [("images/Train/x.png", 0), ("images/Train/y.png", 1)]
    assert lefts(tmp_path, "validation") == [("images/Validation/y.png", 0)]


def test_numbers_may_be_text_or_floats(tmp_path: Path) -> None:
    document = coco(["a.png", "b.png"])
    document["images"][0]["id"], document["annotations"][0]["image_id"] = "1", 1.0
    write(tmp_path / "annotations/train.json", document)
    for name in "ab":
        image(tmp_path / f"images/{name}.png")
    assert [left for _, left in lefts(tmp_path)] == [0, 1]


def test_an_image_of_another_part_is_not_taken(tmp_path: Path) -> None:
    write(tmp_path / "train/_annotations.coco.json", coco(["a.png", "b.png"]))
    image(tmp_path / "train/a.png")
    image(tmp_path / "valid/b.png")
    with pytest.raises(BadInput, match=r"an annotation without its image b\.png"):
        find_boxes(tmp_path)


def test_a_name_that_several_files_may_have_is_told(tmp_path: Path) -> None:
    write(tmp_path / "annotations/train.json", coco(["x/a.png", "b.png"]))
    for place in ("one/a.png", "two/a.png", "b.png"):
        image(tmp_path / place)
    with pytest.raises(BadInput, match=r"x/a.png may be .*one/a.png or .*two/a.png; give one another name"):
        find_boxes(tmp_path)


def joined_images(a: dict[str, Any], b: dict[str, Any]) -> None:
    a["images"] += b["images"]


def joined_annotations(a: dict[str, Any], b: dict[str, Any]) -> None:
    a["annotations"] += b["annotations"]


def joined_files(a: dict[str, Any], b: dict[str, Any]) -> None:
    a["images"].append({"id": 77, "file_name": "images/a1.png"})


def joined_categories(a: dict[str, Any], b: dict[str, Any]) -> None:
    a["categories"].append({"id": 0, "name": "dog"})


@pytest.mark.parametrize(
    ("join", "said"),
    [
        (joined_images, r"3 image ids are not unique: 1, 2, 3; files that were joined need new numbers"),
        (joined_annotations, r"3 annotation ids are not unique: 1, 2, 3"),
        (joined_files, r"1 image files are not unique: .*a1.png; list every image once"),
        (joined_categories, r"1 category ids are not unique: 0; give every class one number"),
    ],
)
@pytest.mark.parametrize("skip_broken", [False, True])
def test_two_exports_in_one_file(tmp_path: Path, join: Callable[..., None], said: str, skip_broken: bool) -> None:
    a, b = (coco([f"{who}{i}.png" for i in (1, 2, 3)]) for who in "ab")
    for who in "ab":
        for i in (1, 2, 3):
            image(tmp_path / f"images/{who}{i}.png")
    join(a, b)
    write(tmp_path / "annotations/instances_train.json", a)
    with pytest.raises(BadInput, match=said):
        find_boxes(tmp_path, skip_broken=skip_broken)


def test_a_class_with_its_only_box_in_validation(tmp_path: Path) -> None:
    write(tmp_path / "train/_annotations.coco.json", coco(["a.png", "b.png"]))
    write(tmp_path / "valid/_annotations.coco.json", coco(["c.png", "d.png"], classes=("cat", "rare")))
    for place in ("train/a.png", "train/b.png", "valid/c.png", "valid/d.png"):
        image(tmp_path / place)
    parts = find_boxes(tmp_path)
    assert parts["training"].classes == ("cat", "rare")
    assert [b.labels.tolist() for b in parts["validation"].boxes] == [[0], [1]]
    [line] = parts["training"].mended
    assert "class(es) rare have no training box" in line and "move an image that shows one" in line


def test_a_drawn_split_leaves_every_class_something_to_learn_from(tmp_path: Path) -> None:
    names = [f"{i:02}.png" for i in range(20)]
    document = coco(names, classes=("cat", "dog"))
    document["categories"].append({"id": 2, "name": "rare"})
    document["annotations"][7]["category_id"] = 2
    write(tmp_path / "annotations/train.json", document)
    for name in names:
        image(tmp_path / "images" / name)
    whole = find_boxes(tmp_path)["training"]
    for seed in range(40):
        train, held = split_boxes(whole, seed, tmp_path)
        assert len(train.files) == 18 and len(held.files) == 2 and not set(train.files) & set(held.files)
        assert {int(v) for b in train.boxes for v in b.labels} == {0, 1, 2}
        assert train.sizes.shape == (18, 2)
    assert split_boxes(whole, 1, tmp_path)[1].files != split_boxes(whole, 2, tmp_path)[1].files
    with pytest.raises(BadInput, match=r"2 image\(s\) are too few to hold some out"):
        split_boxes(whole.take(np.arange(2)), 0, tmp_path)
    with pytest.raises(BadInput, match="every image with a box is the only one of some class"):
        split_boxes(whole.take(np.array([6, 7, 9])), 0, tmp_path)


# ---- Pascal VOC ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xml", "images"),
    [
        ("Annotations", "JPEGImages"),  # VOC, labelme2voc
        ("Annotations", "images"),  # Label Studio
        ("annotations", "images"),  # labelImg, Kaggle
        ("", ""),  # labelImg beside its images
        ("train", "train"),  # Roboflow
        ("Annotations/day 1", "JPEGImages/day 1"),  # CVAT with folders
        ("annotations/train", "images/train"),
        ("xmls", "photos"),
    ],
)
def test_voc_as_programs_write_it(tmp_path: Path, xml: str, images: str) -> None:
    for i, name in enumerate(("my photo 1", "b")):
        image(tmp_path / images / f"{name}.jpg")
        voc(tmp_path / xml / f"{name}.xml", f"{name}.jpg", left=i)
        (tmp_path / xml / f"._{name}.xml").write_bytes(b"\0\5\x16\7")
    found = lefts(tmp_path)
    where = f"{images}/" if images else ""
    assert sorted(found) == [(f"{where}b.jpg", 1), (f"{where}my photo 1.jpg", 0)]


def test_voc_with_folders_of_parts_inside(tmp_path: Path) -> None:
    for i, part in enumerate(("train", "val")):
        image(tmp_path / f"images/{part}/1.jpg")
        voc(tmp_path / f"annotations/{part}/1.xml", left=i)
    assert lefts(tmp_path) == [("images/train/1.jpg", 0)]
    assert lefts(tmp_path, "validation") == [("images/val/1.jpg", 1)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lists_of_any_editor(tmp_path: Path, encoding: str, ending: str) -> None:
    for i, name in enumerate(("my photo 1", "b", "c", "d", "plain")):
        image(tmp_path / f"JPEGImages/{name}.jpg")
        voc(tmp_path / f"Annotations/{name}.xml", left=i)
    lines = ["my photo 1", "b.jpg", "JPEGImages\\c.jpg", "d  -1", "plain 1", "b"]
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_bytes((ending.join(lines) + ending).encode(encoding))
    assert [left for _, left in lefts(tmp_path)] == [0, 1, 2, 3, 4]
    [line] = find_boxes(tmp_path)["training"].mended
    assert line.startswith("1 images named twice by a list, taken once, for instance b in")
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(b"my photo 1\nb\xe4r\n")
    with pytest.raises(BadInput, match=r"train.txt: cannot be read as a list of images .*; save it as UTF-8"):
        find_boxes(tmp_path)


def test_voc_of_two_images_of_one_stem(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        image(tmp_path / f"JPEGImages/a.{suffix}")
    voc(tmp_path / "Annotations/a.xml", "a.png")
    assert lefts(tmp_path) == [("JPEGImages/a.png", 0)]
    voc(tmp_path / "Annotations/a.xml")
    with pytest.raises(BadInput, match=r"a.xml: may be of .*a.jpg or of .*a.png; keep one, or name it in <filename>"):
        find_boxes(tmp_path)


def test_images_without_an_annotation_are_told(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / f"JPEGImages/{name}.jpg")
    image(tmp_path / "SegmentationClass/a.png")
    voc(tmp_path / "Annotations/a.xml")
    [line] = find_boxes(tmp_path)["training"].mended
    assert line.startswith("1 images without an annotation left out") and line.endswith("b.jpg")


def test_xml_of_other_encodings_and_kinds(tmp_path: Path) -> None:
    image(tmp_path / "JPEGImages/a.jpg")
    file = tmp_path / "Annotations/a.xml"
    text = voc(file, name="猫", head='<?xml version="1.0" encoding="gb2312"?>').decode()
    file.write_bytes(text.encode("gb2312"))
    assert find_boxes(tmp_path)["training"].classes == ("猫",)
    file.write_bytes(b"\xef\xbb\xbf" + voc(file))
    assert find_boxes(tmp_path)["training"].classes == ("cat",)
    file.write_text("<annotations><image/></annotations>")
    with pytest.raises(BadInput, match=r"a.xml: no Pascal VOC annotation \(<annotations>\); export it as Pascal VOC"):
        find_boxes(tmp_path)


def test_names_of_a_mac_and_of_another_system_are_one(tmp_path: Path) -> None:
    image(tmp_path / "images/cafe\u0301.png")  # as macOS spells it
    image(tmp_path / "images/B.PNG")
    write(tmp_path / "annotations/train.json", coco(["café.png", "b.png"]))
    assert [left for _, left in lefts(tmp_path)] == [0, 1]


def test_an_image_with_two_annotations_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    (tmp_path / "images/b.jpg").symlink_to(tmp_path / "images/a.jpg")
    for name in "ab":
        voc(tmp_path / f"annotations/{name}.xml")
    with pytest.raises(BadInput, match=r"1 image\(s\) of its training part have two annotations, for instance .*a.jpg"):
        find_boxes(tmp_path)


# ---- boxes that are plain to a person, and those that are not -------------------------------------------------


def test_what_an_archive_was_packed_in_is_entered(tmp_path: Path) -> None:
    image(tmp_path / "Cells-3/train/a.png")
    write(tmp_path / "Cells-3/train/_annotations.coco.json", coco(["a.png"]))
    (tmp_path / "__MACOSX").mkdir()
    assert lefts(tmp_path) == [("Cells-3/train/a.png", 0)]
    image(tmp_path / "other/a.png")
    with pytest.raises(BadInput, match=r"neither COCO .* nor Pascal VOC .*; export the boxes as one of these"):
        find_boxes(tmp_path)


def test_corners_in_another_order_are_the_same_box(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    raw = voc(tmp_path / "a.xml", "a.jpg", left=4)
    (tmp_path / "a.xml").write_bytes(
        raw.replace(b"<xmin>5</xmin>", b"<xmin>14</xmin>").replace(b"<xmax>14</xmax>", b"<xmax>5</xmax>")
    )
    found = find_boxes(tmp_path)["training"]
    [boxes] = found.boxes
    np.testing.assert_allclose(boxes.edges * [40, 20, 40, 20], [[5, 2, 13, 12]], atol=1e-5)
    assert any("1 boxes whose right is left of their left" in line for line in found.mended)


def test_shares_are_not_taken_for_pixels(tmp_path: Path) -> None:
    image(tmp_path / "train/a.png")
    document = coco(["a.png"])
    document["annotations"][0]["bbox"] = [0.25, 0.5, 0.5, 0.25]
    write(tmp_path / "annotations/train.json", document)
    with pytest.raises(BadInput, match=r"lie between 0 and 1, as shares .*; .* multiply by width and height"):
        find_boxes(tmp_path)


def test_a_training_part_whose_boxes_are_all_empty_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "train/a.png")
    document = coco(["a.png"])
    document["annotations"][0]["bbox"] = [100, 2, 10, 10]
    write(tmp_path / "annotations/train.json", document)
    with pytest.raises(BadInput, match=r"its training part has no box\n  1 boxes without area left out, for instance"):
        find_boxes(tmp_path)


def test_a_key_that_is_there_twice_loses_nothing(tmp_path: Path) -> None:
    image(tmp_path / "train/a.png")
    one, two = (json.dumps(coco([name], first=n)) for n, name in enumerate("ab"))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.json").write_text(f"{one[:-1]}, {two[1:]}")
    with pytest.raises(BadInput, match=r"train.json: no COCO annotations \(.*images is there twice in one mapping"):
        find_boxes(tmp_path)


def test_a_photo_on_its_side_of_another_size_has_a_cure(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(image(tmp_path / "train/a.jpg"), exif=exif)
    write(tmp_path / "annotations/train.json", coco(["a.jpg"]))
    with pytest.raises(BadInput, match=r"is of 40x20, the image as it is shown 20x40; write the image upright, or"):
        find_boxes(tmp_path)
