"""A set of labelled images, and batches as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbv3.data.augment import Augment, augmented
from mbv3.nn import MEAN, STD, Statistics

__all__ = ["ImageSet", "Labelled", "Pixels", "batch_order", "make_batch", "normalise", "split", "split_labels"]

IMAGENET: Statistics = (MEAN, STD)


class Pixels(Protocol):
    """(N, H, W, 3) uint8: an array, one on disk, or files that are decoded when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.uint8]: ...


class Labelled(Protocol):
    """Images with one class each, or with one a pixel."""

    @property
    def images(self) -> Pixels: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def take(self, index: NDArray[np.int64]) -> Self:
        """The images at `index`."""

    def truth_of(self, index: NDArray[np.int64]) -> Tensor:
        """Classes (B,), or of every pixel (B, H, W)."""

    def batch(
        self, index: NDArray[np.int64], size: tuple[int, int], augment: Augment, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Tensor]:
        """Pixels (B, H, W, 3), changed at random, and their truth."""


@dataclass(frozen=True)
class ImageSet:
    """`images` (N, H, W, 3) uint8, `labels` (N,) int64, class names, the SHA-256 of what was read, and
    lines on what was odd about it."""

    images: Pixels
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sha256: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> ImageSet:
        """The images at `index`."""
        return ImageSet(self.images[index], self.labels[index], self.classes, self.sha256, self.notes)

    def truth_of(self, index: NDArray[np.int64]) -> Tensor:
        """Classes (B,)."""
        return torch.from_numpy(self.labels[index])

    def batch(
        self, index: NDArray[np.int64], size: tuple[int, int], augment: Augment, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Tensor]:
        """Pixels (B, H, W, 3), not yet normalised, and labels (B,). Any thread may ask."""
        return augmented(self.images[index], size, augment, rng), self.truth_of(index)


def split_labels(
    labels: NDArray[np.int64], classes: int, share: float, most: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (train, held out): about `share` of every class, at most `most` in all, held out, and one a class."""
    rng = np.random.default_rng(seed)
    held: list[NDArray[np.int64]] = []
    for c in range(classes):
        mine = rng.permutation(np.flatnonzero(labels == c))
        n = int(max(1, min(share * len(mine), most / classes)))
        held.append(mine[: min(n, max(len(mine) - 1, 0))])
    index = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), index), index


def split(data: ImageSet, share: float, most: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """(train, held out) as `split_labels` divides them."""
    rest, held = split_labels(data.labels, len(data.classes), share, most, seed)
    return data.take(rest), data.take(held)


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


def normalise(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    by: Statistics = IMAGENET,
) -> Tensor:
    """Network input (B, 3, H, W) at `size`, channels_last, from pixels (B, h, w, 3). `by`: mean and deviation of values
    from 0 to 1, as `mbv3.nn.statistics` has them of a network."""
    x = torch.from_numpy(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    if tuple(x.shape[2:]) != size:
        x = torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=x.shape[2] > size[0])
    x = x.contiguous(memory_format=torch.channels_last)
    mean, std = ((torch.tensor(values).view(1, 3, 1, 1) * 255).to(device) for values in by)
    return x.sub_(mean).div_(std)


def make_batch(
    data: Labelled,
    index: NDArray[np.int64],
    size: int | tuple[int, int],
    augment: np.random.Generator | None = None,
    by: Statistics = IMAGENET,
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) normalised, channels_last, and labels (B,), or masks (B, H, W); with a generator flipped and
    shifted by it."""
    side = (size, size) if isinstance(size, int) else size
    kind: Augment = "none" if augment is None else "shift"
    pixels, labels = data.batch(index, side, kind, augment or np.random.default_rng(0))
    return normalise(pixels, side, by=by), labels
