"""A table for another device or setting, from a list of networks measured there."""

from __future__ import annotations

from mbv3.errors import BadInput
from mbv3.latency import FIT, Fingerprint, LatencyTable, MeasuredNetworks, transfer
from mbv3.space import SearchSpace
from mbv3.spec import ArchSpec, load_spec
from mbv3.tables.check import LABELS
from mbv3.tables.draw import calibration_network
from mbv3.tables.plan import space_id
from mbv3.tables.reference import reference_of

__all__ = ["transfer_list"]


def transfer_list(
    table: LatencyTable,
    space: SearchSpace,
    measured: MeasuredNetworks,
    *,
    device: str | None = None,
    fit: int = FIT,
    source: str = "the list of networks",
) -> LatencyTable:
    """`table`, which is of `space`, fitted to the device on which `measured` was measured.

    `device`: its name, for a list that does not say one. The first `fit` networks are used in the fit, the others for
    the report. `source`: the name of the list in messages.

    Raises:
        BadInput: the list is of another space, or says itself what it was measured on; too few networks; a network
            that does not exist.
    """
    if measured.space_id not in (None, space_id(space)):
        h, w = space.resolution
        raise BadInput(
            f"{source}: its networks are of another space or scale than the table is of ({space.name}, {h}x{w} px); "
            "measure a list with: mbv3 latency measure --like TABLE.csv"
        )
    if device and measured.fingerprint is not None:
        raise BadInput(f"--name {device!r}: {source} says itself what device it was measured on; leave --name out")

    def network(name: str) -> ArchSpec:
        return calibration_network(space, name) if name.startswith(LABELS) else load_spec(name)

    unknown = Fingerprint(
        cpu=device or f"of {source}", vector="", cores=1, system="", kernel="", governor="",
        runtime="unknown", runtime_version="", threads=1,
    )  # fmt: skip
    networks = [(name, network(name), ms) for name, ms in measured.times]
    reference = (reference_of(table), measured.reference_ms)
    return transfer(table, networks, measured.fingerprint or unknown, reference, fit)
