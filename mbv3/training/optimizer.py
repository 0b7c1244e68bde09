"""Optimizers, what they remember, and the averaged weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mbv3.errors import BadInput
from mbv3.training.groups import rate_shares
from mbv3.training.recipes import Fit

__all__ = ["Average", "make_optimizer", "optimizer_state", "restore_optimizer"]


def make_optimizer(net: nn.Module, recipe: Fit) -> torch.optim.Optimizer:
    """SGD, AdamW, or RMSProp; norms and biases are not decayed, unless the recipe has it so. A group's `share` of the
    learning rate is what its depth gives it."""
    shares = rate_shares(net, recipe)
    rest = recipe.weight_decay if recipe.decay_all else 0.0
    groups: list[dict[str, Any]] = []
    for share in sorted(set(shares.values()), reverse=True) or [1.0]:
        mine = [p for name, p in net.named_parameters() if shares[name] == share]
        decay, plain = [p for p in mine if p.dim() > 1], [p for p in mine if p.dim() <= 1]
        groups += [
            {"params": decay, "weight_decay": recipe.weight_decay, "share": share},
            {"params": plain, "weight_decay": rest, "share": share},
        ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    if recipe.optimizer == "rmsprop":
        # TensorFlow's, which the paper used, has its epsilon of 0.001 under the root: 0.0316 outside is nearly that
        return torch.optim.RMSprop(
            groups, lr=recipe.lr, alpha=recipe.alpha, eps=recipe.eps, momentum=recipe.momentum
        )  # fmt: skip
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for g in optimizer.param_groups for p in g["params"]]


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers (momentum, Adam's moments and step), by parameter number and name."""
    return {
        f"{i}.{name}": value
        for i, p in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(p, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Put `optimizer_state` back. Raises: BadInput where it is another optimizer's."""
    names, params = {key.partition(".")[2] for key in state}, _parameters(optimizer)
    known = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"}}.get(
        type(optimizer).__name__, names
    )
    if names - known:
        raise BadInput(f"the interrupted training had another optimizer than {type(optimizer).__name__} (it kept "
                       f"{', '.join(sorted(names))}): another version began it; start the run anew")  # fmt: skip
    for key, value in state.items():
        i, _, name = key.partition(".")
        p = params[int(i)]
        shaped = value.shape == p.shape
        kept = torch.empty_like(p, memory_format=torch.preserve_format).copy_(value) if shaped else value.clone()
        optimizer.state[p][name] = kept


class Average:
    """Exponential moving average of weights and batch-norm statistics.

    The decay begins small, min(decay, (1 + t) / (10 + t)) as TensorFlow's ExponentialMovingAverage has it, so that a
    short training does not average over its own beginning.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = {k: v for k, v in net.state_dict().items() if v.is_floating_point()}
        self.state = {k: v.detach().clone(memory_format=torch.preserve_format) for k, v in self.live.items()}

    def update(self, step: int) -> None:
        """Take in the weights after `step`."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.state.values()), list(self.live.values()), 1 - keep)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's average."""
        for k, v in self.state.items():
            v.copy_(state[k])

    def swap(self) -> None:
        """Exchange the network's weights with the average."""
        with torch.no_grad():
            for k, v in self.live.items():
                kept = v.clone()
                v.copy_(self.state[k])
                self.state[k].copy_(kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights inside."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
