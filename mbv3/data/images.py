"""A set of labelled images in memory, and batches as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ImageSet", "batch_order", "make_batch", "split"]

# ImageNet's channel statistics, as every pretrained network of the field expects
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255


@dataclass(frozen=True)
class ImageSet:
    """`images` (N, H, W, 3) uint8, `labels` (N,) int64, class names, and the SHA-256 of what was read."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> ImageSet:
        """The images at `index`."""
        return ImageSet(self.images[index], self.labels[index], self.classes, self.sha256)


def split(data: ImageSet, share: float, most: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """(train, held out): about `share` of every class, at most `most` images in all, held out; at least one a class."""
    rng = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for c in range(len(data.classes)):
        mine = rng.permutation(np.flatnonzero(data.labels == c))
        n = int(max(1, min(share * len(mine), most / len(data.classes))))
        held.append(mine[: min(n, max(len(mine) - 1, 0))])
    index = np.sort(np.concatenate(held))
    rest = np.setdiff1d(np.arange(len(data)), index)
    return data.take(rest), data.take(index)


def batch_order(n: int, batch: int, seed: int, start: int = 0) -> Iterator[NDArray[np.int64]]:
    """Endless batches of indices, epoch after epoch in new order, beginning at step `start`. Whole batches only."""
    steps = max(1, n // batch)
    epoch = start // steps
    skip = start % steps
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(n)
        for i in range(skip, steps):
            yield order[i * batch : (i + 1) * batch]
        skip, epoch = 0, epoch + 1


def make_batch(
    data: ImageSet, index: NDArray[np.int64], size: int | tuple[int, int], augment: np.random.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) normalised, channels_last, and labels (B,).

    `augment`: a mirror image for half of them and a shift by up to an eighth of the side, edges mirrored.
    """
    x = torch.from_numpy(np.ascontiguousarray(data.images[index])).permute(0, 3, 1, 2).float()
    if augment is not None:
        n, h, w = len(index), x.shape[2], x.shape[3]
        flip = torch.from_numpy(augment.random(n) < 0.5)
        x = torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
        ph, pw = h // 8, w // 8
        x = torch.nn.functional.pad(x, (pw, pw, ph, ph), mode="reflect")
        dy, dx = augment.integers(0, 2 * ph + 1, n), augment.integers(0, 2 * pw + 1, n)
        x = torch.stack([x[i, :, dy[i] : dy[i] + h, dx[i] : dx[i] + w] for i in range(n)])
    side = (size, size) if isinstance(size, int) else size
    if tuple(x.shape[2:]) != side:
        x = torch.nn.functional.interpolate(x, size=side, mode="bilinear", antialias=x.shape[2] > side[0])
    x = ((x - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)
    return x, torch.from_numpy(data.labels[index])
