"""The images that a chain learns from and chooses on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.data import ImageSet, normalise
from mbv3.nn import Statistics, statistics
from mbv3.spec import Classify
from mbv3.tasks import TASKS, Work
from mbv3.training import Answers, ImageData, recalibrate

__all__ = ["Images", "calibration_batches", "others", "photos_in", "rescore", "subset"]


@dataclass(frozen=True)
class Images:
    """Disjoint sets: `train` is learned from, `held_out` chooses. `size`: (height, width) in pixels. `given`: how
    they are learned and scored; without it they are photos with a class each."""

    train: ImageData
    held_out: ImageData
    size: tuple[int, int]
    given: Work | None = field(default=None, kw_only=True)

    @property
    def work(self) -> Work:
        if self.given is not None:
            return self.given
        return TASKS["classify"].work(Classify(classes=len(self.train.classes)))


def photos_in(data: ImageData) -> ImageSet:
    """`data`, for what knows photos with a class each alone."""
    assert isinstance(data, ImageSet)
    return data


def subset(data: ImageData, most: int) -> ImageData:
    """At most `most` images, the same ones every time."""
    if len(data) <= most:
        return data
    return data.take(np.sort(_order(data)[:most]))


def others(data: ImageSet, least: int, most: int) -> ImageSet | None:
    """At most `most` of the images that `subset(data, least)` leaves out; None where they are fewer than a quarter of
    `least`."""
    left = _order(data)[least : least + most]
    return data.take(np.sort(left)) if 4 * len(left) >= least else None


def _order(data: ImageData) -> NDArray[np.int64]:
    return np.random.default_rng(3).permutation(len(data))


def calibration_batches(images: Images, count: int, batch: int = 128, *, by: Statistics) -> Iterator[Tensor]:
    """The same few training batches every time, for batch-norm statistics; normalised `by` what the network takes."""
    order, rng = np.random.default_rng(0).permutation(len(images.train)), np.random.default_rng(0)
    for i in range(min(count, max(1, len(order) // batch))):
        pixels, _ = images.train.batch(order[i * batch : (i + 1) * batch], images.size, "none", rng)
        yield normalise(pixels, images.size, by=by)


def rescore(net: nn.Module, images: Images, held: ImageData, batches: int) -> Answers:
    """Recalibrate batch norms, then answer."""
    recalibrate(net, calibration_batches(images, batches, by=statistics(net)))
    return images.work.answers(net, held, images.size)
