"""ACC of a network during the search: the ImageNet model, shared weights, or a short training of each candidate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mbv3.accuracy import PAPER, imagenet_space
from mbv3.events import Event, Note, StageStart
from mbv3.nn import build
from mbv3.space import Genome, SearchSpace
from mbv3.spec import ArchSpec
from mbv3.stages.budget import Budget
from mbv3.stages.images import Images, Masks, subset
from mbv3.stages.keep import Keep, Memory
from mbv3.supernet import Supernet, SupernetAccuracy, path_forward, throughput
from mbv3.training import Diverged, Fit, evaluate, fit

__all__ = [
    "ImagenetJudge",
    "Judge",
    "Scores",
    "SupernetJudge",
    "TrainingJudge",
    "imagenet_judge",
    "step_seconds",
    "supernet_judge",
    "training_judge",
]

SUPERNET_BATCH = 96
CANDIDATE_BATCH = 64
SCORED, TRAINED_SCORED = 1000, 2000  # held-out images that score a candidate


Scores = Callable[[NDArray[np.int64]], NDArray[np.float64]]  # genomes (n, genes) to percent (n,)


class Judge(Protocol):
    """Scores genomes of a space. `kind` names the evidence, `note` says in a line what a score means. `accuracies`
    scores many at once where the score is a closed form; None where each one costs time."""

    @property
    def kind(self) -> str: ...

    @property
    def note(self) -> str: ...

    @property
    def accuracies(self) -> Scores | None: ...

    def accuracy(self, genome: Genome) -> float:
        """In percent, higher is better; NaN where the genome cannot be scored."""
        ...

    def weights(self, genome: Genome) -> dict[str, Tensor] | None:
        """Weights that the network of `genome` inherits; None where there are none."""
        ...


@dataclass(frozen=True)
class ImagenetJudge:
    """The ImageNet model over specs, at the width and resolution of the space."""

    accuracies: Scores
    kind: str = "imagenet"
    note: str = f"ImageNet top-1 predicted from public trainings, recipe {PAPER}"
    recipe: str = PAPER

    def accuracy(self, genome: Genome) -> float:
        return float(self.accuracies(np.array([genome]))[0])

    def weights(self, genome: Genome) -> None:
        return None


@dataclass(frozen=True)
class SupernetJudge:
    """Shared weights, with batch norms recalibrated for every network."""

    scorer: SupernetAccuracy
    kind: str = "supernet"
    accuracies: None = None

    @property
    def note(self) -> str:
        return f"top-1 on {len(self.scorer.held_out)} held-out images with the supernet's shared weights"

    def accuracy(self, genome: Genome) -> float:
        return self.scorer(genome).top1

    def weights(self, genome: Genome) -> dict[str, Tensor] | None:
        return self.scorer.network(genome).state_dict()


@dataclass(frozen=True)
class TrainingJudge:
    """A short training of each candidate."""

    space: SearchSpace
    images: Images
    recipe: Fit
    kind: str = "train"
    accuracies: None = None

    @property
    def note(self) -> str:
        scored = min(len(self.images.held_out), TRAINED_SCORED)
        return f"top-1 on {scored} held-out images after {self.recipe.steps} training steps"

    def accuracy(self, genome: Genome) -> float:
        net = build(self.space.spec(genome), self.recipe.seed)
        try:
            for _ in fit(net, self.images.train, self.recipe):
                pass
        except Diverged:
            return math.nan  # a failed trial, never a parent
        return evaluate(net, subset(self.images.held_out, TRAINED_SCORED), self.images.size).top1

    def weights(self, genome: Genome) -> None:
        return None


def imagenet_judge(space: SearchSpace, recipe: str = PAPER) -> ImagenetJudge:
    """A judge of any space at any scale, which knows no images. `recipe`: the training that it predicts for."""
    note = f"ImageNet top-1 predicted from public trainings, recipe {recipe}"
    return ImagenetJudge(imagenet_space(space, recipe=recipe), note=note, recipe=recipe)


def step_seconds(spec: ArchSpec, images: Images | Masks, batch: int) -> float:
    """Seconds of one training step of a network on this machine."""
    net = build(spec, 0)
    recipe = Fit(steps=2, size=images.size, batch=batch)
    for _ in fit(net, images.train, recipe):
        pass
    began, steps = time.monotonic(), 4
    for _ in fit(net, images.train, replace(recipe, steps=steps)):
        pass
    return (time.monotonic() - began) / steps


def training_judge(
    space: SearchSpace,
    images: Images,
    *,
    trials: int = 24,
    steps: int | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    keep: Keep | None = None,
) -> TrainingJudge:
    """A judge that trains each of `trials` candidates for `steps` steps, by default as many as the budget allows."""
    budget = budget or Budget(60.0)
    batch = CANDIDATE_BATCH
    epoch = max(1, len(images.train) // batch)

    def measured() -> float:
        seconds = step_seconds(space.spec(tuple(n // 2 for n in space.sizes)), images, batch)
        return float(np.clip(int(budget.seconds("candidates") / trials / seconds), 10, 5 * epoch))

    decided = (keep or Memory()).value("proxy_steps", lambda: budget.amount(steps, epoch, measured))
    return TrainingJudge(space, images, Fit(steps=decided, size=images.size, batch=batch, lr=0.05, seed=seed))


def supernet_judge(
    space: SearchSpace,
    images: Images,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    keep: Keep | None = None,
) -> Generator[Event, None, SupernetJudge]:
    """Train shared weights over `space` and score with them. `steps` by hand, else what `minutes` (by default the
    budget's share) allow on this machine; decided once, so that a resumed run trains as many."""
    budget, keep = budget or Budget(60.0), keep or Memory()
    supernet = Supernet(space, seed)
    batch = min(SUPERNET_BATCH, len(images.train))
    recipe = Fit(steps=1, size=images.size, batch=batch, lr=0.1, seed=seed)
    seconds = 60 * minutes if minutes else budget.seconds("supernet")
    untimed = 3 * max(1, len(images.train) // batch)
    decided = keep.value(
        "supernet_steps",
        lambda: budget.amount(steps, untimed, lambda: max(20.0, seconds * throughput(supernet, images.train, recipe))),
    )
    yield StageStart(
        "supernet",
        f"training shared weights over space {space.name} on {len(images.train)} images: {decided} steps, "
        f"{decided * batch / len(images.train):.1f} epochs",
        None if steps else seconds,
    )
    yield from fit(
        supernet, images.train, replace(recipe, steps=decided), stage="supernet",
        checkpoint=keep.file("supernet.safetensors"), forward=path_forward(supernet, seed), keep=True,
    )  # fmt: skip
    held = subset(images.held_out, SCORED)
    yield Note("supernet", f"candidates are scored on {len(held)} held-out images with recalibrated batch norms")
    return SupernetJudge(SupernetAccuracy(supernet, images.train, held, images.size, recalibration_batches=4))
