"""Images with boxes: SSDLite, COCO's mean average precision."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from mbv3.data import Annotated, BoxSet, find_boxes, normalise, set_white, split_boxes
from mbv3.errors import plain
from mbv3.events import Event, Note
from mbv3.nn import statistics
from mbv3.report import Box, Panel
from mbv3.spec import ArchSpec, Head, SSDLite, head_names, with_head
from mbv3.tasks.draws import apart, spread, unjudged
from mbv3.tasks.pixels import fingerprint, input_of, stored
from mbv3.tasks.task import Peek, Source, Task, TaskData, Work
from mbv3.training import Batches, DetectMetric, Fit, Metric, Objective, detect_answers, detect_objective, objects

__all__ = ["TASK"]

SHEET = 12  # images on a contact sheet
SURE = 0.4  # least score of a box that is drawn
SMALL = 32  # px of a side: COCO calls objects of less than 32 x 32 small
NEARLY = 0.95  # of a side: as good as equal


class _Detect(Task):
    name = "detect"
    metric = "mAP@.5"
    recipe = "small-detect"
    finetune = "finetune-detect"
    augments = ("none", "ssd")
    head = "ssdlite"
    own_stride = True
    search_heads = tuple(n for n in head_names() if n.startswith("ssdlite"))
    refuses = MappingProxyType(
        {"test": "is for class folders; a data set with boxes has its own test part",
         "unstride": "is for classifiers; a detector's maps have strides 16 and 32",
         "output_stride": "is for --task segment; a detector's maps have strides 16 and 32",
         "label_smoothing": "cannot be used: SSD's loss has none",
         "dice": "is for --task segment",
         "dropout": "cannot be used: a detector has none",
         "teacher": "is for --task classify and segment"}
    )  # fmt: skip

    def owns(self, head: Head) -> bool:
        return isinstance(head, SSDLite)

    def work(self, head: Head) -> Work:
        assert isinstance(head, SSDLite)
        return Work(
            task=self.name, finetune=self.finetune, outputs=head.classes, main_metric="map50", metric=self.metric,
            objective=partial(_objective, head), answers=partial(detect_answers, head),
        )  # fmt: skip

    def peek(self, source: Source) -> Peek:
        found = find_boxes(source.path, skip_broken=source.skip_broken)
        training, tested = _parts(source, dict(found))["training"], "test" in found
        h, w = (int(v) for v in np.median(training.sizes, axis=0))
        return Peek(outputs=len(training.classes) + 1, shape=(h, w), tested=tested)

    def usual_input(self, source: Source) -> tuple[int, int]:
        part = _parts(source, find_boxes(source.path, skip_broken=source.skip_broken))["training"]
        return _input(part, _sides(part))

    def load(self, spec: ArchSpec, source: Source) -> Generator[Event, None, TaskData]:
        """Images stretched to the input size, boxes as shares of it; output 0 of the network is the background."""
        parts = _parts(source, find_boxes(source.path, skip_broken=source.skip_broken))
        classes = parts["training"].classes
        for line in parts["training"].mended:
            yield Note("images", line, warning=True)
        for name, part in parts.items():
            if name != "training" and not any(len(b) for b in part.boxes):
                yield Note("images", f"its {name} part has no box: a score of 0 % on it says nothing", warning=True)
        if source.apart:
            yield from unjudged({n: part.seen for n, part in parts.items()}, "box")
        else:  # a search chooses the resolution itself
            yield from _small(parts["training"], spec.resolution)
        white = set_white([p for part in parts.values() for p in part.files])
        sets: dict[str, BoxSet] = {}
        for name, part in parts.items():
            pixels, kept, sha = yield from stored(
                list(part.files), spec.resolution, source, name, fit="stretch", white=white
            )
            boxes = tuple(part.boxes[i] for i in kept)
            truth = (a.tobytes() for b in boxes for a in (b.edges, b.labels, b.kinds))
            sets[name] = BoxSet(pixels, boxes, part.sizes[kept], classes, fingerprint(sha, *truth, *classes))
        head = with_head(spec, spec.head, len(classes) + 1).head
        assert isinstance(head, SSDLite)

        def metric(data: Batches) -> Metric:
            assert isinstance(data, BoxSet)
            return DetectMetric(data, head)

        def panels(net: nn.Module, data: Batches, at: tuple[int, int]) -> list[Panel]:
            assert isinstance(data, BoxSet)
            return _panels(net, data, at, head)

        return TaskData(
            classes=classes, work=self.work(head),
            train=sets["training"], validation=sets["validation"], test=sets.get("test"),
            metric=metric, panels=panels,
            sha256=fingerprint(*(s.sha256 for s in sets.values())),
        )  # fmt: skip


def _objective(head: SSDLite, recipe: Fit) -> Objective:
    return detect_objective(head)


Sides = Mapping[int, tuple[float, float]]
"""The median side of the boxes of each class: as a share of the image's, and in its pixels."""


