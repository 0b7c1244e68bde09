"""Accuracy of a network, and batch-norm statistics measured anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mbv3.data import ImageSet, make_batch

__all__ = ["Score", "evaluate", "recalibrate"]


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
    """Score `net` on all of `data` at `size`."""
    net.eval()
    right, loss = 0, 0.0
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            index = np.arange(start, min(start + batch, len(data)))
            x, y = make_batch(data, index, size)
            logits = net(x)
            right += int((logits.argmax(1) == y).sum())
            loss += float(nn.functional.cross_entropy(logits, y, reduction="sum"))
    return Score(100 * right / len(data), loss / len(data), len(data))


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
    with torch.inference_mode():
        for x in batches:
            net(x)
    for m, value in zip(norms, before, strict=True):
        m.momentum = value
    net.eval()
