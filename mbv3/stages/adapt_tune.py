"""What NetAdapt asks of a proposal: its accuracy after a short fine-tuning, its latency when deployed."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.data import batch_order, make_batch
from mbv3.events import Event, StageStart
from mbv3.netadapt import Start, Tried, channel_scores, explained, lost
from mbv3.nn import build, cut_state, input_moments, statistics
from mbv3.spec import ArchSpec, Site, SSDLite
from mbv3.stages.budget import Budget
from mbv3.stages.images import Images, calibration_batches, photos_in, subset
from mbv3.stages.judge import step_seconds, task_fit
from mbv3.stages.keep import Keep
from mbv3.stages.learn import default_device
from mbv3.tables import Latency, Whole
from mbv3.training import (
    Diverged,
    Fit,
    adopt,
    classify_objective,
    distilled,
    fit,
    make_optimizer,
    one_step,
    recalibrate,
)

__all__ = ["BATCH", "HELD_OUT", "STAGE", "Deployed", "FineTune", "Read", "train_start", "with_classes"]

STAGE = "netadapt"
BATCH = 32
HELD_OUT = 512
RECALIBRATED = 8  # batches of 128 whose statistics a score is of
UNTIMED_START = 200  # training steps of the seed where nothing is timed


class FineTune:
    """Steps of SGD from the inherited weights, batch norms recalibrated, scored on held-out images.

    Every network of a step sees the same batches and is scored on the same images, so that their differences are those
    of the cuts. `steps`: T, which NetAdapt spends on every proposal on average. `teacher`: a network whose answers are
    learned too.
    """

    def __init__(self, images: Images, steps: int, seed: int, teacher: nn.Module | None = None) -> None:
        self.images = images
        self.steps = steps
        self.seed = seed
        self.held = subset(images.held_out, HELD_OUT)
        self.device = default_device()
        self.teacher = None if teacher is None else teacher.to(self.device)

    def __call__(self, spec: ArchSpec, state: dict[str, Tensor], step: int, steps: int) -> Tried:
        if not isinstance(spec.head, SSDLite):
            spec = replace(spec, head=replace(spec.head, dropout=0.0))
        net = build(spec, 0)
        net.load_state_dict(state)
        net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.train()
        recipe = Fit(steps=max(steps, 1), size=self.images.size, batch=BATCH, lr=0.01, warmup=0.0, seed=self.seed)
        objective = classify_objective(recipe)
        if self.teacher is not None:
            objective = distilled(objective, self.teacher, recipe, statistics(net))
        optimizer = make_optimizer(net, recipe)
        # another order in every step of NetAdapt, and one that begins alike whatever the number of steps
        order = batch_order(len(self.images.train), min(BATCH, len(self.images.train)), self.seed + 7919 * step)
        for i in range(steps):
            rng = np.random.default_rng((self.seed, step, i))
            x, y = make_batch(photos_in(self.images.train), next(order), self.images.size, rng, statistics(net))
            # the cosine would bring the last of a few steps to nothing: half-way only
            half = replace(recipe, steps=2 * recipe.steps)
            try:
                one_step(net, net, optimizer, x.to(self.device), y.to(self.device), half, i, objective)
            except Diverged:  # this proposal is not finite and is not chosen; the others go on
                return Tried(state, np.full(len(self.held), np.nan), np.zeros(len(self.held), dtype=bool))
        batches = calibration_batches(self.images, RECALIBRATED, by=statistics(net))
        recalibrate(net, (x.to(self.device) for x in batches))
        losses, right = self._answers(net)
        return Tried({k: v.detach().cpu().clone() for k, v in net.state_dict().items()}, losses, right)

    def _answers(self, net: nn.Module) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Loss and correctness on every held-out image."""
        losses, right = [], []
        with torch.inference_mode():
            for start in range(0, len(self.held), 256):
                index = np.arange(start, min(start + 256, len(self.held)))
                batch = make_batch(photos_in(self.held), index, self.images.size, by=statistics(net))
                x, y = (part.to(self.device) for part in batch)
                logits = net(x).float()
                losses.append(nn.functional.cross_entropy(logits, y, reduction="none").double().cpu().numpy())
                right.append((logits.argmax(1) == y).cpu().numpy())
        return np.concatenate(losses), np.concatenate(right)


def with_classes(spec: ArchSpec, classes: int) -> ArchSpec:
    return replace(spec, head=replace(spec.head, classes=classes))


