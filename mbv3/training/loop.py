"""The training loop, for every task, the supernet and NetAdapt.

Every batch, augmentation and dropout mask is a function of (seed, step), so a run that goes on from a checkpoint gives
the bits that an uninterrupted one gives. Batches are made one step ahead in a thread. Under torchrun every process
takes its share of each step's images.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.data import batch_order, normalise
from mbv3.errors import BadInput, Mbv3Error
from mbv3.events import Event, Progress
from mbv3.nn import statistics
from mbv3.training.checkpoint import load_checkpoint, save_checkpoint
from mbv3.training.groups import hold_norms, in_body
from mbv3.training.init import adopt
from mbv3.training.optimizer import Average, make_optimizer, optimizer_state, restore_optimizer
from mbv3.training.processes import all_agree, processes
from mbv3.training.recipes import Fit, learning_rate
from mbv3.training.task import Batches, Objective, classify_objective

__all__ = ["Diverged", "Epoch", "fit", "moved", "one_step", "recipe_values", "same_recipe"]

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
        became = "not finite on another process" if math.isfinite(value) else str(value)
        raise Diverged(f"training: the loss became {became} at step {step}, with a learning rate of {recipe.lr:g}")
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


def moved(target: Any, device: torch.device) -> Any:
    """A target, a tensor or a tuple or list of such, on `device`."""
    if isinstance(target, Tensor):
        return target.to(device, non_blocking=True)
    return type(target)(moved(t, device) for t in target)


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


def recipe_values(recipe: Fit) -> dict[str, Any]:
    """The values of a recipe as JSON gives them back, without the words of its source: what is kept beside weights that
    it gave."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return {k: v for k, v in values.items() if k != "source"}


def same_recipe(recipe: Fit, begun: Mapping[str, Any] | None, checkpoint: Path) -> None:
    """Raises: BadInput: the training of `checkpoint` was `begun` by another recipe. What that does not name is at its
    default, for recipes did not have it yet. None: a checkpoint that knows no recipe."""
    if begun is None:
        return
    before = {f.name: f.default for f in fields(Fit)} | dict(begun)
    now = recipe_values(recipe)
    apart = [f"{name} {before.get(name)}, now {value}" for name, value in now.items() if before.get(name) != value]
    if apart:
        raise BadInput(
            f"{checkpoint}: this training began with {'; '.join(apart)}; resume it with the version and "
            "machine that it began with, or begin again in another folder"
        )


class _State:
    """What a checkpoint holds: weights, optimizer, averaged weights, the recipe, and how far the training has come."""

    def __init__(self, net: nn.Module, recipe: Fit) -> None:
        self.net, self.recipe = net, recipe
        self.optimizer = make_optimizer(net, recipe)
        self.average = Average(net, recipe.ema) if recipe.ema else None
        self.step = self.epoch_from = 0
        self.epoch_loss = 0.0
        self.smooth_loss = float("nan")

    def restore(self, checkpoint: Path) -> None:
        """Go on from `checkpoint`, if it is there."""
        found = load_checkpoint(checkpoint)
        if found is None:
            return
        parts, meta = found
        same_recipe(self.recipe, meta.get("recipe"), checkpoint)
        adopt(self.net, parts["net"], str(checkpoint), new_head=False)
        restore_optimizer(self.optimizer, parts.get("optimizer", {}))
        if self.average is not None:
            self.average.restore(parts["average"])
        self.step = int(meta["step"])
        self.epoch_loss = float(meta.get("epoch_loss", 0.0))
        self.epoch_from = int(meta.get("epoch_from", self.step))

    def save(self, checkpoint: Path) -> None:
        """Write the checkpoint; of several processes the first does."""
        if processes()[0] > 0:
            return
        parts = {"net": self.net.state_dict(), "optimizer": optimizer_state(self.optimizer)}
        if self.average is not None:
            parts["average"] = self.average.state
        meta = {
            "step": self.step, "epoch_loss": self.epoch_loss, "epoch_from": self.epoch_from,
            "recipe": recipe_values(self.recipe),
        }  # fmt: skip
        save_checkpoint(checkpoint, parts, meta)

    def count(self, loss: float) -> None:
        """A step was taken, with this loss."""
        if self.average is not None:
            self.average.update(self.step)
        self.smooth_loss = loss if math.isnan(self.smooth_loss) else 0.95 * self.smooth_loss + 0.05 * loss
        self.epoch_loss += loss
        self.step += 1

    def end_epoch(self) -> float:
        """The epoch's mean loss; the next one begins."""
        mean = self.epoch_loss / (self.step - self.epoch_from)
        self.epoch_loss, self.epoch_from = 0.0, self.step
        return mean

    def averaged(self) -> AbstractContextManager[None]:
        """The averaged weights in place of the others, for a while."""
        return self.average.in_place() if self.average is not None else nullcontext()