def _sides(part: Annotated) -> Sides:
    labels = np.concatenate([b.labels for b in part.boxes])
    share = np.concatenate([np.sqrt((b.edges[:, 2:] - b.edges[:, :2]).prod(axis=1)) for b in part.boxes])
    own = share * np.repeat(np.sqrt(part.sizes.prod(axis=1)), [len(b) for b in part.boxes])
    return {c: (float(np.median(share[labels == c])), float(np.median(own[labels == c]))) for c in np.unique(labels)}


def _input(part: Annotated, sides: Sides) -> tuple[int, int]:
    """(height, width) at which half of the boxes of every class are not small, or as large as the images show them. On
    BCCD, whose platelets are small at 320x320, 384x512 brings six points (docs/train-detect.md)."""
    h, w = (int(v) for v in np.median(part.sizes, axis=0))
    root = max(min(SMALL, own) / share for share, own in sides.values())
    return input_of((h, w), root / math.sqrt(h * w))


def _small(part: Annotated, at: tuple[int, int]) -> Generator[Event, None, None]:
    """Says which classes are mostly small `at` the network's input, where a larger one would do."""
    sides, root = _sides(part), math.sqrt(at[0] * at[1])
    small = {part.classes[c]: share * root for c, (share, _) in sides.items() if share * root < NEARLY * SMALL}
    h, w = _input(part, sides)
    if small and NEARLY * math.sqrt(h * w) > root:
        yield Note(
            "images",
            f"boxes are small at {at[0]}x{at[1]} (median side in pixels: "
            f"{', '.join(f'{plain(name)} {side:.0f}' for name, side in small.items())}; COCO calls those under {SMALL} "
            f"small): --resolution {h}x{w} would show them larger, and take longer",
        )


def _parts(source: Source, parts: dict[str, Annotated]) -> dict[str, Annotated]:
    """The data set's own parts; of others a tenth of the training images is held out each. Raises: BadInput."""
    absent = [name for name in ("validation", "test") if name not in parts]
    if source.apart and absent:
        whole = parts["training"]
        rest, *held = apart(whole.seen, len(absent), source.seed, source.path)
        parts |= {name: whole.take(index) for name, index in zip(absent, held, strict=True)}
        parts["training"] = whole.take(rest)
    if "validation" not in parts and "test" in parts:
        parts["validation"] = parts["test"]
    if "validation" not in parts:
        whole = parts["training"]
        parts["training"], parts["validation"] = split_boxes(whole, source.seed, source.path)
    return parts


def _panels(net: nn.Module, data: BoxSet, at: tuple[int, int], head: SSDLite) -> list[Panel]:
    index = spread(len(data), SHEET)
    pixels, _ = data.batch(index, at, "none", np.random.default_rng(0))
    with torch.inference_mode():
        found = objects(net(normalise(pixels, at, next(net.parameters()).device, statistics(net))), head)
    scale = np.array([at[1], at[0], at[1], at[0]])
    drawn = []
    for image, answer, i in zip(pixels, found, index, strict=True):
        boxes = [Box(edges=tuple(e), text="", truth=True) for e in (data.boxes[i].edges * scale).tolist()]
        for edges, score, label in zip(answer.boxes.numpy() * scale, answer.scores, answer.labels, strict=True):
            if float(score) >= SURE:
                text = f"{data.classes[int(label) - 1]} {100 * float(score):.0f}"
                boxes.append(Box(edges=tuple(edges.tolist()), text=text))
        drawn.append(Panel(pixels=image, text=f"{len(data.boxes[i])} objects", boxes=tuple(boxes)))
    return drawn


TASK = _Detect()
