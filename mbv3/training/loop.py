"""The training loop, for every task, the supernet and NetAdapt.

Every batch, augmentation and dropout mask is a function of (seed, step), so a run that goes on from a checkpoint gives
the bits that an uninterrupted one gives. Batches are made one step ahead in a thread. Under torchrun every process
takes its share of each step's images.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.data import batch_order, normalise
from mbv3.errors import Mbv3Error
from mbv3.events import Event, Progress
from mbv3.training.checkpoint import load_checkpoint, save_checkpoint
from mbv3.training.groups import hold_norms, in_body
from mbv3.training.init import adopt
from mbv3.training.optimizer import Average, make_optimizer, optimizer_state, restore_optimizer
from mbv3.training.processes import all_agree, processes
from mbv3.training.recipes import Fit, learning_rate
from mbv3.training.task import Batches, Objective, classify_objective

__all__ = ["Diverged", "Epoch", "fit", "one_step"]

_AHEAD = 2


class Diverged(Mbv3Error):
    """The loss is not finite any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """An epoch ended after `step` steps. `waiting`: share of the time in which the network waited for images."""

    step: int
    loss: float  # mean over the epoch
    lr: float
    images_s: float
    waiting: float


def one_step(
    forward: Callable[[Tensor], Any],
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Any,
    recipe: Fit,
    step: int,
    objective: Objective | None = None,
) -> float:
    """One update; returns the loss. Raises: Diverged when loss or gradient is not finite; nothing is updated then."""
    torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout
    lr = learning_rate(recipe, step)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("share", 1.0)
    half = torch.autocast(x.device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
    with half:
        out = forward(x)
    loss = (objective or classify_objective(recipe))(out, y, x)
    value = float(loss.detach())
    if not all_agree(math.isfinite(value), x.device):
        told = "not finite on another process" if math.isfinite(value) else str(value)
        raise Diverged(f"training: the loss became {told} at step {step}, with a learning rate of {recipe.lr:g}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(nn.utils.clip_grad_norm_(net.parameters(), recipe.clip))
    if not math.isfinite(norm):
        raise Diverged(f"training: the gradient became {norm} at step {step}, with a learning rate of {recipe.lr:g}")
    optimizer.step()
    return value


class _Ahead:
    """Batches made ahead of the step that needs them, in a thread. `waited_s`: how long they were waited for."""

    def __init__(self, data: Batches, recipe: Fit, start: int) -> None:
        self.data, self.recipe = data, recipe
        self.rank, self.world = processes()
        batch = min(recipe.batch * self.world, len(data))
        self.order = batch_order(len(data), batch, recipe.seed, start)
        self.pool = ThreadPoolExecutor(1)
        self.waiting: deque[Future[tuple[NDArray[np.uint8], Any]]] = deque()
        self.next = start
        self.waited_s = 0.0

    def _make(self, step: int) -> tuple[NDArray[np.uint8], Any]:
        index = next(self.order)[self.rank :: self.world]
        rng = np.random.default_rng((self.recipe.seed, step, *((self.rank,) if self.rank else ())))
        return self.data.batch(index, self.recipe.size, self.recipe.augment, rng)

    def take(self) -> tuple[NDArray[np.uint8], Any]:
        """The next step's batch."""
        while len(self.waiting) < _AHEAD and self.next < self.recipe.steps:
            self.waiting.append(self.pool.submit(self._make, self.next))
            self.next += 1
        began = time.monotonic()
        made = self.waiting.popleft().result()
        self.waited_s += time.monotonic() - began
        return made

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


def _moved(target: Any, device: torch.device) -> Any:
    if isinstance(target, Tensor):
        return target.to(device, non_blocking=True)
    return type(target)(_moved(t, device) for t in target)


def _erase(x: Tensor, share: float, rng: np.random.Generator) -> None:
    """A rectangle of 2 to 33 % of the area becomes the mean colour, in `share` of the images (Zhong 2017)."""
    h, w = x.shape[2:]
    for i in np.flatnonzero(rng.random(len(x)) < share):
        area, ratio = rng.uniform(0.02, 0.33) * h * w, np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
        eh, ew = min(h, round((area * ratio) ** 0.5)), min(w, round((area / ratio) ** 0.5))
        top, left = rng.integers(0, h - eh + 1), rng.integers(0, w - ew + 1)
        x[i, :, top : top + eh, left : left + ew] = 0


def _training(net: nn.Module, recipe: Fit) -> None:
    net.train()
    if recipe.hold_norms:
        hold_norms(net)


def fit(
    net: nn.Module,
    data: Batches,
    recipe: Fit,
    *,
    stage: str = "training",
    checkpoint: Path | None = None,
    objective: Objective | None = None,
    forward: Callable[[int], Callable[[Tensor], Any]] | None = None,
    module: nn.Module | None = None,
    at_epoch: Callable[[Epoch], Iterator[Event]] | None = None,
    every_s: float = 30.0,
    keep: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Train `net` in place, on the device that it is on; at the end it has the averaged weights, if the recipe
    averages. `forward(step)` replaces the plain forward pass (a supernet's path of the step); `module`, which holds
    `net`, is called in its place (a network with its auxiliary head). `at_epoch` is called after every epoch, while
    `net` has the averaged weights.

    With `checkpoint`, the state is written every `every_s` seconds and at epochs, and a later call goes on from it;
    it is removed at the end unless `keep`.

    Raises:
        Diverged: loss or gradient is not finite; the last checkpoint stays.
    """
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _training(net, recipe)
    device = next(net.parameters()).device
    optimizer = make_optimizer(net, recipe)
    average = Average(net, recipe.ema) if recipe.ema else None
    rank, world = processes()
    start = epoch_from = 0
    epoch_loss = 0.0
    found = load_checkpoint(checkpoint) if checkpoint else None
    if found:
        parts, meta = found
        adopt(net, parts["net"], str(checkpoint), new_head=False)
        restore_optimizer(optimizer, parts.get("optimizer", {}))
        if average is not None:
            average.restore(parts["average"])
        start = int(meta["step"])
        epoch_loss, epoch_from = float(meta.get("epoch_loss", 0.0)), int(meta.get("epoch_from", start))
    called = module if module is not None else net
    body = [p for name, p in net.named_parameters() if p.requires_grad and in_body(name)] if recipe.first_steps else []

    def whole_at(step: int) -> Callable[[Tensor], Any]:
        """The module as it is called from `step` on; processes share the gradients of what learns then."""
        for p in body:
            p.requires_grad_(step >= recipe.first_steps)
        return nn.parallel.DistributedDataParallel(called) if world > 1 else called

    whole = whole_at(start)
    aim = objective or classify_objective(recipe)

    def save(path: Path, step: int) -> None:
        if rank == 0:
            parts = {"net": net.state_dict(), "optimizer": optimizer_state(optimizer)}
            if average is not None:
                parts["average"] = average.state
            save_checkpoint(path, parts, {"step": step, "epoch_loss": epoch_loss, "epoch_from": epoch_from})

    ahead = _Ahead(data, recipe, start)
    began = saved = told = clock()
    loss, pause = float("nan"), 0.0
    try:
        for step in range(start, recipe.steps):
            if body and step == recipe.first_steps:
                whole = whole_at(step)
            pixels, y = ahead.take()
            x = normalise(pixels, recipe.size, device)
            if recipe.erase:
                _erase(x, recipe.erase, np.random.default_rng((recipe.seed, step, rank, 1)))
            now = one_step(forward(step) if forward else whole, net, optimizer, x, _moved(y, device), recipe, step, aim)
            if average is not None:
                average.update(step)
            loss = now if math.isnan(loss) else 0.95 * loss + 0.05 * now
            epoch_loss += now
            done = step + 1
            ends = at_epoch is not None and (done % recipe.epoch_steps == 0 or done == recipe.steps)
            t = clock()
            rate = (done - start) / max(t - began - pause, 1e-9)
            images_s, waiting = rate * recipe.batch * world, ahead.waited_s / max(t - began - pause, 1e-9)
            if t - told > 2 or done == recipe.steps:
                told = t
                text = f"loss {loss:.3f}, {images_s:.0f} images/s"
                epochs = max(1.0, (done - start) / recipe.epoch_steps)
                left = (recipe.steps - done) * (1 / rate + pause / epochs / recipe.epoch_steps)
                yield Progress(stage, done, recipe.steps, text, left)
            if at_epoch is not None and ends:
                mean = epoch_loss / (done - epoch_from)
                epoch_loss, epoch_from = 0.0, done
                with average.in_place() if average is not None else nullcontext():
                    yield from at_epoch(
                        Epoch(
                            step=done, loss=mean, lr=learning_rate(recipe, step), images_s=images_s,
                            waiting=min(1.0, waiting),
                        )
                    )  # fmt: skip
                _training(net, recipe)
                pause += clock() - t
            # after the epoch was told: what is said of it is then kept before the training counts as so far
            if checkpoint and done < recipe.steps and (clock() - saved > every_s or ends):
                save(checkpoint, done)
                saved = clock()
    finally:
        ahead.close()
        for p in body:
            p.requires_grad_(True)
    if checkpoint and keep:
        save(checkpoint, recipe.steps)
    elif checkpoint and rank == 0:
        checkpoint.unlink(missing_ok=True)
    if average is not None:
        average.swap()
