"""From a detector's maps to objects: default boxes, their coding, non-maximum suppression (Liu 2016, arXiv:1512.02325).

Boxes are (..., 4) tensors: left, top, right, bottom, in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbv3.errors import BadInput
from mbv3.nn.heads import Maps
from mbv3.spec import SSDLite

__all__ = ["Detections", "decode", "default_boxes", "detections", "encode", "flatten_maps", "iou", "nms"]

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the coded centre and size
LARGEST = math.log(1000 / 16)  # of a coded size, before it is exponentiated


def _shapes(head: SSDLite, min_ratio: float, max_ratio: float) -> list[list[tuple[float, float]]]:
    """(width, height) of the boxes at each place of every level, as shares of the image."""
    n = len(head.anchors)
    step = (max_ratio - min_ratio) / max(n - 1, 1)
    scales = [min_ratio + step * i for i in range(n)] + [1.0]
    levels = []
    for i, count in enumerate(head.anchors):
        s, between = scales[i], math.sqrt(scales[i] * scales[i + 1])

        def wide(ratio: float, s: float = s) -> tuple[float, float]:
            return s * math.sqrt(ratio), s / math.sqrt(ratio)

        if count == 6:
            boxes = [(s, s), (between, between), wide(2), wide(1 / 2), wide(3), wide(1 / 3)]
        elif count == 3:  # TensorFlow's reduced lowest level: a small square and two oblongs
            boxes = [(min_ratio / 2, min_ratio / 2), wide(2), wide(1 / 2)]
        else:
            raise BadInput(f"head.anchors[{i}]: default boxes are known for 3 and 6 a place (got {count})")
        levels.append([(min(w, 1.0), min(h, 1.0)) for w, h in boxes])
    return levels


def default_boxes(
    head: SSDLite,
    maps: Sequence[tuple[int, int]],
    image: tuple[int, int],
    *,
    min_ratio: float = 0.2,
    max_ratio: float = 0.95,
) -> Tensor:
    """(boxes, 4) default boxes of all levels in the order of `flatten_maps`.

    `maps`: height and width of each level's map; `image`: of the image.

    Raises:
        BadInput: a number of boxes a place for which none are defined, or another number of maps than levels.
    """
    if len(maps) != len(head.anchors):
        raise BadInput(f"maps: the detector has {len(head.anchors)} levels (got {len(maps)})")
    height, width = image
    found = []
    for (h, w), shapes in zip(maps, _shapes(head, min_ratio, max_ratio), strict=True):
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        centre = torch.stack((x, y), -1).reshape(-1, 1, 2)
        half = torch.tensor(shapes).reshape(1, -1, 2) / 2
        found.append(torch.cat((centre - half, centre + half), -1).reshape(-1, 4))
    return torch.cat(found) * torch.tensor([width, height, width, height])


def flatten_maps(maps: Maps, classes: int) -> tuple[Tensor, Tensor]:
    """(N, boxes, classes) logits and (N, boxes, 4) coded boxes: level by level, row by row, place by place."""

    def flat(parts: Sequence[Tensor], depth: int) -> Tensor:
        return torch.cat([p.permute(0, 2, 3, 1).reshape(p.shape[0], -1, depth) for p in parts], 1)

    return flat(maps.classes, classes), flat(maps.boxes, 4)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def encode(boxes: Tensor, defaults: Tensor) -> Tensor:
    """`boxes` coded relative to `defaults`, which is what the network predicts; the inverse of `decode`."""
    (centre, size), (at, unit) = _centred(boxes), _centred(defaults)
    return torch.cat(((centre - at) / unit, torch.log(size / unit)), -1) * boxes.new_tensor(WEIGHTS)


def decode(coded: Tensor, defaults: Tensor) -> Tensor:
    """The boxes that `coded` (..., boxes, 4) stands for, relative to `defaults`."""
    at, unit = _centred(defaults)
    offset = coded / coded.new_tensor(WEIGHTS)
    centre, half = at + offset[..., :2] * unit, torch.exp(offset[..., 2:].clamp(max=LARGEST)) * unit / 2
    return torch.cat((centre - half, centre + half), -1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair, (len(a), len(b))."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1) for x in (a, b))
    return common / (area_a[:, None] + area_b[None] - common).clamp(min=1e-12)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression: indices of boxes, best first, none of which overlaps a better one by more than
    `threshold`."""
    order = scores.argsort(descending=True, stable=True)
    over = iou(boxes[order], boxes[order]) > threshold
    dropped = torch.zeros(len(order), dtype=torch.bool, device=boxes.device)
    for i in range(len(order)):
        if not dropped[i]:
            dropped[i + 1 :] |= over[i, i + 1 :]
    return order[~dropped]


class Detections(NamedTuple):
    """Detected objects of one image, best first."""

    boxes: Tensor  # (n, 4)
    scores: Tensor  # (n,)
    labels: Tensor  # (n,), from 1; 0 is the background


def detections(
    logits: Tensor,
    coded: Tensor,
    defaults: Tensor,
    image: tuple[int, int],
    *,
    least: float = 0.001,
    overlap: float = 0.55,
    most: int = 300,
) -> Detections:
    """One image's objects, with torchvision's thresholds: `logits` (boxes, classes), `coded` (boxes, 4)."""
    height, width = image
    boxes = decode(coded, defaults.to(coded.device))
    boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    scores = logits.softmax(-1)
    found = []
    for label in range(1, logits.shape[-1]):
        mine = scores[:, label]
        best = mine.topk(min(most, len(mine))).indices
        best = best[mine[best] > least]
        kept = best[nms(boxes[best], mine[best], overlap)]
        found.append(Detections(boxes[kept], mine[kept], torch.full((len(kept),), label, device=boxes.device)))
    every = Detections(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    order = every.scores.argsort(descending=True, stable=True)[:most]
    return Detections(*(part[order] for part in every))
