"""The zoo: published networks that can be downloaded, with their published accuracy, as data (zoo.csv)."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import cast

from mbv3.spec import ArchSpec, Padding, load_spec, parse_spec

__all__ = ["Published", "zoo"]

ROOM = "mbv3.accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One set of weights at one size of images.

    `network`: a name of `load_spec`, or of a file in networks/. `weights`: `timm:NAME` or `torchvision:ENUM.MEMBER`.
    """

    name: str
    network: str
    resolution: int  # pixels a side, at which top1 was measured
    params: int
    top1: float  # percent, ImageNet-1k validation
    recipe: str  # a name of `mbv3.accuracy.recipes()`
    weights: str
    bn_eps: float  # these two as the weights were trained
    padding: Padding
    source: str

    def spec(self) -> ArchSpec:
        """The network at its resolution."""
        file = resources.files(ROOM) / "networks" / f"{self.network}.yaml"
        spec = parse_spec(file.read_text("utf-8"), file.name) if file.is_file() else load_spec(self.network)
        return replace(
            spec, name=self.name, resolution=(self.resolution, self.resolution), bn_eps=self.bn_eps,
            padding=self.padding,
        )  # fmt: skip


@lru_cache(maxsize=1)
def zoo() -> tuple[Published, ...]:
    """Every published network that rows can say today."""
    text = (resources.files(ROOM) / "zoo.csv").read_text("utf-8")
    return tuple(
        Published(
            name=r["name"], network=r["network"], resolution=int(r["resolution"]), params=int(r["params"]),
            top1=float(r["top1"]), recipe=r["recipe"], weights=r["weights"], bn_eps=float(r["bn_eps"]),
            padding=cast(Padding, r["padding"]), source=r["source"],
        )
        for r in csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    )  # fmt: skip
