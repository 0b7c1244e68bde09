"""Whether weights know photos like the user's: a linear probe of their features, which decides how far layers move."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mbv3.data import ImageSet
from mbv3.events import Event, Note
from mbv3.nn import build
from mbv3.spec import ArchSpec
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep
from mbv3.stages.learn import default_device
from mbv3.stages.linear_head import learn_head
from mbv3.stages.tune import kept_as
from mbv3.training import FAR, FEW, RECIPES, adopt, all_agree, class_answers, load_checkpoint

__all__ = ["far_recipe", "fine_tuned_by", "probe_loss"]

PROBED, CLASSES = 1000, 50  # images and classes at most
LEAST = 20  # photos of a class; of fewer nothing is learned by the best features
HELD_OUT = 0.2  # of each class
# of chance's loss: results/probes.jsonl
UNLIKE = 0.8


def probe_loss(spec: ArchSpec, weights: Mapping[str, Tensor], photos: ImageSet) -> float:
    """The loss of a linear classifier of the features that `weights` give, on photos that it did not learn, as a share
    of that of the classes' frequencies (a linear probe: Alain and Bengio 2016, arXiv:1610.01644). `spec` has a head of
    their classes. NaN where fewer than two classes have photos enough.

    Raises:
        BadInput: weights of another network than `spec`.
    """
    learned, held = _drawn(photos)
    often = np.bincount(learned.labels, minlength=len(photos.classes)) / max(len(learned), 1)
    if np.count_nonzero(often) < 2:
        return math.nan
    net = build(spec, 0)
    adopt(net, dict(weights), "weights")
    net.to(default_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    learn_head(net, learned, spec.resolution)
    loss = class_answers(net, held, spec.resolution).loss.sum()
    return float(loss / -np.log(often[held.labels]).sum())


def _drawn(photos: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Photos to learn from and others to answer, of at most CLASSES classes: no more of a class than of the median."""
    rng = np.random.default_rng(0)
    count = np.bincount(photos.labels)
    chosen = rng.permutation(np.flatnonzero(count >= LEAST))[:CLASSES]
    if not len(chosen):
        return photos.take(np.arange(0)), photos.take(np.arange(0))
    most = max(LEAST, min(PROBED // len(chosen), int(np.median(count[chosen]))))
    learned, held = list[np.int64](), list[np.int64]()
    for label in chosen:
        mine = rng.permutation(np.flatnonzero(photos.labels == label))[:most]
        cut = round(len(mine) * (1 - HELD_OUT))
        learned += list(mine[:cut])
        held += list(mine[cut:])
    return photos.take(np.sort(learned)), photos.take(np.sort(held))


def far_recipe(recipe: str, spec: ArchSpec, weights: Mapping[str, Tensor], photos: ImageSet) -> tuple[str, str]:
    """The recipe by which `weights` learn `photos` where `recipe` is the usual one, and why; no reason where it is that
    one. Few photos move all layers little in any case."""
    if recipe not in FAR or len(photos) < FEW:
        return recipe, ""
    loss = probe_loss(spec, weights, photos)
    if not all_agree(loss >= UNLIKE, default_device()):
        return recipe, ""
    return FAR[recipe], f"the features of the weights tell these photos apart badly: {loss:.2f} of chance's loss"


def fine_tuned_by(
    images: Images, spec: ArchSpec, weights: Mapping[str, Tensor], keep: Keep
) -> Generator[Event, None, Images]:
    """`images` with the recipe by which `weights` learn them, decided once: where the start has learned already, that
    is by what it learned."""
    work, train = images.work, images.train
    if not isinstance(train, ImageSet):
        return images

    usual, why = work.finetune, "as the start has learned"

    def decide() -> str:
        nonlocal why
        done = keep.file(kept_as("start"))
        kept = load_checkpoint(done) if done is not None else None
        if kept is None:
            name, why = far_recipe(usual, spec, weights, train)
            return name
        far, begun = FAR.get(usual, usual), kept[1].get("recipe") or {}
        return far if begun.get("body_lr") == RECIPES[far].body_lr else usual

    name = keep.value("finetune", decide)
    if name == usual:
        return images
    yield Note("start", f"recipe {name}: {why}")
    return replace(images, given=replace(work, finetune=name))
