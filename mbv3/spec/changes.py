"""Networks out of networks: another head, another output stride, a reduced last block, no squeeze-and-excitation.

Heads are chosen and reductions made before the output stride: dilation hides where a network used to stride.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

from mbv3.errors import BadInput, plain, shown
from mbv3.spec.arch import ArchSpec
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
from mbv3.spec.rows import NL, Classify, DSConv, MBConv, Row, make_divisible

__all__ = [
    "DILATIONS",
    "Dilation",
    "head_names",
    "minimalistic",
    "rf2",
    "slim_detection",
    "torchvision_reduced_tail",
    "with_head",
    "with_output_stride",
    "without_tail",
]

Dilation = Literal["torchvision", "slim", "mmseg_v2"]
DILATIONS: tuple[str, ...] = get_args(Dilation)


# ---- output stride -------------------------------------------------------------------------------------------


def with_output_stride(spec: ArchSpec, stride: int, dilation: Dilation = "torchvision") -> ArchSpec:
    """`spec` with a last map at 1/`stride` of the input: later rows stride no more and are dilated instead (Chen 2017).

    Which rows are dilated differs, the parameters do not. "torchvision", and mmsegmentation's MobileNetV3: a row that
    no longer strides and all after it. "slim": those after it only. "mmseg_v2", mmsegmentation's MobileNetV2: the first
    row of each run of rows with the same `out`, by what the row before "torchvision" would give it. A 1x1 convolution
    is left as it is: its dilation changes nothing.

    Raises:
        BadInput: no row of the network ends at that stride, or it is already finer.
    """
    if dilation not in DILATIONS:
        raise BadInput(f"dilation: must be one of {', '.join(DILATIONS)} (got {shown(dilation)})")
    strides, reached = [], spec.stem.s
    for row in spec.rows:
        strides.append(reached := reached * row.s)
    if type(stride) is not int or stride not in (spec.stem.s, *strides):
        can = ", ".join(map(str, sorted({spec.stem.s, *strides})))
        raise BadInput(f"output stride: {plain(spec.name)} cannot take {shown(stride)}; its rows end at strides {can}")
    rows: list[Row] = []
    rate, now, previous = 1, spec.stem.s, spec.stem.out
    for row in spec.rows:
        own, s = rate, row.s
        if now * s > stride:
            rate, s = rate * row.s, 1
            own = own if dilation == "slim" else rate
        else:
            now *= s
        if dilation == "mmseg_v2" and row.out == previous:
            own = 1
        previous = row.out
        rows.append(replace(row, s=s, dilation=row.dilation * own if row.k > 1 else row.dilation))
    if spec.tail is not None and now * spec.tail.s > stride:
        raise BadInput(f"output stride: the tail of {plain(spec.name)} itself strides: it cannot take {stride}")
    return replace(spec, rows=tuple(rows))


# ---- reduced last block --------------------------------------------------------------------------------------


def _last_block(spec: ArchSpec) -> int:
    """The row that strides last: the first of the block that the reductions halve."""
    strided = [i for i, row in enumerate(spec.rows) if row.s > 1]
    if not strided or any(row.dilation > 1 for row in spec.rows):
        why = "it is dilated; reduce it first" if strided else "no row of it strides"
        raise BadInput(f"{plain(spec.name)} has no last block to reduce: {why}")
    return strided[-1]


def _halved(spec: ArchSpec, *, first_exp: bool) -> ArchSpec:
    """Rows of the last block and the tail at half their widths; the first row's expansion too where `first_exp`."""
    first = _last_block(spec)
    rows = list(spec.rows[:first])
    for i, row in enumerate(spec.rows[first:]):
        if isinstance(row, MBConv) and (i > 0 or first_exp):
            exp = max(1, row.exp // 2)
            quarter = row.se == make_divisible(row.exp / 4)
            se = make_divisible(exp / 4) if quarter else row.se // 2 if row.se > 1 else row.se
            row = replace(row, exp=exp, se=se if row.se else 0)
        rows.append(replace(row, out=max(1, row.out // 2)))
    tail = None if spec.tail is None else replace(spec.tail, out=max(1, spec.tail.out // 2))
    return replace(spec, rows=tuple(rows), tail=tail)


def rf2(spec: ArchSpec) -> ArchSpec:
    """RF2 of Howard 2019, Table 7: the last block at half its filters, the first row's expansion included (only then
    do the parameters come out at the table's figures). The head is left as it is."""
    return _halved(spec, first_exp=True)


def torchvision_reduced_tail(spec: ArchSpec) -> ArchSpec:
    """torchvision's `reduced_tail`: the last block, tail and a classifier's features halved, the first row's expansion
    kept."""
    spec = _halved(spec, first_exp=False)
    if isinstance(spec.head, Classify):
        spec = replace(spec, head=replace(spec.head, features=spec.head.features // 2))
    return spec


def slim_detection(spec: ArchSpec) -> ArchSpec:
    """slim's `V3_LARGE_DETECTION` and `V3_SMALL_DETECTION`: outputs of the last block and tail halved, and with them
    the expansions, which are ratios there, but not the first row's. What comes after the tail is left as it is."""
    return _halved(spec, first_exp=False)


def without_tail(spec: ArchSpec) -> ArchSpec:
    """The rows alone, as the segmentation systems take MobileNetV2."""
    return replace(spec, tail=None)


def minimalistic(spec: ArchSpec) -> ArchSpec:
    """slim's minimalistic variant: no squeeze-and-excitation, no h-swish, no kernel over 3."""

    def plainer(row: Any) -> Any:
        nl: NL = "RE" if row.nl == "HS" else row.nl
        return replace(row, nl=nl, se=0, k=min(row.k, 3))

    head = spec.head
    if isinstance(head, Classify) and head.nl == "HS":
        head = replace(head, nl="RE")
    return replace(
        spec,
        stem=plainer(spec.stem),
        rows=tuple(plainer(row) for row in spec.rows),
        tail=None if spec.tail is None else plainer(spec.tail),
        head=head,
    )


# ---- heads ---------------------------------------------------------------------------------------------------


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


def _depthwise(spec: ArchSpec) -> Tap:
    where = _at(spec, 8, "lraspp")
    inner = isinstance(where, int) and isinstance(spec.rows[where], (DSConv, MBConv))
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
    c4 = Tap(_at(spec, 32, "ssdlite", first=True), "expand")
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
