"""Numbers that are sums along the chain of a space's blocks: of a block they depend on its own choices and on a state
that the blocks before have left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mbv3.space.additive import Additive

__all__ = ["Chain", "chain_of", "joined"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """m sums of every network. Block b, reached in state s with its choices spelling index j (row-major over
    `shapes[b]`), adds `parts[b][s, j]` (m,) and leads to the state `nexts[b][s, j]`; the first state is 0, and
    `ends[s]` is added after the last block."""

    shapes: tuple[tuple[int, ...], ...]
    constant: Array
    parts: tuple[Array, ...]
    nexts: tuple[Ints, ...]
    ends: Array
    _used: tuple[tuple[Ints, Array], ...] = field(init=False, repr=False)  # columns that are not 0, and their table

    def __post_init__(self) -> None:
        used = []
        for part in self.parts:
            columns = np.flatnonzero(part.any(axis=(0, 1)))
            rows = part.shape[0] * part.shape[1]
            used.append((columns, np.ascontiguousarray(part[:, :, columns]).reshape(rows, len(columns))))
        object.__setattr__(self, "_used", tuple(used))

    def __call__(self, genomes: Ints) -> Array:
        """(n, genes) choices to (n, m) sums."""
        genomes = np.atleast_2d(genomes)
        total = np.tile(self.constant, (len(genomes), 1))
        state, column = np.zeros(len(genomes), dtype=np.int64), 0
        for shape, (used, table), nexts in zip(self.shapes, self._used, self.nexts, strict=True):
            own = np.zeros(len(genomes), dtype=np.int64)
            for n in shape:
                own, column = own * n + genomes[:, column], column + 1
            at = state * math.prod(shape) + own
            total[:, used] += np.take(table, at, axis=0)
            state = np.take(nexts.ravel(), at)
        return np.asarray(total + np.take(self.ends, state, axis=0))

    def genome(self, own: Sequence[int]) -> tuple[int, ...]:
        """The genome whose blocks have these indices of choices."""
        genes = (np.unravel_index(j, shape) for j, shape in zip(own, self.shapes, strict=True) if shape)
        return tuple(int(g) for block in genes for g in block)


def chain_of(space_shapes: Sequence[tuple[int, ...]], cost: Additive, constant: float = 0.0) -> Chain:
    """A cost as a chain of one number; `constant` is added to every network's."""
    parts = tuple(block.costs[:, :, None] for block in cost.blocks)
    return Chain(
        tuple(space_shapes), np.array([cost.constant + constant]), parts,
        tuple(block.out_of for block in cost.blocks), np.asarray(cost.end[:, None], dtype=np.float64),
    )  # fmt: skip


def joined(chains: Sequence[Chain]) -> Chain:
    """The numbers of all chains of one space, one after the other; a state is one of each that networks lead to."""
    states: dict[tuple[int, ...], int] = {(0,) * len(chains): 0}
    parts, nexts = [], []
    for b in range(len(chains[0].shapes)):
        rows = [tuple(c.nexts[b][s] for c, s in zip(chains, state, strict=True)) for state in states]
        after: dict[tuple[int, ...], int] = {}
        table = []
        for row in rows:
            table.append([after.setdefault(tuple(int(v) for v in key), len(after)) for key in zip(*row, strict=True)])
        nexts.append(np.array(table, dtype=np.int64))
        parts.append(
            np.stack(
                [
                    np.concatenate([c.parts[b][s] for c, s in zip(chains, state, strict=True)], axis=1)
                    for state in states
                ]
            )
        )
        states = after
    ends = np.stack([np.concatenate([c.ends[s] for c, s in zip(chains, state, strict=True)]) for state in states])
    constant = np.concatenate([c.constant for c in chains])
    return Chain(chains[0].shapes, constant, tuple(parts), tuple(nexts), ends)
