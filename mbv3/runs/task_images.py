"""The images of a run's task: what is there before anything is made, and their three sets."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from mbv3.errors import BadInput
from mbv3.events import Event
from mbv3.record import SearchRecord
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir
from mbv3.spec import ArchSpec, Classify, with_head
from mbv3.stages import Photos, peek_photos, read_photos, task_photos
from mbv3.tasks import TASKS, Peek, Source, shaped, task_of

__all__ = ["LEAST_SIDE", "dressed", "input_size", "looked_at", "read_images"]

LEAST_SIDE = 32  # pixels of an image whose places are told apart
FINE = 8  # pixels between two input sizes


def looked_at(o: Options) -> Peek:
    """What --data has for --task. Raises: BadInput: what cannot be used."""
    assert o.data is not None
    task, source = TASKS[o.task], _source(o)
    if o.task == "classify":
        peek_photos(Path(o.data), source.test)
        return task.peek(source)
    peek = task.peek(source)
    if min(peek.shape) < LEAST_SIDE:
        h, w = peek.shape
        raise BadInput(f"{o.data}: its images are too small for --task {o.task}: the typical one is {h}x{w} pixels, "
                       f"and {LEAST_SIDE} are needed; give larger ones")  # fmt: skip
    return peek


def dressed(o: Options, spec: ArchSpec, peek: Peek) -> ArchSpec:
    """`spec` as a network of --task for the images: a classifier under the head of the task, or one that has such a
    head, with their classes, and their shape where its answer has one. Raises: BadInput."""
    if o.task == "classify":
        if not isinstance(spec.head, Classify):
            raise BadInput(f"--from {spec.name}: is no classifier but a network for --task {task_of(spec).name}; "
                           "give that task")  # fmt: skip
        return with_head(spec, spec.head, peek.outputs)
    made = shaped(spec, TASKS[o.task], head=o.head, output_stride=o.output_stride)
    return replace(with_head(made, made.head, peek.outputs), resolution=input_size(o, peek))


def input_size(o: Options, peek: Peek) -> tuple[int, int]:
    """(height, width) of the input of networks under a head: as asked for, else the images' own."""
    if o.asked_resolution is not None:
        return o.asked_resolution
    h, w = (max(FINE, FINE * round(v / FINE)) for v in peek.shape)
    return h, w


def read_images(
    o: Options, run: RunDir[SearchRecord], spec: ArchSpec | None, size: tuple[int, int]
) -> Generator[Event, None, Photos]:
    """The images in three sets at `size` (height, width), or photos at their own where that is smaller. `spec`: a
    network for them, under the head of --task. Raises: BadInput."""
    assert o.data is not None
    source = _source(o, run.path)
    if o.task == "classify":
        photos = yield from read_photos(source.path, size, test=source.test, seed=o.seed, keep=run)
    else:
        task = TASKS[o.task]
        assert spec is not None
        photos = yield from task_photos(task, replace(spec, resolution=size), source, task.peek(source))
    run.same_images(photos.sha256, o.data)
    return photos


def _source(o: Options, store: Path | None = None) -> Source:
    assert o.data is not None
    test = Path(o.test) if o.test else None
    return Source(path=Path(o.data), test=test, seed=o.seed, store=store, apart=True, skip_broken=None)
