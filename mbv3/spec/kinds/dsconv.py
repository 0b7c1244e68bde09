"""`dsconv`: a depthwise-separable convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mbv3.spec.kinds.mbconv import MBConv
from mbv3.spec.kinds.row import Row
from mbv3.spec.ops import Walk
from mbv3.spec.rows import Gate, Point

__all__ = ["DSConv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DSConv(Row):
    """A depthwise-separable convolution: depthwise k x k with `nl`, SE, then a linear 1x1."""

    POINTS: ClassVar[tuple[Point, ...]] = ("depthwise", "out")

    def inner(self, cin: int) -> int:
        return cin

    def alike(self, cin: int) -> Row:
        same: dict[str, Any] = {f: getattr(self, f) for f in ("k", "out", "se", "nl", "s", "skip", "dilation")}
        return MBConv(exp=cin, **same)

    def walk(self, x: Walk, gate: Gate) -> None:
        source = x.here
        x.unit("depthwise", source.c, self.nl, k=self.k, s=self.s, d=self.dilation, groups=source.c)
        x.squeeze_excite(self.se, gate)
        x.conv("project.conv", self.out)
        x.skip(self.skip, source, self.s)
