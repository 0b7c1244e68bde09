"""Fine-tuning from inherited weights on a user's images, with a teacher's answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mbv3.data import Augment
from mbv3.events import Event
from mbv3.nn import build
from mbv3.spec import ArchSpec, dump_spec, parse_spec
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.learn import SETTLED, default_device, on_network, ready
from mbv3.tasks import TASKS
from mbv3.training import (
    RECIPES,
    Answers,
    Batches,
    Fit,
    Objective,
    answers_of,
    fit,
    load_checkpoint,
    outputs,
    recipe_for,
    recipe_values,
    same_recipe,
    save_checkpoint,
    usual_epochs,
)

__all__ = [
    "DISTILL",
    "TEMPERATURE",
    "Taught",
    "Tuned",
    "fit_of",
    "on_device",
    "scratch_fit",
    "scratch_step_seconds",
    "scratch_unit",
    "seconds_of_step",
    "steps_of",
    "taught_by",
    "taught_objective",
    "trained",
    "tune",
    "usual_steps",
]  # fmt: skip

STAGE = "training"
STEPS = 6  # that tell the seconds of one
# weight of the teacher's answers and their temperature: V3-Small slimmed to half has 9.1 % so, 5.2 without a teacher
DISTILL, TEMPERATURE = 0.7, 2.0


@dataclass(frozen=True, eq=False)
class Tuned:
    """A fine-tuned network: its weights on the CPU, and its answers on the images that choose."""

    spec: ArchSpec
    state: dict[str, Tensor]
    steps: int
    chosen_on: Answers


def taught_by(spec: ArchSpec, state: Mapping[str, Tensor], data: Batches) -> Tensor:
    """A teacher's logits (N, classes) on every image of `data` and its mirror image, taken once: they cost a training
    nothing, and the teacher may see the images at a higher resolution than its pupil."""
    net = on_device(spec, state, 0)
    return torch.cat([out.float().cpu() for _, out, _ in outputs(net, data, spec.resolution, mirror=True)])


class Taught:
    """Images whose target is (label, the teacher's logits)."""

    def __init__(self, data: Batches, logits: Tensor) -> None:
        self.data, self.logits = data, logits

    def __len__(self) -> int:
        return len(self.data)

    def batch(
        self, index: NDArray[np.int64], size: tuple[int, int], augment: Augment, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Any]:
        pixels, labels = self.data.batch(index, size, augment, rng)
        return pixels, (labels, self.logits[torch.from_numpy(index)])


def taught_objective(recipe: Fit) -> Objective:
    """Knowledge distillation (Hinton 2015, arXiv:1503.02531) from logits that were taken before."""
    share, t = recipe.distill, recipe.temperature

    def loss(out: Tensor, target: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        labels, logits = target
        wanted, said = functional.log_softmax(logits / t, 1), functional.log_softmax(out.float() / t, 1)
        apart = functional.kl_div(said, wanted, reduction="batchmean", log_target=True)
        truth = functional.cross_entropy(out.float(), labels, label_smoothing=recipe.label_smoothing)
        return share * t * t * apart + (1 - share) * truth

    return loss


def fit_of(
    images: Images, spec: ArchSpec, steps: int, *, seed: int = 0, new_head: bool = False, cut: bool = False
) -> Fit:
    """The recipe for `spec` with weights from elsewhere, for so many steps. Only a new head is trained first by
    itself, and a network that lost channels cannot keep the statistics that its weights came with."""
    by_data = recipe_for(images.work.finetune, len(images.train), spec.resolution, seed=seed)
    recipe = replace(on_network(by_data, spec, cut), steps=max(1, steps), epochs=steps / by_data.epoch_steps)
    return recipe if new_head else replace(recipe, head_first=0.0)


def scratch_fit(images: Images, size: tuple[int, int], steps: int, *, seed: int = 0) -> Fit:
    """The recipe that `mbv3 train` takes by default from scratch, for as many images as `steps` of `scratch_unit`."""
    unit, name = scratch_unit(images, size, steps), TASKS[images.work.task].recipe
    recipe = recipe_for(name, len(images.train), size, seed=seed, epochs=unit.steps / unit.epoch_steps)
    own = max(1, round(unit.steps * unit.batch / recipe.batch))
    return replace(recipe, steps=own, epochs=own / recipe.epoch_steps)


def scratch_unit(images: Images, size: tuple[int, int], steps: int) -> Fit:
    """The same in batches of the recipe's own size, in which steps are counted; short trainings take smaller ones."""
    name = TASKS[images.work.task].recipe
    usual = recipe_for(name, len(images.train), size, batch=RECIPES[name].batch)
    return replace(usual, steps=max(1, steps))


def scratch_step_seconds(spec: ArchSpec, images: Images, most: int | None = None) -> float:
    """Seconds of a step of `scratch_unit` on this machine; from steps of at most `most` images, by proportion."""
    recipe = scratch_unit(images, spec.resolution, STEPS)
    few = min(most or recipe.batch, recipe.batch)
    return seconds_of_step(spec, images, replace(recipe, batch=few)) * recipe.batch / few


def usual_steps(images: Images) -> int:
    """Steps of a whole fine-tuning on `images`."""
    return steps_of(images, usual_epochs(len(images.train)))


def steps_of(images: Images, epochs: float) -> int:
    """Steps of so many passes over `images`."""
    name = images.work.finetune
    return round(epochs * recipe_for(name, len(images.train), (32, 32)).epoch_steps)


def tune(
    name: str,
    spec: ArchSpec,
    state: Mapping[str, Tensor] | None,
    images: Images,
    steps: int,
    *,
    teacher: Tensor | None = None,
    new_head: bool = False,
    cut: bool = False,
    distill: float = DISTILL,
    temperature: float = TEMPERATURE,
    seed: int = 0,
    keep: Keep | None = None,
    as_kept: bool = False,
) -> Generator[Event, None, Tuned]:
    """Fine-tune `spec` from `state` at its own resolution and answer the images that choose: `trained` by the recipe
    `finetune`, whose teacher's answers count by the weight `distill` at `temperature`.

    Raises:
        Diverged: the loss is not finite any more.
    """
    recipe = fit_of(images, spec, steps, seed=seed, new_head=new_head, cut=cut)
    recipe = replace(recipe, distill=distill, temperature=temperature)
    # where no head is new, the statistics are those of another resolution, or of layers that lost channels; where they
    # are held, few images give worse ones than the weights came with
    settle = not new_head and not recipe.hold_norms
    return (
        yield from trained(
            name, spec, state, images, recipe, teacher=teacher, settle=settle, keep=keep, as_kept=as_kept
        )
    )


def trained(
    name: str,
    spec: ArchSpec,
    state: Mapping[str, Tensor] | None,
    images: Images,
    recipe: Fit,
    *,
    teacher: Tensor | None = None,
    settle: bool = False,
    keep: Keep | None = None,
    as_kept: bool = False,
) -> Generator[Event, None, Tuned]:
    """Train `spec` from `state` (None: from scratch) by `recipe` at its own resolution and answer the images that
    choose.

    `teacher`: logits of every training image that are learned beside the labels. `settle`: batch-norm statistics are
    taken anew before it begins. What was kept under `name` is not trained again, and a training that was interrupted
    goes on. `as_kept`: what was kept is taken whatever its recipe.

    Raises:
        BadInput: what was kept learned by another recipe.
        Diverged: the loss is not finite any more.
    """
    keep = keep or Memory()
    done = keep.file(kept_as(name))
    kept = load_checkpoint(done) if done is not None else None
    if done is not None and kept is not None and "loss" in kept[0]["answers"]:
        parts, meta = kept
        if not as_kept:
            same_recipe(recipe, meta.get("recipe"), done)
        found = answers_of(parts["answers"])
        return Tuned(parse_spec(meta["spec"], str(done)), parts["net"], int(meta["steps"]), found)
    net = on_device(spec, state, recipe.seed)
    if settle:
        ready(net, images.train, replace(recipe, recalibrate=SETTLED))
    yield from fit(
        net, images.train if teacher is None else Taught(images.train, teacher), recipe, stage=STAGE,
        checkpoint=keep.file(f"road-{name}-training.safetensors"),
        objective=images.work.objective(recipe) if teacher is None else taught_objective(recipe),
    )  # fmt: skip
    ready(net, images.train, recipe)
    found = images.work.answers(net, images.held_out, spec.resolution)
    weights = {k: v.detach().cpu().clone() for k, v in net.state_dict().items()}
    if done is not None:
        about = {
            "spec": dump_spec(spec), "steps": recipe.steps, "top1": found.score, "recipe": recipe_values(recipe),
        }  # fmt: skip
        save_checkpoint(done, {"net": weights, "answers": found.tensors()}, about)
    return Tuned(spec, weights, recipe.steps, found)


def kept_as(name: str) -> str:
    """The file of a finished training."""
    return f"road-{name}.safetensors"


def seconds_of_step(spec: ArchSpec, images: Images, recipe: Fit) -> float:
    """Seconds of a training step by `recipe`, on the device that networks are trained on: the median of its steps but
    the first."""
    net = on_device(spec, None)
    began: list[float] = []

    def forward(step: int) -> Callable[[Tensor], Tensor]:
        began.append(time.monotonic())
        return net

    recipe = replace(recipe, ema=0.0)
    for _ in fit(net, images.train, recipe, forward=forward, objective=images.work.objective(recipe)):
        pass
    return float(np.median(np.diff(began[1:])))


def on_device(spec: ArchSpec, state: Mapping[str, Tensor] | None, seed: int = 0) -> nn.Module:
    """The network of `spec` with weights `state` (None: new ones) on the GPU where there is one."""
    net = build(spec, seed)
    if state is not None:
        net.load_state_dict(dict(state))
    net.to(default_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net
