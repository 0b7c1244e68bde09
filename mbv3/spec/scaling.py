"""Width and resolution scaling of whole networks."""

from __future__ import annotations

from dataclasses import replace

from mbv3.errors import BadInput, shown
from mbv3.spec.arch import ArchSpec
from mbv3.spec.classify import Classify
from mbv3.spec.kinds import Row
from mbv3.spec.rows import TailRule, WidthRule, make_divisible

__all__ = ["RULES", "TailRule", "WidthRule", "scale_spec"]

# How each family scales its width (torchvision's published models).
RULES: dict[str, tuple[WidthRule, TailRule]] = {
    "mobilenet_v3_large": ("table", "ratio"),
    "mobilenet_v3_small": ("table", "ratio"),
    "mobilenet_v2": ("ratio", "fixed-below-1"),
    "mnasnet_a1": ("ratio", "fixed"),
    "mnasnet_b1": ("ratio", "fixed"),
}


def scale_spec(
    spec: ArchSpec,
    width: float = 1.0,
    resolution: tuple[int, int] | None = None,
    *,
    exp_rule: WidthRule = "table",
    tail_rule: TailRule = "ratio",
) -> ArchSpec:
    """`spec` with every width times `width` (rounded by make_divisible) and another input size.

    `exp_rule`: "table" scales the tabulated expansion (torchvision's MobileNetV3), "ratio" keeps exp / in
    (MobileNetV2, MnasNet). `tail_rule`: "ratio" keeps the last 1x1 at its multiple of the last row,
    "fixed" leaves it (MnasNet), "fixed-below-1" only grows it (MobileNetV2). A classifier's features scale with
    the tail; other heads stay as they are. "rounded-ratio" and "tensorflow" are MobileNetV3's in TensorFlow and timm:
    the ratio exp / in, rounded as widths are, and features that only grow.

    Raises:
        BadInput: `width` is not from 0.05 to 8.
        DocumentError: the scaled network breaks a rule.
    """
    if not 0.05 <= width <= 8:
        raise BadInput(f"width: must be a number from 0.05 to 8 (got {shown(width)})")
    res = spec.resolution if resolution is None else resolution
    if width == 1.0:
        return replace(spec, resolution=res)
    stem = replace(spec.stem, out=make_divisible(spec.stem.out * width))
    rows: list[Row] = []
    cin, new_cin = spec.stem.out, stem.out
    for row in spec.rows:
        rows.append(row.scaled(width, cin, new_cin, exp_rule))
        cin, new_cin = row.out, rows[-1].out
    tail, head = spec.tail, spec.head
    if tail is not None and tail_rule == "ratio":
        tail = replace(tail, out=max(8, round(tail.out * new_cin / cin)))
    elif tail is not None and tail_rule == "fixed-below-1":
        tail = replace(tail, out=make_divisible(tail.out * max(1.0, width)))
    elif tail is not None and tail_rule == "tensorflow":
        tail = replace(tail, out=make_divisible(tail.out * width))
    if isinstance(head, Classify) and head.features:
        grown = max(1.0, width) if tail_rule == "tensorflow" else width
        head = replace(head, features=make_divisible(head.features * grown))
    return replace(spec, resolution=res, stem=stem, rows=tuple(rows), tail=tail, head=head)
