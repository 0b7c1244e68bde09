"""What joint cuts ask of the images: fine-tuning under a teacher, scores of channels, accuracy on held-out images."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv3.data import batch_order, normalise
from mbv3.events import Event
from mbv3.netadapt import Importance, Menu, Scores, channel_scores, explained
from mbv3.nn import Network, build, cut_state, input_moments
from mbv3.spec import ArchSpec, Site, cut
from mbv3.stages.images import Images, subset
from mbv3.stages.keep import Keep
from mbv3.stages.learn import default_device, on_network
from mbv3.training import (
    Answers,
    Fit,
    Objective,
    adopt,
    distilled,
    fit,
    moved,
    recalibrate,
    recipe_for,
)

__all__ = ["STAGE", "Tuner", "adopted", "scored_images"]

STAGE = "netadapt"
HELD_OUT = 2000  # images at most that an accuracy is of
SCORED, SCORED_BATCH = 2048, 32  # images that score channels, at most, and how many share a gradient
READ = 1024  # images whose maps tell what channels explain of each other
TRIED, TRIED_COUNTS = 512, 4  # training images that a cut is tried on, and counts of a site that are tried
STATISTICS = 2048  # images that batch norms are recalibrated on, at most
TRAINING = "netadapt-training.safetensors"
FORWARD = 1 / 3  # of the time of an image's gradient


def scored_images(images: Images) -> float:
    """Images whose gradients take as long as what a round of joint cuts by the default worth has answered beside its
    fine-tuning: channels scored by the loss and by what they explain, batch norms recalibrated twice, held-out images.
    """
    train = len(images.train)
    forward = min(READ, train) + 2 * min(STATISTICS, train) + min(HELD_OUT, len(images.held_out))
    return min(SCORED, train) + FORWARD * forward


def adopted(spec: ArchSpec, weights: Mapping[str, Tensor], seed: int) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict of `spec` with `weights`, and the names of the head's entries that do not fit and are new."""
    net = build(spec, seed)
    new = adopt(net, dict(weights), "weights")
    return _state(net), new


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone() for k, v in net.state_dict().items()}