class _Body:
    """The layers under the head, which stand still while a recipe trains the head first."""

    def __init__(self, net: nn.Module, recipe: Fit) -> None:
        self.first = recipe.first_steps
        named = net.named_parameters() if self.first else ()
        self.parameters = [p for name, p in named if p.requires_grad and in_body(name)]

    def learns_from(self, step: int) -> bool:
        return bool(self.parameters) and step == self.first

    def wrapped(self, module: nn.Module, step: int) -> nn.Module:
        """The module as it is called from `step` on; processes share the gradients of what learns then."""
        for p in self.parameters:
            p.requires_grad_(step >= self.first)
        return nn.parallel.DistributedDataParallel(module) if processes()[1] > 1 else module

    def release(self) -> None:
        for p in self.parameters:
            p.requires_grad_(True)


class _Pace:
    """Images a second, and the time that is left. `pause_s`: spent in what epochs call."""

    def __init__(self, recipe: Fit, start: int, clock: Callable[[], float]) -> None:
        self.recipe, self.start, self.began = recipe, start, clock()
        self.pause_s = 0.0

    def spent_s(self, now: float) -> float:
        return max(now - self.began - self.pause_s, 1e-9)

    def images_s(self, done: int, now: float, world: int) -> float:
        return (done - self.start) / self.spent_s(now) * self.recipe.batch * world

    def left_s(self, done: int, now: float) -> float:
        taken = max(done - self.start, 1)
        epochs = max(1.0, taken / self.recipe.epoch_steps)
        pause = self.pause_s / epochs / self.recipe.epoch_steps
        return (self.recipe.steps - done) * (self.spent_s(now) / taken + pause)


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
    it is removed at the end unless `keep`. One that is finished already is not written again.

    Raises:
        BadInput: the checkpoint is of another recipe.
        Diverged: loss or gradient is not finite; the last checkpoint stays.
    """
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _training(net, recipe)
    device = next(net.parameters()).device
    state = _State(net, recipe)
    if checkpoint is not None:
        state.restore(checkpoint)
    start, (rank, world) = state.step, processes()
    body = _Body(net, recipe)
    called = body.wrapped(module if module is not None else net, start)
    aim = objective or classify_objective(recipe)
    ahead = _Ahead(data, recipe, start)
    pace = _Pace(recipe, start, clock)
    saved = shown = clock()
    try:
        for step in range(start, recipe.steps):
            if body.learns_from(step):
                called = body.wrapped(module if module is not None else net, step)
            pixels, y = ahead.take()
            x = normalise(pixels, recipe.size, device, statistics(net))
            if recipe.erase:
                _erase(x, recipe.erase, np.random.default_rng((recipe.seed, step, rank, 1)))
            run = forward(step) if forward else called
            state.count(one_step(run, net, state.optimizer, x, moved(y, device), recipe, step, aim))
            done, now = state.step, clock()
            last = done == recipe.steps
            ends = at_epoch is not None and (done % recipe.epoch_steps == 0 or last)
            if now - shown > 2 or last:
                shown = now
                text = f"loss {state.smooth_loss:.3f}, {pace.images_s(done, now, world):.0f} images/s"
                yield Progress(stage, done, recipe.steps, text, pace.left_s(done, now))
            if at_epoch is not None and ends:
                epoch = Epoch(
                    step=done, loss=state.end_epoch(), lr=learning_rate(recipe, step),
                    images_s=pace.images_s(done, now, world), waiting=min(1.0, ahead.waited_s / pace.spent_s(now)),
                )  # fmt: skip
                with state.averaged():
                    yield from at_epoch(epoch)
                _training(net, recipe)
                pace.pause_s += clock() - now
            # after the epoch's event: what its receiver keeps of it is then on disk before the checkpoint counts it
            if checkpoint is not None and not last and (clock() - saved > every_s or ends):
                state.save(checkpoint)
                saved = clock()
    finally:
        ahead.close()
        body.release()
    if checkpoint is not None and keep:
        if start < recipe.steps or not checkpoint.exists():  # a finished one is read only
            state.save(checkpoint)
    elif checkpoint is not None and rank == 0:
        checkpoint.unlink(missing_ok=True)
    if state.average is not None:
        state.average.swap()
