"""`mbv3 export`: a network, its weights and images to calibrate int8 on, to files of another framework."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.data import Pixels, normalise
from mbv3.errors import BadInput
from mbv3.events import Event, Note
from mbv3.export import Int8, Weights, app_note, app_properties, choose_int8, export, read_any_weights
from mbv3.files import vacant, write_atomic, write_folder
from mbv3.graph import check_opset, network_model
from mbv3.nn import build
from mbv3.progress import drain
from mbv3.runs.declare import takes
from mbv3.runs.export_images import examples
from mbv3.runs.export_options import ExportOptions
from mbv3.spec import ArchSpec, count, load_spec
from mbv3.tasks import spread

__all__ = ["ExportResult", "calibration_images", "export_events", "export_to"]

INT8_IMAGES = 32  # for the ranges of activations
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite"}  # of targets that are one file


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written. `aux_params`: of the auxiliary head, which is not exported. `weights`: None where they are
    random. `int8`: what the int8 file answers on the images of --data beside fp32, and how fast."""

    spec: str
    to: str
    precision: str
    params: int
    aux_params: int
    weights: str | None
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    int8: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "spec": self.spec, "to": self.to, "precision": self.precision, "params": self.params,
            "aux_params": self.aux_params, "weights": self.weights, "files": [str(file) for file in self.files],
            "notes": list(self.notes), **({} if self.int8 is None else {"int8": self.int8}),
        }  # fmt: skip


def calibration_images(images: Pixels, spec: ArchSpec) -> list[NDArray[np.float32]]:
    """A few of `images` as a network takes them, (1, 3, H, W) each."""
    few = images[spread(images.shape[0], INT8_IMAGES)]
    return np.split(normalise(few, spec.resolution, by=(spec.mean, spec.std)).contiguous().numpy(), len(few))


def _int8(folder: str, spec: ArchSpec, weights: Weights) -> Generator[Event, None, tuple[Int8, tuple[str, ...]]]:
    """The int8 file by the images of a user's folder, and lines on what they could decide."""
    app_properties(spec, weights.labels)  # refused before the work
    sets, notes = examples(folder, spec, weights.labels)
    state = {name: value.numpy() for name, value in weights.state.items()}
    made = yield from choose_int8(network_model(spec, state), *sets)
    return made, notes


@takes(ExportOptions)
def export_to(
    spec: ArchSpec | str,
    to: str,
    *,
    out: Path | str | None = None,
    **options: Any,
) -> ExportResult:
    """Write `spec`, a network or the name or YAML file of one, for the target `to`.

    `out`: a new or empty folder, or a new file where its suffix is the target's (default SPEC.onnx, SPEC.tflite or
    SPEC-TO).

    Raises:
        BadInput: the weights, the images or the place cannot be used, or the target cannot express the network. Then
            nothing is written.
    """
    return drain(export_events(spec, to, out=out, **options))


@takes(ExportOptions)
def export_events(
    spec: ArchSpec | str,
    to: str,
    *,
    out: Path | str | None = None,
    **options: Any,
) -> Generator[Event, None, ExportResult]:
    """`export_to` for those who show its notes themselves: yields events, returns the result."""
    o = ExportOptions.of({"to": to, **options})
    spec = load_spec(spec) if isinstance(spec, str) else spec
    if o.data and spec.in_channels != 3:
        raise BadInput(
            f"--data {o.data}: images have 3 channels, and this network takes {spec.in_channels}; leave --data out, "
            "and the ranges are calibrated on a random image"
        )
    suffix = SUFFIXES.get(o.to, "")
    plain = re.sub(r"[^\w.@+-]", "_", spec.name)[:100] + (".int8" if o.precision == "int8" else "")
    place = Path(out or plain + (suffix or f"-{o.to}"))
    if place.suffix != suffix and place.suffix in SUFFIXES.values():
        raise BadInput(f"--to {o.to} --out {place}: is the name of a file of another target; give "
                       f"{f'a {suffix} file or a new folder' if suffix else 'a new folder'}")  # fmt: skip
    vacant(place)
    if o.weights:
        weights = read_any_weights(Path(o.weights), spec)
    else:
        weights = Weights(build(spec, o.seed).state_dict(), "mbv3", spec)
    spec = weights.spec
    int8: Int8 | None = None
    seen: tuple[str, ...] = ()
    if o.data:
        check_opset(o.opset, int8=True)
        int8, seen = yield from _int8(o.data, spec, weights)
    made = export(
        spec, weights.state, o.to, precision=o.precision, source=o.weights or "weights", labels=weights.labels,
        batch=o.images_at_once, opset=o.opset, int8=int8,
    )  # fmt: skip
    if suffix and place.suffix == suffix:
        [content] = made.files.values()
        write_atomic(place, content)
        files = [place]
    else:
        write_folder(place, made.files)
        files = [place / file for file in made.files]
    random = () if o.weights else (f"weights are random (seed {o.seed}): give --weights FILE for trained ones",)
    known = (app_note(spec, weights.labels),) if suffix and weights.labels else ()
    counts = count(spec)
    result = ExportResult(
        spec=spec.name, to=o.to, precision=o.precision, params=counts.params, aux_params=counts.aux_params,
        weights=o.weights, files=tuple(files), notes=(*random, *weights.notes, *seen, *made.notes, *known),
        int8=None if int8 is None else int8.as_dict(),
    )  # fmt: skip
    for note in result.notes:
        yield Note("export", note, warning=True)
    return result
