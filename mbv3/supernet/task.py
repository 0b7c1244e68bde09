"""Scoring a genome with shared weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mbv3.data import ImageSet, normalise
from mbv3.nn import Network, build
from mbv3.space import Genome
from mbv3.supernet.model import Supernet
from mbv3.training import Answers, ImageData, Score, evaluate, recalibrate

__all__ = ["SupernetAccuracy"]


@dataclass(frozen=True)
class SupernetAccuracy:
    """What a genome answers on held-out images with inherited weights, batch norms recalibrated for it.

    A function of the genome alone: the same images recalibrate and score every genome. `answers`: of a network, by its
    task; None is top-1 and loss.
    """

    supernet: Supernet
    train: ImageData
    held_out: ImageData
    size: tuple[int, int]
    recalibration_batches: int = 8
    batch: int = 128
    answers: Callable[[nn.Module, Any, tuple[int, int]], Answers] | None = None

    def network(self, genome: Genome) -> Network:
        """The genome's network with inherited weights, ready to run."""
        net = self._inherited(genome)
        recalibrate(net, self._calibration)
        return net

    def __call__(self, genome: Genome) -> Score:
        """Top-1 and loss of a classifier."""
        assert isinstance(self.held_out, ImageSet)
        return evaluate(self.network(genome), self.held_out, self.size)

    def answered(self, genome: Genome) -> float:
        """The main metric of a task with a head in percent, higher is better."""
        assert self.answers is not None
        return self.answers(self.network(genome), self.held_out, self.size).score

    def unsettled(self, genome: Genome) -> Score:
        """Top-1 and loss of a classifier with the statistics that the training of the shared weights left."""
        assert isinstance(self.held_out, ImageSet)
        return evaluate(self._inherited(genome), self.held_out, self.size)

    def _inherited(self, genome: Genome) -> Network:
        net = build(self.supernet.space.deployed(genome))
        net.load_state_dict(self.supernet.extract(genome))
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net

    @cached_property
    def _calibration(self) -> list[Tensor]:
        """The images that recalibrate, normalised once."""
        order, rng = np.random.default_rng(0).permutation(len(self.train)), np.random.default_rng(0)
        n = self.batch
        count = min(self.recalibration_batches, max(1, len(order) // n))
        parts = [self.train.batch(order[i * n : (i + 1) * n], self.size, "none", rng)[0] for i in range(count)]
        return [normalise(pixels, self.size) for pixels in parts]
