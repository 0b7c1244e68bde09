"""Pictures of more than 8 bits: read for what they are, or refused; never black in silence."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mbv3.data import decode_all, load_class_folder, store_pixels
from mbv3.data.decode import decode_image
from mbv3.progress import drain, silent
from mbv3.spec import ArchSpec
from mbv3.stages import read_photos
from mbv3.tasks import TASKS, Source

RAMP = np.linspace(0, 1, 16 * 16).reshape(16, 16)


def png16(path: Path, values: np.ndarray) -> None:
    """A PNG of 16 bits a channel, which Pillow does not write in colour."""
    h, w, c = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def pixels(path: Path) -> np.ndarray:
    found, _, fault = decode_image(path, (16, 16), "middle")
    assert found is not None, fault
    return found


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_grey_png_of_any_depth_looks_the_same(tmp_path: Path, bits: int) -> None:
    Image.fromarray(np.round(RAMP * (2**bits - 1)).astype(np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_allclose(pixels(tmp_path / "a.png")[..., 0], RAMP * 255, atol=1)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_colour_png_of_16_bits_keeps_its_low_bytes(tmp_path: Path, bits: int, channels: int) -> None:
    colours = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 0.5), np.ones_like(RAMP)][:channels], -1)
    png16(tmp_path / "a.png", np.round(colours * (2**bits - 1)))
    np.testing.assert_allclose(pixels(tmp_path / "a.png"), colours[..., :3] * 255, atol=1)


def test_grey_with_transparency_of_16_bits(tmp_path: Path) -> None:
    png16(tmp_path / "bright.png", np.stack([RAMP, np.ones_like(RAMP)], -1) * 65535)
    np.testing.assert_allclose(pixels(tmp_path / "bright.png")[..., 0], RAMP * 255, atol=1.5)
    png16(tmp_path / "dark.png", np.stack([RAMP, np.ones_like(RAMP)], -1) * 4095)
    found, _, fault = decode_image(tmp_path / "dark.png", (16, 16), "middle")
    assert found is None and "low byte cannot be read; write them with 8 bits" in fault


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_a_float_tiff_from_0_to_1_or_255(tmp_path: Path, scale: float) -> None:
    Image.fromarray((RAMP * scale).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_allclose(pixels(tmp_path / "a.tif")[..., 0], RAMP * 255, atol=1)


def test_white_is_zero_stands_on_its_head(tmp_path: Path) -> None:
    tags = ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray(np.round(RAMP * 65535).astype(np.uint16)).save(tmp_path / "a.tif", tiffinfo=tags)
    with Image.open(tmp_path / "a.tif") as image:
        photometric: Any = image
        assert photometric.tag_v2[262] in (0, 1)
        want = 1 - RAMP if photometric.tag_v2[262] == 0 else RAMP
    np.testing.assert_allclose(pixels(tmp_path / "a.tif")[..., 0], want * 255, atol=1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (RAMP.astype(np.float32) * 3 - 1, "32-bit float values from -1 to 2: 0 to 1 or 0 to 255 can be read"),
        (RAMP.astype(np.float32) * 3000, "32-bit float values from 0 to 3000"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "not all finite"),
        ((RAMP * 4000 - 1000).astype(np.int32), "32-bit whole values from -1000 to 3000: 8 to 16 bits without sign"),
        ((RAMP * 1e6).astype(np.int32), "32-bit whole values from 0 to 1e"),
    ],
)
def test_what_has_no_white_is_refused(tmp_path: Path, values: np.ndarray, said: str) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    found, _, fault = decode_image(tmp_path / "a.tif", (16, 16), "middle")
    assert found is None and said in fault and "a.tif" in fault


def test_signed_bytes_are_not_taken_for_unsigned_ones(tmp_path: Path) -> None:
    tags = ImageFileDirectory_v2()
    tags[339] = 2
    Image.fromarray((RAMP * 100).astype(np.uint8)).save(tmp_path / "good.tif", tiffinfo=tags)
    assert pixels(tmp_path / "good.tif").max() == 100
    Image.fromarray((RAMP * 100 - 50).astype(np.int8).view(np.uint8)).save(tmp_path / "a.tif", tiffinfo=tags)
    found, _, fault = decode_image(tmp_path / "a.tif", (16, 16), "middle")
    assert found is None and "8-bit whole values from -50 to 50" in fault


def test_pictures_of_a_set_keep_their_brightness_among_each_other(tmp_path: Path) -> None:
    files = []
    for i, share in enumerate((1.0, 0.2)):  # alone, the second would be taken for 10 bits
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(np.round(RAMP * share * 4095).astype(np.uint16)).save(files[-1])
    memory = decode_all(files, (16, 16), "d")
    assert [int(p.max()) for p in memory.pixels[np.arange(2)]] == [255, 51]
    [note] = memory.notes
    assert note.startswith("images hold 12-bit values (0 to 4095), which are spread over 0 to 255")
    for most in (10**6, 1):  # on disk, and decoded on demand
        work = store_pixels(files, (16, 16), "d", tmp_path / f"{most}.u8", most_bytes=most)
        with pytest.raises(StopIteration) as end:
            next(work)
        assert end.value.value.notes == memory.notes
        np.testing.assert_array_equal(end.value.value.pixels[np.arange(2)], memory.pixels)


def test_parts_of_a_data_set_keep_their_brightness_among_each_other(tmp_path: Path, tiny_spec: ArchSpec) -> None:
    """A dim test part would be taken for fewer bits, and be as bright as the training part."""
    for part, share in (("train", 1.0), ("test", 0.2)):
        for c in ("a", "b"):
            (tmp_path / "d" / part / c).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(np.round(RAMP * share * 4095).astype(np.uint16)).save(
                    tmp_path / f"d/{part}/{c}/{i}.png"
                )
    spec = replace(tiny_spec, resolution=(16, 16))
    data = drain(TASKS["classify"].load(spec, Source(path=tmp_path / "d")), silent)
    photos = drain(read_photos(tmp_path / "d", (16, 16)), silent)
    for learned, judged in ((data.train, data.test), (photos.images.train, photos.report)):
        assert [int(part.images[np.arange(2)].max()) for part in (learned, judged)] == [255, 51]  # type: ignore[union-attr]


def test_floats_of_a_set_are_told_and_keep_their_brightness(tmp_path: Path) -> None:
    files = []
    for i, share in enumerate((200.0, 100.0)):  # the second alone has no white
        files.append(tmp_path / f"{i}.tif")
        Image.fromarray((RAMP * share).astype(np.float32)).save(files[-1])
    found = decode_all(files, (16, 16), "d")
    assert [int(p.max()) for p in found.pixels[np.arange(2)]] == [200, 100]
    assert found.notes[0].startswith("images hold float values (0 to 255)")
    Image.fromarray(RAMP.astype(np.float32)).save(files[0])
    assert decode_all(files[:1], (16, 16), "d").notes[0].startswith("images hold float values (0 to 1)")


def test_pictures_of_one_value_are_told(tmp_path: Path) -> None:
    for c in ("a", "b"):
        (tmp_path / "d" / c).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.round(RAMP * 255 * (c == "a" or i > 0)).astype(np.uint8)).save(
                tmp_path / f"d/{c}/{i}.png"
            )
    [note] = load_class_folder(tmp_path / "d", 16).notes
    assert note.startswith("1 of 6 images hold one value only, as black ones do") and note.endswith("d/b/0.png")
    one_colour = np.tile(np.array([10, 200, 30], np.uint8), (32, 32, 1))
    Image.fromarray(one_colour).save(tmp_path / "d/a/1.png")
    one_colour[24:, 24:, 2] = 90
    Image.fromarray(one_colour).save(tmp_path / "d/a/2.png")
    assert load_class_folder(tmp_path / "d", 32).notes[0].startswith("2 of 6 images hold one value only")


def test_both_sides_of_a_wide_photo_are_seen(tmp_path: Path) -> None:
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 56:] = 200
    for c in ("a", "b"):
        (tmp_path / "d" / c).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(wide).save(tmp_path / f"d/{c}/{i}.png")
    images = load_class_folder(tmp_path / "d", (8, 32)).images
    assert images.shape == (4, 8, 32, 3)
    found = images[np.array([0])][0]
    assert found[:, 29:].min() == 200 and found[:, :27].max() == 0
    assert load_class_folder(tmp_path / "d", (32, 128)).images.shape == (4, 16, 64, 3)  # never enlarged


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp"])
def test_pages_that_are_not_read_are_told(tmp_path: Path, suffix: str) -> None:
    pages = [
        Image.fromarray(np.full((16, 16, 3), v, np.uint8) + np.arange(16, dtype=np.uint8)[:, None]) for v in (9, 90)
    ]
    pages[0].save(tmp_path / f"stack.{suffix}", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / f"one.{suffix}")
    files = [tmp_path / f"one.{suffix}", tmp_path / f"stack.{suffix}"]
    [note] = decode_all(files, (16, 16), "d").notes
    assert note.startswith("1 of 2 images hold several pages or frames, of which the first is read, for instance ")
    assert note.endswith(f"stack.{suffix}")
