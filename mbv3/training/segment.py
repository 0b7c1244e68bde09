"""Segmentation: how well maps of classes agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mbv3.data import IGNORED, MaskSet
from mbv3.training.answers import ResampledAnswers, outputs
from mbv3.training.recipes import Fit
from mbv3.training.task import Objective, classify_objective

__all__ = ["SegmentMetric", "segment_answers", "segment_objective"]


def segment_objective(recipe: Fit) -> Objective:
    """Cross-entropy, which counts pixels, and by the recipe's weight the Dice loss, which counts classes as the mean
    IoU does."""
    plain = classify_objective(recipe)
    if not recipe.dice:
        return plain

    def loss(out: Tensor, target: Tensor, x: Tensor) -> Tensor:
        return plain(out, target, x) + recipe.dice * dice_loss(out, target)

    return loss


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """One less the mean Dice coefficient of the classes that occur in the batch, of probabilities instead of answers
    (Milletari 2016, arXiv:1606.04797). Logits (B, classes, H, W), truth (B, H, W) where 255 counts for nothing."""
    each = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    is_it = truth[:, None] == each
    said = logits.float().softmax(1) * (truth != IGNORED)[:, None]
    pixels, both = is_it.sum((0, 2, 3)), (said * is_it).sum((0, 2, 3))
    apart = 1 - 2 * both / (said.sum((0, 2, 3)) + pixels + 1)
    occurs = pixels > 0
    return (apart * occurs).sum() / occurs.sum().clamp(min=1)


def _at_own(logits: Tensor, truth: NDArray[np.int64]) -> Tensor:
    """Logits (C, H, W) at the size of the mask."""
    if logits.shape[1:] == truth.shape:
        return logits
    return functional.interpolate(logits[None], truth.shape, mode="bilinear", align_corners=False)[0]


def segment_answers(net: nn.Module, data: MaskSet, size: tuple[int, int]) -> ResampledAnswers:
    """`net` on all of `data` at `size`: mean IoU and the cross-entropy of every image, both at the masks' own size, so
    that networks of several input sizes have one measure."""
    n, classes = len(data), len(data.classes)
    both, either = (np.zeros((n, classes), dtype=np.int64) for _ in range(2))
    loss = np.zeros(n)
    for index, out, _ in outputs(net, data, size):
        for one, i in zip(out.float(), index, strict=True):
            truth = data.truth(int(i))
            logits = _at_own(one, truth).cpu()
            counts = truth != IGNORED
            if not counts.any():
                continue
            wanted = torch.from_numpy(truth)[None]
            loss[i] = float(functional.cross_entropy(logits[None], wanted, ignore_index=IGNORED))
            true, said = truth[counts], logits.argmax(0).numpy()[counts]
            both[i] = np.bincount(true[true == said], minlength=classes)
            either[i] = np.bincount(true, minlength=classes) + np.bincount(said, minlength=classes) - both[i]

    def mean_iou(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        union = weights @ either
        share = np.where(union > 0, 100 * (weights @ both) / np.maximum(union, 1), 0.0)
        mean: NDArray[np.float64] = share.sum(1) / np.maximum((union > 0).sum(1), 1)
        return mean

    return ResampledAnswers.of(mean_iou, loss)


class SegmentMetric:
    """Mean intersection over union in percent, and the share of right pixels, at the masks' own size. The confusion is
    scikit-learn's; classes that neither truth nor answer has count for nothing."""

    def __init__(self, data: MaskSet) -> None:
        self.data = data
        self.confusion = np.zeros((len(data.classes),) * 2, dtype=np.int64)

    def add(self, out: Any, index: NDArray[np.int64]) -> None:
        from sklearn.metrics import confusion_matrix

        labels = np.arange(len(self.data.classes))
        for logits, i in zip(out.float(), index, strict=True):
            truth = self.data.truth(int(i))
            said = _at_own(logits, truth).argmax(0).cpu().numpy()
            counts = truth != IGNORED
            if counts.any():
                self.confusion += confusion_matrix(truth[counts], said[counts], labels=labels)

    def by_class(self) -> NDArray[np.float64]:
        """Intersection over union of every class in percent, NaN where it does not occur."""
        both = np.diag(self.confusion)
        either = self.confusion.sum(0) + self.confusion.sum(1) - both
        return np.where(either > 0, 100 * both / np.maximum(either, 1), np.nan)

    def result(self) -> dict[str, float]:
        right = 100 * float(np.diag(self.confusion).sum()) / max(1, int(self.confusion.sum()))
        seen = self.by_class()
        return {"miou": float(np.nanmean(seen)) if not np.isnan(seen).all() else 0.0, "pixels": right}
