"""Detection: SSD's loss, and mean average precision by COCO's own evaluation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mbv3.data import BoxSet, Kind
from mbv3.nn import Detections, Maps, default_boxes, detections, encode, flatten_maps, iou
from mbv3.spec import SSDLite
from mbv3.training.answers import ResampledAnswers, outputs
from mbv3.training.task import Objective

__all__ = ["DetectMetric", "detect_answers", "detect_objective", "match", "objects"]

WHOLE = (1, 1)  # boxes are shares of the image
RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO takes the precision


def _levels(maps: Maps) -> list[tuple[int, int]]:
    return [(m.shape[2], m.shape[3]) for m in maps.classes]


def match(truth: Tensor, defaults: Tensor, least: float = 0.5) -> Tensor:
    """For each default box the index of the object that it answers for, -1 for none: the object that it overlaps most,
    if by `least`; and for each object the box that overlaps it most (Liu 2016, section 2.2)."""
    found = torch.full((len(defaults),), -1, dtype=torch.long, device=defaults.device)
    if not len(truth):
        return found
    overlap = iou(truth, defaults)
    best, which = overlap.max(0)
    found[best >= least] = which[best >= least]
    found[overlap.argmax(1)] = torch.arange(len(truth), device=defaults.device)
    return found


def detect_objective(head: SSDLite, negatives: int = 3) -> Objective:
    """Liu 2016, section 2.2: smooth L1 on the boxes that answer for an object, cross-entropy on them and on the
    `negatives` times as many others that are taken for objects most; over the number of the former."""

    def loss(out: Maps, target: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        logits, coded = flatten_maps(out, head.classes)
        logits, coded = logits.float(), coded.float()
        defaults = default_boxes(head, _levels(out), WHOLE).to(logits.device)
        labels = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
        boxes = logits.new_zeros(())
        for i, (edges, classes) in enumerate(target):
            whose = match(edges, defaults)
            mine = whose >= 0
            labels[i, mine] = classes[whose[mine]]
            wanted = encode(edges[whose[mine]], defaults[mine])
            boxes = boxes + functional.smooth_l1_loss(coded[i, mine], wanted, reduction="sum")
        wrong = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        positive = labels > 0
        many = positive.sum(1, keepdim=True)
        background = wrong.masked_fill(positive, -1.0)
        rank = background.argsort(stable=True, dim=1, descending=True).argsort(stable=True, dim=1)
        hard = (rank < negatives * many) & ~positive
        return (boxes + wrong[positive].sum() + wrong[hard].sum()) / max(1, int(many.sum()))

    return loss


def objects(out: Maps, head: SSDLite) -> list[Detections]:
    """What a detector says of each image: boxes in shares of it, scores, classes from 1. On the CPU."""
    logits, coded = (t.float().cpu() for t in flatten_maps(out, head.classes))
    defaults = default_boxes(head, _levels(out), WHOLE)
    return [detections(a, b, defaults, WHOLE) for a, b in zip(logits, coded, strict=True)]


class DetectMetric:
    """COCO's average precision by pycocotools, in percent: `map50` at an overlap of 0.5, `map` over 0.5 to 0.95."""

    def __init__(self, data: BoxSet, head: SSDLite) -> None:
        self.data, self.head = data, head
        self.found: list[NDArray[np.float64]] = []

    def add(self, out: Any, index: NDArray[np.int64]) -> None:
        for said, i in zip(objects(out, self.head), index, strict=True):
            h, w = self.data.sizes[i]
            edges = said.boxes.numpy() * np.array([w, h, w, h])
            n = len(edges)
            self.found.append(
                np.column_stack(
                    [np.full(n, i + 1), edges[:, :2], edges[:, 2:] - edges[:, :2], said.scores, said.labels]
                )
            )

    def _truth(self) -> dict[str, Any]:
        annotations: list[dict[str, Any]] = []
        for i, (boxes, (h, w)) in enumerate(zip(self.data.boxes, self.data.sizes, strict=True)):
            for (x0, y0, x1, y1), label, kind in zip(boxes.edges.tolist(), boxes.labels, boxes.kinds, strict=True):
                box = [x0 * w, y0 * h, (x1 - x0) * w, (y1 - y0) * h]
                # an area of no range is left out of the count; a crowd, too, but any number of answers may lie in it
                area = -1.0 if kind == Kind.DIFFICULT else box[2] * box[3]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": i + 1, "category_id": int(label) + 1, "bbox": box,
                     "area": area, "iscrowd": int(kind == Kind.CROWD)}
                )  # fmt: skip
        return {
            "info": {},
            "images": [{"id": i + 1, "height": int(h), "width": int(w)} for i, (h, w) in enumerate(self.data.sizes)],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(self.data.classes)],
            "annotations": annotations,
        }

    def result(self) -> dict[str, float]:
        score = self._evaluated()
        if score is None:
            return {"map50": 0.0, "map": 0.0}
        with redirect_stdout(io.StringIO()):  # it prints as it goes
            score.accumulate()
            score.summarize()
        return {"map50": 100 * max(0.0, float(score.stats[1])), "map": 100 * max(0.0, float(score.stats[0]))}

    def by_class(self) -> NDArray[np.float64]:
        """Average precision of every class at an overlap of 0.5."""
        every = np.ones((1, len(self.data)), dtype=np.int64)
        return 100 * np.array([float(c.precision(every)[0]) for c in self.by_image()])

    def _evaluated(self, overlaps: Sequence[float] | None = None) -> Any:
        """pycocotools' matches of answers and truth, at `overlaps` only; None where there is nothing to match."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        said = np.concatenate(self.found) if self.found else np.zeros((0, 7))
        if not len(said) or not any(len(b) for b in self.data.boxes):
            return None
        with redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = self._truth()
            truth.createIndex()
            score = COCOeval(truth, truth.loadRes(said), "bbox")
            if overlaps is not None:
                score.params.iouThrs = np.array(overlaps)
                score.params.areaRng, score.params.areaRngLbl = [score.params.areaRng[0]], ["all"]
            score.evaluate()
        return score

    def by_image(self) -> list[ClassMatches]:
        """The matches of every class at an overlap of 0.5."""
        score, n = self._evaluated([0.5]), len(self.data)
        if score is None:
            truths = [
                np.array([sum((b.labels == c) & (b.kinds == Kind.PLAIN)) for b in self.data.boxes])
                for c in range(len(self.data.classes))
            ]
            none = np.zeros(0, dtype=np.int64)
            return [ClassMatches(none, none.astype(bool), t) for t in truths]
        return [_matches([e for e in score.evalImgs[c * n : (c + 1) * n] if e is not None], n)
                for c in range(len(self.data.classes))]  # fmt: skip


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """Answers of one class, the surest first: the `image` of each, and whether it is a `hit`. `truths`: objects of the
    class in every image."""

    image: NDArray[np.int64]
    hit: NDArray[np.bool_]
    truths: NDArray[np.int64]

    def precision(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """COCO's average precision, a share of 1, where the images count by `weights` (B, n); NaN without objects."""
        truths, counted = weights @ self.truths, weights[:, self.image]
        found = np.full(len(weights), np.nan)
        for b in np.flatnonzero(truths > 0):
            right = np.cumsum(counted[b] * self.hit)
            precision = right / np.maximum(np.cumsum(counted[b]), 1)
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(right / truths[b], RECALLS, side="left")
            found[b] = precision[at[at < len(precision)]].sum() / len(RECALLS)
        return found


