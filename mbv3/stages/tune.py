"""Fine-tuning from inherited weights on a user's images, with a teacher's answers, and answers compared in pairs."""

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

from mbv3.data import Augment, ImageSet, Labelled, normalise
from mbv3.events import Event
from mbv3.nn import build, statistics
from mbv3.spec import ArchSpec, dump_spec, parse_spec
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep, Memory
from mbv3.stages.learn import default_device, ready
from mbv3.tasks import TASKS
from mbv3.training import Fit, Objective, each, fit, load_checkpoint, recipe_for, save_checkpoint, usual_epochs

__all__ = [
    "DISTILL",
    "TEMPERATURE",
    "Answers",
    "Taught",
    "Tuned",
    "answers",
    "better_by",
    "fit_of",
    "lower_by",
    "on_device",
    "scratch_fit",
    "seconds_of_step",
    "steps_of",
    "taught_by",
    "taught_objective",
    "trained",
    "tune",
    "usual_steps",
]  # fmt: skip

STAGE = "training"
# weight of the teacher's answers and their temperature: V3-Small slimmed to half has 9.1 % so, 5.2 without a teacher
DISTILL, TEMPERATURE = 0.7, 2.0
BATCH = 64  # of a score
SETTLED = 16  # batches over which the batch norms of a cut or resized network are taken, before it is fine-tuned


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network answers on a set of images: whether it is right (of masks the share of pixels that are), and the
    cross-entropy, image by image."""

    right: NDArray[np.bool_] | NDArray[np.float64]
    loss: NDArray[np.float64]

    @property
    def top1(self) -> float:
        """In percent, higher is better."""
        return 100 * float(self.right.mean())

    @property
    def error(self) -> float:
        """Standard error of `top1` in percentage points."""
        n = len(self.right)
        p = min(max(self.top1 / 100, 1 / (2 * n)), 1 - 1 / (2 * n))
        return 100 * float(np.sqrt(p * (1 - p) / n))


@dataclass(frozen=True, eq=False)
class Tuned:
    """A fine-tuned network: its weights on the CPU, and its answers on the images that choose."""

    spec: ArchSpec
    state: dict[str, Tensor]
    steps: int
    chosen_on: Answers


def better_by(one: Answers, other: Answers) -> tuple[float, float]:
    """By how many points of top-1 `one` is above `other` on the same images, and the standard error of that."""
    apart = one.right.astype(np.float64) - other.right
    return 100 * float(apart.mean()), 100 * float(apart.std() / np.sqrt(max(len(apart), 1)))


def lower_by(one: Answers, other: Answers) -> tuple[float, float]:
    """By how much the mean loss of `one` is below that of `other` on the same images, and the standard error of
    that."""
    apart = other.loss - one.loss
    return float(apart.mean()), float(apart.std() / np.sqrt(max(len(apart), 1)))


def answers(net: nn.Module, data: Labelled, size: tuple[int, int]) -> Answers:
    """`net` on all of `data` at `size`, on the device that it is on."""
    right, loss = [], []
    for index, out in _outputs(net, data, size):
        losses, rights = each(out, data.truth_of(index))
        right.append(rights.numpy())
        loss.append(losses.numpy())
    found = np.concatenate(right)
    return Answers(found > 0 if isinstance(data, ImageSet) else found, np.concatenate(loss))


def _outputs(
    net: nn.Module, data: Labelled, size: tuple[int, int], mirror: bool = False
) -> Generator[tuple[NDArray[np.int64], Tensor], None, None]:
    """(indices, logits on the CPU) of every image; with `mirror` the mean over the image and its mirror image."""
    net.eval()
    device = next(net.parameters()).device
    for start in range(0, len(data), BATCH):
        index = np.arange(start, min(start + BATCH, len(data)))
        x = normalise(np.ascontiguousarray(data.images[index]), size, device, statistics(net))
        with torch.inference_mode():
            out = net(x)
            if mirror:
                out = (out + net(x.flip(3))) / 2
        yield index, out.float().cpu()


def taught_by(spec: ArchSpec, state: Mapping[str, Tensor], data: ImageSet) -> Tensor:
    """A teacher's logits (N, classes) on every image of `data` and its mirror image, taken once: they cost a training
    nothing, and the teacher may see the images at a higher resolution than its pupil."""
    net = on_device(spec, state, 0)
    return torch.cat([out for _, out in _outputs(net, data, spec.resolution, mirror=True)])


class Taught:
    """Images whose target is (label, the teacher's logits)."""

    def __init__(self, data: ImageSet, logits: Tensor) -> None:
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
    data: ImageSet, size: tuple[int, int], steps: int, *, seed: int = 0, new_head: bool = False, cut: bool = False
) -> Fit:
    """The recipe `finetune` for so many steps on `data`. Only a new head is trained first by itself, and a network that
    lost channels cannot keep the statistics that its weights came with."""
    by_data = recipe_for("finetune", len(data), size, seed=seed)
    recipe = replace(by_data, steps=max(1, steps), epochs=steps / by_data.epoch_steps)
    if cut and recipe.hold_norms:
        recipe = replace(recipe, hold_norms=False, recalibrate=SETTLED)
    return recipe if new_head else replace(recipe, head_first=0.0)


