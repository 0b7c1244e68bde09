"""`mbv3 export`: a network, its weights and images to calibrate on, read and handed to the export room."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.data import Pixels, decode_all, find_images, normalise
from mbv3.errors import BadInput
from mbv3.export import export
from mbv3.files import vacant, write_atomic, write_folder
from mbv3.nn import build
from mbv3.spec import ArchSpec, Classify, count
from mbv3.tasks.job import spread
from mbv3.training import read_weights

__all__ = ["calibration_images", "export_network"]

INT8_IMAGES = 32  # that the ranges of activations are calibrated on
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite"}  # of targets that are one file


def calibration_images(images: Pixels, resolution: tuple[int, int]) -> list[NDArray[np.float32]]:
    """A few of `images` as a network takes them, (1, 3, H, W) each."""
    few = images[spread(images.shape[0], INT8_IMAGES)]
    return np.split(normalise(few, resolution).contiguous().numpy(), len(few))


def _images(folder: str, spec: ArchSpec) -> list[NDArray[np.float32]]:
    """`calibration_images` of a folder of the user's, whatever its order, framed as training does for the task."""
    files = find_images(Path(folder))
    few = [files[i] for i in spread(len(files), INT8_IMAGES)]
    decoded = decode_all(few, spec.resolution, folder, "middle" if isinstance(spec.head, Classify) else "stretch")
    return calibration_images(decoded.pixels, spec.resolution)


def export_network(
    spec: ArchSpec,
    to: str,
    *,
    weights: str | None = None,
    out: str | None = None,
    precision: str = "fp32",
    data: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write `spec` for the target `to`; what was written, ready for JSON.

    `out`: a new or empty folder, or a new file where its suffix is the target's. `data`: a folder of images, at any
    depth, that calibrate int8.

    Raises:
        BadInput: the weights, the images or the place cannot be used, or the target cannot express the network. Then
            nothing is written.
    """
    if data and precision != "int8":
        raise BadInput("--data calibrates int8: add --precision int8, or leave --data out")
    if data and spec.in_channels != 3:
        raise BadInput(
            f"--data: images have 3 channels, and this network takes {spec.in_channels}; leave --data out, and ranges "
            "are calibrated on a random image"
        )
    suffix = SUFFIXES.get(to, "")
    plain = re.sub(r"[^\w.@+-]", "_", spec.name)[:100] + (".int8" if precision == "int8" else "")
    place = Path(out or plain + (suffix or f"-{to}"))
    vacant(place)
    state = read_weights(Path(weights)) if weights else build(spec, seed).state_dict()
    images: list[NDArray[np.float32]] = []
    if data:
        images = _images(data, spec)
    made = export(spec, state, to, precision=precision, images=images, source=weights or "weights")
    if suffix and place.suffix == suffix:
        [content] = made.files.values()
        write_atomic(place, content)
        files = [place]
    else:
        write_folder(place, made.files)
        files = [place / file for file in made.files]
    notes = list(made.notes)
    if not weights:
        notes.insert(0, f"weights are random (seed {seed}): give --weights FILE for trained ones")
    counts = count(spec)
    return {
        "spec": spec.name,
        "to": to,
        "precision": precision,
        "params": counts.params,
        "aux_params": counts.aux_params,
        "weights": weights,
        "files": [str(file) for file in files],
        "notes": notes,
    }
