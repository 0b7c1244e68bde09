"""What lies in people's folders beside the images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3.data import (
    class_parts,
    find_class_folder,
    find_images,
    find_masks,
    folder_notes,
    load_class_folder,
    store_pixels,
)
from mbv3.data.listing import text_of
from mbv3.errors import BadInput

APPLE_DOUBLE = bytes.fromhex("0005160700020000") + bytes(90)


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 12, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for c in ("cat", "dog"):
        for i in range(3):
            picture(tmp_path / "d" / c / f"{i}.png", 40 * i)
    return tmp_path / "d"


def names(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p, _ in find_class_folder(folder)[1]]


def test_what_systems_leave_is_no_data(folder: Path) -> None:
    before = names(folder)
    for file in list(folder.rglob("*.png")):
        for twin in (file.with_name(f"._{file.name}"), folder / "__MACOSX" / file.parent.name / f"._{file.name}"):
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.write_bytes(APPLE_DOUBLE)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/1.png", "@eaDir/SYNOPHOTO_THUMB_M.jpg"):
        (folder / "cat" / name).parent.mkdir(exist_ok=True)
        (folder / "cat" / name).write_bytes(b"x")
    (folder / "$RECYCLE.BIN").mkdir()
    assert names(folder) == before and folder_notes(folder) == ()
    assert len(find_images(folder)) == 6


def test_twins_of_masks_are_none(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "._a.png").write_bytes(APPLE_DOUBLE)
    picture(tmp_path / "images/a.png")
    Image.fromarray(np.ones((12, 12), np.uint8)).save(tmp_path / "masks/a.png")
    assert [p.name for p in find_masks(tmp_path, 2).images] == ["a.png"]


def test_images_in_folders_within_a_class_are_its_own(folder: Path) -> None:
    picture(folder / "dog/monday/roll 2/9.jpg")
    picture(folder / "stray.png")
    (folder / "cat/phone.HEIC").write_bytes(b"x")
    (folder / "cat/licence.txt").write_text("mine")
    picture(folder / "cat/1.jpg")
    assert names(folder) == ["cat/0.png", "cat/1.jpg", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png",
                             "dog/monday/roll 2/9.jpg"]  # fmt: skip
    stray, deep, same, other = folder_notes(folder)
    assert stray.startswith("1 images lie in no class folder and are left out") and "stray.png" in stray
    assert deep.startswith("1 images lie in folders within a class folder") and "9.jpg" in deep
    assert same.startswith("1 images have the name of another") and "cat/1." in same
    assert "1 files cannot be read as images and are left out: 1 .heic" in other


def test_a_link_in_a_ring_ends(folder: Path) -> None:
    (folder / "cat/again").symlink_to(folder / "cat")
    assert len(names(folder)) == 6


def test_links_to_nothing_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "cat/lost.png").symlink_to(tmp_path / "unmounted/1.png")
    paths = [p for p, _ in find_class_folder(folder)[1]]
    assert len(paths) == 7
    message = r"1 of 7 images cannot be decoded(.|\n)*lost.png: a link to .*unmounted/1.png, which is not there"
    with pytest.raises(BadInput, match=message):
        load_class_folder(folder, 8)
    with pytest.raises(BadInput, match=message):
        list(store_pixels(paths, (8, 8), folder, tmp_path / "s.u8", most_bytes=10**6))
    (folder / "emu").symlink_to(tmp_path / "gone")
    with pytest.raises(BadInput, match=r"emu link\(s\) to what is not there; mend or remove"):
        find_class_folder(folder)


def test_a_link_to_images_elsewhere_is_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "dog").rename(tmp_path / "elsewhere")
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    assert len(names(folder)) == 6


@pytest.mark.parametrize("name", ["train", "test", "val", "images", "masks", "annotations"])
def test_a_class_may_have_any_name(tmp_path: Path, name: str) -> None:
    for c in ("bus", name):
        for i in range(2):
            picture(tmp_path / c / f"{i}.png")
    assert class_parts(tmp_path) == {"training": tmp_path}
    assert set(find_class_folder(tmp_path)[0]) == {"bus", name}
    assert len(find_images(tmp_path)) == 4


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("Train", "Validation"), ("training", "valid")])
def test_parts_are_found_whatever_their_case(tmp_path: Path, train: str, val: str) -> None:
    for part in (train, val, "TEST"):
        for c in ("bus", "train"):
            picture(tmp_path / part / c / "1.png")
    assert class_parts(tmp_path) == {
        "training": tmp_path / train, "validation": tmp_path / val, "test": tmp_path / "TEST"
    }  # fmt: skip


def test_parts_of_other_names_are_not_taken_for_classes(tmp_path: Path) -> None:
    for part in ("seg_train", "seg_test"):
        for c in ("bus", "car"):
            for i in range(2):
                picture(tmp_path / part / c / f"{i}.png")
    with pytest.raises(BadInput, match=r"seg_test and seg_train both hold the folders bus, car, .*name them train"):
        find_class_folder(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refused(path: object) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(BadInput, match=r"dog: cannot be read \(Permission denied\)"):
        find_class_folder(folder)


def test_names_that_are_not_utf8_become_text(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"th\xe9", "Ame\u0301lie".encode()):
        for i in range(2):
            picture(tmp_path / os.fsdecode(name) / f"{i}.png")
    assert find_class_folder(tmp_path)[0] == ("Amélie", "café", "thé")
    picture(tmp_path / "café/1.png")
    with pytest.raises(BadInput, match="two class folders are called café in different spellings; rename one"):
        find_class_folder(tmp_path)


def test_masks_beside_images_calibrate_nothing(tmp_path: Path) -> None:
    for kind in ("train/images", "train/masks", "VOC/JPEGImages", "VOC/SegmentationClass", "VOC/SegmentationObject"):
        picture(tmp_path / kind / "1.png")
    assert [p.parent.name for p in find_images(tmp_path)] == ["JPEGImages", "images"]
    picture(tmp_path / "kinds/SegmentationClass/1.png")  # a class of that name
    assert len(find_images(tmp_path)) == 3


def test_two_masks_of_one_name_are_told_and_never_guessed(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        picture(tmp_path / f"images/{stem}.png")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.ones((12, 12), np.uint8)).save(tmp_path / f"masks/{stem}.png")
    picture(tmp_path / "images/a.jpg")
    with pytest.raises(BadInput, match=r"1 fault(.|\n)*a.jpg: a.png has the same name except for its suffix; keep one"):
        find_masks(tmp_path, 2)
    assert [p.stem for p in find_masks(tmp_path, 2, skip_broken=True).images] == ["b"]


def test_masks_in_folders_within_are_matched_by_their_path(tmp_path: Path) -> None:
    for town in ("here", "there"):
        picture(tmp_path / f"images/{town}/a.png")
        (tmp_path / "masks" / town).mkdir(parents=True)
        Image.fromarray(np.full((12, 12), len(town), np.uint8)).save(tmp_path / f"masks/{town}/a.png")
    assert [min(seen) for seen in find_masks(tmp_path, 9).seen] == [4, 5]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_of_any_editor_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.txt").write_bytes("söme\r\nname\r\n".encode(encoding))
    assert text_of(tmp_path / "t.txt").splitlines() == ["söme", "name"]


def test_what_is_left_out_of_any_part_is_told(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for c in ("cat", "dog"):
            for i in range(2):
                picture(tmp_path / "set" / part / c / f"{i}.png")
        (tmp_path / "set" / part / "cat/1.heic").write_bytes(b"x")
    picture(tmp_path / "more/stray.png")
    picture(tmp_path / "set/bird/0.png")
    (tmp_path / "set/docs").mkdir()
    lines = folder_notes(tmp_path / "set", tmp_path / "more")
    assert sum("1 .heic; convert them to JPEG or PNG" in line for line in lines) == 3
    assert any("lie in no class folder" in line and "more/stray.png" in line for line in lines)
    assert lines[-1].endswith("has a folder train, so what lies beside it is left out: bird")


def test_a_class_of_files_that_cannot_be_read_says_of_which(folder: Path) -> None:
    (folder / "emu").mkdir()
    (folder / "emu/1.HEIC").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"class folder\(s\) emu \(1 .heic there cannot be read; convert them to JPEG"):
        find_class_folder(folder)
