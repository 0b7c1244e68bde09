"""Heads by name, fitted to a backbone: each finds the maps that its source takes, by their strides.

Strides are counted as if nothing were dilated, so a head finds the same taps before and after an output stride.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mbv3.errors import BadInput, plain, shown
from mbv3.spec.arch import ArchSpec
from mbv3.spec.classify import Classify
from mbv3.spec.heads import (
    FCN,
    LRASPP,
    PSP,
    RASPP,
    DeepLabV3,
    DeepLabV3Plus,
    Head,
    SSDLite,
    Tap,
    Where,
    aux_of,
)

__all__ = ["head_names", "with_head"]


def _strides(spec: ArchSpec) -> list[tuple[Where, int]]:
    """Every place of the backbone with the stride that it had before dilation."""
    found: list[tuple[Where, int]] = []
    now = dilated = 1
    for path, row, _ in spec.convs():
        now, dilated = now * row.s, max(dilated, row.dilation)
        where: Where = path if path in ("stem", "tail") else len(found) - 1  # type: ignore[assignment]
        found.append((where, now * dilated))
    return found


def _at(spec: ArchSpec, stride: int, name: str, *, first: bool = False) -> Where:
    """The last (or first) place at a stride, the tail aside."""
    places = [where for where, s in _strides(spec) if s == stride and where != "tail"]
    if not places:
        deepest = _strides(spec)[-1][1]
        raise BadInput(
            f"head {name}: needs a map at stride {stride}; the strides of {plain(spec.name)} end at {deepest}; "
            "take a deeper backbone"
        )
    return places[0 if first else -1]


def _end(spec: ArchSpec) -> Tap:
    return Tap("tail" if spec.tail is not None else len(spec.rows) - 1)


def _cin(spec: ArchSpec, row: int) -> int:
    return (spec.rows[row - 1] if row else spec.stem).out


def _depthwise(spec: ArchSpec) -> Tap:
    where = _at(spec, 8, "lraspp")
    inner = isinstance(where, int) and "depthwise" in spec.rows[where].points(_cin(spec, where))
    return Tap(where, "depthwise" if inner else "out")


def _paper_lraspp(spec: ArchSpec, classes: int) -> Head:
    """Howard 2019, Figure 10. The finer map is the depthwise output of the last row at stride 8."""
    # TensorFlow's DeepLab, where the paper's systems come from, resizes with aligned corners
    return LRASPP(
        high=_end(spec), low=(_depthwise(spec),), pool=(49, 49, 16, 20), classes=classes, align_corners=True,
        bn_eps=spec.bn_eps, bn_momentum=spec.bn_momentum,
    )  # fmt: skip


def _paper_raspp(spec: ArchSpec, classes: int) -> Head:
    return RASPP(high=_end(spec), classes=classes, align_corners=True, bn_eps=spec.bn_eps, bn_momentum=spec.bn_momentum)


def _mmseg_lraspp(spec: ArchSpec, classes: int) -> Head:
    low = (Tap(_at(spec, 2, "lraspp-mmseg")), Tap(_at(spec, 4, "lraspp-mmseg")))
    return LRASPP(
        high=_end(spec), low=low, branches=(32, 64), pool=(49, 49, 16, 20), gate="SIGMOID", gate_bias=False,
        classes=classes, dropout=0.1, bn_eps=1e-3,
    )  # fmt: skip


def _torchvision_lraspp(spec: ArchSpec, classes: int) -> Head:
    low = (Tap(_at(spec, 8, "lraspp-torchvision", first=True)),)
    return LRASPP(high=_end(spec), low=low, gate="SIGMOID", gate_bias=False, classes=classes)


def _aux(spec: ArchSpec, name: str, classes: int) -> FCN:
    """mmsegmentation's auxiliary head: one 3x3 layer on the last map at stride 16."""
    return FCN(high=Tap(_at(spec, 16, name)), filters=256, convs=1, concat=False, classes=classes)


