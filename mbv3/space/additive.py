"""A cost that is a sum over layers, for every network of a space at once.

A layer's cost depends on its block's own choices and on the width of the block before, so one small table a
block holds the cost of every network; a million genomes are summed in well under a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv3.space.model import Genome, SearchSpace
from mbv3.spec import Head, LayerKey, Row, lower_key

__all__ = ["Additive", "layer_keys", "tabulate"]


@dataclass(frozen=True, slots=True)
class _BlockTable:
    columns: slice  # of the genome
    strides: NDArray[np.int64]  # genome columns to own index
    out_of: NDArray[np.int64]  # own index to output-width index
    costs: NDArray[np.float64]  # (input-width index, own index)


@dataclass(frozen=True, slots=True)
class Additive:
    """Sum of layer costs over a space: `cost(genomes)`, and its exact minimum and maximum."""

    constant: float  # stem
    blocks: tuple[_BlockTable, ...]
    end: NDArray[np.float64]  # tail and head, by output-width index of the last block

    def __call__(self, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, genes) choices to (n,) costs."""
        genomes = np.atleast_2d(np.asarray(genomes))
        total = np.full(len(genomes), self.constant)
        width = np.zeros(len(genomes), dtype=np.int64)
        for block in self.blocks:
            own = np.zeros(len(genomes), dtype=np.int64)
            for i, stride in enumerate(block.strides, start=block.columns.start):
                own += genomes[:, i] * stride
            total += np.take(block.costs.ravel(), width * block.costs.shape[1] + own)
            width = np.take(block.out_of, own)
        return total + np.take(self.end, width)

    def extreme(self, largest: bool) -> tuple[float, Genome]:
        """The exact smallest (or largest) cost and a genome of it, by dynamic programming over widths."""
        sign = -1.0 if largest else 1.0
        best: dict[int, tuple[float, Genome]] = {0: (self.constant * sign, ())}
        for block in self.blocks:
            step: dict[int, tuple[float, Genome]] = {}
            for width, (so_far, genome) in best.items():
                costs = sign * block.costs[width]
                for out in np.unique(block.out_of):
                    own = np.flatnonzero(block.out_of == out)
                    pick = int(own[np.argmin(costs[own])])
                    found = so_far + float(costs[pick])
                    if int(out) not in step or found < step[int(out)][0]:
                        step[int(out)] = (found, genome + _unravel(pick, block.strides))
            best = step
        cost, genome = min((c + sign * float(self.end[w]), g) for w, (c, g) in best.items())
        return sign * cost, genome


def _unravel(own: int, strides: NDArray[np.int64]) -> Genome:
    genes = []
    for stride in strides:
        genes.append(int(own // stride))
        own = int(own % stride)
    return tuple(genes)


def tabulate(space: SearchSpace, cost: Callable[[LayerKey], float]) -> Additive:
    """`cost` of every layer of `space`, arranged for summing. `cost` is asked once a distinct layer."""
    known: dict[LayerKey, float] = {}

    def of(row: Row | Head, cin: int, h: int, w: int) -> tuple[float, int, int]:
        key = LayerKey(row, cin, h, w, space.gate)
        if key not in known:
            known[key] = float(cost(key))
        shape = lower_key(key).out_shape
        return known[key], shape[1], shape[2]

    h, w = space.resolution
    stem = space.scaled_stem()
    constant, h, w = of(stem, 3, h, w)
    widths = [stem.out]
    tables: list[_BlockTable] = []
    start = 0
    for block in space.blocks:
        sizes = [len(g.values) for g in block.genes]
        strides = np.array([int(np.prod(sizes[i + 1 :])) for i in range(len(sizes))], dtype=np.int64)
        settings = [block.settings(c) for c in itertools.product(*(range(n) for n in sizes))]
        outs = [space.block_out(s) for s in settings]
        new_widths = sorted(set(outs))
        costs = np.zeros((len(widths), len(settings)))
        bh, bw = -(-h // block.s), -(-w // block.s)
        for i, cin in enumerate(widths):
            for j, s in enumerate(settings):
                c, lh, lw = cin, h, w
                for row in space.block_rows(block, s, cin):
                    ms, lh, lw = of(row, c, lh, lw)
                    costs[i, j] += ms
                    c = row.out
        out_of = np.array([new_widths.index(o) for o in outs], dtype=np.int64)
        tables.append(_BlockTable(slice(start, start + len(sizes)), strides, out_of, costs))
        start += len(sizes)
        widths, h, w = new_widths, bh, bw
    end = np.zeros(len(widths))
    tail = space.scaled_tail()
    for i, cin in enumerate(widths):
        if tail is not None:
            end[i], th, tw = of(tail, cin, h, w)
            end[i] += of(space.scaled_head(), tail.out, th, tw)[0]
        else:
            end[i] = of(space.scaled_head(), cin, h, w)[0]
    return Additive(constant, tuple(tables), end)


def layer_keys(space: SearchSpace) -> tuple[LayerKey, ...]:
    """Every distinct layer that a network of `space` can have, in network order."""
    keys: dict[LayerKey, None] = {}

    def note(key: LayerKey) -> float:
        keys[key] = None
        return 0.0

    tabulate(space, note)
    return tuple(keys)
