"""Pixels on disk: the same as in memory, used again, decoded on demand where they do not fit."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mbv3.data import store as module
from mbv3.data import store_pixels
from mbv3.data.augment import augmented, random_part
from mbv3.data.store import Decoded, OnDemand, decode_all
from mbv3.errors import BadInput


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(600):  # more than two blocks of the decoder's
        made.append(tmp_path / "in" / f"{i}.png")
        made[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)).save(made[-1])
    return made


def finished(work: Generator[tuple[int, int], None, Decoded]) -> tuple[Decoded, list[tuple[int, int]]]:
    told = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            return end.value, told


def stored(files: list[Path], tmp_path: Path, **options: Any) -> tuple[Decoded, list[tuple[int, int]]]:
    options = {"most_bytes": 10**9, **options}
    return finished(store_pixels(files, (6, 6), "d", tmp_path / "s.u8", **options))


def test_disk_memory_and_demand_agree(files: list[Path], tmp_path: Path) -> None:
    memory = decode_all(files, (6, 6), "d")
    disk, told = stored(files, tmp_path)
    demand, _ = stored(files, tmp_path / "other", most_bytes=1000)
    index = np.array([599, 0, 255, 256, 257])
    assert isinstance(demand.pixels, OnDemand) and not (tmp_path / "other/s.u8").exists()
    for found in (disk, demand):
        assert found.pixels.shape == (600, 6, 6, 3)
        np.testing.assert_array_equal(found.pixels[index], memory.pixels[index])
    assert disk.sha256 == memory.sha256 and told == [(256, 600), (512, 600)]


def test_what_is_whole_is_used_again_and_what_changed_is_not(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = stored(files, tmp_path)
    with monkeypatch.context() as m:
        m.setattr(module, "decode_image", lambda *_: pytest.fail("decoded again"))
        again, told = stored(files, tmp_path)
        assert told == [] and again.sha256 == first.sha256
    Image.new("RGB", (8, 6), (1, 2, 3)).save(files[7])
    changed, _ = stored(files, tmp_path)
    assert changed.sha256 != first.sha256 and changed.pixels[np.array([7])].ravel()[:3].tolist() == [1, 2, 3]
    (tmp_path / "s.json").unlink()  # ended while it was written
    assert stored(files, tmp_path)[0].sha256 == changed.sha256


def test_broken_files_on_every_way(files: list[Path], tmp_path: Path) -> None:
    files[3].write_bytes(b"")
    files[500].write_bytes(files[500].read_bytes()[:30])
    message = r"d: 2 of 600 images cannot be decoded; .*--skip-broken(.|\n)*3\.png(.|\n)*500\.png"
    with pytest.raises(BadInput, match=message):
        stored(files, tmp_path, skip_broken=False)
    with pytest.raises(BadInput, match=r"2 of 600 images cannot be decoded; repair or remove them\n"):
        stored(files, tmp_path)  # a command without that option does not name it
    kept, _ = stored(files, tmp_path, skip_broken=True)
    assert len(kept.kept) == 598 and len(kept.broken) == 2 and 3 not in kept.kept
    np.testing.assert_array_equal(kept.pixels[np.array([3])], decode_all([files[4]], (6, 6), "d").pixels[np.array([0])])
    with pytest.raises(BadInput, match=message):  # the file on disk remembers
        stored(files, tmp_path, skip_broken=False)
    with pytest.raises(BadInput, match=message):
        stored(files, tmp_path / "o", most_bytes=1, skip_broken=False)
    demand, _ = stored(files, tmp_path / "o", most_bytes=1, skip_broken=True)
    assert demand.kept.tolist() == kept.kept.tolist() and demand.sha256 == kept.sha256
    np.testing.assert_array_equal(demand.pixels[np.array([0, 3, 597])], kept.pixels[np.array([0, 3, 597])])
    files[0].write_bytes(b"")  # since then
    with pytest.raises(BadInput, match=r"1 image\(s\) cannot be decoded(.|\n)*0.png"):
        demand.pixels[np.array([0, 1])]
    with pytest.raises(BadInput, match=r"1 of 1 images cannot be decoded; repair or remove them\n"):
        stored([files[3]], tmp_path / "p", skip_broken=True)


def test_a_full_disk_is_an_error_and_leaves_nothing(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    opened = Path.open
    full = lambda self, *a, **k: Full() if self.name == "s.u8" else opened(self, *a, **k)  # noqa: E731
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(BadInput, match=r"s.u8: the decoded images cannot be written \(No space left on device\)"):
        stored(files, tmp_path)
    assert not (tmp_path / "s.json").exists()


def test_parts_are_of_the_published_area_and_shape() -> None:
    rng = np.random.default_rng(0)
    parts = np.array([random_part((100, 80), rng) for _ in range(500)])
    w, h = parts[:, 2] - parts[:, 0], parts[:, 3] - parts[:, 1]
    assert (parts >= 0).all() and (parts[:, 2] <= 100 + 1e-9).all() and (parts[:, 3] <= 80 + 1e-9).all()
    area, ratio = w * h / 8000, w / h
    assert 0.08 <= area.min() < 0.15 and 0.8 < area.max() <= 1
    assert ratio.min() >= 0.75 - 1e-9 and ratio.max() <= 4 / 3 + 1e-9
    assert random_part((1000, 10), rng) == (0.0, 0.0, 1000.0, 10.0)  # nothing fits: all of it


def test_mild_crops_keep_more_of_the_image() -> None:
    kept = {}
    ramp = np.arange(0, 200, 2, dtype=np.uint8)[None, :, None, None]
    pixels = np.ascontiguousarray(np.broadcast_to(ramp, (300, 100, 100, 3)))
    for augment in ("inception", "inception-mild"):
        out = augmented(pixels, (100, 100), augment, np.random.default_rng(0))[..., 0].astype(float)  # type: ignore[arg-type]
        kept[augment] = (out.max((1, 2)) - out.min((1, 2))) / 198  # rows or columns that are in sight
    assert kept["inception"].min() < 0.35 < 0.49 < kept["inception-mild"].min()  # 0.35 of the area, 3:4: half a side


@pytest.mark.parametrize("augment", ["shift", "inception", "inception+trivial", "inception-mild+trivial"])
def test_augmentations_keep_size_and_repeat(augment: Any) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (40, 18, 18, 3)).astype(np.uint8)
    size = (18, 18) if augment == "shift" else (16, 12)
    one, again, other = (augmented(pixels, size, augment, np.random.default_rng(s)) for s in (0, 0, 1))
    assert one.shape == (40, *size, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
