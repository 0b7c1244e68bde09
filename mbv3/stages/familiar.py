"""Whether weights know photos like the user's: a linear probe of their features, which decides how far layers move."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mbv3.data import ImageSet, normalise
from mbv3.events import Event, Note
from mbv3.nn import build, statistics
from mbv3.spec import ArchSpec
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep
from mbv3.stages.learn import default_device
from mbv3.stages.linear_head import learn_head
from mbv3.training import FAR, FEW, adopt

__all__ = ["far_recipe", "fine_tuned_by", "probe_loss"]

PROBED, CLASSES = 2000, 100  # images and classes at most
HELD_OUT = 0.2  # of the images
# of chance's loss. MobileNetV3-Small's ImageNet features: Caltech-101 0.25, with 20 and 5 photos a class 0.30 and 0.53;
# CIFAR-10's photos at 64 px 1.40, with 100 a class 1.19
UNLIKE = 0.8
BATCH = 64


def probe_loss(spec: ArchSpec, weights: Mapping[str, Tensor], photos: ImageSet) -> float:
    """The loss of a linear classifier of the features that `weights` give, on photos that it did not learn, as a share
    of what chance has (a linear probe: Alain and Bengio 2016, arXiv:1610.01644). `spec` has a head of their classes.

    Raises:
        BadInput: weights of another network than `spec`.
    """
    net = build(spec, 0)
    adopt(net, dict(weights), "weights")
    net.to(default_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    learned, held = _drawn(photos)
    learn_head(net, learned, spec.resolution)
    loss = 0.0
    with torch.inference_mode():
        for start in range(0, len(held), BATCH):
            index = np.arange(start, min(start + BATCH, len(held)))
            x = normalise(np.ascontiguousarray(held.images[index]), spec.resolution, default_device(), statistics(net))
            y = torch.from_numpy(np.asarray(held.labels[index])).to(x.device)
            loss += float(functional.cross_entropy(net(x), y, reduction="sum"))
    return loss / len(held) / math.log(len(np.unique(learned.labels)))


def _drawn(photos: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Photos of at most CLASSES classes to learn from, and others to answer."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation(np.unique(photos.labels))[:CLASSES]
    order = rng.permutation(np.flatnonzero(np.isin(photos.labels, chosen)))[:PROBED]
    learned = round(len(order) * (1 - HELD_OUT))
    return photos.take(np.sort(order[:learned])), photos.take(np.sort(order[learned:]))


def far_recipe(recipe: str, spec: ArchSpec, weights: Mapping[str, Tensor], photos: ImageSet) -> tuple[str, str]:
    """The recipe by which `weights` learn `photos` where `recipe` is the usual one, and why; no reason where it is that
    one. Few photos move all layers little in any case."""
    if recipe not in FAR or len(photos) < FEW:
        return recipe, ""
    loss = probe_loss(spec, weights, photos)
    if loss < UNLIKE:
        return recipe, ""
    return FAR[recipe], f"the features of the weights tell these photos apart badly: {loss:.2f} of chance's loss"


def fine_tuned_by(
    images: Images, spec: ArchSpec, weights: Mapping[str, Tensor], keep: Keep
) -> Generator[Event, None, Images]:
    """`images` with the recipe by which `weights` learn them, decided once."""
    work, train = images.work, images.train
    if not isinstance(train, ImageSet):
        return images
    usual = work.finetune
    name, why = keep.value("finetune", lambda: far_recipe(usual, spec, weights, train))
    if name == usual:
        return images
    yield Note("start", f"recipe {name}: {why}")
    return replace(images, given=replace(work, finetune=name))
