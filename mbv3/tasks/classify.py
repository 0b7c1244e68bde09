"""Class folders: images, their classes, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mbv3.data import (
    ImageSet,
    class_parts,
    find_class_folder,
    folder_notes,
    normalise,
    peek_class_folder,
    set_white,
    split_labels,
    stored_size,
)
from mbv3.errors import BadInput
from mbv3.events import Event, Note
from mbv3.nn import statistics
from mbv3.report import Panel
from mbv3.spec import ArchSpec, Classify, Head
from mbv3.tasks.pixels import fingerprint, stored
from mbv3.tasks.shape import smallest_map
from mbv3.tasks.task import Peek, Source, Task, TaskData, Work
from mbv3.training import Batches, ClassifyMetric, Metric, class_answers, classify_objective

__all__ = ["TASK"]

SHEET = 32  # images on a contact sheet

_Part = tuple[list[Path], NDArray[np.int64]]  # files and the index of their class


class _Classify(Task):
    name = "classify"
    metric = "top-1"
    recipe = "small-data"
    finetune = "finetune"
    augments = ("none", "shift", "inception", "inception+trivial", "inception-mild", "inception-mild+trivial")
    takes_hub = True
    refuses = MappingProxyType({"dice": "is for --task segment"})

    def owns(self, head: Head) -> bool:
        return isinstance(head, Classify)

    def work(self, head: Head) -> Work:
        return Work(
            task=self.name, finetune=self.finetune, outputs=head.classes, main_metric="top1", metric=self.metric,
            objective=classify_objective, answers=class_answers, taught=True,
        )  # fmt: skip

    def caveats(self, spec: ArchSpec) -> Iterator[str]:
        h, w = smallest_map(spec)
        if max(h, w) == 1:
            yield (
                f"at {spec.resolution[0]} px the network's last map is {h}x{w}: --unstride 1 or 2 removes its first "
                "strides, as is usual for small images"
            )

    def peek(self, source: Source) -> Peek:
        where = class_parts(source.path)
        classes, _, side = peek_class_folder(where["training"])
        tested = source.test is not None or "test" in where
        return Peek(outputs=classes, shape=(side, side), tested=tested)

    def load(self, spec: ArchSpec, source: Source) -> Generator[Event, None, TaskData]:
        """PATH/train/<class>/*, with PATH/val and PATH/test where they exist, or PATH/<class>/*.

        Without a validation folder a part of the training images is held out for the curve: a tenth, or a twentieth
        where there are test images.
        """
        classes, parts = _parts(source)
        yield from (Note("images", line, warning=True) for line in folder_notes(source.path, source.test))
        size = spec.resolution
        white = set_white([p for files, _ in parts.values() for p in files])
        sets: dict[str, ImageSet] = {}
        for name, (files, truth) in parts.items():
            wanted = size
            if name == "training" and source.augment.startswith("inception"):  # room to choose a part from
                wanted = (round(size[0] * 8 / 7), round(size[1] * 8 / 7))
            pixels, kept, sha = yield from stored(files, stored_size(files, wanted), source, name, white=white)
            sets[name] = ImageSet(pixels, truth[kept], classes, fingerprint(sha, truth[kept].tobytes(), *classes))
        gone = [classes[c] for c in np.flatnonzero(np.bincount(sets["training"].labels, minlength=len(classes)) == 0)]
        if gone:
            raise BadInput(f"{source.path}: no image of class(es) {', '.join(gone[:5])} can be decoded")

        def metric(data: Batches) -> Metric:
            assert isinstance(data, ImageSet)
            return ClassifyMetric(data.labels, len(classes))

        return TaskData(
            classes=classes, work=self.work(Classify(classes=len(classes))),
            train=sets["training"], validation=sets["validation"], test=sets.get("test"),
            metric=metric, panels=_panels,
            sha256=fingerprint(*(s.sha256 for s in sets.values())),
        )  # fmt: skip


def _parts(source: Source) -> tuple[tuple[str, ...], dict[str, _Part]]:
    """(classes, files of each part). Raises: BadInput."""
    where = class_parts(source.path)
    folder = where["training"]
    classes, files = find_class_folder(folder)
    labels = np.array([label for _, label in files], dtype=np.int64)
    parts: dict[str, _Part] = {"training": ([p for p, _ in files], labels)}
    test = source.test or where.get("test")
    if source.apart and test is None:
        rest, held = split_labels(labels, len(classes), 0.1, 5000, source.seed + 1)
        parts["test"] = [files[i][0] for i in held], labels[held]
        files, labels = [files[i] for i in rest], labels[rest]
        parts["training"] = [p for p, _ in files], labels
    if "validation" not in where:
        share, most = (0.05, 2500) if test is not None else (0.1, 5000)
        rest, held = split_labels(labels, len(classes), share, most, source.seed)
        parts = {
            name: ([files[i][0] for i in index], labels[index]) for name, index in
            (("training", rest), ("validation", held))
        }  # fmt: skip
    for name, place in (("validation", where.get("validation")), ("test", test)):
        if place is not None:
            found = find_class_folder(place, classes)[1]
            parts[name] = ([p for p, _ in found], np.array([label for _, label in found], dtype=np.int64))
    return classes, parts


def _panels(net: nn.Module, data: Batches, at: tuple[int, int]) -> list[Panel]:
    assert isinstance(data, ImageSet)
    index = np.random.default_rng(0).permutation(len(data))[:SHEET]
    pixels, _ = data.batch(index, at, "none", np.random.default_rng(0))
    with torch.inference_mode():
        x = normalise(pixels, at, next(net.parameters()).device, statistics(net))
        share = net(x).float().softmax(1).cpu().numpy()
    drawn = []
    for image, p, label in zip(pixels, share, data.labels[index], strict=True):
        answer = int(p.argmax())
        text = f"{data.classes[answer]} {100 * p[answer]:.0f} %"
        if answer != label:
            text += f"\n(is {data.classes[label]})"
        drawn.append(Panel(pixels=image, text=text, right=bool(answer == label)))
    return drawn


TASK = _Classify()
