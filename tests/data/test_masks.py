"""Images and masks: what is read, what is refused, all of it at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv3.data import MaskSet, find_masks, read_class_names
from mbv3.data.decode import decode_image, image_size, read_mask
from mbv3.errors import BadInput
from mbv3.progress import drain, silent
from mbv3.spec import ArchSpec
from mbv3.tasks import TASKS, Source


def pair(folder: Path, stem: str, mask: np.ndarray, size: tuple[int, int] | None = None) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    h, w = size or mask.shape[:2]
    Image.new("RGB", (w, h), (10, 200, 30)).save(folder / "images" / f"{stem}.jpg")
    Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")


def plain(value: int, shape: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


def test_pairs_are_found_by_name(tmp_path: Path) -> None:
    pair(tmp_path, "b", plain(2))
    pair(tmp_path, "a", plain(255))
    found = find_masks(tmp_path, 3)
    assert [p.stem for p in found.images] == ["a", "b"] == [p.stem for p in found.masks]
    assert (found.faults, found.seen) == ((), ({255}, {2}))
    (tmp_path / "classes.txt").write_text("sky\n\n road \n")
    assert read_class_names(tmp_path) == ("sky", "road")


def test_a_mask_as_jpeg_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", plain(2))
    (tmp_path / "masks/a.png").unlink()
    Image.fromarray(plain(2)).save(tmp_path / "masks/a.jpg")
    with pytest.raises(BadInput, match=r"a.jpg: a mask as JPEG, .*; write masks as PNG"):
        find_masks(tmp_path, 3)


def test_everything_wrong_is_told_at_once_or_left_out(tmp_path: Path) -> None:
    pair(tmp_path, "good", plain(1))
    pair(tmp_path, "size", plain(1), (5, 8))
    pair(tmp_path, "range", plain(3))
    pair(tmp_path, "deep", np.full((6, 8), 700, np.uint16))
    pair(tmp_path, "colour", np.zeros((6, 8, 3), np.uint8) + np.arange(3, dtype=np.uint8))
    pair(tmp_path, "nomask", plain(0))
    (tmp_path / "masks/nomask.png").unlink()
    pair(tmp_path, "noimage", plain(0))
    (tmp_path / "images/noimage.jpg").unlink()
    pair(tmp_path, "cut", plain(0))
    (tmp_path / "masks/cut.png").write_bytes((tmp_path / "masks/cut.png").read_bytes()[:40])
    pair(tmp_path, "empty", plain(0))
    (tmp_path / "images/empty.jpg").write_bytes(b"")
    with pytest.raises(BadInput) as e:
        find_masks(tmp_path, 3)
    text = str(e.value)
    assert f"{tmp_path}: 8 fault(s)" in text and "--skip-broken" in text
    for line in (
        "size.png: is 8x6, its image is 8x5",
        "range.png: class indices 3 are out of range 0 to 2 (255 is ignored)",
        "deep.png: class indices 700 are out of range",
        "colour.png: a mask holds one class index a pixel; this one has colours (RGB)",
        "nomask.jpg: no mask",
        "noimage.png: an annotation without its image",
        "cut.png: ",
        "empty.jpg: cannot be opened as an image",
    ):
        assert line in text
    left = find_masks(tmp_path, 3, skip_broken=True)
    assert [p.stem for p in left.images] == ["good"] and len(left.faults) == 8


def test_image_and_mask_are_turned_alike_and_it_is_told(tmp_path: Path) -> None:
    pair(tmp_path, "a", plain(1))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (8, 6)).save(tmp_path / "images/a.jpg", exif=exif)
    assert find_masks(tmp_path, 3).turned == (True,)
    mask = plain(0)
    mask[0] = 1
    Image.fromarray(mask).save(tmp_path / "masks/a.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "masks/a.png"), mask[::-1, ::-1])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # this is the point
def test_a_torn_turn_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    whole = (tmp_path / "a.jpg").read_bytes()
    at = whole.index(b"Exif\0\0")
    length = int.from_bytes(whole[at - 2 : at], "big")
    torn = whole[: at - 2] + (16).to_bytes(2, "big") + whole[at : at + 14] + whole[at - 2 + length :]
    (tmp_path / "a.jpg").write_bytes(torn)
    assert image_size(tmp_path / "a.jpg") == (6, 8)
    pixels, _, fault = decode_image(tmp_path / "a.jpg", (6, 8), "middle")
    assert pixels is not None and fault == ""


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"images: no such folder; masks are trained on from DIR/images and DIR/masks"):
        find_masks(tmp_path, 3)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(BadInput, match=r"no images \("):
        find_masks(tmp_path, 3)
    (tmp_path / "classes.txt").write_text("one\none\n")
    with pytest.raises(BadInput, match=r"classes.txt: needs 2 to 255 different class names, one a line \(got 2\)"):
        read_class_names(tmp_path)


def test_image_and_mask_change_together() -> None:
    """Where the image is red the mask says 1, before and after."""
    mask = np.zeros((1, 40, 60, 1), np.uint8)
    mask[0, 10:30, 20:45] = 1
    image = np.where(mask == 1, np.array([255, 0, 0]), np.array([0, 0, 255])).astype(np.uint8)
    data = MaskSet(image, mask, [Path("x")], ("a", "b"), "")
    seen = set()
    for seed in range(40):
        pixels, indices = data.batch(np.array([0]), (40, 60), "scale", np.random.default_rng(seed))
        said = indices[0].numpy()
        red = pixels[0, ..., 0].astype(int) > pixels[0, ..., 2]
        known = said != 255
        assert (red == (said == 1))[known].mean() > 0.9
        seen.add(bool((said == 255).any()))
        again, _ = data.batch(np.array([0]), (40, 60), "scale", np.random.default_rng(seed))
        np.testing.assert_array_equal(pixels, again)
    assert seen == {True, False}  # both larger and smaller
    untouched, indices = data.batch(np.array([0]), (40, 60), "none", np.random.default_rng(0))
    np.testing.assert_array_equal(untouched, image)
    np.testing.assert_array_equal(indices[0].numpy(), mask[0, ..., 0])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_an_index_may_be_written_as_a_grey(tmp_path: Path, mode: str) -> None:
    pair(tmp_path, "a", plain(1))
    Image.fromarray(plain(1)).convert(mode).save(tmp_path / "masks/a.png")
    assert find_masks(tmp_path, 3).seen == (frozenset([1]),)


def test_formats_that_blur_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", plain(1))
    Image.fromarray(plain(1)).convert("RGB").save(tmp_path / "masks/a.webp")
    (tmp_path / "masks/a.png").unlink()
    with pytest.raises(BadInput, match=r"a.webp: a mask as WEBP, which blurs class indices .*; write masks as PNG"):
        find_masks(tmp_path, 3)


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "Val"), ("training", "validation")])
def test_parts_with_masks_are_found_whatever_their_case(
    tmp_path: Path, names: tuple[str, str], tiny_spec: ArchSpec
) -> None:
    for part in names:
        for i in range(2):
            mask = plain(1)
            mask[:2] = 0
            pair(tmp_path / part, str(i), mask)
    spec = TASKS["segment"].headed(tiny_spec)
    data = drain(TASKS["segment"].load(spec, Source(path=tmp_path)), silent)
    assert (len(data.train), len(data.validation)) == (2, 2)
