"""Parameters and multiply-adds, per row and in total, from the one lowering."""

from __future__ import annotations

from dataclasses import dataclass

from mbv3.spec.arch import ArchSpec
from mbv3.spec.lowering import lower, lower_aux

__all__ = ["Counts", "RowCount", "count"]


@dataclass(frozen=True, slots=True)
class RowCount:
    """One row's share. Shapes are (C, H, W)."""

    path: str
    params: int
    madds: int
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Counts:
    """Learnable parameters and multiply-adds of convolutions and fully connected layers at batch 1.

    Not counted: pooling, resizing, activations, additions, batch norm's arithmetic (it folds into the convolutions).
    `aux_params`: of an auxiliary head, which is trained and not deployed; no part of `params`.
    """

    params: int
    madds: int
    by_row: tuple[RowCount, ...]
    aux_params: int = 0


def count(spec: ArchSpec) -> Counts:
    """Count `spec` row by row."""
    rows = tuple(RowCount(x.path, x.params, x.madds, x.in_shape, x.out_shape) for x in lower(spec))
    aux = lower_aux(spec)
    return Counts(sum(r.params for r in rows), sum(r.madds for r in rows), rows, aux.params if aux else 0)
