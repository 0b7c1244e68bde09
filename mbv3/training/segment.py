"""Segmentation: how well maps of classes agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

from mbv3.data import IGNORED, MaskSet

__all__ = ["SegmentMetric"]


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
            if logits.shape[1:] != truth.shape:
                logits = functional.interpolate(logits[None], truth.shape, mode="bilinear", align_corners=False)[0]
            said = logits.argmax(0).cpu().numpy()
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
