"""What the table of a space must hold, the identity of the space, and the way back from a table to its space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mbv3.errors import BadInput
from mbv3.latency import BuildPlan, LatencyTable
from mbv3.space import SearchSpace, layer_keys, load_space, parse_scale, scale, under_head
from mbv3.spec import lower, parse_resolution, pixels
from mbv3.tables.draw import calibration_networks
from mbv3.tables.reference import REFERENCE, reference_at

__all__ = ["SPACE", "scaled_space", "space_id", "space_of", "table_of_several", "table_plan"]

SPACE = "mobilenetv3"  # of a search and of a table, where none is named


def space_id(space: SearchSpace) -> str:
    """Identity of a scaled space: a hash of everything that decides its layers."""
    text = repr(replace(space, source=""))
    if space.dense is not None:
        text += repr((space.dense, space.output_stride))
    return hashlib.sha256(text.encode()).hexdigest()


def table_plan(space: SearchSpace, **about: Any) -> BuildPlan:
    """What a table of this (scaled) space must hold; `about` is added to what the table says about itself."""
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


def table_of_several(spaces: Sequence[SearchSpace]) -> BuildPlan:
    """What one table of several scaled spaces must hold: every layer of each, calibration networks of each in equal
    numbers, and the reference network at the scale of the last. Of equal spaces it is the plan of that space."""
    distinct = list({space_id(s): s for s in spaces}.values())
    plans = [table_plan(s) for s in distinct]
    if len(plans) == 1:
        return plans[0]
    calibration = []
    for space, plan in zip(distinct, plans, strict=True):
        at = f"@{space.width:g}x{pixels(space.resolution)}"
        some = plan.calibration[:: len(plans)]
        calibration += [(label + at, spec) for label, spec in some]
    keys = [*(k for s in distinct for k in layer_keys(s)), *(x.key for _, spec in calibration for x in lower(spec))]
    scales = [f"{s.width:g}x{pixels(s.resolution)}" for s in distinct]
    identity = hashlib.sha256(" ".join(space_id(s) for s in distinct).encode()).hexdigest()
    about = {**plans[-1].about, "space_id": identity, "scales": scales}
    return BuildPlan(tuple(dict.fromkeys(keys)), tuple(calibration), plans[-1].reference, about)


def scaled_space(space: str, scale_text: str = "1") -> SearchSpace:
    """The space of a name or YAML file at a scale such as "1" or "1.25x288".

    Raises:
        BadInput: no such space, or no such scale; "auto" needs a target, which a table does not have.
    """
    fixed = parse_scale(scale_text)
    if fixed is None:
        raise BadInput("--scale auto needs a target; give 1 or WIDTHxRESOLUTION here")
    return scale(load_space(space), fixed[0], fixed[1] or None)


def space_of(table: LatencyTable, given: str = SPACE) -> SearchSpace:
    """The scaled space that a table was built for; `given` is used where it has the name that the table says.

    Raises:
        BadInput: the table says no space that is known here, or the space has changed since the table was built.
    """
    about = dict(table.about or {})
    try:
        base = load_space(given)
        if base.name != about["space"]:
            base = load_space(str(about["space"]))
        resolution = parse_resolution(str(about["resolution"]))
        space = scale(base, float(about["width"]), resolution, int(about["classes"]))
        if "head" in about:
            head, classes = about["head"]
            space = under_head(space, head, classes, about["output_stride"])
    except (KeyError, BadInput) as e:
        raise BadInput(
            f"the table does not say a space that is known here ({e}); give --space FILE, or run this where the table "
            "was built"
        ) from None
    if space_id(space) != about.get("space_id"):
        raise BadInput(
            f"the table was built for another space with the name {space.name!r}; build a table of this one: "
            "mbv3 latency build"
        )
    return space
