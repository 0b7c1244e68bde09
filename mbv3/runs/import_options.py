"""What an import was asked for, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mbv3.errors import BadInput
from mbv3.runs.declare import always, check, from_args, option

__all__ = ["ImportOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """The options of `mbv3 import` and `mbv3.import_from`."""

    data: str | None = option(
        None,
        "a folder of images, yours where you have some: 128 of them give a file's batch norms their statistics, and "
        "16 are what the answers are compared on",
        metavar="DIR",
        is_path=always,
    )
    resolution: str | None = option(None, "the input in pixels, where the network takes images of any size",
                                    metavar="H|HxW")  # fmt: skip
    mean: str | None = option(None, "what the file's own input subtracts from RGB of 0 to 1, one number or three, "
                              "where the file does not say it", metavar="M|R,G,B")  # fmt: skip
    std: str | None = option(None, "what it divides by then", metavar="S|R,G,B")
    spec_only: bool = option(False, "for timm: and torchvision: names: the network without its weights")
    stem: int | None = option(None, "for timm's block strings: channels of the first convolution", metavar="N", low=1,
                              high=16384)  # fmt: skip
    features: int | None = option(None, "for timm's block strings: channels behind (or before) the average, 0 for none",
                                  metavar="N", low=0, high=16384)  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if (self.mean is None) != (self.std is None):
            raise BadInput("--mean and --std go together: the input is (RGB - mean) / std, of RGB from 0 to 1")
        if self.statistics is not None and min(self.statistics[1]) <= 0:
            raise BadInput(f"--std must be above 0 (got {self.std})")

    @property
    def statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
        """Mean and deviation that were given."""
        if self.mean is None or self.std is None:
            return None
        return _three("--mean", self.mean), _three("--std", self.std)

    @classmethod
    def of(cls, values: dict[str, Any]) -> ImportOptions:
        """Options from names and values. Raises: BadInput."""
        return from_args(cls, values)


def _three(flag: str, text: str) -> tuple[float, float, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise BadInput(f"{flag} must be one number or three, such as 0.5 or 0.485,0.456,0.406 (got {text})")
    return values[0], values[1], values[2]
