"""The training loop for classification: SGD or AdamW, cosine schedule, label smoothing.

Every batch, augmentation and dropout mask is a function of (seed, step), so a run that goes on from a checkpoint gives
the bits that an uninterrupted one gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mbv3.data import ImageSet, batch_order, make_batch
from mbv3.errors import Mbv3Error
from mbv3.events import Progress
from mbv3.training.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["Diverged", "Fit", "fit", "learning_rate", "make_optimizer", "one_step"]


class Diverged(Mbv3Error):
    """The loss is not finite any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How to train: `steps` batches of `batch` images of `size` pixels (height, width)."""

    steps: int
    size: tuple[int, int]
    batch: int = 128
    lr: float = 0.1
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 5e-5
    label_smoothing: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    clip: float = 5.0  # gradient norm
    augment: bool = True
    seed: int = 0


def learning_rate(recipe: Fit, step: int) -> float:
    """Linear warm-up, then cosine to zero."""
    warm = max(1, int(recipe.warmup * recipe.steps))
    if step < warm:
        return recipe.lr * (step + 1) / warm
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


def make_optimizer(net: nn.Module, recipe: Fit) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum 0.9, or AdamW; norms and biases are not decayed."""
    decay = [p for p in net.parameters() if p.dim() > 1]
    plain = [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)


def one_step(
    forward: Callable[[Tensor], Tensor],
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    recipe: Fit,
    step: int,
) -> float:
    """One update; returns the loss. Raises: Mbv3Error when the loss is not finite."""
    torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step)
    loss = nn.functional.cross_entropy(forward(x), y, label_smoothing=recipe.label_smoothing)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise Diverged(f"training: the loss became {value} at step {step}, with a learning rate of {recipe.lr:g}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
    optimizer.step()
    return value


def _memory(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers (momentum, Adam's moments and step), by parameter number and name."""
    params = [p for g in optimizer.param_groups for p in g["params"]]
    return {
        f"{i}.{name}": value
        for i, p in enumerate(params)
        for name, value in optimizer.state.get(p, {}).items()
        if isinstance(value, Tensor)
    }


def _restore(net: nn.Module, optimizer: torch.optim.Optimizer, parts: dict[str, dict[str, Tensor]]) -> None:
    """Put a checkpoint's weights and the optimizer's memory back."""
    net.load_state_dict(parts["net"])
    params = [p for g in optimizer.param_groups for p in g["params"]]
    for key, value in parts.get("optimizer", {}).items():
        i, _, name = key.partition(".")
        p = params[int(i)]
        shaped = value.shape == p.shape
        kept = torch.empty_like(p, memory_format=torch.preserve_format).copy_(value) if shaped else value.clone()
        optimizer.state[p][name] = kept


def fit(
    net: nn.Module,
    data: ImageSet,
    recipe: Fit,
    *,
    stage: str = "training",
    checkpoint: Path | None = None,
    forward: Callable[[int], Callable[[Tensor], Tensor]] | None = None,
    every_s: float = 30.0,
    keep: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Train `net` in place. `forward(step)` replaces the plain forward pass (a supernet's path of the step).

    With `checkpoint`, the state is written every `every_s` seconds and a later call goes on from it; it is removed
    at the end unless `keep`.
    """
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.train()
    optimizer = make_optimizer(net, recipe)
    start = 0
    found = load_checkpoint(checkpoint) if checkpoint else None
    if found:
        _restore(net, optimizer, found[0])
        start = int(found[1]["step"])
    order = batch_order(len(data), min(recipe.batch, len(data)), recipe.seed, start)
    began = saved = told = clock()
    loss = float("nan")
    for step in range(start, recipe.steps):
        rng = np.random.default_rng((recipe.seed, step)) if recipe.augment else None
        x, y = make_batch(data, next(order), recipe.size, rng)
        now = one_step(forward(step) if forward else net, net, optimizer, x, y, recipe, step)
        loss = now if math.isnan(loss) else 0.95 * loss + 0.05 * now
        t = clock()
        if checkpoint and (t - saved > every_s) and step + 1 < recipe.steps:
            save_checkpoint(checkpoint, {"net": net.state_dict(), "optimizer": _memory(optimizer)}, {"step": step + 1})
            saved = clock()
        if t - told > 2 or step + 1 == recipe.steps:
            told = t
            rate = (step + 1 - start) / max(t - began, 1e-9)
            text = f"loss {loss:.3f}, {rate * recipe.batch:.0f} images/s"
            yield Progress(stage, step + 1, recipe.steps, text, (recipe.steps - step - 1) / rate)
    if checkpoint and keep:
        save_checkpoint(checkpoint, {"net": net.state_dict(), "optimizer": _memory(optimizer)}, {"step": recipe.steps})
    elif checkpoint:
        checkpoint.unlink(missing_ok=True)
