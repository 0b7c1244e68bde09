"""What an export was asked for, checked once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

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
    weights: str | None = option(None, "our weights, or those of a framework, as `train --init` takes them; without it "
                                 "weights are random, and the output says so",
                                 metavar="FILE")  # fmt: skip
    precision: str = option("fp32", "int8 is for --to onnx", metavar="|".join(PRECISIONS), choices=PRECISIONS)
    data: str | None = option(
        None,
        "images to calibrate int8 on, to choose what stays in float, and to "
        "report the accuracy on: in class folders, or in folders at any depth",
        metavar="DIR",
    )
    batch: str = option("1", "images at once of an ONNX or LiteRT file: a number or dynamic", metavar="N|dynamic")
    opset: int | None = option(None, "opset of an ONNX file, 11 to 21 (default: the newest that runtimes need)",
                               metavar="N", low=11, high=21)  # fmt: skip
    seed: int = option(0, "seed of random weights", metavar="N", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        check(self)
        if self.data is not None and self.precision != "int8":
            raise BadInput(f"--data {self.data}: calibrates int8; add --precision int8, or leave --data out")

        if self.batch != "dynamic" and not (self.batch.isascii() and self.batch.isdigit() and int(self.batch) > 0):
            raise BadInput(f"--batch must be a whole number from 1 or dynamic (got {self.batch})")

    @property
    def images_at_once(self) -> int | Literal["dynamic"]:
        return "dynamic" if self.batch == "dynamic" else int(self.batch)

    @classmethod
    def of(cls, values: dict[str, Any]) -> ExportOptions:
        """Options from names and values. Raises: BadInput."""
        return from_args(cls, values)
