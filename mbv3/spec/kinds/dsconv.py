"""`dsconv`: a depthwise-separable convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mbv3.spec.kinds.mbconv import MBConv
from mbv3.spec.kinds.row import Row
from mbv3.spec.ops import Walk
from mbv3.spec.rows import NL, Gate, Point

__all__ = ["DSConv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DSConv(Row):
    """A depthwise-separable convolution: depthwise k x k with `nl`, SE, then a 1x1, linear (Sandler 2018) or with
    `out_nl` (Howard 2017, arXiv:1704.04861; Cui 2021, arXiv:2109.15099)."""

    EXTRA: ClassVar[dict[str, str]] = {**Row.EXTRA, "out_nl": "z"}
    POINTS: ClassVar[tuple[Point, ...]] = ("depthwise", "out")

    out_nl: NL = "NONE"  # after the 1x1

    def inner(self, cin: int) -> int:
        return cin

    def alike(self, cin: int) -> Row:
        if self.out_nl != "NONE":
            return self
        fields = ("k", "out", "se", "nl", "s", "skip", "dilation", "se_nl")
        same: dict[str, Any] = {f: getattr(self, f) for f in fields}
        return MBConv(exp=cin, **same)

    def walk(self, x: Walk, gate: Gate) -> None:
        source = x.here
        x.unit("depthwise", source.c, self.nl, k=self.k, s=self.s, d=self.dilation, groups=source.c)
        x.squeeze_excite(self.se, gate, self.se_nl)
        x.unit("project", self.out, self.out_nl)
        x.skip(self.skip, source, self.s)
