"""How to train, as values: the published recipes by name, what one becomes on given data, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from mbv3.data import Augment
from mbv3.errors import BadInput

__all__ = [
    "FAR",
    "FEW",
    "RECIPES",
    "Fit",
    "Recipe",
    "learning_rate",
    "recipe_for",
    "usual_epochs",
    "why_recipe",
]

Optimizer = Literal["sgd", "adamw", "rmsprop"]
Schedule = Literal["cosine", "poly", "steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe, whatever the data. `lr` belongs to `lr_batch` images a step, over all processes, and is scaled
    linearly to what a step has (Goyal 2017, arXiv:1706.02677)."""

    source: str = ""
    epochs: float = 0.0
    batch: int = 128  # images of one process and step
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    lr_batch: int = 128
    momentum: float = 0.9
    nesterov: bool = True  # SGD
    alpha: float = 0.9  # RMSProp's decay of the mean square
    eps: float = 1e-8
    schedule: Schedule = "cosine"
    warmup: float = 0.05  # share of the steps
    power: float = 0.9  # poly
    min_lr: float = 0.0  # poly; scaled with lr
    decay: float = 0.99  # steps: the rate is multiplied by it ...
    decay_epochs: float = 3.0  # ... every so many epochs
    weight_decay: float = 5e-5
    decay_all: bool = False  # also norms and biases
    label_smoothing: float = 0.1
    dice: float = 0.0  # weight of the Dice loss beside the cross-entropy, for masks
    clip: float = 5.0  # gradient norm
    augment: Augment = "shift"
    erase: float = 0.0  # share of images with a random rectangle erased (Zhong 2017, arXiv:1708.04896)
    ema: float = 0.0  # decay of the averaged weights, 0 for none
    recalibrate: int = 0  # batches over which batch-norm statistics are recomputed before a score, 0 for none
    recalibrate_plain: bool = False  # over images as they are scored, not as they are changed for the training
    distill: float = 0.5  # weight of the teacher's answer, where there is a teacher
    temperature: float = 1.0  # of the teacher's answer (Hinton 2015, arXiv:1503.02531)
    head_first: float = 0.0  # share of the steps in which only the head learns
    first_lr: float = 1.0  # rate of these steps, as a share of lr
    body_lr: float = 1.0  # rate of the layers under the head, as a share of lr
    layer_decay: float = 1.0  # the body's rate is multiplied by it once a row, from the head to the stem
    hold_norms: bool = False  # batch norms under the head keep their statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(Recipe):
    """A recipe on given data: `steps` batches of `batch` images of `size` pixels (height, width). `lr` is final."""

    steps: int
    size: tuple[int, int]
    epoch_steps: int = 1
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def first_steps(self) -> int:
        """Steps in which only the head learns."""
        return round(self.head_first * self.steps)


