"""What layers read: how much of it channels explain, and how those that stay make up for those that go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbv3.nn.build import Network
from mbv3.nn.surgery import channel_sets

__all__ = ["Moments", "input_moments"]

MOST = 2048  # places of a batch's maps that are taken
RIDGE = 0.1  # of the mean variance of the channels that are read; and their number over that of the samples


@dataclass(frozen=True)
class Moments:
    """Mean (C,) and covariance (C, C) of the channels that a layer reads, over `n` images and places; of an image it
    reads `places`."""

    n: int
    places: int
    mean: Tensor
    covariance: Tensor

    def explained(self, weight: Tensor, order: Tensor) -> Tensor:
        """Share (K,) of the variance of what a layer of `weight` (O, C, ...) computes that each channel of `order` (K,)
        adds, by least squares, to what those before it and the channels that are not in `order` explain. The taps of a
        kernel are taken apart, as if each read other places."""
        others = torch.ones(len(self.mean), dtype=torch.bool)
        others[order] = False
        order = torch.cat([others.nonzero()[:, 0], order])
        w = weight.double().flatten(2).transpose(1, 2).flatten(0, 1) if weight.dim() > 2 else weight.double()
        # the factor's columns: what the channels are of a noise that each adds, in this order
        factor = torch.linalg.cholesky(self._ridged(order))
        added = (w[:, order] @ factor).square().sum(0)
        shares: Tensor = added[int(others.sum()) :] / added.sum().clamp_min(1e-30)  # a layer of zeros
        return shares

    def made_up(self, weight: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(weights (O, K) for the channels `kept`, what is added to a bias (O,)) of a 1x1 layer of `weight` (O, C): the
        part of a channel that goes which those that stay predict, by least squares, is read from them (He 2017,
        arXiv:1707.06168)."""
        w = weight.double()
        gone = torch.ones(len(self.mean), dtype=torch.bool)
        gone[kept] = False
        predicted = torch.linalg.solve(self._ridged(kept), self.covariance[kept][:, gone])
        lost = w[:, gone]
        more = lost @ (self.mean[gone] - predicted.T @ self.mean[kept])
        return (w[:, kept] + lost @ predicted.T).to(weight.dtype), more.to(weight.dtype)

    def _ridged(self, channels: Tensor) -> Tensor:
        """Covariance (K, K) of `channels`, sure to have an inverse."""
        inner = self.covariance[channels][:, channels]
        ridge = (RIDGE + len(channels) / self.n) * inner.diagonal().mean() + 1e-12
        return inner + ridge * torch.eye(len(channels), dtype=inner.dtype)


def input_moments(net: Network, batches: Iterable[Tensor]) -> dict[str, Moments]:
    """Of every layer of `net` that reads channels which can be cut, by name, on `batches` (N, C, H, W) of images; on
    the CPU. The network is left in eval mode."""
    names = {name for channels in channel_sets(net.spec) if channels.makers for name, _ in channels.readers}
    sums: dict[str, Tensor] = {}
    places: dict[str, int] = {}

    def taken(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            places[name] = x[0, 0].numel()
            x = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) if x.dim() == 4 else x
            if len(x) > MOST:  # drawn: a stride may be a multiple of the map's width, and see one column
                drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:MOST]
                x = x[drawn.to(x.device)]
            x = x.double()
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            sums[name] = sums[name] + x.T @ x if name in sums else x.T @ x

        return take

    layers = {name: net.get_submodule(name) for name in sorted(names)}
    hooks = [layer.register_forward_pre_hook(taken(name)) for name, layer in layers.items()]
    net.eval()
    try:
        with torch.inference_mode():
            for x in batches:
                net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _moments(total.cpu(), places[name]) for name, total in sums.items()}


def _moments(total: Tensor, places: int) -> Moments:
    """From the sum of outer products of (channels, 1)."""
    n = total[-1, -1]
    mean = total[-1, :-1] / n
    return Moments(int(n), places, mean, total[:-1, :-1] / n - torch.outer(mean, mean))
