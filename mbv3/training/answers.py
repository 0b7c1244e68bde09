"""What a network answers on a set of images, image by image, so that two networks are compared in pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mbv3.data import ImageSet, normalise
from mbv3.nn import statistics
from mbv3.training.task import Batches

__all__ = ["Answers", "ClassAnswers", "ResampledAnswers", "answers_of", "class_answers", "outputs", "resamples"]

BATCH = 64  # of a score
RESAMPLES = 200  # of the images, by which a score that is no mean over images has its error

Score = Callable[[NDArray[np.int64]], NDArray[np.float64]]  # weights of the images (B, n) to percent (B,)


@dataclass(frozen=True, eq=False)
class Answers(ABC):
    """What a network answers on `len()` images. `loss`: of each of them (n,), lower is better."""

    loss: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.loss)

    @property
    @abstractmethod
    def score(self) -> float:
        """The task's main metric in percent, higher is better."""

    @property
    @abstractmethod
    def error(self) -> float:
        """Standard error of `score` in percentage points."""

    @abstractmethod
    def better_by(self, other: Answers) -> tuple[float, float]:
        """By how many points the score is above that of `other` on the same images, and the standard error of that."""

    @property
    def by_score(self) -> bool:
        """Whether losses of two networks are no common measure, as those of detectors with other default boxes."""
        return False

    @property
    def rank(self) -> float:
        """What half of the networks of a round is dropped by, lower is better: the mean loss, or the score."""
        return -self.score if self.by_score else float(self.loss.mean())

    def lower_by(self, other: Answers) -> tuple[float, float]:
        """By how much `rank` is below that of `other` on the same images, and the standard error of that."""
        if self.by_score:
            return self.better_by(other)
        apart = other.loss - self.loss
        return float(apart.mean()), float(apart.std() / np.sqrt(max(len(apart), 1)))

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be kept in a file; `answers_of` reads it."""


@dataclass(frozen=True, eq=False)
class ClassAnswers(Answers):
    """One class an image: `right` (n,) says whether it is the true one."""

    right: NDArray[np.bool_]

    @property
    def score(self) -> float:
        """Top-1."""
        return 100 * float(self.right.mean())

    @property
    def error(self) -> float:
        n = len(self.right)
        p = min(max(self.score / 100, 1 / (2 * n)), 1 - 1 / (2 * n))
        return 100 * float(np.sqrt(p * (1 - p) / n))

    def better_by(self, other: Answers) -> tuple[float, float]:
        assert isinstance(other, ClassAnswers)
        apart = self.right.astype(np.float64) - other.right
        return 100 * float(apart.mean()), 100 * float(apart.std() / np.sqrt(max(len(apart), 1)))

    def tensors(self) -> dict[str, Tensor]:
        return {"right": torch.from_numpy(self.right).byte(), "loss": torch.from_numpy(self.loss)}


@dataclass(frozen=True, eq=False)
class ResampledAnswers(Answers):
    """A score of all images together, such as mean IoU: no mean over images. `value` is it, `draws` (B,) is it on
    resamples of the images, which are the same for every network (the bootstrap, Efron 1979)."""

    value: float
    draws: NDArray[np.float64]
    ranks: bool = False

    @property
    def by_score(self) -> bool:
        return self.ranks

    @classmethod
    def of(cls, score: Score, loss: NDArray[np.float64], ranks: bool = False) -> ResampledAnswers:
        """`score`: from how often each image counts. `ranks`: it does, for the losses are no common measure."""
        weights = resamples(len(loss))
        value = score(np.ones((1, len(loss)), dtype=np.int64))[0]
        return cls(loss, float(value), score(weights), ranks)

    @property
    def score(self) -> float:
        return self.value

    @property
    def error(self) -> float:
        return float(self.draws.std())

    def better_by(self, other: Answers) -> tuple[float, float]:
        assert isinstance(other, ResampledAnswers)
        return self.value - other.value, float((self.draws - other.draws).std())

    def tensors(self) -> dict[str, Tensor]:
        return {
            "value": torch.tensor(self.value, dtype=torch.float64), "draws": torch.from_numpy(self.draws),
            "ranks": torch.tensor(int(self.ranks), dtype=torch.uint8), "loss": torch.from_numpy(self.loss),
        }  # fmt: skip


def answers_of(kept: Mapping[str, Tensor]) -> Answers:
    """What `tensors()` gave. Raises: KeyError: it did not."""
    loss = kept["loss"].numpy()
    if "right" in kept:
        return ClassAnswers(loss, kept["right"].bool().numpy())
    return ResampledAnswers(loss, float(kept["value"]), kept["draws"].numpy(), bool(kept["ranks"]))


def resamples(n: int) -> NDArray[np.int64]:
    """How often each of `n` images is drawn (RESAMPLES, n), with replacement; the same every time."""
    return np.random.default_rng((n, 7)).multinomial(n, np.full(n, 1 / n), RESAMPLES)


def outputs(
    net: nn.Module, data: Batches, size: tuple[int, int], mirror: bool = False
) -> Iterator[tuple[NDArray[np.int64], Any, Any]]:
    """(indices, what `net` gives, the target) of all of `data` at `size`, on the device that `net` is on; with `mirror`
    the mean over an image and its mirror image."""
    net.eval()
    device, rng = next(net.parameters()).device, np.random.default_rng(0)
    for start in range(0, len(data), BATCH):
        index = np.arange(start, min(start + BATCH, len(data)))
        pixels, target = data.batch(index, size, "none", rng)
        x = normalise(pixels, size, device, statistics(net))
        with torch.inference_mode():
            out = net(x)
            if mirror:
                out = (out + net(x.flip(3))) / 2
        yield index, out, target


def class_answers(net: nn.Module, data: ImageSet, size: tuple[int, int]) -> ClassAnswers:
    """`net` on all of `data` at `size`."""
    right, loss = [], []
    for _, out, truth in outputs(net, data, size):
        logits = out.float().cpu()
        right.append((logits.argmax(1) == truth).numpy())
        loss.append(functional.cross_entropy(logits, truth, reduction="none").double().numpy())
    return ClassAnswers(np.concatenate(loss), np.concatenate(right))
