"""ImageNet top-1 of every network of a space at once.

Before its logarithms the model is linear in sums over layers, and a layer depends on its block's choices and on the
width before it: one small table a block holds every network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3.accuracy.features import SIDE, network_sums
from mbv3.accuracy.model import PAPER, Model, shipped
from mbv3.space import Chain, SearchSpace
from mbv3.spec import LayerKey, Row, lower_key

__all__ = ["SpaceTop1", "imagenet_space"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SpaceTop1:
    """Predicted top-1 of genomes (n, genes), (n,), as a concave and rising function of `sums`, which are added up along
    the blocks of the space: `percent(worth(sums))`."""

    sums: Chain
    pixels: float
    recipe: str
    model: Model

    def __call__(self, genomes: NDArray[np.int64]) -> Array:
        return self.model.finish(self.sums(genomes), self.pixels, self.recipe)

    def worth(self, sums: Array) -> Array:
        """(n, numbers) to (n,): concave in the sums, and never falls when one of them grows."""
        return self.model.worth(sums, self.pixels, self.recipe)

    def slopes(self, sums: Array) -> Array:
        """The gradient of `worth` at sums (numbers,)."""
        return self.model.slopes_at(sums, self.pixels, self.recipe)

    def percent(self, worth: Array) -> Array:
        """Top-1 in percent of `worth`."""
        return self.model.percent(worth, self.recipe)


def imagenet_space(space: SearchSpace, *, recipe: str = PAPER, model: Model | None = None) -> SpaceTop1:
    """Predicted top-1 of the networks of `space`: what `imagenet` answers for `space.spec(genome)`, at 100,000 a second
    and more.

    Raises:
        BadInput: an unknown recipe.
    """
    model = model or shipped()
    matrix = model.reduce(model.recipe(recipe).source)
    known: dict[tuple[Row, int, int], tuple[Array, int]] = {}

    def part(row: Row, cin: int, side: int) -> tuple[Array, int]:
        if (row, cin, side) not in known:
            layer = lower_key(LayerKey(row, cin, side, side, space.gate))
            known[row, cin, side] = network_sums([layer.ops]) @ matrix, layer.out_shape[1]
        return known[row, cin, side]

    stem = space.scaled_stem()
    constant, side = part(stem, 3, SIDE)
    widths = {stem.out: 0}
    parts, nexts, shapes = [], [], []
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
        parts.append(table)
        nexts.append(out_of)
        shapes.append(shape)
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
    chain = Chain(tuple(shapes), constant, tuple(parts), tuple(nexts), ends)
    return SpaceTop1(chain, math.sqrt(math.prod(space.resolution)), recipe, model)
