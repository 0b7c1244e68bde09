"""Valid inputs of every kind, from which the others are made."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save
from small_inputs import (
    class_folder,
    coco_folder,
    masked_folder,
    voc_folder,
    write_network,
    write_space_and_table,
)

from fuzz.cases import Case, taken
from mbv3.space import load_space

__all__ = ["IMAGE_FORMATS", "image_bytes", "state", "torch_bytes", "valid"]

NETWORKS = Path(__file__).resolve().parents[2] / "mbv3" / "spec" / "networks"
PRESETS = Path(__file__).resolve().parents[2] / "mbv3" / "space" / "presets"
IMAGE_FORMATS = ("png", "jpg", "bmp", "gif", "webp", "tiff", "ppm", "jp2")
_PIL = {"jpg": "JPEG", "jp2": "JPEG2000", "tiff": "TIFF"}


def image_bytes(pixels: NDArray[Any] | Image.Image, suffix: str, **how: Any) -> bytes:
    """A picture as a file of `suffix`."""
    out = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(out, _PIL.get(suffix, suffix.upper()), **how)
    return out.getvalue()


def torch_bytes(content: Any, *, old: bool = False) -> bytes:
    """What torch.save writes."""
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=not old)
    return out.getvalue()


@cache
def _made() -> dict[str, tuple[Case, ...]]:
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        space, table = write_space_and_table(root / "given")
        spec, weights = write_network(root / "given", load_space(space))
        cases: dict[str, tuple[Case, ...]] = {
            "spec": (Case("spec", {"input.yaml": spec.read_bytes()}),
                     *(Case("spec", {"input.yaml": p.read_bytes()}) for p in sorted(NETWORKS.glob("*.yaml"))[:6])),
            "space": (Case("space", {"input.yaml": space.read_bytes()}),
                      *(Case("space", {"input.yaml": p.read_bytes()}) for p in sorted(PRESETS.glob("*.yaml")))),
            "table": (Case("table", {"input.csv": table.read_bytes()}),),
            "annotations": tuple(_folder(make(root / kind / "data", 6).parent, "annotations", kind)
                                 for kind, make in (("coco", coco_folder), ("voc", voc_folder))),
            "images": (_pictures(_folder(class_folder(root / "images" / "data", 4).parent, "images")),),
            "masks": (_folder(masked_folder(root / "masks" / "data", 6).parent, "masks"),),
            "checkpoint": _checkpoints(spec.read_bytes(), weights),
        }  # fmt: skip
        return cases


def _folder(root: Path, kind: str, source: str = "") -> Case:
    return taken(root, kind, source=source)


def _pictures(case: Case) -> Case:
    """The class folders, with a picture in each format."""
    files = dict(case.files)
    for name, suffix in zip([n for n in sorted(files) if n.endswith(".png")], IMAGE_FORMATS, strict=False):
        content = files.pop(name)
        assert isinstance(content, bytes)
        files[f"{name[:-4]}.{suffix}"] = image_bytes(Image.open(io.BytesIO(content)).convert("RGB"), suffix)
    return Case(case.kind, files)


def _checkpoints(spec: bytes, weights: Path) -> tuple[Case, ...]:
    tensors = load_file(weights)
    nested = {"epoch": 3, "arch": "small", "state_dict": tensors, "best": np.float64(0.5), "args": {"lr": 0.1}}
    return tuple(
        Case("checkpoint", {"network.yaml": spec, name: content})
        for name, content in (
            ("input.safetensors", weights.read_bytes()), ("input.safetensors", save(tensors)),
            ("input.pth", torch_bytes(tensors)), ("input.pth", torch_bytes(tensors, old=True)),
            ("input.pth.tar", torch_bytes(nested)), ("input.pkl", pickle.dumps(tensors)),
        )
    )  # fmt: skip


def valid(kind: str) -> tuple[Case, ...]:
    """Inputs of a kind that every reader has to accept."""
    return _made()[kind]


def state() -> dict[str, torch.Tensor]:
    """The weights of the small network."""
    from safetensors.torch import load

    content = valid("checkpoint")[1].files["input.safetensors"]
    assert isinstance(content, bytes)
    return load(content)


def coco() -> dict[str, Any]:
    """The document of the small COCO folder."""
    content = valid("annotations")[0].files["data/annotations/instances_train.json"]
    assert isinstance(content, bytes)
    return dict(json.loads(content))
