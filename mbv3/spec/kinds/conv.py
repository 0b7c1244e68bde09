"""`conv`: a full convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mbv3.spec.kinds.row import Row
from mbv3.spec.ops import Walk
from mbv3.spec.rows import Gate

__all__ = ["Conv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(Row):
    """A full convolution with batch norm: stem, tail, or MnasNet's ConvOp `conv`. SE comes after the activation."""

    RESIDUAL: ClassVar[bool] = False
    INNER_MAP: ClassVar[bool] = False

    def inner(self, cin: int) -> int:
        return self.out

    def walk(self, x: Walk, gate: Gate) -> None:
        source = x.here
        x.conv("conv", self.out, k=self.k, s=self.s, d=self.dilation)
        x.act("conv", self.nl)
        x.squeeze_excite(self.se, gate, self.se_nl)
        x.skip(self.skip, source, self.s)
