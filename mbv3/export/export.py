"""A network with its weights as the files of another framework. Nothing is written here: files are values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from mbv3.errors import BadInput, DocumentError, Fault, plain, shown
from mbv3.export.int8 import Int8
from mbv3.export.mmpretrain import MMPRETRAIN
from mbv3.export.mmseg import MMSEG
from mbv3.export.names import checked, from_theirs, our_shapes, to_theirs
from mbv3.export.runtimes import litert_file, onnx_file
from mbv3.export.target import STEM, Target
from mbv3.export.timm import TIMM
from mbv3.export.torchvision import TORCHVISION
from mbv3.graph import Batch, portable
from mbv3.spec import MEAN, STD, ArchSpec, Classify

__all__ = [
    "FRAMEWORKS",
    "PRECISIONS",
    "RUNTIMES",
    "TARGETS",
    "Exported",
    "app_note",
    "app_properties",
    "export",
    "import_state",
]

RUNTIMES = ("onnx", "litert")
FRAMEWORKS: dict[str, Target] = {t.name: t for t in (TORCHVISION, TIMM, MMPRETRAIN, MMSEG)}
TARGETS = (*RUNTIMES, *FRAMEWORKS)
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True, slots=True)
class Exported:
    """File name to content, and what a reader should know."""

    files: dict[str, bytes]
    notes: tuple[str, ...] = ()


def export(
    spec: ArchSpec,
    state: Mapping[str, Tensor],
    to: str,
    *,
    precision: str = "fp32",
    images: Sequence[NDArray[np.float32]] = (),
    source: str = "weights",
    labels: Sequence[str] = (),
    batch: Batch = 1,
    opset: int | None = None,
    int8: Int8 | None = None,
) -> Exported:
    """`spec` with the weights `state` (our state-dict names) for the target `to`, one of TARGETS.

    `images`: (1, C, H, W) each, to calibrate int8 on. `int8`: the file that `choose_int8` made of `spec` instead
    of that; what it answers goes into the metadata, as JSON under the name mbv3.int8. `source` names the weights in
    a message. `labels`: names of the classes in order; with mean and deviation they go into the files of runtimes, as
    JSON under the name mbv3. `batch`: images at once of these files, or "dynamic"; `opset`: of the ONNX file.

    Raises:
        BadInput: an option that the target does not have, int8 among them; entries of `state` are missing, unknown or
            mis-shaped (all listed); labels of another number than the classes.
        DocumentError: the target cannot express the network; every such row is listed.
    """
    if to not in TARGETS:
        raise BadInput(f"--to: must be one of {', '.join(TARGETS)} (got {shown(to)})")
    if precision not in PRECISIONS:
        raise BadInput(f"--precision: must be one of {', '.join(PRECISIONS)} (got {shown(precision)})")
    if to in FRAMEWORKS:
        if precision != "fp32":
            raise BadInput(f"--to {to} --precision {precision}: only --to onnx has int8; leave --precision out")
        expressible(spec, FRAMEWORKS[to])
    if to in FRAMEWORKS and batch != 1:
        raise BadInput(f"--to {to} --batch {batch}: the network of a framework takes any batch; leave --batch out")
    if to != "onnx" and opset is not None:
        raise BadInput(f"--to {to} --opset {opset}: only ONNX files have an opset; leave --opset out")
    properties = app_properties(spec, labels)
    whole = checked(our_shapes(spec), state, source)
    if to == "onnx":
        notes: tuple[str, ...] = ()
        if precision == "int8" and not images and int8 is None:
            notes = (
                "the ranges of int8 activations were calibrated on one random image: give --data DIR for real ones",
            )
        if int8 is not None:
            properties["mbv3.int8"] = json.dumps(int8.as_dict())
            content = portable(int8.model, batch=batch, opset=opset, properties=properties)
            return Exported({f"{STEM}.onnx": content}, (int8.line(),))
        content, note = onnx_file(spec, whole, precision, images, batch, opset, properties)
        return Exported({f"{STEM}.onnx": content}, (*notes, *([note] if note else [])))
    if to == "litert":
        return Exported({f"{STEM}.tflite": litert_file(spec, whole, precision, batch, properties)})
    target = FRAMEWORKS[to]
    converted = to_theirs(spec, target.names(spec), whole)
    files = {name: text.encode() for name, text in target.source(spec).items()}
    # what a state dict does not say: read again by `read_any_weights`
    own = {} if (spec.mean, spec.std) == (MEAN, STD) else {"mean": spec.mean, "std": spec.std}
    about = {"format": "pt", "mbv3": json.dumps({"bn_eps": spec.bn_eps, **own})}
    files[f"{STEM}.safetensors"] = save({k: v.contiguous() for k, v in converted.items()}, metadata=about)
    return Exported(files, target.notes(spec))


def app_properties(spec: ArchSpec, labels: Sequence[str]) -> dict[str, str]:
    """What whoever runs a file must know: how pixels are normalised, and the classes in the order of the answers.

    Raises:
        BadInput: as many labels as the network has no classes.
    """
    classes = spec.head.classes
    if labels and len(labels) != classes and (len(labels) + 1 != classes or isinstance(spec.head, Classify)):
        raise BadInput(f"{len(labels)} labels for a network of {classes} classes: give the weights and the spec of one "
                       "training")  # fmt: skip
    about: dict[str, Any] = {
        "network": spec.name, "mean": spec.mean, "std": spec.std, "pixels": "RGB, 0 to 1", "labels": labels
    }  # fmt: skip
    lines = [" ".join(label.splitlines()) for label in labels]  # one a line, whatever it is called
    return {"mbv3": json.dumps(about, ensure_ascii=False), **({"labels": "\n".join(lines)} if lines else {})}


def app_note(spec: ArchSpec, labels: Sequence[str]) -> str:
    """`app_properties` as a line for people."""
    mean, std = (", ".join(f"{v:g}" for v in values) for values in (spec.mean, spec.std))
    some = ", ".join(plain(label) for label in labels[:5]) + (", ..." if labels[5:] else "")
    return (f"it takes RGB from 0 to 1, minus ({mean}), divided by ({std}); its {len(labels)} classes in order are "
            f"{some}; the file holds both")  # fmt: skip


def import_state(
    spec: ArchSpec, state: Mapping[str, Tensor], framework: str, source: str = "weights"
) -> dict[str, Tensor]:
    """Weights under the names of `framework` (torchvision, timm, ...) as ours: what `export` wrote comes back equal.

    Raises:
        BadInput: `state` is of another architecture; every missing, unknown and mis-shaped entry is listed.
        DocumentError: the framework cannot express `spec`.
    """
    target = FRAMEWORKS[framework]
    expressible(spec, target)
    return from_theirs(spec, target.names(spec), state, source)


def expressible(spec: ArchSpec, target: Target) -> None:
    """Raises: DocumentError: everything in `spec` that the target cannot express."""
    faults = list(target.faults(spec))
    if spec.padding != "both":
        rule = f"{target.name}'s networks are written with padding on both sides"
        faults.insert(0, Fault("padding", rule, spec.padding, "only onnx and litert have TensorFlow's"))
    if faults:
        raise DocumentError(f"{spec.name} cannot be expressed in {target.name}", faults, most=len(faults))
