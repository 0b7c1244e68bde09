"""What NetAdapt asks of a proposal: its accuracy after a short fine-tuning, its latency when deployed."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mbv3.data import batch_order, make_batch
from mbv3.events import Event, StageStart
from mbv3.netadapt import Start
from mbv3.nn import build
from mbv3.spec import ArchSpec, Dense, SSDLite
from mbv3.stages.budget import Budget
from mbv3.stages.images import Images, rescore, subset
from mbv3.stages.judge import step_seconds
from mbv3.stages.keep import Keep
from mbv3.tables import Latency, Whole
from mbv3.training import Diverged, Fit, fit, make_optimizer, one_step

__all__ = ["BATCH", "HELD_OUT", "STAGE", "Deployed", "FineTune", "train_start", "with_classes"]

STAGE = "netadapt"
BATCH = 32
HELD_OUT = 512
UNTIMED_START = 200  # training steps of the seed where nothing is timed


class FineTune:
    """T steps of SGD from the inherited weights, batch norms recalibrated, scored on held-out images.

    Every proposal of a step sees the same batches and is scored on the same images, so that their differences are
    those of the cuts.
    """

    def __init__(self, images: Images, steps: int, seed: int) -> None:
        self.images = images
        self.steps = steps
        self.seed = seed
        self.held = subset(images.held_out, HELD_OUT)

    def __call__(
        self, spec: ArchSpec, state: dict[str, Tensor], step: int, proposal: int
    ) -> tuple[dict[str, Tensor], float, float]:
        if not isinstance(spec.head, SSDLite):
            spec = replace(spec, head=replace(spec.head, dropout=0.0))
        net = build(spec, 0)
        net.load_state_dict(state)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.train()
        recipe = Fit(steps=max(self.steps, 1), size=self.images.size, batch=BATCH, lr=0.01, warmup=0.0, seed=self.seed)
        optimizer = make_optimizer(net, recipe)
        order = batch_order(len(self.images.train), min(BATCH, len(self.images.train)), self.seed, step * self.steps)
        for i in range(self.steps):
            rng = np.random.default_rng((self.seed, step, i))
            x, y = make_batch(self.images.train, next(order), self.images.size, rng)
            # the cosine would bring the last of a few steps to nothing: half-way only
            try:
                one_step(net, net, optimizer, x, y, replace(recipe, steps=2 * recipe.steps), i)
            except Diverged:  # this proposal is not finite and is not chosen; the others go on
                return state, math.nan, math.nan
        score = rescore(net, self.images, self.held, 2)
        return {k: v.detach().clone() for k, v in net.state_dict().items()}, score.top1, score.loss


def with_classes(spec: ArchSpec, classes: int) -> ArchSpec:
    return replace(spec, head=replace(spec.head, classes=classes))


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

    def corrected(self, start: Start, whole: Whole) -> Start:
        """`start` with the time that was measured; predictions are scaled to it."""
        self.latency.correct(self.spec(start.spec), whole.ms)
        return replace(start, scored=replace(start.scored, latency_ms=whole.ms))

    def state(self, spec: ArchSpec, state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Weights of the deployed network; a dense head, or a classifier of other classes, is left as initialised."""
        deployed = self.spec(spec)
        fresh = build(deployed, seed).state_dict()
        own = ("head.", "aux.") if isinstance(deployed.head, Dense) else ()
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
        net.load_state_dict(dict(inherited))
    batch = min(BATCH, len(images.train))
    steps = keep.value(
        "pretrain_steps",
        lambda: budget.amount(
            None if by_hand is None else 4 * max(by_hand, 5),
            UNTIMED_START,
            lambda: max(20.0, budget.seconds("start") / step_seconds(spec, images, batch)),
        ),
    )
    recipe = Fit(
        steps=steps,
        size=images.size,
        batch=batch,
        lr=5e-4 if inherited else 2e-3,
        optimizer="adamw",
        weight_decay=0.02,
        seed=seed,
    )
    what = "the seed's inherited weights" if inherited else "the seed"
    yield StageStart(STAGE, f"training {what} on your images, {steps} steps")
    yield from fit(net, images.train, recipe, stage=STAGE, checkpoint=keep.file("seed-training.safetensors"))
    return {k: v.detach().clone() for k, v in net.state_dict().items()}
