"""Where files go, on the file systems and accounts that people have."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mbv3.errors import BadInput, OutOfMemory, out_of_memory
from mbv3.files import cache_folder, discard, hold, sweep, write_atomic, write_folder


def failing(number: int):  # type: ignore[no-untyped-def]
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("MBV3_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_cache_lies_where_the_user_says(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/mbv3"
    bare.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x/mbv3"
    bare.setenv("MBV3_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_an_account_without_home_has_a_cache(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setattr(tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"mbv3-cache-{os.getuid()}"

    def nobody(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 4711")

    bare.setattr("pwd.getpwuid", nobody)
    assert cache_folder() == own  # a number without a name
    bare.setenv("HOME", "/proc/1")
    bare.setattr(os, "access", lambda path, mode: str(path) != "/proc/1")
    assert cache_folder() == own  # a home that cannot be written


def test_a_lock_is_held_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "l").open("a") as one, (tmp_path / "l").open("a") as other:
        assert hold(one) is True and hold(other) is False
    for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO):
        monkeypatch.setattr(fcntl, "flock", failing(number))
        with (tmp_path / "l").open("a") as file:
            assert hold(file) is None


def test_files_are_written_on_file_systems_without_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "chmod", failing(errno.EPERM))
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    write_atomic(tmp_path / "a", "one")
    write_folder(tmp_path / "b", {"c": b"two"})
    assert (tmp_path / "a").read_text() == "one" and (tmp_path / "b/c").read_bytes() == b"two"
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(BadInput, match=r"a: cannot be written \(No space left on device\)"):
        write_atomic(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "one" and sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_links_and_volumes_are_filled(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    write_folder(tmp_path / "link", {"a": b"1"})
    assert (tmp_path / "link").is_symlink() and (tmp_path / "big/a").read_bytes() == b"1"
    with pytest.raises(BadInput, match="link: already exists, and nothing is overwritten"):
        write_folder(tmp_path / "link", {"a": b"2"})
    (tmp_path / "file").symlink_to(tmp_path / "big/table.csv")
    write_atomic(tmp_path / "file", "x")
    assert (tmp_path / "file").is_symlink() and (tmp_path / "big/table.csv").read_text() == "x"


def test_what_could_not_be_written_whole_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    for name in ("volume", "new"):
        with pytest.raises(BadInput, match=f"{name}: cannot be written"):
            write_folder(tmp_path / name, {"a": b"1", "no/b": b"2"})
    assert [p.name for p in tmp_path.rglob("*")] == ["volume"]


def test_only_what_a_run_made_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for made in (True, False):
        (tmp_path / "run/sub").mkdir(parents=True)
        (tmp_path / "run/run.json").write_text("{}")
        discard(tmp_path / "run", made=made)
        assert (tmp_path / "run").exists() != made
    assert not any((tmp_path / "run").iterdir())
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "run/a").write_text("")
    discard(tmp_path / "link", made=False)
    assert (tmp_path / "link").is_symlink() and not any((tmp_path / "run").iterdir())
    monkeypatch.setattr(os, "rmdir", failing(errno.EBUSY))
    discard(tmp_path / "run", made=True)  # no error hides the real one
    discard(tmp_path / "gone", made=False)


def test_text_that_is_no_utf8_is_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a").read_text("utf-8") == "caf\\udce9"


def big() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize(
    "fault",
    [
        lambda: np.empty(1 << 60, np.uint8), big, lambda: [0] * (1 << 62), lambda: bytearray(1 << 62),
    ],
)  # fmt: skip
def test_memory_that_ran_out_is_one_line_with_a_cure(fault) -> None:  # type: ignore[no-untyped-def]
    try:
        fault()
    except (MemoryError, RuntimeError) as e:
        found = out_of_memory(e)
    assert isinstance(found, OutOfMemory) and found.exit_code == 1
    text = str(found)
    assert text.startswith("out of memory") and "take a smaller --batch or --resolution" in text and "\n" not in text


@pytest.mark.parametrize(
    ("text", "is_memory"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee docs", True),
        ("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc", True),
        ("shape mismatch", False),
    ],
)
def test_other_librarys_words_for_it(text: str, is_memory: bool) -> None:
    found = out_of_memory(RuntimeError(text), "--space")
    assert (found is not None) == is_memory
    assert found is None or "take a smaller --space" in str(found)


def test_what_a_killed_process_began_to_write_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "curve").mkdir()
    write_atomic(tmp_path / "curve/a.yaml", "whole")
    with monkeypatch.context() as m:
        m.setattr(os, "replace", lambda *_: os._exit(0))  # no finally, as under SIGKILL
        for name in ("run.json", "curve/a.yaml"):
            if (pid := os.fork()) == 0:
                write_atomic(tmp_path / name, "half")
            assert os.waitpid(pid, 0)[1] == 0
    (tmp_path / ".lock").touch()
    (tmp_path / "mine.part").touch()
    assert len([p for p in tmp_path.rglob(".*") if p.suffix == ".part"]) == 2
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".lock", "a.yaml", "curve", "mine.part"]
    assert (tmp_path / "curve/a.yaml").read_text() == "whole"
    sweep(tmp_path / "nowhere")
