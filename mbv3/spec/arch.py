"""ArchSpec: one network as a frozen value, with its invariants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from mbv3.errors import DocumentError, Fault
from mbv3.spec.rows import GATES, NLS, SKIPS, Classify, Conv, Gate, MBConv, Row

__all__ = ["MAX_CHANNELS", "MAX_RESOLUTION", "MAX_ROWS", "ArchSpec", "Scalar"]

MAX_CHANNELS = 16384
MAX_RESOLUTION = 8192
MAX_ROWS = 256

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchSpec:
    """A MobileNetV3-class network: stem, rows, optional tail, head.

    Raises:
        DocumentError: the values contradict each other; every fault is listed with its path.
    """

    name: str
    resolution: tuple[int, int]  # input height, width in pixels
    stem: Conv
    rows: tuple[Row, ...]
    tail: Conv | None
    head: Classify
    gate: Gate = "HSIGMOID"  # squeeze-and-excitation gate
    bn_eps: float = 1e-3
    bn_momentum: float = 0.01
    in_channels: int = 3
    provenance: tuple[tuple[str, Scalar], ...] = ()

    def __post_init__(self) -> None:
        faults = list(check(self))
        if faults:
            raise DocumentError(f"network {self.name!r}", faults)

    def convs(self) -> Iterator[tuple[str, Row, int]]:
        """(path, row, input channels) of stem, rows and tail, in order."""
        yield "stem", self.stem, self.in_channels
        c = self.stem.out
        for i, row in enumerate(self.rows):
            yield f"rows[{i}]", row, c
            c = row.out
        if self.tail is not None:
            yield "tail", self.tail, c

    @property
    def features(self) -> int:
        """Channels that enter the head."""
        if self.tail is not None:
            return self.tail.out
        return self.rows[-1].out if self.rows else self.stem.out


def _whole(path: str, value: object, low: int, high: int) -> Iterator[Fault]:
    if type(value) is not int or not low <= value <= high:
        yield Fault(path, f"must be a whole number from {low} to {high}", repr(value))


def check(spec: ArchSpec) -> Iterator[Fault]:
    """Every broken invariant of `spec`."""
    for side in spec.resolution:
        yield from _whole("input.resolution", side, 1, MAX_RESOLUTION)
    yield from _whole("input.channels", spec.in_channels, 1, 1024)
    if len(spec.rows) > MAX_ROWS:
        yield Fault("rows", f"at most {MAX_ROWS} rows", str(len(spec.rows)))
    if spec.gate not in GATES:
        yield Fault("gate", f"must be one of {', '.join(GATES)}", repr(spec.gate))
    if not 0 < spec.bn_eps < 1:
        yield Fault("bn.eps", "must lie between 0 and 1", repr(spec.bn_eps))
    if not 0 <= spec.bn_momentum <= 1:
        yield Fault("bn.momentum", "must lie between 0 and 1", repr(spec.bn_momentum))
    for path, row, cin in spec.convs():
        for field in fields(row):
            if field.name in ("nl", "skip"):
                continue
            low, high = {
                "k": (1, 31),
                "s": (1, 4),
                "se": (0, MAX_CHANNELS),
                "dilation": (1, 64),
            }.get(field.name, (1, MAX_CHANNELS))
            yield from _whole(f"{path}.{field.name}", getattr(row, field.name), low, high)
        if type(row.k) is int and row.k % 2 == 0:
            yield Fault(f"{path}.k", "must be odd", repr(row.k))
        if row.nl not in NLS:
            yield Fault(f"{path}.nl", f"must be one of {', '.join(NLS)}", repr(row.nl))
        if row.skip not in SKIPS:
            yield Fault(f"{path}.skip", f"must be one of {', '.join(SKIPS)}", repr(row.skip))
        elif row.skip != "none":
            if cin != row.out:
                yield Fault(
                    f"{path}.skip",
                    f"a {row.skip} skip adds input to output, so their channels must agree",
                    f"{cin} in, {row.out} out",
                    f"write out: {cin}, or skip: none",
                )
            if row.skip == "identity" and row.s != 1:
                yield Fault(
                    f"{path}.skip", "an identity skip needs stride 1", f"s: {row.s}", "write skip: pool or none"
                )
        if isinstance(row, MBConv) and type(row.se) is int and type(row.exp) is int and row.se > row.exp:
            yield Fault(f"{path}.se", "squeeze channels may not exceed exp", f"se {row.se}, exp {row.exp}")
    yield from _whole("head.classes", spec.head.classes, 1, 10**6)
    yield from _whole("head.features", spec.head.features, 0, MAX_CHANNELS)
    if spec.head.nl not in NLS:
        yield Fault("head.nl", f"must be one of {', '.join(NLS)}", repr(spec.head.nl))
    if not 0 <= spec.head.dropout < 1:
        yield Fault("head.dropout", "must lie from 0 to below 1", repr(spec.head.dropout))
