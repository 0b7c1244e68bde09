"""The images that a chain learns from and chooses on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from mbv3.data import ImageSet, Labelled, MaskSet, make_batch
from mbv3.nn import Statistics, statistics
from mbv3.training import Score, evaluate, recalibrate

__all__ = ["Images", "Masks", "calibration_batches", "rescore", "subset"]

T = TypeVar("T", bound=Labelled)


@dataclass(frozen=True)
class Images:
    """Disjoint sets: `train` is learned from, `held_out` chooses. `size`: (height, width) in pixels."""

    train: ImageSet
    held_out: ImageSet
    size: tuple[int, int]


@dataclass(frozen=True)
class Masks:
    """The same of images with masks; accuracy is then the share of pixels that are right."""

    train: MaskSet
    held_out: MaskSet
    size: tuple[int, int]


def subset(data: T, most: int) -> T:
    """At most `most` images, the same ones every time."""
    if len(data) <= most:
        return data
    return data.take(np.sort(np.random.default_rng(3).permutation(len(data))[:most]))


def calibration_batches(images: Images | Masks, count: int, batch: int = 128, *, by: Statistics) -> Iterator[Tensor]:
    """The same few training batches every time, for batch-norm statistics; normalised `by` what the network takes."""
    order = np.random.default_rng(0).permutation(len(images.train))
    for i in range(min(count, max(1, len(order) // batch))):
        yield make_batch(images.train, order[i * batch : (i + 1) * batch], images.size, by=by)[0]


def rescore(net: nn.Module, images: Images | Masks, held: Labelled, batches: int) -> Score:
    """Recalibrate batch norms, then evaluate."""
    recalibrate(net, calibration_batches(images, batches, by=statistics(net)))
    return evaluate(net, held, images.size)
