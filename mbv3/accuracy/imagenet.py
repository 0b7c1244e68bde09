"""ImageNet top-1 of any classifier, from public evidence; and of every network of a space at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mbv3.accuracy.estimate import Estimate
from mbv3.accuracy.features import SIDE, network_sums
from mbv3.accuracy.model import PAPER, Model, shipped
from mbv3.errors import BadInput, plain
from mbv3.space import SearchSpace
from mbv3.spec import ArchSpec, Classify, Layer, LayerKey, Op, Row, lower_key

__all__ = ["imagenet", "imagenet_space", "in_core", "layers_of", "recipes", "sizes"]


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


def imagenet_space(
    space: SearchSpace, *, recipe: str = PAPER, model: Model | None = None
) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
    """Predicted top-1 of genomes (n, genes), (n,): what `imagenet` answers for `space.spec(genome)`, at 100,000
    a second and more.

    Before its logarithms the model is linear in sums over layers, and a layer depends on its block's choices and on the
    width before it: one small table a block holds every network.

    Raises:
        BadInput: an unknown recipe.
    """
    model = model or shipped()
    matrix = model.reduce(model.recipe(recipe).source)
    known: dict[tuple[Row, int, int], tuple[NDArray[np.float64], int]] = {}

    def part(row: Row, cin: int, side: int) -> tuple[NDArray[np.float64], int]:
        if (row, cin, side) not in known:
            layer = lower_key(LayerKey(row, cin, side, side, space.gate))
            known[row, cin, side] = network_sums([layer.ops]) @ matrix, layer.out_shape[1]
        return known[row, cin, side]

    stem = space.scaled_stem()
    constant, side = part(stem, 3, SIDE)
    widths = {stem.out: 0}
    blocks = []
    for block, rate in zip(space.blocks, space.rates, strict=True):
        shape = tuple(len(g.values) for g in block.genes)
        settings = [block.settings(tuple(c)) for c in np.ndindex(*shape)]
        table = np.zeros((len(widths), len(settings), matrix.shape[1]))
        out_of = np.zeros((len(widths), len(settings)), dtype=np.int64)
        after = {w: i for i, w in enumerate(sorted({space.block_out(s) for s in settings}))}
        end = side
        for cin, i in widths.items():
            for j, setting in enumerate(settings):
                c, at = cin, side
                for row in space.block_rows(block, setting, cin, rate):
                    one, at = part(row, c, at)
                    table[i, j] += one
                    c = row.out
                out_of[i, j] = after[c]
                end = at
        used = np.flatnonzero(table.any(axis=(0, 1)))
        blocks.append((shape, np.ascontiguousarray(table[:, :, used]).reshape(-1, len(used)), used, out_of.ravel()))
        widths, side = after, end
    ends = np.zeros((len(widths), matrix.shape[1]))
    for w, i in widths.items():
        c, at = w, side
        tail = space.scaled_tail()
        if tail is not None:
            one, at = part(tail, w, at)
            ends[i] += one
            c = tail.out
        ends[i] += network_sums([lower_key(LayerKey(space.scaled_head(), c, at, at, space.gate)).ops]) @ matrix
    pixels = math.sqrt(math.prod(space.resolution))

    def top1(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        genomes = np.atleast_2d(np.asarray(genomes))
        total = np.tile(constant, (len(genomes), 1))
        state, column = np.zeros(len(genomes), dtype=np.int64), 0
        for shape, table, used, out_of in blocks:
            own = np.zeros(len(genomes), dtype=np.int64)
            for n in shape:
                own, column = own * n + genomes[:, column], column + 1
            at = state * math.prod(shape) + own
            total[:, used] += np.take(table, at, axis=0)
            state = np.take(out_of, at)
        return model.finish(total + np.take(ends, state, axis=0), pixels, recipe)

    return top1