class Read:
    """What layers read on training images, of a step's network: so that a proposal inherits weights that make up for
    the filters that go, and is ranked by what no weights make up for. A few steps cannot learn that again, so that
    without it a step would rank cuts by how much is to be learned, not by what is lost. The filters of largest L2 norm
    stay."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.step: int | None = None
        self._shares: dict[Site, NDArray[np.float64]] | None = None  # of the step

    def _watch(self, begin: Start) -> None:
        if self.step == begin.step:
            return
        net = build(begin.spec, 0)
        net.load_state_dict(begin.state)
        device = default_device()
        net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        batches = calibration_batches(self.images, RECALIBRATED, by=statistics(net))
        self.moments = input_moments(net, (x.to(device) for x in batches))
        self.scores = channel_scores(net, "l2")
        self.step, self._shares = begin.step, None

    def mended(self, begin: Start, spec: ArchSpec) -> dict[str, Tensor]:
        """What a proposal inherits (`Inherit`)."""
        self._watch(begin)
        return cut_state(begin.state, begin.spec, spec, moments=self.moments)

    def lost(self, begin: Start, spec: ArchSpec) -> float:
        """What a proposal loses (`Lost`)."""
        self._watch(begin)
        if self._shares is None:
            self._shares = explained(begin.spec, begin.state, self.moments, self.scores)
        return lost(begin.spec, spec, self._shares)


class Deployed:
    """Latency of the network that will be deployed: NetAdapt works on one with a classifier, which in a search under a
    dense head is none of the network's."""

    def __init__(self, latency: Latency, classes: int) -> None:
        self.latency, self.classes = latency, classes

    def spec(self, spec: ArchSpec) -> ArchSpec:
        return self.latency.dress(with_classes(spec, self.classes))

    def __call__(self, specs: Sequence[ArchSpec]) -> list[float]:
        return self.latency([self.spec(s) for s in specs])

    def measure(self, spec: ArchSpec, parts: int) -> Whole | None:
        return self.latency.measure(self.spec(spec), parts)

    def verdict(self, spec: ArchSpec, target_ms: float) -> Whole | None:
        return self.latency.verdict(self.spec(spec), target_ms)

    def corrected(self, start: Start, whole: Whole) -> Start:
        """`start` with the time that was measured; predictions are scaled to it."""
        self.latency.correct(self.spec(start.spec), whole.ms)
        return replace(start, scored=replace(start.scored, latency_ms=whole.ms))

    def state(self, spec: ArchSpec, state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Weights of the deployed network; a head of another kind, or a classifier of other classes, is left as
        initialised."""
        deployed = self.spec(spec)
        fresh = build(deployed, seed).state_dict()
        own = ("head.", "aux.") if type(deployed.head) is not type(spec.head) else ()
        return {k: v if k.startswith(own) or state[k].shape != v.shape else state[k] for k, v in fresh.items()}


def train_start(
    spec: ArchSpec,
    inherited: Mapping[str, Tensor] | None,
    images: Images,
    by_hand: int | None,
    budget: Budget,
    seed: int,
    keep: Keep,
) -> Generator[Event, None, dict[str, Tensor]]:
    """Weights of the seed: inherited ones fine-tuned, or trained from random ones. `by_hand`: T as given; then
    nothing may depend on this machine's speed."""
    net = build(spec, seed)
    if inherited is not None:
        adopt(net, dict(inherited), "weights")
    recipe = task_fit(images, seed) or Fit(
        steps=1, size=images.size, batch=min(BATCH, len(images.train)), lr=5e-4 if inherited else 2e-3,
        optimizer="adamw", weight_decay=0.02, seed=seed,
    )  # fmt: skip
    steps = keep.value(
        "pretrain_steps",
        lambda: budget.amount(
            None if by_hand is None else 4 * max(by_hand, 5),
            UNTIMED_START,
            lambda: max(20.0, budget.seconds("start") / step_seconds(spec, images, recipe)),
        ),
    )
    recipe = replace(recipe, steps=steps)
    what = "the seed's inherited weights" if inherited else "the seed"
    yield StageStart(STAGE, f"training {what} on your images, {steps} steps")
    yield from fit(
        net, images.train, recipe, stage=STAGE, checkpoint=keep.file("seed-training.safetensors"),
        objective=images.work.objective(recipe),
    )  # fmt: skip
    return {k: v.detach().clone() for k, v in net.state_dict().items()}
