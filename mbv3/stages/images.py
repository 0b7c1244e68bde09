"""The images that a chain learns from and chooses on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.data import ImageSet, make_batch
from mbv3.nn import Statistics, statistics
from mbv3.training import Score, evaluate, recalibrate

__all__ = ["Images", "calibration_batches", "others", "rescore", "subset"]


@dataclass(frozen=True)
class Images:
    """Disjoint sets: `train` is learned from, `held_out` chooses. `size`: (height, width) in pixels."""

    train: ImageSet
    held_out: ImageSet
    size: tuple[int, int]


def subset(data: ImageSet, most: int) -> ImageSet:
    """At most `most` images, the same ones every time."""
    if len(data) <= most:
        return data
    return data.take(np.sort(_order(data)[:most]))


def others(data: ImageSet, least: int, most: int) -> ImageSet | None:
    """At most `most` of the images that `subset(data, least)` leaves out; None where they are fewer than a quarter of
    `least`."""
    left = _order(data)[least : least + most]
    return data.take(np.sort(left)) if 4 * len(left) >= least else None


def _order(data: ImageSet) -> NDArray[np.int64]:
    return np.random.default_rng(3).permutation(len(data))


def calibration_batches(images: Images, count: int, batch: int = 128, *, by: Statistics) -> Iterator[Tensor]:
    """The same few training batches every time, for batch-norm statistics; normalised `by` what the network takes."""
    order = np.random.default_rng(0).permutation(len(images.train))
    for i in range(min(count, max(1, len(order) // batch))):
        yield make_batch(images.train, order[i * batch : (i + 1) * batch], images.size, by=by)[0]


def rescore(net: nn.Module, images: Images, held: ImageSet, batches: int) -> Score:
    """Recalibrate batch norms, then evaluate."""
    recalibrate(net, calibration_batches(images, batches, by=statistics(net)))
    return evaluate(net, held, images.size)
