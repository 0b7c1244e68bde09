"""`uib`: the universal inverted bottleneck of MobileNetV4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mbv3.errors import Fault
from mbv3.spec.kinds.row import Expanding, Row
from mbv3.spec.ops import Walk
from mbv3.spec.rows import Gate, Point

__all__ = ["UIB"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UIB(Expanding):
    """Depthwise a x a, expand, depthwise k x k, linear projection; either depthwise one can be left out (Qin 2024,
    arXiv:2404.10518, section 4): both is ExtraDW, k alone the inverted bottleneck, a alone ConvNext-like, none FFN.

    Nonlinearities follow the expansion and the second depthwise convolution only. The stride is the second one's,
    where there is one. `dilation` is of both. An expansion is always a convolution, even to as many channels.
    """

    OWN: ClassVar[dict[str, str]] = {"a": "a", "exp": "e"}
    KERNELS: ClassVar[tuple[str, ...]] = ("a", "k")
    RANGES: ClassVar[dict[str, tuple[int, int]]] = {**Row.RANGES, "a": (0, 31), "k": (0, 31)}

    a: int = 0  # first kernel, 0 for none; k, the second, is 0 for none too

    def points(self, cin: int) -> tuple[Point, ...]:
        return ("expand", "depthwise", "out") if self.k else ("expand", "out")

    def stride_at(self, point: Point) -> int:
        return 1 if point == "expand" and self.k else self.s

    def faults(self, path: str, cin: int) -> Iterator[Fault]:
        yield from Expanding.faults(self, path, cin)
        if self.s != 1 and self.a == self.k == 0:
            yield Fault(f"{path}.s", "a row without a depthwise convolution cannot stride", str(self.s), "give a or k")

    def walk(self, x: Walk, gate: Gate) -> None:
        source = x.here
        if self.a:
            s = 1 if self.k else self.s
            x.conv("start.conv", source.c, k=self.a, s=s, d=self.dilation, groups=source.c)
        x.unit("expand", self.exp, self.nl)
        if self.k:
            x.unit("depthwise", self.exp, self.nl, k=self.k, s=self.s, d=self.dilation, groups=self.exp)
        x.squeeze_excite(self.se, gate, self.se_nl)
        x.conv("project.conv", self.out)
        x.skip(self.skip, source, self.s)
