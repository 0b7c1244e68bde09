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
    """Cross-entropy with label smoothing, which counts pixels, and by the recipe's weight one less the mean Dice
    coefficient of the classes that occur in the batch, of probabilities instead of answers: a small class counts as
    much as a large one, as it does in the mean IoU (Milletari 2016, arXiv:1606.04797).

    Departures: the probabilities below the line are not squared, and there is a pixel more, so that a few pixels are
    no noise. Of several processes each has the classes of its own images.

    Logits (B, classes, H, W), targets (B, H, W); 255 counts for nothing.
    """
    if not recipe.dice:
        return classify_objective(recipe)
    smooth = recipe.label_smoothing

    def loss(out: Tensor, target: Tensor, x: Tensor) -> Tensor:
        classes = out.shape[1]
        counts = target != IGNORED
        index = target.where(counts, 0)
        each = out.float().log_softmax(1)  # once for both: with many classes it is what costs
        truth = each.gather(1, index[:, None])[:, 0]
        wrong = -truth if not smooth else -(1 - smooth) * truth - smooth * each.mean(1)
        right = (truth.exp() * counts).flatten()
        both = right.new_zeros(classes).index_add(0, index.flatten(), right)
        pixels = torch.bincount(target[counts], minlength=classes)
        said = torch.einsum("nchw,nhw->c", each.exp(), counts.float())
        apart, occurs = 1 - 2 * both / (said + pixels + 1), pixels > 0
        overlap = (apart * occurs).sum() / occurs.sum().clamp(min=1)
        return (wrong * counts).sum() / counts.sum().clamp(min=1) + recipe.dice * overlap

    return loss


def _at_own(logits: Tensor, truth: NDArray[np.int64]) -> Tensor:
    """Logits (C, H, W) at the size of the mask."""
    if logits.shape[1:] == truth.shape:
        return logits
    return functional.interpolate(logits[None], truth.shape, mode="bilinear", align_corners=False)[0]


def segment_answers(net: nn.Module, data: MaskSet, size: tuple[int, int]) -> ResampledAnswers:
    """`net` on all of `data` at `size`: mean IoU, and of every image cross-entropy and Dice loss as `small-segment`
    learns them, at the masks' own size, so that networks of several input sizes have one measure."""
    objective = segment_objective(Fit(steps=1, size=size, label_smoothing=0.0, dice=1.0))
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
            loss[i] = float(objective(logits[None], wanted, logits))
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
        """Intersection over union of every class in percent. A class that is answered where none is counts as 0 for the
        mean, and is NaN here."""
        return np.where(self.confusion.sum(1) > 0, self._each(), np.nan)

    def _each(self) -> NDArray[np.float64]:
        """The same, NaN of what neither truth nor answer has."""
        both = np.diag(self.confusion)
        either = self.confusion.sum(0) + self.confusion.sum(1) - both
        return np.where(either > 0, 100 * both / np.maximum(either, 1), np.nan)

    def result(self) -> dict[str, float]:
        right = 100 * float(np.diag(self.confusion).sum()) / max(1, int(self.confusion.sum()))
        seen = self._each()
        return {"miou": float(np.nanmean(seen)) if not np.isnan(seen).all() else 0.0, "pixels": right}
