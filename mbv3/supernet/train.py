"""How shared weights learn: the recipe that ranks best on NAS-Bench-Macro, and how many steps a time holds."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mbv3.data import normalise
from mbv3.events import Event
from mbv3.supernet.model import Supernet
from mbv3.supernet.paths import Paths, path_forward
from mbv3.training import Fit, ImageData, Objective, fit, make_optimizer, one_step

__all__ = ["shared_fit", "shared_paths", "steps_within", "throughput", "train_shared"]

BATCH = 96
PATHS, LEAST = 3, 16  # paths of a step, and images of each at least
# at 5/8 of the side a step takes a third: four fifths of the steps are three fifths of the time
SMALL, SMALL_PART = 0.625, 0.8
TRIAL_S = 6.0  # that tell the steps of a second
ENDLESS = 10**9  # steps: those of a trial are among the first


def shared_fit(images: int, size: tuple[int, int], seed: int = 0) -> Fit:
    """The recipe of shared weights of a classifier on so many training images, for one step."""
    return Fit(steps=1, size=size, batch=min(BATCH, images), optimizer="adamw", lr=2e-3, weight_decay=0.02, seed=seed)


def shared_paths(batch: int) -> Paths:
    """The paths of a classifier's step: fair ones, on small images first. In results/supernet.jsonl is what each of
    these brings in the order of NAS-Bench-Macro."""
    return Paths(count=max(1, min(PATHS, batch // LEAST)), fair=True, small=SMALL, small_part=SMALL_PART)


def train_shared(supernet: Supernet, data: ImageData, recipe: Fit, paths: Paths, **how: Any) -> Iterator[Event]:
    """Train shared weights by `fit`, which takes `how`; they stay at `checkpoint` when all steps are done."""
    forward = path_forward(supernet, recipe.seed, paths, recipe.steps)
    return fit(supernet, data, recipe, stage="supernet", forward=forward, keep=True, **how)


def steps_within(
    seconds: float,
    supernet: Supernet,
    data: ImageData,
    recipe: Fit,
    paths: Paths,
    *,
    objective: Objective | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Steps of training that take `seconds` on this machine, by trial of those on small images and of the others."""
    each = 0.0
    for small, share in ((1.0, paths.small_part), (0.0, 1.0 - paths.small_part)):
        if share:
            one = replace(paths, small_part=small)
            each += share / throughput(supernet, data, recipe, paths=one, objective=objective, clock=clock)
    return seconds / each


def throughput(
    supernet: Supernet,
    data: ImageData,
    recipe: Fit,
    seconds: float = TRIAL_S,
    paths: Paths | None = None,
    *,
    objective: Objective | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Steps per second of supernet training on this machine, measured on a copy that is thrown away."""
    trial = copy.deepcopy(supernet)
    trial.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trial.train()
    recipe = replace(recipe, lr=1e-4, steps=ENDLESS)  # no schedule ends within the trial
    optimizer = make_optimizer(trial, recipe)
    forward = path_forward(trial, recipe.seed, paths, recipe.steps)
    rng = np.random.default_rng(0)
    steps, start = 0, 0.0
    while steps < 4 or clock() - start < seconds:
        if steps == 2:
            start = clock()  # the first steps choose kernels
        pixels, y = data.batch(rng.integers(0, len(data), recipe.batch), recipe.size, recipe.augment, rng)
        x = normalise(pixels, recipe.size)
        one_step(forward(steps), trial, optimizer, x, y, recipe, steps, objective)
        steps += 1
    return (steps - 2) / (clock() - start)