@dataclass
class Tuner:
    """Fine-tuning, scoring and recalibration on given images. A state dict goes in and comes out, on the CPU; one
    network and the teacher are on the device."""

    images: Images
    seed: int
    teacher: nn.Module | None = None
    device: torch.device | None = None

    def __post_init__(self) -> None:
        self.device = self.device or default_device()
        self.held = subset(self.images.held_out, HELD_OUT)
        if self.teacher is not None:
            self.teacher.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def recipe(self, spec: ArchSpec, steps: int, head_first: float = 0.0) -> Fit:
        """The recipe that weights from elsewhere are fine-tuned by, for a number of steps of `spec`."""
        assert self.device is not None
        recipe = recipe_for(
            self.images.work.finetune, len(self.images.train), self.images.size, seed=self.seed, epochs=1.0,
            head_first=head_first, precision="bf16" if self.device.type == "cuda" else "fp32",
        )  # fmt: skip
        return replace(on_network(recipe, spec), steps=max(steps, 1))

    def net(self, spec: ArchSpec, state: Mapping[str, Tensor]) -> Network:
        net = build(spec, 0)
        net.load_state_dict(dict(state))
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def objective(self, recipe: Fit, spec: ArchSpec) -> Objective:
        """What a network of `spec` learns by."""
        plain = self.images.work.objective(recipe)
        return plain if self.teacher is None else distilled(plain, self.teacher, recipe, (spec.mean, spec.std))

    def _batches(self, most: int, batch: int, spec: ArchSpec) -> Iterator[tuple[Tensor, Any]]:
        """The same training images every time, as they are scored by a network of `spec`."""
        assert self.device is not None
        train, size = self.images.train, self.images.size
        batch = min(batch, len(train))
        order, rng = batch_order(len(train), batch, self.seed), np.random.default_rng(0)
        for _ in range(max(1, min(most, len(train)) // batch)):
            pixels, y = train.batch(next(order), size, "none", rng)
            yield normalise(pixels, size, self.device, (spec.mean, spec.std)), moved(y, self.device)

    def recalibrated(self, spec: ArchSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`state` with the batch-norm statistics of its weights."""
        net = self.net(spec, state)
        recalibrate(net, (x for x, _ in self._batches(STATISTICS, 64, spec)))
        return _state(net)

    def score(self, spec: ArchSpec, state: Mapping[str, Tensor]) -> Answers:
        """On held-out images; the batch norms as they are."""
        return self.images.work.answers(self.net(spec, state), self.held, self.images.size)

    def channels(self, spec: ArchSpec, state: Mapping[str, Tensor], kind: Importance) -> Scores:
        """What every channel is worth by the loss."""
        recipe = self.recipe(spec, 1)
        plain = self.images.work.objective(replace(recipe, label_smoothing=0.0))
        batch = min(SCORED_BATCH, recipe.batch)
        return channel_scores(self.net(spec, state), kind, self._batches(SCORED, batch, spec), plain)

    def explained(self, spec: ArchSpec, state: Mapping[str, Tensor], scores: Scores) -> dict[Site, NDArray[np.float64]]:
        """What every channel, the best by `scores` first, adds to what its readers compute."""
        moments = input_moments(self.net(spec, state), (x for x, _ in self._batches(READ, 128, spec)))
        return explained(spec, state, moments, scores)

    def losses(self, spec: ArchSpec, state: Mapping[str, Tensor], scores: Scores, table: Sequence[Menu]) -> list[Menu]:
        """The menus with what their counts are worth by trial: each site is cut alone to a few counts, the batch norms
        are recalibrated, and the loss on training images is taken; between them the worth is a line."""
        batches = list(self._batches(TRIED, 64, spec))
        uncut = self._loss(spec, state, scores, table[0].site, table[0].counts[-1], batches)
        found = []
        for menu in table:
            at = sorted({round(i) for i in np.linspace(0, len(menu.counts) - 1, TRIED_COUNTS + 1)})
            less = [self._loss(spec, state, scores, menu.site, menu.counts[i], batches) for i in at[:-1]]
            loss = np.array([*less, uncut])
            loss[~np.isfinite(loss)] = loss[np.isfinite(loss)].max()
            falls = np.minimum.accumulate(loss)  # more channels never cost accuracy: the rest is noise
            between = np.interp(menu.counts, [menu.counts[i] for i in at], -falls)
            found.append(replace(menu, worth=tuple(float(v) for v in between)))
        return found

    def _loss(
        self, spec: ArchSpec, state: Mapping[str, Tensor], scores: Scores, site: Site, count: int,
        batches: Sequence[tuple[Tensor, Any]],
    ) -> float:  # fmt: skip
        """Training loss with `count` channels at one site; infinite where the row cannot say it."""
        smaller = cut(spec, site, count)
        if smaller is None:
            return float("inf")
        net = self.net(smaller, cut_state(state, spec, smaller, scores))
        recalibrate(net, (x for x, _ in batches))
        loss = self.images.work.objective(replace(self.recipe(spec, 1), label_smoothing=0.0))
        with torch.inference_mode():
            return float(np.mean([float(loss(net(x), y, x)) for x, y in batches]))

    def tune(
        self, spec: ArchSpec, state: Mapping[str, Tensor], recipe: Fit, keep: Keep
    ) -> Generator[Event, None, dict[str, Tensor]]:
        """Weights after `recipe`, batch norms recalibrated. Raises: Diverged."""
        net = self.net(spec, state)
        yield from fit(
            net, self.images.train, recipe, stage=STAGE, checkpoint=keep.file(TRAINING), keep=True,
            objective=self.objective(recipe, spec),
        )  # fmt: skip
        if not recipe.hold_norms:
            recalibrate(net, (x for x, _ in self._batches(STATISTICS, 64, spec)))
        return _state(net)

    def forget(self, keep: Keep) -> None:
        """A fine-tuning is over and recorded: what would resume it goes."""
        file = keep.file(TRAINING)
        if file is not None:
            file.unlink(missing_ok=True)

    def step_seconds(self, spec: ArchSpec, state: Mapping[str, Tensor]) -> float:
        """Seconds of a step of fine-tuning on this machine."""
        net, recipe = self.net(spec, state), self.recipe(spec, 2)
        spent = 0.0
        for steps in (2, 6):  # the first call chooses kernels
            began = time.monotonic()
            some = replace(recipe, steps=steps)
            for _ in fit(net, self.images.train, some, objective=self.objective(recipe, spec)):
                pass
            spent = (time.monotonic() - began) / steps
        return spent
