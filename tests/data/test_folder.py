"""A folder of class folders: every kind of image, every kind of bad folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3.data import load_class_folder, peek_class_folder
from mbv3.errors import BadInput


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 20), value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        image = Image.fromarray(np.full(size[::-1], value * 257, dtype=np.uint16))
    else:
        image = Image.new("RGB", size, (value, value, value)).convert(mode)
    image.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for c in ("cat", "dog"):
        for i in range(3):
            picture(tmp_path / "d" / c / f"{i}.png", value=40 * i + (c == "dog"))
    return tmp_path / "d"


def test_images_labels_and_classes(folder: Path) -> None:
    data = load_class_folder(folder, 16)
    assert data.classes == ("cat", "dog") and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.images.shape == (6, 16, 16, 3) and data.images[:, 0, 0, 0].tolist() == [0, 40, 80, 1, 41, 81]
    assert load_class_folder(folder, 64).images.shape == (6, 20, 20, 3)  # never enlarged
    assert peek_class_folder(folder) == (2, 6, 20)
    assert load_class_folder(folder, 16).sha256 == data.sha256
    picture(folder / "cat" / "0.png", value=9)
    assert load_class_folder(folder, 16).sha256 != data.sha256


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("x.png", "L"),
        ("x.png", "P"),
        ("x.png", "RGBA"),
        ("x.jpg", "CMYK"),
        ("x.JPG", "L"),
        ("x.png", "I;16"),
        ("x.tif", "I;16"),
    ],
)
def test_every_mode_becomes_rgb(folder: Path, name: str, mode: str) -> None:
    picture(folder / "cat" / name, mode, (40, 24), value=100)
    data = load_class_folder(folder, 16)
    index = 3  # after 0.png, 1.png and 2.png
    assert data.images.shape == (7, 16, 16, 3)
    np.testing.assert_allclose(data.images[index].mean(), 100, atol=6)  # a palette dithers
    assert data.images[index].min() > 80 and data.images[index].max() < 120


def test_the_middle_square_is_taken(folder: Path) -> None:
    wide = np.zeros((20, 60, 3), dtype=np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(folder / "cat" / "9.png")
    assert (load_class_folder(folder, 20).images[3] == 200).all()


def test_a_photo_taken_with_the_phone_turned_stands_upright(folder: Path) -> None:
    sky = np.zeros((20, 20, 3), dtype=np.uint8)
    sky[:10] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(np.rot90(sky)).save(folder / "cat" / "9.png", exif=exif)
    np.testing.assert_array_equal(load_class_folder(folder, 20).images[3], sky)


def test_broken_images_are_all_listed(folder: Path) -> None:
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "a.png").write_bytes(b"")
    (folder / "cat" / "b.jpg").write_bytes(b"no picture")
    (folder / "dog" / "c.png").write_bytes(whole[: len(whole) - 30])
    with pytest.raises(BadInput, match=r"3 of 9 images cannot be decoded; repair or remove them") as e:
        load_class_folder(folder, 16)
    assert all(name in str(e.value) for name in ("a.png", "b.jpg", "c.png"))


def test_a_truncated_tiff_is_listed_not_warned_about(folder: Path) -> None:
    picture(folder / "cat" / "0.tif")
    (folder / "cat" / "0.tif").write_bytes((folder / "cat" / "0.tif").read_bytes()[:50])
    assert peek_class_folder(folder)[1] == 7
    with pytest.raises(BadInput, match=r"1 of 7 images cannot be decoded(.|\n)*0.tif"):
        load_class_folder(folder, 16)


def test_bad_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    def refused(path: Path, message: str) -> None:
        for read in (peek_class_folder, lambda p: load_class_folder(p, 16)):
            with pytest.raises(BadInput, match=message):
                read(path)

    refused(tmp_path / "none", "none: no such data folder")
    refused(folder / "cat" / "0.png", "0.png: not a folder")
    refused(folder / "cat", r"at least two classes \(found 0: none\)")
    (folder / "empty").mkdir()
    refused(folder, r"no images in class folder\(s\) empty")
    picture(folder / "empty" / "1.png")
    refused(folder, r"only one image in class folder\(s\) empty")
    (tmp_path / "e" / "x").mkdir(parents=True)
    refused(tmp_path / "e", r"at least two classes \(found 1: x\)")
    (tmp_path / "e" / "y").mkdir()
    refused(tmp_path / "e", "its 2 class folders hold no images")
    for name in ("images", "masks"):
        for i in range(2):
            picture(tmp_path / "m" / name / f"{i}.png")
    refused(tmp_path / "m", "holds images and masks, and no class folders; add --task segment")


def test_a_test_folder_has_the_same_classes(folder: Path) -> None:
    load_class_folder(folder, 16, classes=("cat", "dog"))
    with pytest.raises(BadInput, match=r"class folder\(s\) dog are none of the training folder's \(cat, emu\)"):
        load_class_folder(folder, 16, classes=("cat", "emu"))


def test_a_test_folder_may_lack_a_class(folder: Path) -> None:
    some = load_class_folder(folder, 16, classes=("bee", "cat", "dog"))
    assert some.classes == ("bee", "cat", "dog") and set(some.labels.tolist()) == {1, 2}