def scratch_fit(data: ImageSet, size: tuple[int, int], steps: int, *, seed: int = 0) -> Fit:
    """The recipe that `mbv3 train` takes by default from scratch, for so many steps on `data`."""
    recipe = recipe_for(TASKS["classify"].recipe, len(data), size, seed=seed)
    return replace(recipe, steps=max(1, steps), epochs=steps / recipe.epoch_steps)


def usual_steps(data: ImageSet) -> int:
    """Steps of a whole fine-tuning on `data`."""
    return steps_of(data, usual_epochs(len(data)))


def steps_of(data: ImageSet, epochs: float) -> int:
    """Steps of so many passes over `data`."""
    return round(epochs * recipe_for("finetune", len(data), (32, 32)).epoch_steps)


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
) -> Generator[Event, None, Tuned]:
    """Fine-tune `spec` from `state` at its own resolution and answer the images that choose: `trained` by the recipe
    `finetune`, whose teacher's answers count by the weight `distill` at `temperature`.

    Raises:
        Diverged: the loss is not finite any more.
    """
    recipe = fit_of(images.train, spec.resolution, steps, seed=seed, new_head=new_head, cut=cut)
    recipe = replace(recipe, distill=distill, temperature=temperature)
    # where no head is new, the statistics are those of another resolution, or of layers that lost channels
    return (
        yield from trained(name, spec, state, images, recipe, teacher=teacher, settle=not new_head, keep=keep)
    )  # fmt: skip


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
) -> Generator[Event, None, Tuned]:
    """Train `spec` from `state` (None: from scratch) by `recipe` at its own resolution and answer the images that
    choose.

    `teacher`: logits of every training image that are learned beside the labels. `settle`: batch-norm statistics are
    taken anew before it begins. What was kept under `name` is not trained again, and a training that was interrupted
    goes on.

    Raises:
        Diverged: the loss is not finite any more.
    """
    keep = keep or Memory()
    done = keep.file(f"road-{name}.safetensors")
    kept = load_checkpoint(done) if done is not None else None
    if kept is not None and "right" in kept[0]["answers"]:
        parts, meta = kept
        found = Answers(parts["answers"]["right"].bool().numpy(), parts["answers"]["loss"].numpy())
        return Tuned(parse_spec(meta["spec"], str(done)), parts["net"], int(meta["steps"]), found)
    net = on_device(spec, state, recipe.seed)
    if settle:
        ready(net, images.train, replace(recipe, recalibrate=SETTLED))
    yield from fit(
        net, images.train if teacher is None else Taught(images.train, teacher), recipe, stage=STAGE,
        checkpoint=keep.file(f"road-{name}-training.safetensors"),
        objective=None if teacher is None else taught_objective(recipe),
    )  # fmt: skip
    ready(net, images.train, recipe)
    found = answers(net, images.held_out, spec.resolution)
    weights = {k: v.detach().cpu().clone() for k, v in net.state_dict().items()}
    if done is not None:
        kept_answers = {"right": torch.from_numpy(found.right).byte(), "loss": torch.from_numpy(found.loss)}
        about = {"spec": dump_spec(spec), "steps": recipe.steps, "top1": found.top1}
        save_checkpoint(done, {"net": weights, "answers": kept_answers}, about)
    return Tuned(spec, weights, recipe.steps, found)


def seconds_of_step(spec: ArchSpec, data: ImageSet, recipe: Fit) -> float:
    """Seconds of a training step by `recipe`, on the device that networks are trained on: the median of its steps but
    the first."""
    net = on_device(spec, None)
    began: list[float] = []

    def forward(step: int) -> Callable[[Tensor], Tensor]:
        began.append(time.monotonic())
        return net

    for _ in fit(net, data, replace(recipe, ema=0.0), forward=forward):
        pass
    return float(np.median(np.diff(began[1:])))


def on_device(spec: ArchSpec, state: Mapping[str, Tensor] | None, seed: int = 0) -> nn.Module:
    """The network of `spec` with weights `state` (None: new ones) on the GPU where there is one."""
    net = build(spec, seed)
    if state is not None:
        net.load_state_dict(dict(state))
    net.to(default_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net
