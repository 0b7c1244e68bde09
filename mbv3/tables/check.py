"""`mbv3 latency check`: networks that the table has not seen, predicted and measured."""

from __future__ import annotations

from typing import Any

from mbv3.errors import BadInput
from mbv3.latency import (
    CHECK_MINUTES,
    FIT,
    Device,
    LatencyTable,
    NetworkTime,
    Runtime,
    check_table,
    most_telling,
    work_ms,
)
from mbv3.space import SearchSpace
from mbv3.spec import ArchSpec
from mbv3.tables.draw import calibration_network, random_networks
from mbv3.tables.reference import reference_of

__all__ = ["check", "panel_of", "telling_networks", "unseen_networks"]

CANDIDATES = 400


def unseen_networks(table: LatencyTable, space: SearchSpace, n: int, seed: int) -> list[tuple[str, ArchSpec]]:
    """`n` random networks of the (scaled) space that did not calibrate the table.

    Raises:
        BadInput: the space has no others.
    """
    seen = {net.label.partition(":")[2] for net in table.networks}
    drawn = random_networks(space, n + len(seen), 1000 + seed, "check")
    unseen = [(label, spec) for label, spec in drawn if label.partition(":")[2] not in seen][:n]
    if not unseen:
        raise BadInput(f"all networks of space {space.name} calibrated the table; none is left to check it with")
    return unseen


def telling_networks(table: LatencyTable, space: SearchSpace, n: int, seed: int) -> list[tuple[str, ArchSpec]]:
    """`n` of `unseen_networks`, first the ten of CANDIDATES whose times on another device or setting tell most of how
    it differs from the table's, as `transfer` fits it, then others as they come.

    Raises:
        BadInput: the space has no others.
    """
    drawn = unseen_networks(table, space, CANDIDATES + n, seed)
    first = most_telling(work_ms(table, [spec for _, spec in drawn]), min(n, FIT))
    others = [i for i in range(len(drawn)) if i not in first]
    return [drawn[i] for i in [*first, *others[: n - len(first)]]]


def panel_of(table: LatencyTable, space: SearchSpace) -> list[tuple[NetworkTime, ArchSpec]]:
    """Calibration networks of the table that a check times again."""
    ours = ("calibration:", "check:", "cut:")  # not those of a user's list
    return [(n, calibration_network(space, n.label)) for n in table.networks if n.label.startswith(ours)]


def check(
    runtime: Runtime,
    table: LatencyTable,
    space: SearchSpace,
    networks: int,
    seed: int,
    minutes: float = CHECK_MINUTES,
) -> dict[str, Any]:
    """The trust report of `table` on `networks` random networks of the (scaled) space that did not calibrate it."""
    unseen = unseen_networks(table, space, networks, seed)
    device = Device(runtime, reference_of(table), table.reference_ms)
    return check_table(device, table, unseen, panel_of(table, space), minutes=minutes)
