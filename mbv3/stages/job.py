"""What a worker of a search must know, as a value that a study can hold: the space, what its networks take, and what
was decided about the images and about how a network is scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from mbv3.errors import BadInput
from mbv3.space import Additive, BlockTable, Limits, SearchSpace, parse_space, scale
from mbv3.stages.search import SpaceLatency
from mbv3.stages.shapes import fewer_strides

__all__ = ["Job", "ScaledSpace", "latency_digest"]

_FORMAT = "mbv3-job/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledSpace:
    """A space as a run has it: its YAML, how many first strides are removed, and its scale; `classes` of the images."""

    text: str
    strides: int
    width: float
    resolution: tuple[int, int]
    classes: int

    def space(self) -> SearchSpace:
        """Raises: BadInput: the text is no space."""
        whole = fewer_strides(parse_space(self.text, "the study's space"), self.strides)
        return scale(whole, self.width, self.resolution, self.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`version`: of mbv3. `kind`: what scores a network, "train" or "supernet". `data`, `test`: where the images are on
    the machine that began, decoded at `size` (height, width); `images`: their SHA-256. `plan`: what stages decided.
    `minutes`, `timed`: the run's budget. `folder`: of the run; `files`: SHA-256 of those of its files that a worker
    needs. The others are arguments of the search."""

    version: str
    space: ScaledSpace
    latency: SpaceLatency
    kind: str
    data: str
    test: str | None
    size: tuple[int, int]
    images: str
    plan: Mapping[str, Any]
    minutes: float
    timed: bool
    folder: str
    files: Mapping[str, str]
    target_ms: float
    sampler: str
    reward: str
    w: float
    trials: int
    seed: int
    limits: Limits = field(default_factory=Limits)

    @property
    def about(self) -> dict[str, Any]:
        """What must be equal for all who work on a study, beside what its search itself compares."""
        return {
            "version": self.version, "table": latency_digest(self.latency), "data": self.images,
            "accuracy": self.kind, "target_ms": self.target_ms, "reward": self.reward, "w": self.w,
            "limits": str(self.limits), "training": dict(self.plan), "weights": dict(self.files),
            "size": list(self.size),
        }  # fmt: skip

    def text(self) -> str:
        """As JSON."""
        own = {name: getattr(self, name) for name in self.__slots__}
        own["space"] = {name: getattr(self.space, name) for name in self.space.__slots__}
        own["latency"] = _sums(self.latency)
        own["limits"] = dict(self.limits)
        own |= {"plan": dict(self.plan), "files": dict(self.files)}
        return json.dumps({"format": _FORMAT, **own})

    @classmethod
    def parse(cls, text: str, source: str) -> Job:
        """What `text` gave. Raises: BadInput: it was edited, or is of another version of mbv3."""
        try:
            own = json.loads(text)
            if own.pop("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT}")
            space = own.pop("space")
            space["resolution"] = tuple(space["resolution"])
            own["size"] = tuple(own["size"])
            latency, limits = _latency(own.pop("latency")), Limits(**own.pop("limits"))
            return cls(space=ScaledSpace(**space), latency=latency, limits=limits, **own)
        except (ValueError, KeyError, TypeError) as e:
            raise BadInput(f"{source}: what its search wrote for workers cannot be read ({e}); begin a new search with "
                           "another --study") from None  # fmt: skip


def latency_digest(latency: SpaceLatency) -> str:
    """Of what networks take: two tables that predict alike have one."""
    return sha256(json.dumps(_sums(latency)).encode()).hexdigest()[:16]


def _sums(latency: SpaceLatency) -> dict[str, Any]:
    a = latency.additive
    return {
        "constant_ms": latency.constant_ms, "estimated": latency.estimated, "constant": a.constant,
        "blocks": [
            {"columns": [b.columns.start, b.columns.stop], "strides": b.strides.tolist(), "out_of": b.out_of.tolist(),
             "costs": b.costs.tolist()}
            for b in a.blocks
        ],
        "end": a.end.tolist(),
    }  # fmt: skip


def _latency(own: Mapping[str, Any]) -> SpaceLatency:
    blocks = tuple(
        BlockTable(
            slice(*b["columns"]), np.array(b["strides"], dtype=np.int64), np.array(b["out_of"], dtype=np.int64),
            np.array(b["costs"], dtype=np.float64),
        )
        for b in own["blocks"]
    )  # fmt: skip
    sums = Additive(float(own["constant"]), blocks, np.array(own["end"], dtype=np.float64))
    return SpaceLatency(sums, float(own["constant_ms"]), bool(own["estimated"]))
