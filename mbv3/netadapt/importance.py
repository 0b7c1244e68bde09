"""What a channel is worth: how much the loss would change without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.nn import ChannelSet, Network, channel_sets
from mbv3.spec import ArchSpec, Site, all_sites, channels, cut

__all__ = ["IMPORTANCES", "Importance", "Scores", "by_site", "channel_scores", "maker_of", "site_scores"]

Importance = Literal["taylor", "taylor-squared", "l2", "bn"]
IMPORTANCES: tuple[str, ...] = get_args(Importance)
Scores = dict[str, Tensor]  # the first convolution that writes a set of channels, to a score of each; higher is kept


def maker_of(sets: Iterable[ChannelSet], spec: ArchSpec, site: Site) -> str:
    """The first convolution that writes the channels of `site`, which is none of a dense head: the name under which
    `channel_scores` has them."""
    if site.kind in ("stem", "tail"):
        wanted = [f"{site.kind}.conv"]
    elif site.kind == "features":
        wanted = ["head.features", "head.features.conv"]
    elif site.kind == "expansion":
        wanted = [f"rows.{site.first}.expand.conv"]
    else:
        wanted = [f"rows.{site.last}.project.conv", f"rows.{site.last}.conv"]
    return next(channels.makers[0] for channels in sets if any(name in channels.makers for name in wanted))


def site_scores(spec: ArchSpec, scores: Scores) -> dict[Site, NDArray[np.float64]]:
    """Scores of the channels at every site that can be cut, from those of `channel_scores`; the best first."""
    return by_site(spec, {name: np.sort(values.double().cpu().numpy())[::-1] for name, values in scores.items()})


def by_site(spec: ArchSpec, values: Mapping[str, NDArray[np.float64]]) -> dict[Site, NDArray[np.float64]]:
    """Values of channels, in the order in which they are kept, at every site that can be cut.

    One number of a dense head is the width of several of its layers, of some of them by half. Each keeps its own best
    channels, so the best of all count together, then the second, and so on; a layer of half as many counts in halves.
    """
    sets = [c for c in channel_sets(spec) if c.makers]
    found: dict[Site, NDArray[np.float64]] = {}
    for site in all_sites(spec):
        if not site.of_head:
            found[site] = values[maker_of(sets, spec, site)]
            continue
        now = channels(spec, site)
        half = cut(spec, site, now // 2)
        assert half is not None
        after = [c for c in channel_sets(half) if c.makers]
        total = np.zeros(now)
        for mine, less in zip(sets, after, strict=True):
            if less.size < mine.size:
                times = now // mine.size
                total[: times * mine.size] += np.repeat(values[mine.makers[0]], times) / times
        found[site] = total
    return found


def channel_scores(
    net: Network,
    kind: Importance,
    batches: Iterable[tuple[Tensor, Any]] = (),
    loss: Callable[[Any, Any, Tensor], Tensor] | None = None,
) -> Scores:
    """A score of every channel of `net`, which is left as it was; channels that are tied have one.

    `taylor` and `taylor-squared`: first-order Taylor expansion of the loss in a gate on the channel (Molchanov 2019,
    arXiv:1906.10771): the mean over `batches` of the gate's gradient, absolute as in HALP (Shen 2022, arXiv:2110.10811)
    or squared. `l2`: squared L2 norm of the channel's filters, as the paper of NetAdapt has it. `bn`: scale of the
    batch norms. `loss`: (what the network gave, target, input) to the loss.
    """
    sets = [c for c in channel_sets(net.spec) if c.makers]
    if kind == "l2":
        return {c.makers[0]: _total(_l2(net, name) for name in c.makers) for c in sets}
    if kind == "bn":
        return {c.makers[0]: _total(_scale(net, name) for name in c.norms or c.makers) for c in sets}
    if loss is None:
        raise ValueError(f"{kind} needs batches and a loss")
    return _taylor(net, sets, kind, batches, loss)


def _taylor(
    net: Network,
    sets: list[ChannelSet],
    kind: Importance,
    batches: Iterable[tuple[Tensor, Any]],
    loss: Callable[[Any, Any, Tensor], Tensor],
) -> Scores:
    """The gradient of a gate before a linear layer is the sum of weight times gradient over what it reads of the
    channel. Summed over all layers that read it, it is the gradient of removing the channel, whatever activation, gate
    or residual lies between; gamma dgamma + beta dbeta of the batch norms is the same where nothing but ReLU does."""
    net.eval()  # the statistics of the batch norms are part of the network whose loss is expanded
    totals = {c.makers[0]: torch.zeros(c.size, dtype=torch.float64) for c in sets}
    n = 0
    for x, y in batches:
        net.zero_grad(set_to_none=True)
        loss(net(x), y, x).backward()  # type: ignore[no-untyped-call]
        for c in sets:
            total = totals[c.makers[0]]
            gate = torch.zeros(c.size, dtype=torch.float64, device=x.device)
            for name, start in c.readers:
                gate += _reads(net, name, start, c.size)
            total += (gate.abs() if kind == "taylor" else gate.square()).cpu()
        n += 1
    net.zero_grad(set_to_none=True)
    return {name: total / max(n, 1) for name, total in totals.items()}


def _weight(net: nn.Module, name: str) -> nn.Parameter:
    weight = net.get_submodule(name).weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _reads(net: nn.Module, name: str, start: int, size: int) -> Tensor:
    weight = _weight(net, name)
    if weight.grad is None:  # of an auxiliary head, which the loss does not see
        return torch.zeros(size, dtype=torch.float64, device=weight.device)
    product = (weight.detach() * weight.grad)[:, start : start + size]
    return product.transpose(0, 1).flatten(1).sum(1)


def _l2(net: nn.Module, name: str) -> Tensor:
    return _weight(net, name).detach().flatten(1).square().sum(1).cpu()


def _scale(net: nn.Module, name: str) -> Tensor:
    """A batch norm's scale; of a layer without one, the norm of its filters."""
    weight = _weight(net, name).detach()
    return (weight.abs() if weight.dim() == 1 else weight.flatten(1).square().sum(1).sqrt()).cpu()


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)
