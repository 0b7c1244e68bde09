"""Accuracy of a network, and batch-norm statistics recomputed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.data import ImageSet, make_batch, normalise
from mbv3.nn import Network, statistics
from mbv3.training.loop import Diverged
from mbv3.training.processes import all_agree
from mbv3.training.task import Batches, Metric

__all__ = ["ClassifyMetric", "Score", "evaluate", "measure", "recalibrate"]


@dataclass(frozen=True, slots=True)
class Score:
    """Top-1 in percent (higher is better), mean cross-entropy (lower is better), n images."""

    top1: float
    loss: float
    n: int

    @property
    def sigma(self) -> float:
        """Standard error of `top1` in percentage points."""
        p = min(max(self.top1 / 100, 1 / (2 * self.n)), 1 - 1 / (2 * self.n))
        return 100 * float(np.sqrt(p * (1 - p) / self.n))


def evaluate(net: nn.Module, data: ImageSet, size: tuple[int, int], batch: int = 256) -> Score:
    """Score `net` on all of `data` at `size`, on the device that it is on."""
    net.eval()
    device = next(net.parameters(), torch.empty(0)).device
    right, loss = 0, 0.0
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            index = np.arange(start, min(start + batch, len(data)))
            x, y = (part.to(device) for part in make_batch(data, index, size, by=statistics(net)))
            logits = net(x)
            right += int((logits.argmax(1) == y).sum())
            loss += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
    return Score(100 * right / len(data), loss / len(data), len(data))


class ClassifyMetric:
    """Top-1 and top-5 in percent by scikit-learn; top-5 only where there are more than five classes."""

    def __init__(self, labels: NDArray[np.int64], classes: int) -> None:
        self.labels, self.classes = labels, classes
        self.right = {k: 0 for k in (1, 5) if k == 1 or k < classes}
        self.found, self.seen = (np.zeros(classes, dtype=np.int64) for _ in range(2))
        self.n = 0

    def add(self, out: Any, index: NDArray[np.int64]) -> None:
        from sklearn.metrics import accuracy_score, top_k_accuracy_score

        scores, truth = out.float().cpu().numpy(), self.labels[index]
        said = scores.argmax(1)
        self.right[1] += int(accuracy_score(truth, said, normalize=False))
        self.found += np.bincount(truth[said == truth], minlength=self.classes)
        self.seen += np.bincount(truth, minlength=self.classes)
        if 5 in self.right:
            labels = np.arange(self.classes)
            self.right[5] += int(top_k_accuracy_score(truth, scores, k=5, labels=labels, normalize=False))
        self.n += len(index)

    def result(self) -> dict[str, float]:
        return {f"top{k}": 100 * right / self.n for k, right in self.right.items()}

    def by_class(self) -> NDArray[np.float64]:
        """Of every class the share of its images that are taken for it."""
        return np.where(self.seen > 0, 100 * self.found / np.maximum(self.seen, 1), np.nan)


def _finite(out: Any) -> bool:
    return bool(out.isfinite().all()) if isinstance(out, Tensor) else all(map(_finite, out))


def measure(net: nn.Module, data: Batches, metric: Metric, size: tuple[int, int], batch: int = 64) -> dict[str, float]:
    """Figures of `metric` over all of `data`. Every process of a distributed run scores all of it, so none waits.

    Raises:
        Diverged: an answer is not finite.
    """
    net.eval()
    device = next(net.parameters()).device
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            index = np.arange(start, min(start + batch, len(data)))
            pixels, _ = data.batch(index, size, "none", rng)
            out = net(normalise(pixels, size, device, statistics(net)))
            if not all_agree(_finite(out), device):
                raise Diverged("scoring: the network's answers are not finite; try a lower learning rate")
            metric.add(out, index)
    return metric.result()


def recalibrate(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Batch-norm statistics as the plain average over `batches` (Cai 2020, Once-for-All), in place."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # cumulative average
    net.train()
    dropouts = [m for m in net.modules() if isinstance(m, nn.Dropout)]
    for d in dropouts:
        d.eval()
    called = net.with_aux if isinstance(net, Network) else net  # an auxiliary head has batch norms, too
    with torch.inference_mode():
        for x in batches:
            called(x)
    for m, value in zip(norms, before, strict=True):
        m.momentum = value
    net.eval()
