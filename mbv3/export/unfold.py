"""Batch norms that a file has folded into its convolutions, given back by statistics on images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mbv3.errors import BadInput
from mbv3.nn import Network, build
from mbv3.spec import ArchSpec

__all__ = ["loaded", "unfolded"]


def loaded(spec: ArchSpec, state: Mapping[str, Tensor]) -> Network:
    """The network in eval mode with `state`, whose counters of batch norms may lack."""
    net = build(spec, 0)
    counters = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
    net.load_state_dict({**counters, **state})
    return net.eval()


def unfolded(
    spec: ArchSpec, state: Mapping[str, Tensor], norms: Sequence[str], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """`state` with the mean and variance that each of `norms` meets on `batches` (N, C, H, W) in its statistics, and
    what undoes them in its gain and shift: answers stay the same.

    With a mean of 0 and a variance of 1 the first step of training, which normalises by the batch, would change every
    activation. With these it changes none by more than the batch differs from the images.

    Raises:
        BadInput: no batches.
    """
    net = loaded(spec, state)
    sums = {name: _Sums() for name in norms}
    hooks = [net.get_submodule(name).register_forward_pre_hook(sums[name]) for name in norms]
    with torch.inference_mode():
        for batch in batches:
            net(batch)
    for hook in hooks:
        hook.remove()
    new = dict(state)
    for name, seen in sums.items():
        if not seen.n:
            raise BadInput("statistics of batch norms need images: give some")
        mean = seen.total / seen.n
        var = (seen.squares / seen.n - mean**2).clamp(min=0)
        old = {part: state[f"{name}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")}
        slope = old["weight"] / (old["running_var"] + spec.bn_eps).sqrt()
        new[f"{name}.running_mean"], new[f"{name}.running_var"] = mean.float(), var.float()
        new[f"{name}.weight"] = (slope * (var + spec.bn_eps).sqrt()).float()
        new[f"{name}.bias"] = (old["bias"] + slope * (mean - old["running_mean"])).float()
    return new


class _Sums:
    """Counts, sums and squares of what a batch norm is given, channel by channel."""

    def __init__(self) -> None:
        self.n = 0
        self.total = self.squares = torch.zeros((), dtype=torch.float64)

    def __call__(self, norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].double()
        self.n += x.numel() // x.shape[1]
        self.total = self.total + x.sum((0, 2, 3))
        self.squares = self.squares + (x * x).sum((0, 2, 3))
