"""ArchSpec: one network as a frozen value, with its invariants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from mbv3.errors import DocumentError, Fault, plain, shown
from mbv3.spec.rows import GATES, NLS, SKIPS, Classify, Conv, Gate, MBConv, Row

__all__ = ["MAX_CHANNELS", "MAX_RESOLUTION", "MAX_ROWS", "ArchSpec", "Scalar"]

MAX_CHANNELS = 16384
MAX_RESOLUTION = 8192
MAX_ROWS = 256
MAX_NOTES = 64  # provenance entries; with the two limits below a dump always fits a document
MAX_KEY = 100
MAX_TEXT = 1000

EPS = (1e-12, 1.0)
MOMENTUM = (0.0, 1.0)
DROPOUT = (0.0, 0.999)

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
            raise DocumentError(f"network {shown(self.name)}", faults)

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
        yield Fault(path, f"must be a whole number from {low} to {high}", shown(value))


def _real(path: str, value: object, low: float, high: float) -> Iterator[Fault]:
    if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
        yield Fault(path, f"must be a number from {low:g} to {high:g}", shown(value))


def _line(path: str, value: object, most: int) -> Iterator[Fault]:
    if type(value) is not str or not 1 <= len(value) <= most or not value.isprintable():
        yield Fault(path, f"must be one line of 1 to {most} printable characters", shown(value))


def _notes(notes: tuple[tuple[str, Scalar], ...]) -> Iterator[Fault]:
    """Provenance: whatever is accepted here comes back unchanged from YAML."""
    if len(notes) > MAX_NOTES:
        yield Fault("provenance", f"at most {MAX_NOTES} entries", str(len(notes)))
        return
    if len({key for key, _ in notes}) != len(notes):
        yield Fault("provenance", "the same key stands twice", shown([key for key, _ in notes]))
    for key, value in notes:
        yield from _line("provenance", key, MAX_KEY)
        path = f"provenance.{plain(str(key))}"
        if type(value) is str:
            if len(value) > MAX_TEXT or any("\ud800" <= c <= "\udfff" for c in value):
                yield Fault(path, f"must be Unicode text of at most {MAX_TEXT} characters", shown(value))
        elif type(value) is float:
            if not math.isfinite(value):
                yield Fault(path, "must be a finite number", shown(value), "leave it out, or write null")
        elif type(value) is int:
            if abs(value) >= 10**99:
                yield Fault(path, "a whole number has at most 99 digits", shown(value))
        elif value is not None and type(value) is not bool:
            yield Fault(path, "must be text, a number, true, false or null", shown(value))


def check_row(path: str, row: Row | Classify, cin: int) -> Iterator[Fault]:
    """Every broken invariant of one row or head with `cin` input channels."""
    if isinstance(row, Classify):
        yield from _whole(f"{path}.classes", row.classes, 1, 10**6)
        yield from _whole(f"{path}.features", row.features, 0, MAX_CHANNELS)
        if row.nl not in NLS:
            yield Fault(f"{path}.nl", f"must be one of {', '.join(NLS)}", shown(row.nl))
        yield from _real(f"{path}.dropout", row.dropout, *DROPOUT)
        return
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
        yield Fault(f"{path}.k", "must be odd", shown(row.k))
    if row.nl not in NLS:
        yield Fault(f"{path}.nl", f"must be one of {', '.join(NLS)}", shown(row.nl))
    if row.skip not in SKIPS:
        yield Fault(f"{path}.skip", f"must be one of {', '.join(SKIPS)}", shown(row.skip))
    elif row.skip != "none":
        if cin != row.out:
            yield Fault(
                f"{path}.skip",
                "a skip adds input to output, so their channels must agree",
                f"{cin} in, {row.out} out",
                f"write out: {cin}, or skip: none",
            )
        if row.skip == "identity" and row.s != 1:
            yield Fault(f"{path}.skip", "an identity skip needs stride 1", f"s: {row.s}", "write skip: pool or none")
    if isinstance(row, MBConv) and type(row.se) is int and type(row.exp) is int and row.se > row.exp:
        yield Fault(f"{path}.se", "squeeze channels may not exceed exp", f"se {row.se}, exp {row.exp}")


def check(spec: ArchSpec) -> Iterator[Fault]:
    """Every broken invariant of `spec`."""
    yield from _line("name", spec.name, 1000)
    if len(spec.resolution) != 2:
        yield Fault("input.resolution", "must be (height, width)", shown(spec.resolution))
    for side in spec.resolution:
        yield from _whole("input.resolution", side, 1, MAX_RESOLUTION)
    yield from _whole("input.channels", spec.in_channels, 1, 1024)
    if len(spec.rows) > MAX_ROWS:
        yield Fault("rows", f"at most {MAX_ROWS} rows", str(len(spec.rows)))
    if spec.gate not in GATES:
        yield Fault("gate", f"must be one of {', '.join(GATES)}", shown(spec.gate))
    yield from _real("bn.eps", spec.bn_eps, *EPS)
    yield from _real("bn.momentum", spec.bn_momentum, *MOMENTUM)
    for path, row, cin in spec.convs():
        yield from check_row(path, row, cin)
    yield from check_row("head", spec.head, spec.features)
    yield from _notes(spec.provenance)
