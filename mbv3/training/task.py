"""What a task is to the training loop: data that gives batches, and an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mbv3.data import Augment
from mbv3.training.recipes import Fit

__all__ = ["Batches", "Metric", "Objective", "classify_objective", "distilled"]

Objective = Callable[[Any, Any, Tensor], Tensor]
"""(what the network gave, the target, the input) to a loss, lower is better."""


class Batches(Protocol):
    """Images to train on or to score."""

    def __len__(self) -> int: ...

    def batch(
        self, index: NDArray[np.int64], size: tuple[int, int], augment: Augment, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Any]:
        """Pixels (B, H, W, 3) and their target: a tensor, or a tuple or list of such."""


class Metric(Protocol):
    """A score over a set of images."""

    def add(self, out: Any, index: NDArray[np.int64]) -> None:
        """Take in what the network gave for the images at `index`."""

    def result(self) -> dict[str, float]:
        """Names to figures; the first is the one that counts, higher is better."""


def classify_objective(recipe: Fit) -> Objective:
    """Cross-entropy with label smoothing (Szegedy 2016, arXiv:1512.00567). Logits (B, classes) or (B, classes, H, W),
    targets (B,) or (B, H, W); 255 in a map counts for nothing."""

    def loss(out: Tensor, target: Tensor, x: Tensor) -> Tensor:
        ignored = 255 if out.dim() == 4 else -100
        return functional.cross_entropy(
            out.float(), target, label_smoothing=recipe.label_smoothing, ignore_index=ignored
        )

    return loss


def distilled(plain: Objective, teacher: nn.Module, recipe: Fit) -> Objective:
    """Knowledge distillation (Hinton 2015, arXiv:1503.02531): the teacher's softened answer beside the truth."""
    share, t = recipe.distill, recipe.temperature
    teacher.eval()

    def loss(out: Tensor, target: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = functional.log_softmax(teacher(x).float() / t, 1)
        said = functional.log_softmax(out.float() / t, 1)
        apart = functional.kl_div(said, wanted, reduction="none", log_target=True).sum(1).mean()
        return share * t * t * apart + (1 - share) * plain(out, target, x)

    return loss
