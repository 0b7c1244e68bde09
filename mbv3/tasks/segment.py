"""Images with a mask each: one class a pixel, mean IoU."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mbv3.data import IGNORED, MaskFiles, MaskSet, class_parts, find_masks, normalise, read_class_names, set_white
from mbv3.errors import BadInput
from mbv3.events import Event, Note
from mbv3.nn import statistics
from mbv3.report import Panel
from mbv3.spec import ArchSpec, Dense, Head, SSDLite, head_names, with_head, with_output_stride
from mbv3.tasks.draws import apart, spread, tenth_out, unjudged
from mbv3.tasks.pixels import fingerprint, input_of, stored, typical_shape
from mbv3.tasks.task import Peek, Source, Task, TaskData, Work
from mbv3.training import Batches, Metric, SegmentMetric, segment_answers, segment_objective

__all__ = ["TASK"]

SHEET = 12  # images on a contact sheet
STRIDE = 16  # of the last map: Howard 2019, Table 7


class _Segment(Task):
    name = "segment"
    metric = "mean IoU"
    recipe = "small-segment"
    finetune = "finetune-segment"
    augments = ("none", "scale")
    # torchvision's LR-ASPP pools the whole map, which suits any resolution; the paper's 49x49 window is for 512x1024
    head = "lraspp-torchvision"
    refuses = MappingProxyType(
        {"test": "is for class folders; a data set with masks has its own test part",
         "unstride": "is for classifiers; --output-stride sets the last map of a segmentation network"}
    )  # fmt: skip
    search_heads = tuple(n for n in head_names() if n != "classify" and not n.startswith("ssdlite"))
    search_classes = 19  # Cityscapes
    search_resolution = (512, 512)

    def owns(self, head: Head) -> bool:
        return isinstance(head, Dense) and not isinstance(head, SSDLite)

    def work(self, head: Head) -> Work:
        return Work(
            task=self.name, finetune=self.finetune, outputs=head.classes, main_metric="miou", metric=self.metric,
            objective=segment_objective, answers=segment_answers,
        )  # fmt: skip

    def headed(self, spec: ArchSpec, head: str | None = None, output_stride: int | None = None) -> ArchSpec:
        return with_output_stride(with_head(spec, head or self.head), output_stride or STRIDE)

    def peek(self, source: Source) -> Peek:
        parts = _parts(source)
        classes, _ = _classes(source, parts)
        shape, tested = typical_shape(parts["training"].images), "test" in class_parts(source.path)
        return Peek(outputs=len(classes), shape=shape, tested=tested)

    def usual_input(self, source: Source) -> tuple[int, int]:
        return input_of(typical_shape(_parts(source)["training"].images))

    def load(self, spec: ArchSpec, source: Source) -> Generator[Event, None, TaskData]:
        """PATH/train, PATH/val and PATH/test, each with images and masks, or PATH itself with a tenth held out.

        Masks are kept at the input size and scored at their own.
        """
        parts = _parts(source)
        classes, absent = _classes(source, parts)
        if absent:
            yield Note("images", f"no training mask holds class(es) {', '.join(absent)}", warning=True)
        if source.apart:
            yield from unjudged({n: part.names(classes) for n, part in parts.items()}, "mask")
        white = set_white([p for files in parts.values() for p in files.images])
        sets: dict[str, MaskSet] = {}
        for name, files in parts.items():
            yield from _caveats(name, files)
            pixels, kept, sha = yield from stored(
                list(files.images), spec.resolution, source, name, fit="stretch", white=white
            )
            used = tuple(files.masks[i] for i in kept)
            masks, _, sha_masks = yield from stored(
                list(used), spec.resolution, source, f"{name}-masks", f"{name} mask", "mask"
            )
            sets[name] = MaskSet(pixels, masks, used, classes, fingerprint(sha, sha_masks, *classes))

        def metric(data: Batches) -> Metric:
            assert isinstance(data, MaskSet)
            return SegmentMetric(data)

        return TaskData(
            classes=classes, work=self.work(with_head(spec, spec.head, len(classes)).head),
            train=sets["training"], validation=sets["validation"], test=sets.get("test"),
            metric=metric, panels=_panels,
            sha256=fingerprint(*(s.sha256 for s in sets.values())),
        )  # fmt: skip


def _parts(source: Source) -> dict[str, MaskFiles]:
    """Files of each part, the training's first. Raises: BadInput."""
    root, where = source.path, class_parts(source.path)
    classes = read_class_names(root)
    whole = where["training"] == root
    order = ("training", "test", "validation")  # in which the fingerprint of a data set takes them
    parts = {
        n: find_masks(where[n], len(classes) or None, skip_broken=source.skip_broken)
        for n in order if n in where and not (whole and n != "training")
    }  # fmt: skip
    if source.apart:
        return _apart(source, parts, classes)
    if whole:
        rest, held = tenth_out(len(parts["training"].images), source.seed, root)
        faults = parts["training"].faults
        return {"training": parts["training"].take(rest, faults), "validation": parts["training"].take(held)}
    if "validation" not in parts:
        if "test" not in parts:
            raise BadInput(f"{root}: has train, but neither val nor test to score on")
        parts["validation"] = parts["test"]
    return parts


