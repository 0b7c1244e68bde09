"""The zoo: published networks that can be downloaded, with their published accuracy, as data (zoo.csv)."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources

from mbv3.spec import ArchSpec, load_spec, parse_spec

__all__ = ["Published", "zoo"]

ROOM = "mbv3.accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One set of weights.

    `network`: a name of `load_spec`, or of a file in networks/. `weights`: `timm:NAME` or `torchvision:ENUM.MEMBER`.
    """

    name: str
    network: str
    resolution: int  # pixels a side, at which top1 was measured
    params: int
    top1: float  # percent, ImageNet-1k validation
    recipe: str  # a name of `mbv3.accuracy.recipes()`
    weights: str
    source: str

    def spec(self) -> ArchSpec:
        """The network at its resolution."""
        file = resources.files(ROOM) / "networks" / f"{self.network}.yaml"
        spec = parse_spec(file.read_text("utf-8"), file.name) if file.is_file() else load_spec(self.network)
        return replace(spec, name=self.name, resolution=(self.resolution, self.resolution))


@lru_cache(maxsize=1)
def zoo() -> tuple[Published, ...]:
    """Every published network that rows can say today."""
    text = (resources.files(ROOM) / "zoo.csv").read_text("utf-8")
    return tuple(
        Published(
            name=r["name"], network=r["network"], resolution=int(r["resolution"]), params=int(r["params"]),
            top1=float(r["top1"]), recipe=r["recipe"], weights=r["weights"], source=r["source"],
        )
        for r in csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    )  # fmt: skip
