"""The words that rows and heads share. The kinds of rows are in `kinds`, a file each.

Final numbers only: no multipliers, no ratios.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "GATES",
    "MAX_CHANNELS",
    "NL",
    "NLS",
    "SKIPS",
    "Gate",
    "Point",
    "Skip",
    "TailRule",
    "WidthRule",
    "make_divisible",
]

MAX_CHANNELS = 16384

NL = Literal["RE", "RE6", "HS", "SILU", "NONE"]
Skip = Literal["identity", "pool", "none"]
Gate = Literal["HSIGMOID", "SIGMOID"]
Point = Literal["out", "expand", "depthwise"]  # of a row, where a head may tap it
WidthRule = Literal["table", "ratio", "rounded-ratio"]  # how an expansion follows a width: see scale_spec
TailRule = Literal["ratio", "fixed", "fixed-below-1", "tensorflow", "mobilenetv4"]

NLS: tuple[str, ...] = get_args(NL)
SKIPS: tuple[str, ...] = get_args(Skip)
GATES: tuple[str, ...] = get_args(Gate)


def make_divisible(v: float, divisor: int = 8) -> int:
    """`v` rounded to a multiple of `divisor`, never below 0.9 v (MobileNetV2's channel rule)."""
    new = max(divisor, int(v + divisor / 2) // divisor * divisor)
    return new + divisor if new < 0.9 * v else new
