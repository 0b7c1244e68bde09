"""What convolutions read, so that those that stay can make up for channels that go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbv3.nn.build import Network
from mbv3.nn.surgery import channel_sets

__all__ = ["Moments", "input_moments"]

MOST = 2048  # places of a batch's maps that are taken
RIDGE = 0.1  # of the mean variance of the channels that stay; and their number over that of the samples


@dataclass(frozen=True)
class Moments:
    """Mean (C,) and covariance (C, C) of the channels that a layer reads, over `n` images and places."""

    n: int
    mean: Tensor
    covariance: Tensor

    def made_up(self, weight: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(weights (O, K) for the channels `kept`, what is added to a bias (O,)) of a 1x1 layer of `weight` (O, C): the
        part of a channel that goes which those that stay predict, by least squares, is read from them (He 2017,
        arXiv:1707.06168)."""
        w = weight.double()
        gone = torch.ones(len(self.mean), dtype=torch.bool)
        gone[kept] = False
        inner = self.covariance[kept][:, kept]
        ridge = (RIDGE + len(kept) / self.n) * inner.diagonal().mean() + 1e-12
        inner = inner + ridge * torch.eye(len(kept), dtype=inner.dtype)
        predicted = torch.linalg.solve(inner, self.covariance[kept][:, gone])
        lost = w[:, gone]
        more = lost @ (self.mean[gone] - predicted.T @ self.mean[kept])
        return (w[:, kept] + lost @ predicted.T).to(weight.dtype), more.to(weight.dtype)


def input_moments(net: Network, batches: Iterable[Tensor]) -> dict[str, Moments]:
    """Of every 1x1 layer of `net` that reads channels which can be cut, by name, on `batches` (N, C, H, W) of images;
    on the CPU. The network is left in eval mode."""
    names = {name for channels in channel_sets(net.spec) if channels.makers for name, _ in channels.readers}
    sums: dict[str, Tensor] = {}

    def taken(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            x = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) if x.dim() == 4 else x
            if len(x) > MOST:  # drawn: a stride may be a multiple of the map's width, and see one column
                drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:MOST]
                x = x[drawn.to(x.device)]
            x = x.double()
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            sums[name] = sums[name] + x.T @ x if name in sums else x.T @ x

        return take

    layers = {name: net.get_submodule(name) for name in sorted(names)}
    hooks = [
        layer.register_forward_pre_hook(taken(name))
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
    ]
    net.eval()
    try:
        with torch.inference_mode():
            for x in batches:
                net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _moments(total.cpu()) for name, total in sums.items()}


def _moments(total: Tensor) -> Moments:
    """From the sum of outer products of (channels, 1)."""
    n = total[-1, -1]
    mean = total[-1, :-1] / n
    return Moments(int(n), mean, total[:-1, :-1] / n - torch.outer(mean, mean))
