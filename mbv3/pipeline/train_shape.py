"""The network that is trained: the asked resolution, strides and head."""

from __future__ import annotations

from dataclasses import replace

from mbv3.errors import BadInput
from mbv3.pipeline.train_options import TrainOptions
from mbv3.spec import ArchSpec, Dense, SSDLite, parse_resolution, with_head, with_output_stride
from mbv3.training import RECIPES

__all__ = ["AUGMENTS", "shaped", "smallest_map", "task_of"]

AUGMENTS = {
    "classify": ("none", "shift", "inception", "inception+trivial", "inception-mild", "inception-mild+trivial"),
    "segment": ("none", "scale"),
    "detect": ("none", "ssd"),
}
HEADS = {"segment": "lraspp-torchvision", "detect": "ssdlite"}


def task_of(spec: ArchSpec) -> str:
    if isinstance(spec.head, SSDLite):
        return "detect"
    return "segment" if isinstance(spec.head, Dense) else "classify"


def shaped(spec: ArchSpec, o: TrainOptions) -> ArchSpec:
    """The spec at the asked resolution, its first strides taken away, with a head for the task and its dropout."""
    if spec.in_channels != 3:
        raise BadInput(f"{spec.name} takes {spec.in_channels} channels; images are trained on with 3")
    if o.resolution is not None:
        spec = replace(spec, resolution=parse_resolution(o.resolution))
    if task_of(spec) == "classify" and o.task in HEADS:
        spec = with_head(spec, o.head or HEADS[o.task])
        if o.task == "detect" and o.output_stride is not None:
            raise BadInput("--output-stride is for --task segment; a detector takes its maps at strides 16 and 32")
        if o.task == "segment":  # Howard 2019, Table 7: the paper's systems end at stride 16
            spec = with_output_stride(spec, o.output_stride or 16)
    elif o.head is not None or o.output_stride is not None:
        raise BadInput(f"--head and --output-stride turn a classifier into a network for segment; {spec.name} is for "
                       f"{task_of(spec)}, asked for {o.task}")  # fmt: skip
    if task_of(spec) != o.task:
        raise BadInput(f"--task {o.task}: {spec.name} has a head for {task_of(spec)}; give that task, or "
                       "another network")  # fmt: skip
    augment = o.augment or RECIPES[o.recipe_name].augment
    if augment not in AUGMENTS[o.task]:
        raise BadInput(f"--augment {augment}: for --task {o.task} there are {', '.join(AUGMENTS[o.task])}; "
                       f"recipe {o.recipe_name} may be meant for another task")  # fmt: skip
    left = o.unstride
    if left and o.task != "classify":
        raise BadInput("--unstride is for classifiers; --output-stride sets the last map of a segmentation network")
    stem, rows = spec.stem, list(spec.rows)
    if left and stem.s > 1:
        stem, left = replace(stem, s=1), left - 1
    for i, row in enumerate(rows):
        if left and row.s > 1:
            rows[i], left = replace(row, s=1), left - 1
    if left:
        raise BadInput(f"--unstride {o.unstride}: {spec.name} has only {o.unstride - left} strides to take away")
    if o.dropout is not None:
        if isinstance(spec.head, SSDLite):
            raise BadInput("--dropout: a detector has none")
        spec = replace(spec, head=replace(spec.head, dropout=o.dropout))
    return replace(spec, stem=stem, rows=tuple(rows))


def smallest_map(spec: ArchSpec) -> tuple[int, int]:
    h, w = spec.resolution
    for _, row, _ in spec.convs():
        h, w = -(-h // row.s), -(-w // row.s)
    return h, w
