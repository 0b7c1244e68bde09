"""The network that is trained: its resolution, its first strides, the task's head and its dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mbv3.errors import BadInput
from mbv3.spec import ArchSpec, Classify, SSDLite, parse_resolution
from mbv3.tasks.registry import task_of
from mbv3.tasks.task import Task

__all__ = ["shaped", "smallest_map", "strides_removed", "without_strides"]


def shaped(
    spec: ArchSpec,
    task: Task,
    *,
    resolution: str | None = None,
    head: str | None = None,
    output_stride: int | None = None,
    unstride: int = 0,
    dropout: float | None = None,
) -> ArchSpec:
    """`spec` for `task`: at `resolution` (`R` or `HxW`), a classifier under `head` at `output_stride`, its first
    `unstride` strides set to 1.

    Raises:
        BadInput: the network cannot be used for the task.
    """
    if spec.in_channels != 3:
        raise BadInput(f"{spec.name} takes {spec.in_channels} channels; training images have 3")
    if resolution is not None:
        spec = replace(spec, resolution=parse_resolution(resolution))
    if isinstance(spec.head, Classify) and task.head:
        spec = task.headed(spec, head, output_stride)
    elif head is not None or output_stride is not None:
        raise BadInput(
            f"--head and --output-stride give a classifier the head of another task; {spec.name} is a network for "
            f"--task {task_of(spec).name}, and --task {task.name} was given"
        )
    if not task.owns(spec.head):
        raise BadInput(f"--task {task.name}: {spec.name} has a head for {task_of(spec).name}; give that task, or "
                       "another network")  # fmt: skip
    spec = without_strides(spec, unstride)
    if dropout is not None and not isinstance(spec.head, SSDLite):
        spec = replace(spec, head=replace(spec.head, dropout=dropout))
    return spec


def without_strides(spec: ArchSpec, n: int) -> ArchSpec:
    """The first `n` strides of `spec` set to 1, as is usual for small images. Raises: BadInput: it has fewer."""
    (stem, *rows), left = strides_removed([spec.stem, *spec.rows], n)
    if left:
        raise BadInput(f"--unstride {n}: {spec.name} has only {n - left} strides to remove")
    return replace(spec, stem=stem, rows=tuple(rows))


def strides_removed(parts: Sequence[Any], n: int) -> tuple[list[Any], int]:
    """Rows of a network or blocks of a space, the stem before them, with their first `n` strides set to 1; and how many
    of the `n` there were not."""
    found = []
    for part in parts:
        remove = n > 0 and part.s > 1
        found.append(replace(part, s=1) if remove else part)
        n -= remove
    return found, n


def smallest_map(spec: ArchSpec) -> tuple[int, int]:
    """(height, width) of the backbone's last map."""
    h, w = spec.resolution
    for _, row, _ in spec.convs():
        h, w = -(-h // row.s), -(-w // row.s)
    return h, w