def _matches(found: Sequence[dict[str, Any]], n: int) -> ClassMatches:
    """pycocotools' matches of one class in each of `n` images; what does not count is left out."""
    truths = np.zeros(n, dtype=np.int64)
    images, scores, hits = [np.zeros(0, dtype=np.int64)], [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for e in found:
        i, counts = e["image_id"] - 1, e["dtIgnore"][0] == 0
        truths[i] = int((np.array(e["gtIgnore"]) == 0).sum())
        images.append(np.full(int(counts.sum()), i))
        scores.append(np.array(e["dtScores"])[counts])
        hits.append((e["dtMatches"][0] > 0)[counts])
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    return ClassMatches(np.concatenate(images)[order], np.concatenate(hits)[order], truths)


def detect_answers(head: SSDLite, net: nn.Module, data: BoxSet, size: tuple[int, int]) -> ResampledAnswers:
    """What a detector with `head` answers on all of `data` at `size`: COCO's average precision at an overlap of 0.5,
    and SSD's loss on every image, which networks of two input sizes have not in common."""
    metric, loss, plain = DetectMetric(data, head), np.zeros(len(data)), detect_objective(head)
    for index, out, target in outputs(net, data, size):
        metric.add(out, index)
        said = Maps(*(tuple(m.float().cpu() for m in maps) for maps in out))
        for row, i in enumerate(index):
            one = Maps(*(tuple(m[row : row + 1] for m in maps) for maps in said))
            loss[i] = float(plain(one, target[row : row + 1], one.classes[0]))
    classes = metric.by_image()

    def mean_precision(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        each = np.array([c.precision(weights) for c in classes])
        known = ~np.isnan(each)
        mean: NDArray[np.float64] = 100 * np.where(known, each, 0.0).sum(0) / np.maximum(known.sum(0), 1)
        return mean

    return ResampledAnswers.of(mean_precision, loss, ranks=True)
