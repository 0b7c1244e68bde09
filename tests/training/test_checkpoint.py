"""Checkpoints: what comes back, what survives a crash, what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mbv3.errors import BadInput
from mbv3.training import load_checkpoint, read_weights, save_checkpoint, save_weights


def test_parts_and_meta_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "c.safetensors"
    kernel = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    parts = {"net": {"a.b/c": kernel, "n": torch.tensor(7)}, "optimizer": {"0.exp_avg": torch.randn(3)}}
    meta = {"step": 5, "note": ["ü", 1.5]}
    save_checkpoint(path, parts, meta)
    found = load_checkpoint(path)
    assert found is not None and found[1] == meta
    assert {k: set(v) for k, v in found[0].items()} == {k: set(v) for k, v in parts.items()}
    for part, state in parts.items():
        for name, value in state.items():
            assert torch.equal(found[0][part][name], value) and found[0][part][name].dtype == value.dtype
    assert found[0]["net"]["a.b/c"].is_contiguous(memory_format=torch.channels_last)


def test_no_file_is_no_checkpoint_but_no_weights_either(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none") is None
    with pytest.raises(BadInput, match=r"none: no such weights file"):
        read_weights(tmp_path / "none")


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_write_leaves_the_previous_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"net": {"w": torch.ones(3)}}, {"step": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, call, full)
        with pytest.raises(BadInput, match=r"c.safetensors: cannot be written \(No space left on device\)"):
            save_checkpoint(path, {"net": {"w": torch.zeros(3)}}, {"step": 2})
        with pytest.raises(BadInput, match=r"w.safetensors: cannot be written"):
            save_weights(tmp_path / "w.safetensors", {"w": torch.zeros(3)})
    found = load_checkpoint(path)
    assert found is not None and found[1] == {"step": 1} and torch.equal(found[0]["net"]["w"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]  # no half file


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a torch pickle", b"\xff" * 64])
def test_what_is_not_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    for read in (read_weights, load_checkpoint):
        with pytest.raises(BadInput, match=r"w.safetensors: not a safetensors file"):
            read(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"w": torch.ones(100)})
    assert torch.equal(read_weights(path)["w"], torch.ones(100))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadInput, match=r"w.safetensors: not a safetensors file"):
        read_weights(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"not a safetensors file"):
        read_weights(tmp_path)


def test_weights_are_no_checkpoint(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"w": torch.ones(1)}, spec="small")
    with pytest.raises(BadInput, match=r"w.safetensors: no checkpoint of mbv3"):
        load_checkpoint(tmp_path / "w.safetensors")


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    file = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.safetensors"))
    save_checkpoint(file, {"net": {"a": torch.arange(3.0)}}, {"step": 3})
    found = load_checkpoint(file)
    assert found is not None and found[1] == {"step": 3}
    assert torch.equal(found[0]["net"]["a"], torch.arange(3.0)) and torch.equal(
        read_weights(file)["net/a"], torch.arange(3.0)
    )
