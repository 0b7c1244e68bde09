"""`mbv3 latency check`: networks that the table has not seen, predicted and measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbv3.latency import Device, LatencyTable, Runtime, check_table
from mbv3.pipeline.tables import random_networks, reference_at
from mbv3.space import SearchSpace

__all__ = ["check"]


def check(runtime: Runtime, table: LatencyTable, space: SearchSpace, networks: int, seed: int) -> dict[str, Any]:
    """The trust report of `table` on `networks` random networks of the (scaled) space.

    Networks that calibrated the table are left out of the draw.
    """
    seen = {n.label.partition(":")[2] for n in table.networks}
    drawn = random_networks(space, networks + len(seen), 1000 + seed, "check")
    unseen = [(label, spec) for label, spec in drawn if label.partition(":")[2] not in seen][:networks]
    device = Device(runtime, reference_at(space.width, space.resolution, space.head.classes), table.reference_ms)
    report, _, measured = check_table(device, table, unseen)
    drift = 100 * (measured.raw_reference_ms / table.reference_ms - 1)
    return {**report, "drift": round(float(np.round(drift, 2)), 2)}
