"""Parameters by their depth: which of them the head-first phase leaves alone, and what rate each of them gets."""

from __future__ import annotations

import re

from torch import nn

from mbv3.training.recipes import Recipe

__all__ = ["hold_norms", "in_body", "rate_shares"]

_BODY = re.compile(r"(stem|rows\.(\d+)|tail)\.")


def in_body(name: str) -> bool:
    """Whether a parameter is under the head; those of an auxiliary head are not."""
    return _BODY.match(name) is not None


def rate_shares(net: nn.Module, recipe: Recipe) -> dict[str, float]:
    """Parameter name to its share of the learning rate: 1 in the head, under it `body_lr`, times `layer_decay` once for
    every row that lies between (Howard and Ruder 2018, section 3.2, arXiv:1801.06146)."""
    names = [name for name, _ in net.named_parameters()]
    found = {name: _BODY.match(name) for name in names}
    rows = [int(m[2]) for m in found.values() if m and m[2]]
    top = max(rows, default=-1) + 2  # the stem is level 0, row i is i + 1

    def share(name: str) -> float:
        m = found[name]
        if m is None:
            return 1.0
        level = 0 if m[1] == "stem" else top if m[1] == "tail" else int(m[2]) + 1
        return recipe.body_lr * float(recipe.layer_decay ** (top - level))

    return {name: share(name) for name in names}


def hold_norms(net: nn.Module) -> None:
    """Batch norms under the head use and keep their statistics, though the network trains."""
    for name, m in net.named_modules():
        if isinstance(m, nn.BatchNorm2d) and in_body(name):
            m.eval()
