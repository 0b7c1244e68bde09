"""ImageNet top-1 of any classifier, from public evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mbv3.accuracy.estimate import Difference, Estimate
from mbv3.accuracy.features import SIDE, network_sums
from mbv3.accuracy.model import PAPER, Model, shipped
from mbv3.errors import BadInput, plain
from mbv3.spec import ArchSpec, Classify, Layer, LayerKey, Op, lower_key

__all__ = ["difference", "imagenet", "in_core", "layers_of", "recipes", "sizes"]


def recipes() -> tuple[str, ...]:
    """The trainings that `imagenet` can answer for; the first is the default."""
    names = shipped().recipes
    return (PAPER, *sorted(n for n in names if n != PAPER))


def layers_of(spec: ArchSpec) -> tuple[Layer, ...]:
    """The layers of a classifier at an input of SIDE pixels; equal layers are lowered once in a process."""
    side, layers = SIDE, []
    for _, row, cin in spec.convs():
        layers.append(lower_key(LayerKey(row, cin, side, side, spec.gate)))
        side = layers[-1].out_shape[1]
    return (*layers, lower_key(LayerKey(spec.head, spec.features, side, side, spec.gate)))


def sizes(layers: Iterable[Sequence[Op]], pixels: float) -> dict[str, float]:
    """What the region of evidence is measured in: parameters and multiply-adds of the convolutions at 224 pixels, both
    in millions, spatial layers, pixels a side. `layers` at an input of SIDE pixels, without the classifier."""
    convs = [op for ops in layers for op in ops if op.kind == "conv"]
    trunk = sum(op.madds for op in convs if (op.hout, op.wout) != (1, 1))
    squeezes = sum(op.madds for op in convs) - trunk
    return {
        "parameters (M)": sum(op.params for op in convs) / 1e6,
        "multiply-adds at 224 (M)": (trunk * (224 / SIDE) ** 2 + squeezes) / 1e6,
        "spatial layers": float(max(1, sum(op.k > 1 for op in convs))),
        "pixels": pixels,
    }


def in_core(sizes: Mapping[str, float]) -> bool:
    """Whether a network is of the sizes that evidence is dense for; smaller ones have an error of their own."""
    return sizes["multiply-adds at 224 (M)"] >= 40 and sizes["pixels"] >= 128


def imagenet(spec: ArchSpec, *, recipe: str = PAPER, model: Model | None = None) -> Estimate:
    """Predicted ImageNet top-1 (1,000 classes) of a classifier trained by `recipe`; higher is better.

    Resolutions that are not square count as the square of equal area.

    Raises:
        BadInput: an unknown recipe, a dense head, or images that do not have three channels.
    """
    model = model or shipped()
    model.recipe(recipe)
    if not isinstance(spec.head, Classify):
        raise BadInput(
            f"head: ImageNet accuracy is that of a classifier, and {plain(spec.name)} has a "
            f"{type(spec.head).__name__} head; ask for the classifier that its backbone comes from"
        )
    if spec.in_channels != 3:
        raise BadInput(f"input.channels: ImageNet's images have 3 channels (got {spec.in_channels}); write channels: 3")
    layers = [layer.ops for layer in layers_of(spec)]
    at = sizes(layers[:-1], math.sqrt(math.prod(spec.resolution)))
    sums = network_sums(layers)
    value = float(model.predict(sums[None], at["pixels"], recipe)[0])
    far, why = model.region.outside(at)
    # beyond the evidence an octave adds as much again
    error = model.errors[0 if in_core(at) else 1] * (1.0 + far + (far > 0))
    return Estimate(value=value, error=error, source="ImageNet model", recipe=recipe, extrapolated=far > 0, why=why)


def difference(one: ArchSpec, other: ArchSpec, *, recipe: str = PAPER, model: Model | None = None) -> Difference:
    """Predicted ImageNet top-1 of `one` less that of `other`, both trained by `recipe`.

    The errors of alike networks are alike, so that of a difference is less than that of either: its variance grows with
    what the model must account for (Model.unlike), as fitted to pairs of published networks of which the model had not
    seen one's family. Where an error is larger than that of the core, outside the evidence, that of the difference is
    larger in proportion; it never exceeds that of two independent predictions.

    Raises:
        BadInput: as `imagenet`.
    """
    model = model or shipped()
    a, b = (imagenet(spec, recipe=recipe, model=model) for spec in (one, other))
    sums = np.array([network_sums([layer.ops for layer in layers_of(spec)]) for spec in (one, other)])
    pixels = np.array([math.sqrt(math.prod(spec.resolution)) for spec in (one, other)])
    least, more = model.difference
    near = math.sqrt(least + more * model.unlike(sums, pixels, recipe))
    near *= max(a.error, b.error, model.errors[0]) / model.errors[0]
    return Difference(value=a.value - b.value, error=min(near, math.hypot(a.error, b.error)), recipe=recipe)
