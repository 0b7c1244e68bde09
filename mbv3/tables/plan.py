"""What a table of a space must hold, and the identity of the space."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from mbv3.latency import BuildPlan
from mbv3.space import SearchSpace, layer_keys
from mbv3.spec import lower, pixels
from mbv3.tables.draw import calibration_networks
from mbv3.tables.reference import REFERENCE, reference_at

__all__ = ["space_id", "table_plan"]


def space_id(space: SearchSpace) -> str:
    """Identity of a scaled space: everything that decides its layers."""
    text = repr(replace(space, source=""))
    if space.dense is not None:
        text += repr((space.dense, space.output_stride))
    return hashlib.sha256(text.encode()).hexdigest()


def table_plan(space: SearchSpace, **about: Any) -> BuildPlan:
    """What a table of this (scaled) space must hold."""
    classes = space.head.classes
    reference = reference_at(space.width, space.resolution, classes)
    calibration = calibration_networks(space)
    keys = (*layer_keys(space), *(x.key for _, spec in calibration for x in lower(spec)))
    return BuildPlan(
        keys=tuple(dict.fromkeys(keys)),
        calibration=tuple(calibration),
        reference=reference,
        about={
            "space": space.name,
            "space_id": space_id(space),
            "width": space.width,
            "resolution": pixels(space.resolution),
            "classes": classes,
            **({"head": list(space.dense), "output_stride": space.output_stride} if space.dense else {}),
            "reference": REFERENCE,
            **about,
        },
    )
