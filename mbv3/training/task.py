"""What a task is to the training loop: data that gives batches, and an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mbv3.data import IGNORED, Augment
from mbv3.nn import Network, Statistics, statistics
from mbv3.training.recipes import Fit

__all__ = ["Batches", "ImageData", "Metric", "Objective", "WithAux", "and_aux", "classify_objective", "distilled"]

AUX_WEIGHT = 0.4  # of an auxiliary head's loss, as mmsegmentation has it

Objective = Callable[[Any, Any, Tensor], Tensor]
"""(what the network gave, the target, the input) to a loss, lower is better."""


class Batches(Protocol):
    """Images to train on or to score."""

    def __len__(self) -> int: ...

    def batch(
        self, index: NDArray[np.int64], size: tuple[int, int], augment: Augment, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Any]:
        """Pixels (B, H, W, 3) and their target: a tensor, or a tuple or list of such."""


class ImageData(Batches, Protocol):
    """Images of any task with what is true of them, of which some can be taken."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def sha256(self) -> str: ...

    def take(self, index: NDArray[np.int64]) -> Self:
        """The images at `index`."""


class Metric(Protocol):
    """A score over a set of images."""

    def add(self, out: Any, index: NDArray[np.int64]) -> None:
        """Take in what the network gave for the images at `index`."""

    def result(self) -> dict[str, float]:
        """Names to figures; the first is the one that counts, higher is better."""

    def by_class(self) -> NDArray[np.float64]:
        """The figure that counts of every class in percent, NaN of one that is in no image."""


def classify_objective(recipe: Fit) -> Objective:
    """Cross-entropy with label smoothing (Szegedy 2016, arXiv:1512.00567). Logits (B, classes) or (B, classes, H, W),
    targets (B,) or (B, H, W); 255 in a map counts for nothing."""

    def loss(out: Tensor, target: Tensor, x: Tensor) -> Tensor:
        smooth = recipe.label_smoothing
        if out.dim() == 2:
            return functional.cross_entropy(out.float(), target, label_smoothing=smooth)
        wrong = functional.cross_entropy(
            out.float(), target, label_smoothing=smooth, ignore_index=IGNORED, reduction="sum"
        )
        return wrong / (target != IGNORED).sum().clamp(min=1)  # torch's own mean is NaN where nothing counts

    return loss


def distilled(plain: Objective, teacher: nn.Module, recipe: Fit, by: Statistics) -> Objective:
    """Knowledge distillation (Hinton 2015, arXiv:1503.02531): the teacher's softened answer beside the truth. `by`:
    what the pupil's images are normalised by; the teacher sees them by its own statistics."""
    share, t = recipe.distill, recipe.temperature
    teacher.eval()
    own = statistics(teacher)
    mean, std, own_mean, own_std = (torch.tensor(values).view(1, 3, 1, 1) for values in (*by, *own))
    gain, shift = std / own_std, (mean - own_mean) / own_std

    def loss(out: Tensor, target: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            seen = x if own == by else x * gain.to(x.device) + shift.to(x.device)
            wanted = functional.log_softmax(teacher(seen).float() / t, 1)
        said = functional.log_softmax(out.float() / t, 1)
        apart = functional.kl_div(said, wanted, reduction="none", log_target=True).sum(1).mean()
        return share * t * t * apart + (1 - share) * plain(out, target, x)

    return loss


class WithAux(nn.Module):
    """A network with its auxiliary head, as it is called in training: (answer, the auxiliary head's)."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Any, Any]:
        return self.net.with_aux(x)


def and_aux(plain: Objective) -> Objective:
    """`plain` on the answer, and by its weight on the auxiliary head's."""

    def loss(out: Any, target: Any, x: Tensor) -> Tensor:
        return plain(out[0], target, x) + AUX_WEIGHT * plain(out[1], target, x)

    return loss
