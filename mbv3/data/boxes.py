"""Images with boxes, and batches of them with SSD's augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mbv3.data.augment import Augment, colours
from mbv3.data.images import Chosen, Pixels
from mbv3.nn import iou

__all__ = ["BoxSet", "Boxes", "Kind"]

Target = list[tuple[Tensor, Tensor]]


class Kind(IntEnum):
    """What a box is: one object; one that VOC calls difficult, which counts for nothing in a score; many objects in one
    box, COCO's crowd, which is not learned from either."""

    PLAIN = 0
    DIFFICULT = 1
    CROWD = 2


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of one image: (K, 4) left, top, right, bottom as shares of its width and height; class indices (K,) from
    0; their `Kind` (K,)."""

    edges: NDArray[np.float32]
    labels: NDArray[np.int64]
    kinds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class BoxSet:
    """`images` (N, H, W, 3), stretched to the training's size; `sizes` (N, 2) their own height and width."""

    images: Pixels
    boxes: Sequence[Boxes]
    sizes: NDArray[np.int64]
    classes: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: NDArray[np.int64]) -> BoxSet:
        """The images at `index`."""
        boxes = [self.boxes[i] for i in index]
        return BoxSet(Chosen(self.images, index), boxes, self.sizes[index], self.classes, self.sha256)

    def batch(
        self, index: NDArray[np.int64], size: tuple[int, int], augment: Augment, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Target]:
        """Pixels (B, H, W, 3); for every image its boxes (K, 4) in shares and labels (K,) from 1, 0 is background."""
        pixels = np.array(self.images[index])
        target: Target = []
        for n, i in enumerate(index):
            alone = self.boxes[i].kinds != Kind.CROWD
            edges, labels = self.boxes[i].edges[alone], self.boxes[i].labels[alone]
            if augment != "none":
                pixels[n], edges, labels = _changed(pixels[n], edges, labels, rng)
            target.append((torch.from_numpy(edges), torch.from_numpy(labels + 1)))
        return pixels, target


def _changed(
    image: NDArray[np.uint8], edges: NDArray[np.float32], labels: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Colours, a part that overlaps an object enough, a mirror image (Liu 2016, section 2.2; torchvision's SSDLite
    leaves the zooming out away, and so do we)."""
    h, w = image.shape[:2]
    part = _part(edges, rng)
    if part is not None:
        box, keep = part
        x0, y0, x1, y1 = box
        picture = Image.fromarray(image).resize(
            (w, h), Image.Resampling.BILINEAR, box=(x0 * w, y0 * h, x1 * w, y1 * h)
        )  # fmt: skip
        image = np.asarray(picture)
        span = np.array([x1 - x0, y1 - y0] * 2, dtype=np.float32)
        edges = ((edges[keep] - np.array([x0, y0, x0, y0], dtype=np.float32)) / span).clip(0, 1)
        labels = labels[keep]
    if rng.random() < 0.5:
        image = image[:, ::-1]
        edges = edges[:, [2, 1, 0, 3]]
        edges = np.stack([1 - edges[:, 0], edges[:, 1], 1 - edges[:, 2], edges[:, 3]], 1)
    return colours(image, rng), edges, labels


def _part(
    edges: NDArray[np.float32], rng: np.random.Generator
) -> tuple[tuple[float, float, float, float], NDArray[np.bool_]] | None:
    """A part (left, top, right, bottom) whose overlap with some object is at least a drawn figure, and which objects
    have their middle in it; None keeps the whole image."""
    least = rng.choice([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    if least >= 1.0 or len(edges) == 0:
        return None
    middle = (edges[:, :2] + edges[:, 2:]) / 2
    for _ in range(40):
        pw, ph = rng.uniform(0.3, 1.0, 2)
        if not 0.5 <= pw / ph <= 2.0:
            continue
        x0, y0 = rng.uniform(0, 1 - pw), rng.uniform(0, 1 - ph)
        keep: NDArray[np.bool_] = np.all((middle > (x0, y0)) & (middle < (x0 + pw, y0 + ph)), axis=1)
        part = torch.tensor([[x0, y0, x0 + pw, y0 + ph]], dtype=torch.float32)
        if keep.any() and iou(torch.from_numpy(edges[keep]), part).max() >= least:
            return (float(x0), float(y0), float(x0 + pw), float(y0 + ph)), keep
    return None
