"""`mbconv`: the inverted residual of MobileNetV2 with MobileNetV3's squeeze-and-excitation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mbv3.spec.kinds.row import Expanding
from mbv3.spec.ops import Walk
from mbv3.spec.rows import Gate, Point

__all__ = ["MBConv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConv(Expanding):
    """One `bneck` row (Howard 2019, Tables 1-2, arXiv:1905.02244): expand, depthwise, SE, linear projection.

    The expansion is left out when `exp` equals the row's input channels, as in row 1 of Table 1.
    """

    POINTS: ClassVar[tuple[Point, ...]] = ("expand", "depthwise", "out")

    def expands(self, cin: int) -> bool:
        return self.exp != cin

    def walk(self, x: Walk, gate: Gate) -> None:
        source = x.here
        if self.expands(source.c):
            x.unit("expand", self.exp, self.nl)
        x.unit("depthwise", self.exp, self.nl, k=self.k, s=self.s, d=self.dilation, groups=self.exp)
        x.squeeze_excite(self.se, gate, self.se_nl)
        x.conv("project.conv", self.out)
        x.skip(self.skip, source, self.s)
