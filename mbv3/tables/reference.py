"""The reference network, which is measured beside every network and layer of a table."""

from __future__ import annotations

from dataclasses import replace

from mbv3.latency import LatencyTable
from mbv3.spec import ArchSpec, load_spec, scale_spec

__all__ = ["REFERENCE", "reference_at", "reference_of"]

REFERENCE = "mobilenet_v3_large"


def reference_at(width: float, resolution: int | tuple[int, int], classes: int = 1000) -> ArchSpec:
    """The reference network (MobileNetV3-Large) at a width multiplier and a resolution in pixels."""
    res = (resolution, resolution) if isinstance(resolution, int) else resolution
    spec = scale_spec(load_spec(REFERENCE), width, res)
    return replace(spec, name=f"{REFERENCE}@{width:g}", head=replace(spec.head, classes=classes))


def reference_of(table: LatencyTable) -> ArchSpec:
    """The reference network of a table: its times are relative to this network's time."""
    ref = table.reference
    h, w = (int(v) for v in ref["resolution"])
    return reference_at(float(ref["width"]), (h, w), int(ref.get("classes", 1000)))