_SEGMENT = Recipe(
    source="mmsegmentation's augmentation with AdamW and the Dice loss beside the cross-entropy: a few hundred images",
    # from ImageNet weights, 15 epochs of CamVid, three seeds: the Dice loss brings 6.1 points mean IoU on the
    # validation images and 2.1 on the test images (results/dense.jsonl)
    epochs=150, batch=8, optimizer="adamw", lr=2e-3, lr_batch=8, schedule="poly", power=0.9, warmup=0.03,
    weight_decay=0.02, label_smoothing=0.0, dice=1.0, augment="scale", ema=0.999, recalibrate=16,
)  # fmt: skip
_DETECT = Recipe(
    source="SSD's losses and augmentation (Liu 2016, arXiv:1512.02325) with AdamW: a few hundred images",
    epochs=150, batch=16, optimizer="adamw", lr=1e-3, lr_batch=16, warmup=0.05, weight_decay=0.02,
    label_smoothing=0.0, augment="ssd", ema=0.999, recalibrate=16,
)  # fmt: skip
_FINETUNE = Recipe(
    source="AdamW, head first, averaged weights: weights from elsewhere (--init) learn new images",
    # chosen by two screening designs on few images and on the whole of Caltech-101: results/finetune.jsonl; label
    # smoothing of 0.2 instead of 0.1 brings 1.9 and 1.0 points in them
    batch=64, optimizer="adamw", lr=1e-3, lr_batch=64, warmup=0.05, weight_decay=0.05, label_smoothing=0.2,
    augment="shift", ema=0.999, recalibrate=16, recalibrate_plain=True, head_first=0.1, body_lr=0.4, layer_decay=0.9,
)  # fmt: skip
_INIT = " with epochs by the number of images: weights from elsewhere (--init) learn them"

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "small-data": Recipe(
            source="SGD with Nesterov momentum and a cosine, weights averaged: a small data set from scratch",
            epochs=60, batch=128, lr=0.2, lr_batch=128, weight_decay=5e-4, label_smoothing=0.1, augment="shift",
            ema=0.999, recalibrate=16,
        ),
        "finetune": _FINETUNE,
        "finetune-far": replace(
            _FINETUNE, source="`finetune` at one rate for all layers: the weights know little of such images",
            # 10,000 photos of CIFAR-10 at 64 px, three seeds: 70.1 % with smaller rates under the head, 72.6 without
            body_lr=1.0, layer_decay=1.0,
        ),
        "finetune-sgd": Recipe(
            source="SGD at a small rate: what `finetune` was before it was compared",
            epochs=20, batch=64, lr=0.02, lr_batch=64, weight_decay=1e-4, label_smoothing=0.1, augment="inception",
            ema=0.999, recalibrate=16,
        ),
        "paper": Recipe(
            source="Howard 2019, section 6.1.1, arXiv:1905.02244",
            # departures: the paper does not report its epochs; its colour distortion is left out
            epochs=600, batch=128, optimizer="rmsprop", lr=0.1, lr_batch=4096, momentum=0.9, alpha=0.9, eps=0.0316,
            schedule="steps", decay=0.99, decay_epochs=3.0, warmup=0.0, weight_decay=1e-5, label_smoothing=0.1,
            clip=math.inf, augment="inception", ema=0.9999,
        ),
        "torchvision": Recipe(
            source="torchvision's references/classification for MobileNetV3",
            # departures: TrivialAugment stands for AutoAugment, whose policy was learned on ImageNet; averaged weights
            # stand for the average of the best checkpoints
            epochs=600, batch=128, optimizer="rmsprop", lr=0.064, lr_batch=1024, momentum=0.9, alpha=0.9, eps=0.0316,
            schedule="steps", decay=0.973, decay_epochs=2.0, warmup=0.0, weight_decay=1e-5, label_smoothing=0.0,
            clip=math.inf, augment="inception+trivial", erase=0.2, ema=0.9999, decay_all=True,
        ),
        "mmseg": Recipe(
            source="mmsegmentation v0.x, schedule of lraspp_m-v3",
            # 320,000 steps of 4 x 4 of Cityscapes' 2,975 images
            epochs=320_000 * 16 / 2975, batch=4, lr=0.01, lr_batch=16, nesterov=False, decay_all=True, schedule="poly",
            power=0.9, min_lr=1e-4, warmup=0.0, weight_decay=5e-4, label_smoothing=0.0, clip=math.inf,
            augment="scale",
        ),
        "small-segment": _SEGMENT,
        "finetune-segment": replace(_SEGMENT, source="`small-segment`" + _INIT, epochs=0.0),
        "small-detect": _DETECT,
        "finetune-detect": replace(_DETECT, source="`small-detect`" + _INIT, epochs=0.0),
        "ssdlite": Recipe(
            source="torchvision's references/detection for ssdlite320_mobilenet_v3_large",
            # its first epoch warms up, and counts for the cosine, too; departure: here the cosine begins after it
            epochs=660, batch=24, lr=0.15, lr_batch=192, nesterov=False, warmup=1 / 660, weight_decay=4e-5,
            decay_all=True, label_smoothing=0.0, clip=math.inf, augment="ssd",
        ),
    }
)  # fmt: skip

# in place of a usual recipe, where the weights know little of such images
FAR: Mapping[str, str] = MappingProxyType({"finetune": "finetune-far"})


def why_recipe(name: str, asked: bool, init: bool, by_data: bool, n: int) -> str:
    """In words, for the line that names the recipe: who chose it, and whether it takes its epochs (`by_data`: no others
    are asked for) from the `n` training images."""
    who = "as asked" if asked else "default with --init" if init else "default without --init"
    return f"{who}; epochs by the {n} images" if by_data and "epochs" in _by_data(name, n, 0.0, 1) else who


def usual_epochs(n: int, scale: float = 900.0) -> int:
    """Passes over `n` images: the steps grow with the root of `n`. With 900: 40 over 500, 12 over 5,600, 4 over 50,000,
    3 to 80."""
    return round(min(80.0, max(3.0, scale / math.sqrt(max(n, 1)))))


# norms held: +3.9 points at 1,010 images of 101 classes, +4.0 at 1,000 of 10, -0.4 +- 0.5 at 5,548 of 101
FEW = 3000


def _finetune(n: int, epochs: float, processes: int) -> dict[str, Any]:
    """Few images are learned in smaller batches, with the statistics that the weights came with."""
    values: dict[str, Any] = {"epochs": usual_epochs(n)}
    if n < FEW:
        values |= {"batch": 32, "lr_batch": 32, "head_first": 0.2, "hold_norms": True, "recalibrate": 0}
    return values


