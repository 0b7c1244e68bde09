"""Where a run's accuracy comes from: ImageNet predictor, supernet, or training every candidate."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mbv3.data import ImageSet, load_class_folder, make_batch, procedural_images, split
from mbv3.errors import BadInput
from mbv3.events import Event, Note, StageStart
from mbv3.nn import build
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir
from mbv3.search import imagenet_top1
from mbv3.space import Genome, SearchSpace
from mbv3.supernet import Supernet, SupernetAccuracy, path_forward, throughput
from mbv3.training import Diverged, Fit, Score, evaluate, fit, recalibrate

__all__ = ["Images", "Judge", "load_images", "prepare"]

PROCEDURAL_SIDE = 32
SUPERNET_BATCH = 96


@dataclass(frozen=True)
class Images:
    """What NetAdapt and the supernet train on. `size` is (height, width) in pixels."""

    train: ImageSet
    held_out: ImageSet
    size: tuple[int, int]
    procedural: bool


def load_images(options: Options, space: SearchSpace) -> Images:
    """The user's images, a tenth (at most 5,000) of them held out; without --data the built-in task.

    Raises:
        BadInput: the folder is missing, has under two classes, or broken images.
    """
    if options.data is None:
        data = procedural_images(6000, PROCEDURAL_SIDE, options.seed)
        train, held = split(data, 0.25, 1024, options.seed)
        return Images(train, held, (PROCEDURAL_SIDE, PROCEDURAL_SIDE), True)
    data = load_class_folder(Path(options.data), space.resolution[0], seed=options.seed)
    train, held = split(data, 0.1, 5000, options.seed)
    if len(train) < 2:
        raise BadInput(f"--data {options.data}: too few images to hold some out")
    return Images(train, held, space.resolution, False)


def subset(data: ImageSet, most: int) -> ImageSet:
    """At most `most` images, the same ones every time."""
    if len(data) <= most:
        return data
    return data.take(np.sort(np.random.default_rng(3).permutation(len(data))[:most]))


class Judge:
    """Accuracy of genomes in percent, and the weights that a found network starts from."""

    def __init__(self, kind: str, note: str) -> None:
        self.kind = kind
        self.note = note

    def accuracy(self, genome: Genome) -> float:
        raise NotImplementedError

    def weights(self, genome: Genome) -> dict[str, Tensor] | None:
        """Inherited weights, None where there are none."""
        return None


class _Imagenet(Judge):
    def __init__(self, space: SearchSpace) -> None:
        note = (
            "predicted ImageNet top-1 at 224 px and width 1 under Accel-NASBench's short training schedule; it ranks "
            "networks and is not the accuracy of the scaled, pruned network"
        )
        super().__init__("imagenet", note)
        self.space = space
        imagenet_top1(space, [tuple(0 for _ in space.sizes)])

    def accuracy(self, genome: Genome) -> float:
        return float(imagenet_top1(self.space, [genome])[0])


class _Supernet(Judge):
    def __init__(self, scorer: SupernetAccuracy) -> None:
        n = len(scorer.held_out)
        super().__init__("supernet", f"top-1 on {n} held-out images with the supernet's shared weights")
        self.scorer = scorer

    def accuracy(self, genome: Genome) -> float:
        return self.scorer(genome).top1

    def weights(self, genome: Genome) -> dict[str, Tensor] | None:
        return self.scorer.network(genome).state_dict()


class _Train(Judge):
    def __init__(self, space: SearchSpace, images: Images, recipe: Fit) -> None:
        held = subset(images.held_out, 2000)
        super().__init__("train", f"top-1 on {len(held)} held-out images after {recipe.steps} training steps")
        self.space, self.images, self.recipe, self.held = space, images, recipe, held

    def accuracy(self, genome: Genome) -> float:
        net = build(self.space.spec(genome), self.recipe.seed)
        try:
            for _ in fit(net, self.images.train, self.recipe):
                pass
        except Diverged:
            return math.nan  # a failed trial, never a parent
        return evaluate(net, self.held, self.images.size).top1


def calibration_batches(
    images: Images, count: int, batch: int = 128, size: tuple[int, int] | None = None
) -> Iterator[Tensor]:
    """The same few training batches every time, for batch-norm statistics; (height, width) is the images' or `size`."""
    order = np.random.default_rng(0).permutation(len(images.train))
    for i in range(min(count, max(1, len(order) // batch))):
        yield make_batch(images.train, order[i * batch : (i + 1) * batch], size or images.size)[0]


def rescore(net: Any, images: Images, held: ImageSet, batches: int) -> Score:
    """Recalibrate batch norms, then evaluate."""
    recalibrate(net, calibration_batches(images, batches))
    return evaluate(net, held, images.size)


def step_seconds(space_spec: Any, images: Images, batch: int) -> float:
    """Seconds of one training step of a network on this machine."""
    net = build(space_spec, 0)
    recipe = Fit(steps=100, size=images.size, batch=batch)
    began, steps = time.monotonic(), 0
    for _ in fit(net, images.train, replace(recipe, steps=2)):
        pass
    began = time.monotonic()
    steps = 4
    for _ in fit(net, images.train, replace(recipe, steps=steps)):
        pass
    return (time.monotonic() - began) / steps


def prepare(options: Options, run: RunDir, space: SearchSpace, images: Images) -> Iterator[Event | Judge]:
    """The run's judge, its supernet trained if it needs one. Yields events and at last the judge.

    How much is trained is decided once, by what this machine does in the time given, and kept in run.json's plan, so
    that a resumed run trains the same number of steps.
    """
    kind = options.accuracy_kind
    plan: dict[str, Any] = run.record.setdefault("plan", {})
    if kind == "imagenet":
        yield _Imagenet(space)
        return
    if kind == "train":
        if "proxy_steps" not in plan and options.estimate_only:
            plan["proxy_steps"] = max(1, len(images.train) // 64)
            run.save()
        if "proxy_steps" not in plan:
            trials = options.trials or 24
            seconds = step_seconds(space.spec(tuple(n // 2 for n in space.sizes)), images, 64)
            epoch = max(1, len(images.train) // 64)
            fits = int(options.minutes * 60 * 0.5 / trials / seconds)
            plan["proxy_steps"] = int(np.clip(fits, 10, 5 * epoch))
            run.save()
        recipe = Fit(steps=plan["proxy_steps"], size=images.size, batch=64, lr=0.05, seed=options.seed)
        yield _Train(space, images, recipe)
        return
    supernet = Supernet(space, options.seed)
    batch = min(SUPERNET_BATCH, len(images.train))
    recipe = Fit(steps=1, size=images.size, batch=batch, lr=0.1, seed=options.seed)
    minutes = options.supernet_minutes or options.minutes * 0.35
    if "supernet_steps" not in plan:
        if options.supernet_steps is not None:
            plan["supernet_steps"] = options.supernet_steps
        elif options.estimate_only:  # nothing is timed, so that the same table gives the same network
            plan["supernet_steps"] = 3 * max(1, len(images.train) // batch)
        else:
            rate = throughput(supernet, images.train, recipe)
            plan["supernet_steps"] = max(20, int(minutes * 60 * rate))
        run.save()
    steps = plan["supernet_steps"]
    epochs = steps * batch / len(images.train)
    yield StageStart(
        "supernet",
        f"training shared weights over space {space.name} on {len(images.train)} images: {steps} steps, "
        f"{epochs:.1f} epochs",
        None if options.supernet_steps else minutes * 60,
    )
    checkpoint = run.path / "supernet.safetensors"
    recipe = replace(recipe, steps=steps)
    yield from fit(
        supernet, images.train, recipe,
        stage="supernet", checkpoint=checkpoint, forward=path_forward(supernet, options.seed), keep=True,
    )  # fmt: skip
    held = subset(images.held_out, 1000)
    yield Note("supernet", f"candidates are scored on {len(held)} held-out images with recalibrated batch norms")
    yield _Supernet(SupernetAccuracy(supernet, images.train, held, images.size, recalibration_batches=4))
