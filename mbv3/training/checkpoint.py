"""Checkpoints and weights in safetensors, written in one step: a crash leaves the previous one whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mbv3.errors import BadInput
from mbv3.files import write_atomic
from mbv3.nn import MEAN, STD, Statistics

__all__ = [
    "checkpoint_meta", "load_checkpoint", "read_tensors", "read_weights", "save_checkpoint", "save_weights",
    "weights_bytes",
]  # fmt: skip


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().contiguous().clone() for k, v in state.items()}


def save_weights(path: Path, state: Mapping[str, Tensor], by: Statistics = (MEAN, STD), **about: str) -> None:
    """Weights under their state-dict names, with how images are normalised for them. Equal weights give equal bytes."""
    write_atomic(path, weights_bytes(state, by, **about))


def weights_bytes(state: Mapping[str, Tensor], by: Statistics = (MEAN, STD), **about: str) -> bytes:
    """The file that `save_weights` writes."""
    # safetensors writes several entries in any order, so there is one
    meta = json.dumps({"format": "mbv3-weights/1", "mean": by[0], "std": by[1], **about}, sort_keys=True)
    return save(_plain(state), metadata={"mbv3": meta})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; nothing in it is executed.

    Raises: SafetensorError, OSError, ValueError.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:  # the library opens names of UTF-8 only
        with TemporaryDirectory() as folder:
            link = Path(folder) / "tensors"
            link.symlink_to(path.absolute())
            return read_tensors(link)
    with safe_open(path, framework="pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, dict(f.metadata() or {})  # noqa: SIM118


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; nothing in it is executed. Raises: BadInput."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        raise BadInput(f"{path}: no such weights file")
    try:
        return read_tensors(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise BadInput(f"{path}: not a safetensors file ({e})") from None


def save_checkpoint(path: Path, parts: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]) -> None:
    """Named groups of tensors and JSON-ready `meta`."""
    tensors = {f"{part}/{k}": v for part, state in parts.items() for k, v in _plain(state).items()}
    write_atomic(path, save(tensors, metadata={"meta": json.dumps(meta)}))


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """What `save_checkpoint` wrote, or None where there is no file. Raises: BadInput."""
    if not path.exists():
        return None
    tensors, metadata = _read(path)
    if "meta" not in metadata:
        raise BadInput(f"{path}: no checkpoint of mbv3 (it holds other tensors); remove it, or name another file")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, key = name.partition("/")
        # safetensors drops the memory format, which decides the order of sums: put it back
        if value.dim() == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        parts.setdefault(part, {})[key] = value
    return parts, json.loads(metadata["meta"])


def checkpoint_meta(path: Path) -> dict[str, Any]:
    """`meta` of a file that `save_checkpoint` wrote; its tensors are not read. Raises: BadInput."""
    if not path.exists():
        raise BadInput(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as f:
            about = f.metadata() or {}
        found: dict[str, Any] = json.loads(about["meta"])
    except (SafetensorError, OSError, ValueError, KeyError) as e:
        raise BadInput(f"{path}: no checkpoint of mbv3 ({type(e).__name__}: {e}); restore it") from None
    return found
