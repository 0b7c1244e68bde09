"""Which networks of a space a supernet's training steps take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mbv3.space import Genome, SearchSpace
from mbv3.supernet.model import Supernet

__all__ = ["Paths", "path_forward"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Paths:
    """The paths of a step. A plain `Paths()` is single-path uniform sampling (Guo 2020, arXiv:1904.00420).

    `count`: a step's images are divided evenly among so many paths, whose gradients add up; it costs what one path
    costs. `fair`: among them every choice of a gene comes equally often, up to one (Chu 2021, arXiv:1907.01845, where
    each path has all images). `pool`: (n, genes) genomes near a target, of which a path is drawn with probability
    `near`, in place of the whole space. `small`: in the first `small_part` of the steps the images have this share of
    their side.
    """

    count: int = 1
    fair: bool = False
    pool: NDArray[np.int64] | None = None
    near: float = 0.0
    small: float = 1.0
    small_part: float = 0.0

    def of(self, space: SearchSpace, seed: int, step: int) -> list[Genome]:
        """The paths of a step, a function of (seed, step)."""
        rng = np.random.default_rng((seed, step, 7))
        drawn = _fair(space.sizes, self.count, rng) if self.fair else space.sample(rng, self.count)
        if self.pool is not None and len(self.pool):
            close = self.pool[rng.integers(len(self.pool), size=self.count)]
            drawn = np.where(rng.random(self.count)[:, None] < self.near, close, drawn)
        return [tuple(int(g) for g in genome) for genome in drawn]


def _fair(sizes: tuple[int, ...], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(count, genes): the choices of each gene in random order, again and again."""
    columns = [np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count] for n in sizes]
    return np.stack(columns, axis=1)


def path_forward(
    supernet: Supernet, seed: int, paths: Paths | None = None, steps: int = 1
) -> Callable[[int], Callable[[Tensor], Tensor]]:
    """From a step of `steps` to its forward pass, images (N, 3, H, W) to logits (N, classes)."""
    chosen = paths or Paths()
    small_steps = round(chosen.small_part * steps)

    def at(step: int) -> Callable[[Tensor], Tensor]:
        genomes = chosen.of(supernet.space, seed, step)

        def forward(x: Tensor) -> Tensor:
            if step < small_steps:
                size = [round(chosen.small * side) for side in x.shape[2:]]
                x = functional.interpolate(x, size, mode="bilinear", antialias=True)
            if len(genomes) == 1:
                return supernet.forward_path(genomes[0], x)
            parts = x.chunk(len(genomes))  # fewer where there are fewer images than paths
            return torch.cat([supernet.forward_path(g, part) for g, part in zip(genomes, parts, strict=False)])

        return forward

    return at
