"""The networks of the papers and of the libraries, by name, each built from a base network by a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from mbv3.spec.arch import ArchSpec
from mbv3.spec.changes import (
    minimalistic,
    rf2,
    slim_detection,
    torchvision_reduced_tail,
    with_output_stride,
    without_tail,
)
from mbv3.spec.heads import LRASPP, RASPP, SSDLite
from mbv3.spec.recipes import with_head
from mbv3.spec.scaling import RULES, scale_spec

__all__ = ["FAMILY"]

Read = Callable[[str], ArchSpec]  # a reference network by name
Builder = Callable[[Read, float], ArchSpec]

LARGE, SMALL, V2, A1 = "mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2", "mnasnet_a1"
CITYSCAPES, ADE20K = 19, 150
COCO = 91  # with the background
VOC = 21


def _scaled(spec: ArchSpec, net: str, width: float) -> ArchSpec:
    """At a width, which comes after a reduction: so do torchvision and slim, and so RF2 gives Table 7's parameters."""
    exp_rule, tail_rule = RULES[net]
    return scale_spec(spec, width, exp_rule=exp_rule, tail_rule=tail_rule)


def _mmseg(read: Read, width: float, *, net: str, head: str, classes: int, size: tuple[int, int]) -> ArchSpec:
    """mmsegmentation's systems at output stride 8 (facts D2)."""
    spec = _scaled(read(net), net, width)
    spec = without_tail(spec) if net == V2 else replace(spec, bn_momentum=0.1)
    spec = with_head(replace(spec, resolution=size), head, classes)
    return with_output_stride(spec, 8, "mmseg_v2" if net == V2 else "torchvision")


def _torchvision(read: Read, width: float, *, head: str) -> ArchSpec:
    """torchvision's segmentation systems at output stride 16 (facts D1)."""
    spec = replace(_scaled(read(LARGE), LARGE, width), resolution=(520, 520))
    return with_output_stride(with_head(spec, head, VOC), 16)


def _ssdlite320(read: Read, width: float) -> ArchSpec:
    """torchvision's detector, as built without a pretrained backbone: its published weights have this form."""
    spec = _scaled(torchvision_reduced_tail(read(LARGE)), LARGE, width)
    return with_head(replace(spec, resolution=(320, 320), bn_momentum=0.03), "ssdlite-torchvision", COCO)


def _table6(read: Read, width: float, *, net: str, halved: bool = False) -> ArchSpec:
    """A row of Howard 2019, Table 6; the dagger is `halved`. Tail and extras take the width too, or V2 0.35 would have
    1.6 M parameters, not the table's 0.93 M."""
    spec = slim_detection(read(net)) if halved else read(net)
    spec = scale_spec(spec, width, (320, 320), exp_rule=RULES[net][0], tail_rule="tensorflow")
    spec = with_head(spec, "ssdlite", COCO)
    head = spec.head
    assert isinstance(head, SSDLite)
    extras = tuple(max(16, int(d * width)) for d in head.extras)
    return replace(spec, head=replace(head, extras=extras))


def _table7(
    read: Read, width: float, *, net: str, at: float = 1.0, reduce: bool = True, head: str = "lraspp",
    filters: int = 128,
) -> ArchSpec:  # fmt: skip
    """A row of Howard 2019, Table 7: Cityscapes at output stride 16 (facts A9)."""
    spec = without_tail(read(net)) if net == V2 else read(net)
    spec = _scaled(rf2(spec) if reduce else spec, net, at * width)
    spec = with_head(replace(spec, resolution=(1024, 2048)), head, CITYSCAPES)
    assert isinstance(spec.head, (LRASPP, RASPP))
    spec = replace(spec, head=replace(spec.head, filters=filters))
    return with_output_stride(spec, 16, "slim")


def _minimalistic(read: Read, width: float, *, net: str) -> ArchSpec:
    return _scaled(minimalistic(read(net)), net, width)


_ROWS: dict[int, dict[str, Any]] = {
    1: {"net": V2, "reduce": False, "head": "raspp", "filters": 256},
    2: {"net": V2, "head": "raspp", "filters": 256},
    3: {"net": V2, "filters": 256},
    4: {"net": V2},
    5: {"net": LARGE, "reduce": False, "head": "raspp", "filters": 256},
    6: {"net": LARGE, "head": "raspp", "filters": 256},
    7: {"net": LARGE, "filters": 256},
    8: {"net": LARGE},
    9: {"net": V2, "at": 0.5},
    10: {"net": V2, "at": 0.35},
    11: {"net": SMALL},
}
_MMSEG_V2 = ("fcn", "pspnet", "deeplabv3", "deeplabv3plus")

FAMILY: dict[str, Builder] = {
    f"{LARGE}_minimalistic": partial(_minimalistic, net=LARGE),
    f"{SMALL}_minimalistic": partial(_minimalistic, net=SMALL),
    "lraspp_m-v3-d8": partial(_mmseg, net=LARGE, head="lraspp-mmseg", classes=CITYSCAPES, size=(512, 1024)),
    "lraspp_m-v3s-d8": partial(_mmseg, net=SMALL, head="lraspp-mmseg", classes=CITYSCAPES, size=(512, 1024)),
    **{f"{h}_m-v2-d8": partial(_mmseg, net=V2, head=h, classes=CITYSCAPES, size=(512, 1024)) for h in _MMSEG_V2},
    **{f"{h}_m-v2-d8_ade20k": partial(_mmseg, net=V2, head=h, classes=ADE20K, size=(512, 512)) for h in _MMSEG_V2},
    "lraspp_mobilenet_v3_large": partial(_torchvision, head="lraspp-torchvision"),
    "deeplabv3_mobilenet_v3_large": partial(_torchvision, head="deeplabv3-torchvision"),
    "ssdlite320_mobilenet_v3_large": _ssdlite320,
    "table6_v3_large": partial(_table6, net=LARGE),
    "table6_v3_large_halved": partial(_table6, net=LARGE, halved=True),
    "table6_v3_small": partial(_table6, net=SMALL),
    "table6_v3_small_halved": partial(_table6, net=SMALL, halved=True),
    "table6_v2": partial(_table6, net=V2),
    "table6_mnasnet": partial(_table6, net=A1),
    **{f"table7_row{n}": partial(_table7, **about) for n, about in _ROWS.items()},
}
