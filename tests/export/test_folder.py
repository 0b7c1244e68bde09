"""A folder is written whole or not at all, and never over anything."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mbv3.errors import BadInput
from mbv3.files import write_folder

FILES = {"a.py": b"1", "b.safetensors": b"22"}


def test_a_new_and_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "deep" / "new"):
        write_folder(place, FILES)
        assert {p.name: p.read_bytes() for p in place.iterdir()} == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "empty"]


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "out"
    if kind == "file":
        place.write_text("mine")
    elif kind == "folder":
        place.mkdir()
        (place / "a.py").write_text("mine")
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="already exists, and nothing is overwritten; remove it, or give another --out"):
        write_folder(place, FILES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert kind != "folder" or (place / "a.py").read_text() == "mine"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="out: cannot be written \\(No space left on device\\)"):
        write_folder(tmp_path / "out", FILES)
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        write_folder(tmp_path / "file" / "out", FILES)
