"""Networks that a table has not seen, for `mbv3 latency check` and `measure --like`, and the check itself."""

from __future__ import annotations

from mbv3.errors import BadInput
from mbv3.latency import (
    CHECK_MINUTES,
    FIT,
    CheckReport,
    Device,
    LatencyTable,
    NetworkTime,
    Runtime,
    check_minutes,
    check_table,
    most_informative,
    work_ms,
)
from mbv3.space import SearchSpace
from mbv3.spec import ArchSpec
from mbv3.tables.draw import calibration_network, random_networks
from mbv3.tables.reference import reference_of

__all__ = ["check", "check_count", "informative_networks", "panel_of", "unseen_networks"]

CANDIDATES = 400
LABELS = ("calibration:", "check:", "cut:")  # labels of networks that were drawn from a space


def check_count(networks: int) -> None:
    """Raises: BadInput for a number of networks that no report can be made from, or that takes days."""
    if not 4 <= networks <= 1000:
        raise BadInput(f"--networks must be from 4 to 1000 (got {networks})")


def unseen_networks(table: LatencyTable, space: SearchSpace, n: int, seed: int) -> list[tuple[str, ArchSpec]]:
    """`n` random networks of the (scaled) space that the table was not calibrated on.

    Raises:
        BadInput: the space has no others.
    """
    seen = {net.label.partition(":")[2] for net in table.networks}
    drawn = random_networks(space, n + len(seen), 1000 + seed, "check")
    unseen = [(label, spec) for label, spec in drawn if label.partition(":")[2] not in seen][:n]
    if not unseen:
        raise BadInput(
            f"the table was calibrated on all networks of space {space.name}, so none is left to check it with; use a "
            "larger space"
        )
    return unseen


def informative_networks(table: LatencyTable, space: SearchSpace, n: int, seed: int) -> list[tuple[str, ArchSpec]]:
    """`n` of `unseen_networks`: first the ten of CANDIDATES that a transfer of `table` to another device learns most
    from, then others at random.

    Raises:
        BadInput: the space has no others.
    """
    drawn = unseen_networks(table, space, CANDIDATES + n, seed)
    first = most_informative(work_ms(table, [spec for _, spec in drawn]), min(n, FIT))
    others = [i for i in range(len(drawn)) if i not in first]
    return [drawn[i] for i in [*first, *others[: n - len(first)]]]


def panel_of(table: LatencyTable, space: SearchSpace) -> list[tuple[NetworkTime, ArchSpec]]:
    """The calibration networks of the table that a check measures again; a user's own list is left out."""
    return [(n, calibration_network(space, n.label)) for n in table.networks if n.label.startswith(LABELS)]


def check(
    runtime: Runtime,
    table: LatencyTable,
    space: SearchSpace,
    networks: int = 40,
    seed: int = 0,
    minutes: float = CHECK_MINUTES,
) -> CheckReport:
    """How far `table` can be trusted: `networks` random networks of the (scaled) space, predicted and measured.

    Raises:
        BadInput: a number of networks or minutes out of range, or the space has no networks left.
    """
    check_count(networks)
    check_minutes(minutes)
    unseen = unseen_networks(table, space, networks, seed)
    device = Device(runtime, reference_of(table), table.reference_ms)
    return check_table(device, table, unseen, panel_of(table, space), minutes=minutes)
