"""The heads as ops. Segmentation ends with logits at the image's size, detection with one class and one box map for
every level: choosing among the boxes is not part of the network, and not timed with it."""

from __future__ import annotations

from collections.abc import Sequence

from mbv3.spec.heads import FCN, LRASPP, PSP, RASPP, DeepLabV3, DeepLabV3Plus, Dense, SSDLite
from mbv3.spec.ops import Tensor, Walk

__all__ = ["ANSWERS", "walk_head"]

ANSWERS = frozenset({"classifier", "high", "low"})  # convolutions of a segmentation head whose sum is its answer


def walk_head(x: Walk, head: Dense, taps: Sequence[Tensor], image: Tensor | None) -> tuple[str, ...]:
    """Write `head` on its inputs `taps`; the names of its outputs. `image` is only a size."""
    if isinstance(head, SSDLite):
        return _ssdlite(x, head, taps)
    high, *low = taps
    x.at(high)
    if isinstance(head, LRASPP):
        _lraspp(x, head, high, low)
    elif isinstance(head, RASPP):
        _raspp(x, head, high)
    elif isinstance(head, FCN):
        _fcn(x, head, high)
    elif isinstance(head, PSP):
        _psp(x, head, high)
    elif isinstance(head, DeepLabV3):
        _deeplabv3(x, head, high)
    else:
        _deeplabv3plus(x, head, high, low[0])
    if image is not None:
        x.resize("logits", image, head.align_corners)
    return (x.tensor,)


def _lraspp(x: Walk, head: LRASPP, high: Tensor, low: Sequence[Tensor]) -> None:
    align = head.align_corners
    x.unit("main", head.filters)
    main = x.here
    x.at(high)
    x.average("pool", head.pool)
    x.conv("gate", head.filters, bn=False, bias=head.gate_bias)
    x.act("gate", head.gate)
    if head.pool:
        x.resize("gate.resize", main, align)
    x.join("mul", "gated", main, x.here)
    if head.branches:
        x.conv("up", head.filters, bn=False)
        for i in reversed(range(len(low))):
            x.resize(f"branches.{i}.resize", low[i], align)
            up = x.here
            x.at(low[i])
            x.conv(f"branches.{i}.low", head.branches[i], bn=False, bias=False)
            x.concat(f"branches.{i}.concat", (up, x.here))
            x.unit(f"branches.{i}.merge", head.filters)
        x.conv("classifier", head.classes, bn=False, drop=True)
    else:
        x.resize("resize", low[0], align)
        x.conv("high", head.classes, bn=False, drop=True)
        scores = x.here
        x.at(low[0])
        x.conv("low", head.classes, bn=False)
        x.join("add", "sum", scores, x.here)


def _pooled(x: Walk, high: Tensor, filters: int, align: bool) -> Tensor:
    """The image-level feature of ASPP: mean, 1x1 layer, back to the map's size."""
    x.at(high)
    x.average("pool.mean")
    x.unit("pool", filters)
    x.resize("pool.resize", high, align)
    return x.here


def _raspp(x: Walk, head: RASPP, high: Tensor) -> None:
    x.unit("main", head.filters)
    main = x.here
    x.concat("concat", (main, _pooled(x, high, head.filters, head.align_corners)))
    x.unit("project", head.filters)
    x.conv("classifier", head.classes, bn=False, drop=True)


def _fcn(x: Walk, head: FCN, high: Tensor) -> None:
    for i in range(head.convs):
        x.unit(f"convs.{i}", head.filters, k=3)
    if head.concat:
        x.concat("concat", (high, x.here))
        x.unit("merge", head.filters, k=3)
    x.conv("classifier", head.classes, bn=False, drop=True)


def _psp(x: Walk, head: PSP, high: Tensor) -> None:
    parts = [high]
    for i, n in enumerate(head.scales):
        x.at(high)
        x.cells(f"levels.{i}.cells", n)
        x.unit(f"levels.{i}", head.filters)
        x.resize(f"levels.{i}.resize", high, head.align_corners)
        parts.append(x.here)
    x.concat("concat", parts)
    x.unit("project", head.filters, k=3)
    x.conv("classifier", head.classes, bn=False, drop=True)


def _separable(x: Walk, name: str, filters: int, d: int = 1) -> None:
    x.unit(f"{name}.depthwise", x.c, k=3, d=d, groups=x.c)
    x.unit(f"{name}.pointwise", filters)


def _rates(x: Walk, head: DeepLabV3 | DeepLabV3Plus, high: Tensor) -> list[Tensor]:
    parts = []
    for i, rate in enumerate(head.rates):
        x.at(high)
        if rate > 1 and isinstance(head, DeepLabV3Plus):
            _separable(x, f"rates.{i}", head.filters, rate)
        else:
            x.unit(f"rates.{i}", head.filters, k=3 if rate > 1 else 1, d=rate)
        parts.append(x.here)
    return parts


def _deeplabv3(x: Walk, head: DeepLabV3, high: Tensor) -> None:
    parts = _rates(x, head, high)
    pooled = _pooled(x, high, head.filters, head.align_corners)
    torchvision = head.form == "torchvision"
    x.concat("concat", [*parts, pooled] if torchvision else [pooled, *parts])
    x.unit("project", head.filters, k=1 if torchvision else 3)
    if torchvision:
        x.unit("refine", head.filters, k=3, drop=True)
    x.conv("classifier", head.classes, bn=False, drop=not torchvision)


def _deeplabv3plus(x: Walk, head: DeepLabV3Plus, high: Tensor, low: Tensor) -> None:
    parts = _rates(x, head, high)
    x.concat("concat", [_pooled(x, high, head.filters, head.align_corners), *parts])
    x.unit("project", head.filters, k=3)
    x.resize("resize", low, head.align_corners)
    up = x.here
    x.at(low)
    x.unit("low", head.low_filters)
    x.concat("decoder", (up, x.here))
    for i in range(2):
        _separable(x, f"refine.{i}", head.filters)
    x.conv("classifier", head.classes, bn=False, drop=True)


def _ssdlite(x: Walk, head: SSDLite, taps: Sequence[Tensor]) -> tuple[str, ...]:
    maps = list(taps)
    x.at(maps[-1])
    for i, out in enumerate(head.extras):
        x.unit(f"extras.{i}.squeeze", out // 2, head.nl)
        x.unit(f"extras.{i}.depthwise", out // 2, head.nl, k=3, s=2, groups=out // 2)
        x.unit(f"extras.{i}.project", out, head.nl)
        maps.append(x.here)
    outputs = []
    for part, depth in (("classes", head.classes), ("boxes", 4)):
        for i, (source, anchors) in enumerate(zip(maps, head.anchors, strict=True)):
            x.at(source)
            x.unit(f"{part}.{i}.depthwise", source.c, head.nl, k=3, groups=source.c)
            x.conv(f"{part}.{i}.predict", depth * anchors, bn=False)
            outputs.append(x.tensor)
    return tuple(outputs)
