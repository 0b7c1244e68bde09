"""Networks out of networks: another output stride, a reduced last block, no squeeze-and-excitation.

Reductions are made before the output stride: dilation hides where a network used to stride.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

from mbv3.errors import BadInput, plain, shown
from mbv3.spec.arch import ArchSpec
from mbv3.spec.classify import Classify
from mbv3.spec.kinds import Row
from mbv3.spec.rows import NL

__all__ = [
    "DILATIONS",
    "Dilation",
    "minimalistic",
    "rf2",
    "slim_detection",
    "torchvision_reduced_tail",
    "with_output_stride",
    "without_tail",
]

SMOOTH = ("HS", "SILU")
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
        rows.append(replace(row, s=s, dilation=row.dilation * own if max(row.kernels) > 1 else row.dilation))
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
    rows += [row.halved(inner=i > 0 or first_exp) for i, row in enumerate(spec.rows[first:])]
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
    """slim's minimalistic variant: no squeeze-and-excitation, no swish of either kind, no kernel over 3."""

    def plainer(row: Any) -> Any:
        nl: NL = "RE" if row.nl in SMOOTH else row.nl
        kernels = {name: min(k, 3) for name, k in zip(row.KERNELS, row.kernels, strict=True)}
        extra = {name: "RE" for name, value in row.extras() if value in SMOOTH}
        return replace(row, nl=nl, se=0, **kernels, **extra)

    head = spec.head
    if isinstance(head, Classify) and head.nl in SMOOTH:
        head = replace(head, nl="RE")
    return replace(
        spec,
        stem=plainer(spec.stem),
        rows=tuple(plainer(row) for row in spec.rows),
        tail=None if spec.tail is None else plainer(spec.tail),
        head=head,
    )
