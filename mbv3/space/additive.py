"""A cost that is a sum over layers, for every network of a space at once.

The cost of a layer depends on the choices of its block and on the width of the block before; that of a dense head also
on the channels of its taps. So one small table for each block holds the cost of every network, and a million genomes
are summed in less than a second."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mbv3.space.model import Genome, SearchSpace
from mbv3.spec import LayerKey, Row, lower, lower_key

__all__ = ["Additive", "BlockTable", "layer_keys", "tabulate"]

_State = tuple[int, tuple[int, ...]]  # width, channels of the inputs of a dense head


@dataclass(frozen=True, slots=True)
class BlockTable:
    """The costs of one block of a space, by the state before it and its settings."""

    columns: slice  # of the genome
    strides: NDArray[np.int64]  # from genome columns to the index of the block's settings
    out_of: NDArray[np.int64]  # (state, index) to the state after the block
    costs: NDArray[np.float64]  # (state, index)


@dataclass(frozen=True, slots=True)
class Additive:
    """Sum of layer costs for every genome of a space, and its exact minimum and maximum."""

    constant: float  # stem
    blocks: tuple[BlockTable, ...]
    end: NDArray[np.float64]  # tail and head, by the state after the last block

    def __call__(self, genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, genes) choices to (n,) costs."""
        genomes = np.atleast_2d(np.asarray(genomes))
        total = np.full(len(genomes), self.constant)
        state = np.zeros(len(genomes), dtype=np.int64)
        for block in self.blocks:
            own = np.zeros(len(genomes), dtype=np.int64)
            for i, stride in enumerate(block.strides, start=block.columns.start):
                own += genomes[:, i] * stride
            at = state * block.costs.shape[1] + own
            total += np.take(block.costs.ravel(), at)
            state = np.take(block.out_of.ravel(), at)
        return total + np.take(self.end, state)

    @classmethod
    def weighted(cls, sums: Sequence[Additive], weights: Sequence[float]) -> Additive:
        """The weighted sum of several costs of one space."""
        first, pairs = sums[0], list(zip(sums, weights, strict=True))
        blocks = tuple(
            replace(block, costs=np.sum([w * s.blocks[i].costs for s, w in pairs], axis=0))
            for i, block in enumerate(first.blocks)
        )
        end = np.sum([w * s.end for s, w in pairs], axis=0)
        return cls(sum(w * s.constant for s, w in pairs), blocks, end)

    def extreme(self, largest: bool) -> tuple[float, Genome]:
        """The exact smallest (or largest) cost and a genome with it, by dynamic programming over states."""
        sign = -1.0 if largest else 1.0
        best: dict[int, tuple[float, Genome]] = {0: (self.constant * sign, ())}
        for block in self.blocks:
            step: dict[int, tuple[float, Genome]] = {}
            for state, (so_far, genome) in best.items():
                costs, out_of = sign * block.costs[state], block.out_of[state]
                for out in np.unique(out_of):
                    own = np.flatnonzero(out_of == out)
                    pick = int(own[np.argmin(costs[own])])
                    found = so_far + float(costs[pick])
                    if int(out) not in step or found < step[int(out)][0]:
                        step[int(out)] = (found, genome + _unravel(pick, block.strides))
            best = step
        cost, genome = min((c + sign * float(self.end[i]), g) for i, (c, g) in best.items())
        return sign * cost, genome


def _unravel(own: int, strides: NDArray[np.int64]) -> Genome:
    genes = []
    for stride in strides:
        genes.append(int(own // stride))
        own = int(own % stride)
    return tuple(genes)


def _inputs(space: SearchSpace, rows: Sequence[Row], cin: int, n: int) -> tuple[int, ...]:
    """Channels of the inputs of a dense head that lie in `rows`, the rows of the first `n` blocks. The other blocks get
    the fewest rows possible: then an input lies in `rows` if it does so in any network."""
    if space.dense is None:
        return ()
    rows = list(rows)
    for block, rate in zip(space.blocks[n:], space.rates[n:], strict=True):
        every = (block.settings(c) for c in itertools.product(*(range(len(g.values)) for g in block.genes)))
        fewest = min(every, key=lambda s: (s["op"] != "identity", s["l"]))
        rows += space.block_rows(block, fewest, cin, rate)
        cin = space.block_out(fewest)
    return tuple(c for c, _, _ in lower(space.dress(space.network(rows, space.name)))[-1].key.inputs)


def tabulate(space: SearchSpace, cost: Callable[[LayerKey], float]) -> Additive:
    """`cost` of every layer of the deployed networks of `space`, arranged for summing. It is called once for each
    distinct layer."""
    known: dict[LayerKey, float] = {}

    def cost_and_shape(key: LayerKey) -> tuple[float, int, int]:
        if key not in known:
            known[key] = float(cost(key))
        return known[key], *lower_key(key).out_shape[1:]

    stem = space.scaled_stem()
    constant, h, w = cost_and_shape(LayerKey(stem, 3, *space.resolution, space.gate))
    # a state is what later layers depend on: the width and the inputs of the head; its value: rows that lead to it
    states: dict[_State, tuple[Row, ...]] = {(stem.out, ()): ()}
    tables: list[BlockTable] = []
    start = 0
    for n, (block, rate) in enumerate(zip(space.blocks, space.rates, strict=True), start=1):
        sizes = [len(g.values) for g in block.genes]
        strides = np.array([int(np.prod(sizes[i + 1 :])) for i in range(len(sizes))], dtype=np.int64)
        settings = [block.settings(c) for c in itertools.product(*(range(n) for n in sizes))]
        costs = np.zeros((len(states), len(settings)))
        next_of: list[list[_State]] = []
        new: dict[_State, tuple[Row, ...]] = {}
        taken: dict[object, tuple[int, ...]] = {}
        for i, ((cin, _), before) in enumerate(states.items()):
            next_of.append([])
            for j, s in enumerate(settings):
                rows, c, lh, lw = space.block_rows(block, s, cin, rate), cin, h, w
                points: list[object] = []
                for row in rows:
                    ms, lh, lw = cost_and_shape(LayerKey(row, c, lh, lw, space.gate))
                    costs[i, j] += ms
                    points.append(row.points(c))
                    c = row.out
                shape = (i, *points, *((type(row), row.out, getattr(row, "exp", 0)) for row in rows))
                if shape not in taken:
                    taken[shape] = _inputs(space, (*before, *rows), c, n)
                state = (space.block_out(s), taken[shape])
                new.setdefault(state, (*before, *rows))
                next_of[i].append(state)
        states = dict(sorted(new.items()))
        index = {state: i for i, state in enumerate(states)}
        out_of = np.array([[index[state] for state in row] for row in next_of], dtype=np.int64)
        tables.append(BlockTable(slice(start, start + len(sizes)), strides, out_of, costs))
        start += len(sizes)
        s1 = block.s if rate == 1 else 1
        h, w = -(-h // s1), -(-w // s1)
    ends = [lower(space.dress(space.network(rows, space.name)))[1 + len(rows) :] for rows in states.values()]
    end = np.array([sum(cost_and_shape(layer.key)[0] for layer in layers) for layers in ends])
    return Additive(constant, tuple(tables), end)


def layer_keys(space: SearchSpace) -> tuple[LayerKey, ...]:
    """Every distinct layer that a network of `space` can have, in network order."""
    keys: dict[LayerKey, None] = {}

    def collect(key: LayerKey) -> float:
        keys[key] = None
        return 0.0

    tabulate(space, collect)
    return tuple(keys)