def _usual(n: int, epochs: float, processes: int) -> dict[str, Any]:
    return {"epochs": usual_epochs(n)}


# On Caltech-101, seen twelve times, 516 steps of 128 images reach 60.5 % and 1,032 of 64 58.7 %; on CIFAR-10, seen
# twice, 676 steps of 128 reach 66.6 % and as many images in batches of 32 70.0 %.
ENOUGH, ENOUGH_NEW = 500, 1000  # steps; the second where images are seen for less than NEW times
NEW = 5
BATCHES = (128, 64, 32)  # the largest with so many steps, else that with the most; of those alike the largest


def _small_data(n: int, epochs: float, processes: int) -> dict[str, Any]:
    """A short training takes smaller batches where they make more steps, for steps are what it lacks."""

    def steps(batch: int) -> float:
        return epochs * max(1, n // (min(batch, n // processes) * processes)) if n >= processes else 0.0

    enough = ENOUGH_NEW if epochs < NEW else ENOUGH
    return {"batch": next((b for b in BATCHES if steps(b) >= enough), max(BATCHES, key=steps))}


# what a recipe takes from the numbers of training images, of its epochs and of processes; an option overrides each
_BY_DATA: Mapping[str, Callable[[int, float, int], dict[str, Any]]] = MappingProxyType(
    {
        "finetune": _finetune,
        "finetune-far": _finetune,
        "finetune-segment": _usual,
        "finetune-detect": _usual,
        "small-data": _small_data,
    }
)


def _by_data(name: str, n: int, epochs: float, processes: int) -> dict[str, Any]:
    return _BY_DATA[name](n, epochs, processes) if name in _BY_DATA else {}


_FREE = frozenset(f.name for f in fields(Recipe)) - {"source", "lr_batch"}


def recipe_for(
    name: str, n: int, size: tuple[int, int], *, processes: int = 1, seed: int = 0, precision: str = "fp32",
    **changes: Any,
) -> Fit:  # fmt: skip
    """The recipe `name` for `n` training images of `size`; `changes` override it, None leaves it as it is.

    A learning rate given by hand is final, else it is scaled to the images of a step.

    Raises:
        BadInput: no such recipe, a change that is none, or too few images.
    """
    if name not in RECIPES:
        raise BadInput(f"--recipe {name}: there are {', '.join(RECIPES)}")
    given = {k: v for k, v in changes.items() if v is not None}
    unknown = sorted(set(given) - _FREE)
    if unknown:
        raise BadInput(f"a recipe has no {', '.join(unknown)}; it has {', '.join(sorted(_FREE))}")
    by_data = _by_data(name, n, given.get("epochs", RECIPES[name].epochs), processes)
    if "lr" in given and "lr_batch" not in by_data:
        by_data.pop("batch", None)  # a rate by hand is for the batch that the recipe names
    recipe = replace(RECIPES[name], **{**by_data, **given})
    batch = min(recipe.batch, n // processes)
    if batch < 2:
        raise BadInput(f"{n} training image(s) for {processes} process(es) of batches of {recipe.batch}: at least two "
                       "images a step and process are needed, for batch norms have no variance over one")  # fmt: skip
    lr = recipe.lr if "lr" in given else recipe.lr * batch * processes / recipe.lr_batch
    min_lr = recipe.min_lr * lr / RECIPES[name].lr  # the same share of the rate, however that was set
    epoch_steps = max(1, n // (batch * processes))
    values = {f.name: getattr(recipe, f.name) for f in fields(Recipe)} | {"batch": batch, "lr": lr, "min_lr": min_lr}
    steps = max(1, round(recipe.epochs * epoch_steps))
    return Fit(**values, steps=steps, size=size, epoch_steps=epoch_steps, seed=seed, precision=precision)  # type: ignore[arg-type]


def learning_rate(recipe: Fit, step: int) -> float:
    """Linear warm-up, then the schedule: cosine to zero, poly to `min_lr`, or a factor every few epochs. While only
    the head learns, the rate rises to `first_lr`; then the warm-up and the schedule have the steps that are left."""
    first = recipe.first_steps
    if step < first:
        return recipe.lr * recipe.first_lr * ((step + 1) / first if recipe.warmup else 1.0)
    step, steps = step - first, recipe.steps - first
    warm = int(recipe.warmup * steps)
    if recipe.schedule == "cosine":
        warm = max(1, warm)
    if step < warm:
        return recipe.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
    if recipe.schedule == "poly":
        return (recipe.lr - recipe.min_lr) * math.pow(1 - done, recipe.power) + recipe.min_lr
    return recipe.lr * math.pow(recipe.decay, step / recipe.epoch_steps // recipe.decay_epochs)