def _fcn(spec: ArchSpec, classes: int) -> Head:
    return FCN(high=_end(spec), filters=512, classes=classes, aux=_aux(spec, "fcn", classes))


def _pspnet(spec: ArchSpec, classes: int) -> Head:
    return PSP(high=_end(spec), classes=classes, aux=_aux(spec, "pspnet", classes))


def _deeplabv3(spec: ArchSpec, classes: int) -> Head:
    return DeepLabV3(high=_end(spec), filters=512, classes=classes, aux=_aux(spec, "deeplabv3", classes))


def _torchvision_deeplabv3(spec: ArchSpec, classes: int) -> Head:
    where = _at(spec, 8, "deeplabv3-torchvision", first=True)
    width = spec.stem.out if isinstance(where, str) else spec.rows[where].out
    aux = FCN(high=Tap(where), filters=max(1, width // 4), convs=1, concat=False, classes=classes)
    return DeepLabV3(high=_end(spec), filters=256, form="torchvision", dropout=0.5, classes=classes, aux=aux)


def _deeplabv3plus(spec: ArchSpec, classes: int) -> Head:
    low = (Tap(_at(spec, 4, "deeplabv3plus")),)
    return DeepLabV3Plus(high=_end(spec), low=low, classes=classes, aux=_aux(spec, "deeplabv3plus", classes))


def _ssdlite(spec: ArchSpec, classes: int) -> SSDLite:
    """Howard 2019, section 6.2: C4 is the expansion of the row that strides last, C5 the last map."""
    where = _at(spec, 32, "ssdlite", first=True)
    c4 = Tap(where)
    if isinstance(where, int):
        row = spec.rows[where]
        # a row without an expansion begins with what the row before it gave
        widens = "expand" in row.points(_cin(spec, where)) and row.stride_at("expand") == 1
        c4 = Tap(where, "expand") if widens else Tap(where - 1 if where else "stem")
    return SSDLite(maps=(c4, _end(spec)), classes=classes)


def _torchvision_ssdlite(spec: ArchSpec, classes: int) -> Head:
    return replace(_ssdlite(spec, classes), anchors=(6,) * 6)


def _classify(spec: ArchSpec, classes: int) -> Head:
    return Classify(classes=classes)


_HEADS: dict[str, Callable[[ArchSpec, int], Head]] = {
    "classify": _classify,
    "lraspp": _paper_lraspp,
    "lraspp-mmseg": _mmseg_lraspp,
    "lraspp-torchvision": _torchvision_lraspp,
    "raspp": _paper_raspp,
    "fcn": _fcn,
    "pspnet": _pspnet,
    "deeplabv3": _deeplabv3,
    "deeplabv3-torchvision": _torchvision_deeplabv3,
    "deeplabv3plus": _deeplabv3plus,
    "ssdlite": _ssdlite,
    "ssdlite-torchvision": _torchvision_ssdlite,
}


def head_names() -> tuple[str, ...]:
    """Heads that `with_head` knows by name."""
    return tuple(_HEADS)


def with_head(spec: ArchSpec, head: Head | str, classes: int | None = None) -> ArchSpec:
    """`spec` under another head: a value, or one of `head_names()`, which then finds its taps on the backbone.

    `classes`: None keeps as many as there are.

    Raises:
        BadInput: an unknown name, a backbone too shallow for the head, a class count below one.
    """
    kept = spec.head.classes if isinstance(head, str) else head.classes
    n = kept if classes is None else classes
    if type(n) is not int or n < 1:
        raise BadInput(f"head: classes must be a whole number from 1 (got {shown(n)})")
    if isinstance(head, str):
        if head not in _HEADS:
            raise BadInput(f"head: must be one of {', '.join(_HEADS)} (got {shown(head)})")
        return replace(spec, head=_HEADS[head](spec, n))
    aux = aux_of(head)
    if aux is not None and isinstance(head, FCN | PSP | DeepLabV3 | DeepLabV3Plus):
        head = replace(head, aux=replace(aux, classes=n))
    return replace(spec, head=replace(head, classes=n))
