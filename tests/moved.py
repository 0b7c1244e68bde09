"""Networks whose batch norms all do something, so that a lost or a misread one is seen."""

from __future__ import annotations

from typing import TypeVar

import torch

__all__ = ["moved"]

Net = TypeVar("Net", bound=torch.nn.Module)


def moved(net: Net) -> Net:
    """`net` in evaluation, with statistics, gains and shifts drawn."""
    g = torch.Generator().manual_seed(1)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            for value, low, high in ((m.running_mean, -0.3, 0.3), (m.running_var, 0.5, 2.0), (m.weight, 0.7, 1.3),
                                     (m.bias, -0.3, 0.3)):  # fmt: skip
                assert value is not None
                value.data.uniform_(low, high, generator=g)
    return net.eval()