def _apart(source: Source, parts: dict[str, MaskFiles], classes: tuple[str, ...]) -> dict[str, MaskFiles]:
    """The parts with those that are absent held out of the training images. Raises: BadInput."""
    absent = [name for name in ("validation", "test") if name not in parts]
    if not absent:
        return parts
    every = parts["training"]
    rest, *held = apart(every.names(classes), len(absent), source.seed, source.path)
    parts |= {name: every.take(index) for name, index in zip(absent, held, strict=True)}
    return {**parts, "training": every.take(rest, every.faults)}


def _classes(source: Source, parts: Mapping[str, MaskFiles]) -> tuple[tuple[str, ...], list[str]]:
    """(classes, those that no training mask holds). Raises: BadInput: nothing could be learned from the masks."""
    names = read_class_names(source.path)
    seen = {name: frozenset[int]().union(*part.seen) for name, part in parts.items()}
    learned = sorted(seen["training"] - {IGNORED})
    if len(learned) < 2:
        # 0 and 255 is how most programs write a mask of two classes, and nothing would be learned from it
        beside = f" beside {IGNORED}, which is ignored: write the second class as 1"
        cure = beside if IGNORED in seen["training"] else ""
        raise BadInput(
            f"{source.path}: its training masks hold only class {', '.join(map(str, learned)) or 'none'}{cure}; at "
            "least two classes are needed"
        )
    if not names and learned[-1] >= 2 * len(learned):
        raise BadInput(
            f"{source.path}: its masks hold the class indices {', '.join(map(str, learned[:5]))}, ... {learned[-1]}; "
            f"number the classes 0, 1, 2, ..., or name all of them, one a line, in {source.path / 'classes.txt'}"
        )
    classes = names or tuple(str(i) for i in range(1 + max(i for s in seen.values() for i in s - {IGNORED})))
    return classes, [name for i, name in enumerate(classes) if i not in seen["training"]]


def _caveats(name: str, files: MaskFiles) -> Iterator[Event]:
    if files.faults:
        text = f"{len(files.faults)} faulty {name} images or masks are left out, for instance {files.faults[0]}"
        yield Note("images", text, warning=True)
    if any(files.turned):
        text = (
            f"{sum(files.turned)} {name} images are turned upright, for instance "
            f"{files.images[files.turned.index(True)]}; their masks are assumed to match the upright image"
        )
        yield Note("images", text, warning=True)


def _panels(net: nn.Module, data: Batches, at: tuple[int, int]) -> list[Panel]:
    assert isinstance(data, MaskSet)
    index = spread(len(data), SHEET)
    pixels, truth = data.batch(index, at, "none", np.random.default_rng(0))
    with torch.inference_mode():
        logits = net(normalise(pixels, at, next(net.parameters()).device, statistics(net))).float()
        answers = functional.interpolate(logits, at, mode="bilinear").argmax(1).cpu()
    drawn = []
    for image, mask, answer in zip(pixels, truth, answers, strict=True):
        counts = mask != IGNORED
        right = 100 * float((mask[counts] == answer[counts]).float().mean()) if counts.any() else 0.0
        text = f"image, truth, answer: {right:.0f} % of the pixels right"
        drawn.append(Panel(pixels=image, text=text, masks=(mask.numpy(), answer.numpy())))
    return drawn


TASK = _Segment()
