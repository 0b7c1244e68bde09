"""Networks of full convolutions, which learn from scratch in less time than depthwise ones of equal milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

from mbv3.spec import ArchSpec, Classify, Conv, MBConv, Row

__all__ = ["PLAIN", "plain"]

WIDTH = 16  # of the stem and the first row; each of the stages after them has twice the channels of the one before
STAGES = 3


def plain(name: str, layers: int, bottlenecks: bool = False) -> ArchSpec:
    """A residual network (He 2016, arXiv:1512.03385) with one 3x3 convolution a row: a stem and a row of WIDTH
    channels, then STAGES stages of a strided row and `layers` rows with a residual each. Like MobileNetV3 it halves its
    maps five times. `bottlenecks`: the rows of the last stage are inverted bottlenecks that expand twice, as full
    convolutions are for the first stages alone in EfficientNetV2 (Tan 2021, arXiv:2104.00298)."""
    stem = Conv(k=3, out=WIDTH, nl="RE", s=2)
    rows: list[Row] = [Conv(k=3, out=WIDTH, nl="RE", s=2)]
    for stage in range(1, STAGES + 1):
        out = WIDTH << stage
        if bottlenecks and stage == STAGES:
            rows.append(MBConv(k=3, exp=out, out=out, nl="RE", s=2))
            rows += [MBConv(k=3, exp=2 * out, out=out, nl="RE", skip="identity")] * layers
        else:
            rows.append(Conv(k=3, out=out, nl="RE", s=2))
            rows += [Conv(k=3, out=out, nl="RE", skip="identity")] * layers
    return ArchSpec(
        name=name, resolution=(224, 224), stem=stem, rows=tuple(rows), tail=None,
        head=Classify(dropout=0.0), bn_eps=1e-3, bn_momentum=0.01,
    )  # fmt: skip


# which one learns best in the time given, the images decide
PLAIN: Mapping[str, ArchSpec] = {
    "hybrid_1": plain("hybrid_1", 1, bottlenecks=True), "residual_1": plain("residual_1", 1),
}  # fmt: skip
