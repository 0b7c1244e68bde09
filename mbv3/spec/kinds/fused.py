"""`fused`: the fused inverted bottleneck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mbv3.spec.kinds.row import Expanding
from mbv3.spec.ops import Walk
from mbv3.spec.rows import Gate, Point

__all__ = ["Fused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused(Expanding):
    """A full k x k convolution to `exp` channels, which carries the stride, SE, a linear projection (Gupta 2020,
    arXiv:2003.02838; MobileNetV4's first rows)."""

    POINTS: ClassVar[tuple[Point, ...]] = ("expand", "out")

    def stride_at(self, point: Point) -> int:
        return self.s

    def walk(self, x: Walk, gate: Gate) -> None:
        source = x.here
        x.unit("expand", self.exp, self.nl, k=self.k, s=self.s, d=self.dilation)
        x.squeeze_excite(self.se, gate, self.se_nl)
        x.conv("project.conv", self.out)
        x.skip(self.skip, source, self.s)
