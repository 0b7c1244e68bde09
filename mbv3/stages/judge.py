"""ACC of a network during the search: the ImageNet model, shared weights, or a short training of each candidate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mbv3.accuracy import PAPER, imagenet_space
from mbv3.data import ImageSet
from mbv3.events import Event, Note, StageStart
from mbv3.nn import build
from mbv3.space import Genome, SearchSpace
from mbv3.spec import ArchSpec
from mbv3.stages.budget import Budget
from mbv3.stages.images import Images, others, photos_in, subset
from mbv3.stages.keep import Keep, Memory
from mbv3.supernet import (
    Paths,
    Supernet,
    SupernetAccuracy,
    shared_fit,
    shared_paths,
    steps_within,
    supernet_of,
    train_shared,
)
from mbv3.tasks import TASKS
from mbv3.training import Diverged, Fit, fit, recipe_for

__all__ = [
    "ImagenetJudge",
    "Judge",
    "Scores",
    "SupernetJudge",
    "TrainingJudge",
    "imagenet_judge",
    "shared_scorer",
    "step_seconds",
    "supernet_judge",
    "task_fit",
    "training_judge",
]

CANDIDATE_BATCH = 64
SCORED, TRAINED_SCORED = 1000, 2000  # held-out images that score a candidate
FRESH = 4000  # others that score the best of them again
DENSE = 32  # images of a batch that recalibrates, where every place of an image counts


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
    """Shared weights, with batch norms recalibrated for every network. A score is the cross-entropy as a share.
    `fresh`: choosing images that score no trial."""

    scorer: SupernetAccuracy
    fresh: ImageSet | None = None
    metric: str = "top-1"
    kind: str = "supernet"
    accuracies: None = None

    @property
    def note(self) -> str:
        scored = len(self.fresh or self.scorer.held_out)
        return f"{self.metric} on {scored} held-out images with the supernet's shared weights"

    def accuracy(self, genome: Genome) -> float:
        """The main metric of a task with a head. Of a classifier the geometric mean of the shares that the right
        classes are given, in percent: the cross-entropy as a score. It ranks better than top-1: on NAS-Bench-Macro, by
        the same 512 images, Kendall's tau is 0.72 instead of 0.57, and 0.55 instead of 0.32 near one cost
        (results/supernet.jsonl)."""
        if self.scorer.answers is not None:
            return self.scorer.answered(genome)
        return 100 * math.exp(-self.scorer(genome).loss)

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
        return f"{self.images.work.metric} on {scored} held-out images after {self.recipe.steps} training steps"

    def accuracy(self, genome: Genome) -> float:
        net = build(self.space.deployed(genome), self.recipe.seed)
        try:
            for _ in fit(net, self.images.train, self.recipe, objective=self.images.work.objective(self.recipe)):
                pass
        except Diverged:
            return math.nan  # a failed trial, never a parent
        return self.images.work.answers(net, subset(self.images.held_out, TRAINED_SCORED), self.images.size).score

    def weights(self, genome: Genome) -> None:
        return None


def imagenet_judge(space: SearchSpace, recipe: str = PAPER) -> ImagenetJudge:
    """A judge of any space at any scale, which knows no images. `recipe`: the training that it predicts for."""
    note = f"ImageNet top-1 predicted from public trainings, recipe {recipe}"
    return ImagenetJudge(imagenet_space(space, recipe=recipe), note=note, recipe=recipe)


def step_seconds(spec: ArchSpec, images: Images, recipe: Fit) -> float:
    """Seconds of one training step of a network by `recipe` on this machine."""
    net = build(spec, 0)
    objective = images.work.objective(recipe)
    for _ in fit(net, images.train, replace(recipe, steps=2), objective=objective):
        pass
    began, steps = time.monotonic(), 4
    for _ in fit(net, images.train, replace(recipe, steps=steps), objective=objective):
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
    recipe = task_fit(images, seed) or Fit(steps=1, size=images.size, batch=CANDIDATE_BATCH, lr=0.05, seed=seed)
    epoch = max(1, len(images.train) // recipe.batch)

    def measured() -> float:
        seconds = step_seconds(space.deployed(tuple(n // 2 for n in space.sizes)), images, recipe)
        return float(np.clip(int(budget.seconds("candidates") / trials / seconds), 10, 5 * epoch))

    decided = (keep or Memory()).value("proxy_steps", lambda: budget.amount(steps, epoch, measured))
    return TrainingJudge(space, images, replace(recipe, steps=decided))


def task_fit(images: Images, seed: int) -> Fit | None:
    """How candidates and shared weights of a task with a head learn: by its own recipe, which knows what batches and
    rates its losses want. None: photos with a class each."""
    if images.work.task == "classify":
        return None
    own = recipe_for(TASKS[images.work.task].recipe, len(images.train), images.size, seed=seed)
    return replace(own, steps=1, ema=0.0)


def supernet_judge(
    space: SearchSpace,
    images: Images,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    paths: Paths | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    keep: Keep | None = None,
) -> Generator[Event, None, SupernetJudge]:
    """Train shared weights over `space` and score with them. `steps` by hand, else what `minutes` (by default the
    budget's share) allow on this machine; decided once, so that a resumed run trains as many. `paths`: those of a step,
    by default `shared_paths`, or under a head, whose batches are small, one that is drawn uniformly."""
    budget, keep = budget or Budget(60.0), keep or Memory()
    supernet = supernet_of(space, seed)
    own = task_fit(images, seed)
    recipe = own or shared_fit(len(images.train), images.size, seed)
    taken = paths or (shared_paths(recipe.batch) if own is None else Paths())
    batch, objective = recipe.batch, images.work.objective(recipe)
    seconds = 60 * minutes if minutes else budget.seconds("supernet")
    untimed = 3 * max(1, len(images.train) // batch)
    decided = keep.value(
        "supernet_steps",
        lambda: budget.amount(
            steps,
            untimed,
            lambda: max(20.0, steps_within(seconds, supernet, images.train, recipe, taken, objective=objective)),
        ),
    )
    yield StageStart(
        "supernet",
        f"training shared weights over space {space.name} on {len(images.train)} images: {decided} steps, "
        f"{decided * batch / len(images.train):.1f} epochs",
        None if steps else seconds,
    )
    yield from train_shared(
        supernet, images.train, replace(recipe, steps=decided), taken, checkpoint=keep.file("supernet.safetensors"),
        objective=objective,
    )  # fmt: skip
    scorer = shared_scorer(supernet, images)
    yield Note(
        "supernet", f"candidates are scored on {len(scorer.held_out)} held-out images with recalibrated batch norms"
    )
    fresh = None if scorer.answers is not None else others(photos_in(images.held_out), SCORED, FRESH)
    return SupernetJudge(scorer, fresh, images.work.metric)


def shared_scorer(supernet: Supernet, images: Images) -> SupernetAccuracy:
    """How a search scores with trained shared weights."""
    some: dict[str, Any] = {} if images.work.task == "classify" else {"batch": DENSE, "answers": images.work.answers}
    return SupernetAccuracy(
        supernet, images.train, subset(images.held_out, SCORED), images.size, recalibration_batches=4, **some
    )
