"""What an export was asked for, checked once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mbv3.errors import BadInput
from mbv3.runs.declare import check, from_args, option

__all__ = ["ExportOptions"]

PRECISIONS = ("fp32", "int8")


def _targets() -> Iterable[str]:
    from mbv3.export import TARGETS

    return TARGETS


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The options of `mbv3 export` and `mbv3.export_to`."""

    to: str = option(help="the framework: onnx, litert (TFLite), torchvision, timm, mmpretrain or mmseg",
                     metavar="NAME", choices=_targets)  # fmt: skip
    weights: str | None = option(None, "safetensors file; without it weights are random, and the output says so",
                                 metavar="FILE")  # fmt: skip
    precision: str = option("fp32", "int8 is for --to onnx", metavar="|".join(PRECISIONS), choices=PRECISIONS)
    data: str | None = option(None, "images to calibrate int8 on, in folders at any depth", metavar="DIR")
    seed: int = option(0, "seed of random weights", metavar="N", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        check(self)
        if self.data is not None and self.precision != "int8":
            raise BadInput(f"--data {self.data}: calibrates int8; add --precision int8, or leave --data out")

    @classmethod
    def of(cls, values: dict[str, Any]) -> ExportOptions:
        """Options from names and values. Raises: BadInput."""
        return from_args(cls, values)
