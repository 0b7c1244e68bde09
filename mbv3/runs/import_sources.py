"""What `mbv3 import` reads: a file or a library's network as steps, with what is known about its input."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mbv3.errors import BadInput, plain
from mbv3.export import library_network, read_module
from mbv3.graph import Found, answers, read_onnx, read_tflite
from mbv3.nn import Statistics
from mbv3.runs.import_options import ImportOptions
from mbv3.spec import MEAN, STD, parse_resolution

__all__ = ["Original", "file_source", "library_source", "resolution"]

MOST_BYTES = 1 << 30
_SIDES = {"uint8": 0, "int8": -128}  # the code of a black pixel


@dataclass(frozen=True, slots=True)
class Original:
    """A network to be imported: its steps, what its own input is normalised by, and what runs it."""

    found: Found
    by: Statistics
    run: str
    source: str
    content: bytes = b""
    net: nn.Module | None = None
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def answers(self, images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """(images, classes) of (1, C, H, W) each, normalised by `by`."""
        if self.net is None:
            return answers(self.content, self.found, images, self.source)
        with torch.inference_mode():
            return np.concatenate([self.net(torch.from_numpy(x)).float().numpy() for x in images])


def resolution(o: ImportOptions) -> tuple[int, int] | None:
    return None if o.resolution is None else parse_resolution(o.resolution)


def library_source(text: str, o: ImportOptions) -> Original:
    library, _, name = text.partition(":")
    if o.statistics is not None:
        raise BadInput(f"--mean, --std: {library} knows what its weights take; leave them out")
    got = library_network(library, name, weights=not o.spec_only)
    found = read_module(got.net, resolution(o) or got.resolution, text)
    notes = (f"{text}: weights {got.tag}",) if got.tag else ()
    return Original(found, (got.mean, got.std), "torch", text, net=got.net, labels=got.labels, notes=notes)


def file_source(path: Path, o: ImportOptions) -> Original:
    content = _content(path)
    if o.spec_only:
        raise BadInput("--spec-only: is for timm: and torchvision: names; a file has its weights")
    if content[4:8] == b"TFL3":
        found, run = read_tflite(content, str(path)), "LiteRT"
        if o.resolution is not None:
            raise BadInput(
                f"--resolution {o.resolution}: a TFLite file has its own; resize with mbv3 train --resolution"
            )
    else:
        found, run = read_onnx(content, str(path), resolution(o)), "ONNX Runtime"
    by, note = _own_statistics(found, o.statistics, run)
    return Original(found, by, run, str(path), content, labels=_labels(found, content), notes=(*note, *found.notes))


_OTHERS = {
    b"\x89HDF": "is an HDF5 file of Keras; convert it with TensorFlow's TFLiteConverter, and import the .tflite",
    b"PK\x03\x04": "is a zip file, as torch.save and Keras write it, and not a network in operators; weights of a "
    "known network are taken with --init",
    b"version https://git-lfs": "is a pointer of Git LFS, not the network; run: git lfs pull",
}


def _content(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; name the .tflite or .onnx file in it")
        if not path.is_file():
            raise BadInput(f"{path}: no such file; give a .tflite or .onnx file, or timm:NAME or torchvision:NAME")
        if path.stat().st_size > MOST_BYTES:
            raise BadInput(f"{path}: is larger than 1 GB, which no network of MobileNet kind is")
        content = path.read_bytes()
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror or e})") from None
    except ValueError:  # a NUL byte
        raise BadInput(f"{plain(str(path))}: this cannot be the name of a file") from None
    for start, what in _OTHERS.items():
        if content.startswith(start):
            raise BadInput(f"{path}: {what}")
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        raise BadInput(f"{path}: is a safetensors file: weights and no network; give it to --init or --weights")
    return content


def _own_statistics(found: Found, given: Statistics | None, run: str) -> tuple[Statistics, tuple[str, ...]]:
    """(mean and deviation of RGB from 0 to 1 that the file's input stands for, a line where that is a guess)."""
    if given is not None:
        return given, ()
    try:
        about = json.loads(found.texts["mbv3"])
        mean, std = (tuple(float(v) for v in about[key]) for key in ("mean", "std"))
        if len(mean) == len(std) == 3 and min(std) > 0:
            return ((mean[0], mean[1], mean[2]), (std[0], std[1], std[2])), ()
    except (KeyError, ValueError, TypeError):
        pass
    if found.codes is not None and found.codes[2] in _SIDES:  # bytes of pixels, moved for int8
        step, zero, kind = found.codes
        mean_, std_ = (zero - _SIDES[kind]) / 255, 1 / (255 * step)
        return ((mean_,) * 3, (std_,) * 3), ()
    scale, shift, here = np.ones(1), np.zeros(1), found.input
    for s in found.steps:  # what rescales the image before the first convolution
        if s.kind != "affine" or s.inputs != (here,) or s.scale is None or s.shift is None:
            break
        scale, shift, here = scale * s.scale, shift * s.scale + s.shift, s.output
    if here != found.input:
        whole = float(scale.max()) < 0.1  # a deviation of 10 and more is one of bytes
        return ((0.0,) * 3, (1 / 255 if whole else 1.0,) * 3), (
            f"its input is taken to be RGB from 0 to {255 if whole else 1}, for it is rescaled inside; other numbers "
            "with --mean and --std",)  # fmt: skip
    if run == "LiteRT":
        return ((0.5,) * 3, (0.5,) * 3), (
            "the file does not say what numbers its input takes: RGB from -1 to 1 is assumed, as Keras' MobileNets "
            "take it; others with --mean and --std",)  # fmt: skip
    return (MEAN, STD), ("the file does not say what numbers its input takes: ImageNet's mean and deviation are "
                         "assumed; others with --mean and --std",)  # fmt: skip


def _labels(found: Found, content: bytes) -> tuple[str, ...]:
    """Class names: in the properties of a file that we wrote, or in the list that TFLite packs behind a model."""
    try:
        names = json.loads(found.texts["mbv3"])["labels"]
        if names:
            return tuple(map(str, names))
    except (KeyError, ValueError, TypeError):
        pass
    classes = found.shapes[found.output][0]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            for info in packed.infolist():
                if info.filename.endswith(".txt") and info.file_size < 1 << 20:
                    lines = packed.read(info).decode("utf-8", "replace").splitlines()
                    if len(lines) == classes:
                        return tuple(lines)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, OSError):
        pass
    return ()
