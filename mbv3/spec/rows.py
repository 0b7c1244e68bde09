"""The values a network is made of. Final numbers only: no multipliers, no ratios.

Source of the row form: Howard 2019, Tables 1 and 2 (arXiv:1905.02244).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["MAX_CHANNELS", "NL", "Classify", "Conv", "DSConv", "Gate", "MBConv", "Row", "Skip", "make_divisible"]

MAX_CHANNELS = 16384

NL = Literal["RE", "RE6", "HS", "NONE"]
Skip = Literal["identity", "pool", "none"]
Gate = Literal["HSIGMOID", "SIGMOID"]

NLS: tuple[str, ...] = get_args(NL)
SKIPS: tuple[str, ...] = get_args(Skip)
GATES: tuple[str, ...] = get_args(Gate)


def make_divisible(v: float, divisor: int = 8) -> int:
    """`v` rounded to a multiple of `divisor`, never below 0.9 v (MobileNetV2's channel rule)."""
    new = max(divisor, int(v + divisor / 2) // divisor * divisor)
    return new + divisor if new < 0.9 * v else new


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """A full convolution with batch norm: stem, tail, or MnasNet's ConvOp `conv`."""

    k: int  # kernel, odd
    out: int  # output channels
    se: int = 0  # squeeze channels after the activation, 0 for none
    nl: NL = "RE"
    s: int = 1  # stride
    skip: Skip = "none"
    dilation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DSConv:
    """A depthwise-separable convolution: depthwise k x k with `nl`, SE, then a linear 1x1."""

    k: int
    out: int
    se: int = 0
    nl: NL = "RE"
    s: int = 1
    skip: Skip = "none"
    dilation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConv:
    """One `bneck` row (Howard 2019, Tables 1-2): expand, depthwise, SE, linear projection.

    The expansion is left out when `exp` equals the row's input channels, as in row 1 of Table 1.
    """

    k: int
    exp: int  # channels after expansion, not a ratio
    out: int
    se: int = 0
    nl: NL = "RE"
    s: int = 1
    skip: Skip = "none"
    dilation: int = 1


Row = Conv | DSConv | MBConv


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify:
    """Global average pool, an optional 1x1 layer of `features` without batch norm, the classifier."""

    features: int = 0  # 0: pool straight into the classifier (MobileNetV2, MnasNet)
    nl: NL = "HS"
    dropout: float = 0.2
    classes: int = 1000
