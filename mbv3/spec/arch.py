"""ArchSpec: one network as a frozen value, with its invariants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from mbv3.errors import BadInput, DocumentError, Fault, plain, shown
from mbv3.spec.checks import check_head
from mbv3.spec.classify import Classify
from mbv3.spec.heads import POINTS, REALS, Dense, Head, SSDLite, Tap, aux_of, taps_of
from mbv3.spec.kinds import Conv, Row
from mbv3.spec.rows import GATES, MAX_CHANNELS, Gate
from mbv3.spec.values import real, whole

__all__ = [
    "MAX_CHANNELS",
    "MAX_RESOLUTION",
    "MAX_ROWS",
    "MEAN",
    "PADDINGS",
    "STD",
    "ArchSpec",
    "Padding",
    "Scalar",
    "parse_resolution",
]

MAX_RESOLUTION = 8192
MAX_ROWS = 256
MAX_NOTES = 64  # provenance entries; with the two limits below a dump always fits a document
MAX_KEY = 100
MAX_TEXT = 1000

# channel statistics of ImageNet, for values from 0 to 1: what a network takes that says nothing else
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEANS, STDS = (-300.0, 300.0), (1e-6, 1000.0)  # what they may be

Padding = Literal["both", "tensorflow"]
PADDINGS: tuple[str, ...] = get_args(Padding)
Scalar = str | int | float | bool | None


def parse_resolution(text: str) -> tuple[int, int]:
    """(height, width) of `512` or `512x1024`. Raises: BadInput."""
    try:
        height, *more = (int(side) for side in text.split("x"))
        width = more[0] if more else height
    except ValueError:
        height, width, more = 0, 0, []
    if len(more) > 1 or not (1 <= height <= MAX_RESOLUTION and 1 <= width <= MAX_RESOLUTION):
        raise BadInput(
            f"--resolution must be a side or HEIGHTxWIDTH such as 512x1024, 1 to {MAX_RESOLUTION} pixels (got {text!r})"
        )
    return height, width


def pixels(resolution: tuple[int, int]) -> int | str:
    """A resolution as records and messages have it: 224, or `512x1024`; `parse_resolution` of its text inverts it."""
    height, width = resolution
    return height if height == width else f"{height}x{width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchSpec:
    """A MobileNetV3-class network: stem, rows, optional tail, head.

    `bn_eps` and `bn_momentum` are the backbone's; a head with batch norms has its own. `padding`: of the backbone's
    strided convolutions, zeros on both sides as torch's (k - 1) / 2, or as TensorFlow's SAME, which weights trained
    there need. It costs no multiply-add, so both have one row in a latency table. `mean`, `std`: of RGB from 0 to 1,
    what images are normalised by, `(p - mean) / std`; images of other channels have none of their own.

    Raises:
        DocumentError: the values contradict each other; every fault is listed with its path.
    """

    name: str
    resolution: tuple[int, int]  # input height, width in pixels
    stem: Conv
    rows: tuple[Row, ...]
    tail: Conv | None
    head: Head
    gate: Gate = "HSIGMOID"  # squeeze-and-excitation gate
    bn_eps: float = 1e-3
    bn_momentum: float = 0.01
    in_channels: int = 3
    padding: Padding = "both"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
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
    def stride(self) -> int:
        """Input pixels a pixel of the last map, along one side."""
        return math.prod(row.s for _, row, _ in self.convs())

    @property
    def features(self) -> int:
        """Channels of the last row or tail, which a classifier takes."""
        if self.tail is not None:
            return self.tail.out
        return self.rows[-1].out if self.rows else self.stem.out


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


def _tap(path: str, tap: Tap, spec: ArchSpec) -> Iterator[Fault]:
    if type(tap.row) is int and not 0 <= tap.row < len(spec.rows):
        rule = f"the backbone has the rows 0 to {len(spec.rows) - 1}"
        yield Fault(f"{path}.row", rule, shown(tap.row), "tap one of them, or give the backbone more rows")
        return
    if type(tap.row) is not int and tap.row not in ("stem", "tail"):
        yield Fault(f"{path}.row", "must be the number of a row, stem or tail", shown(tap.row))
        return
    if tap.row == "tail" and spec.tail is None:
        yield Fault(f"{path}.row", "the backbone has no tail", "'tail'", f"write {len(spec.rows) - 1}, its last row")
        return
    if tap.point not in POINTS:
        yield Fault(f"{path}.point", f"must be one of {', '.join(POINTS)}", shown(tap.point))
        return
    where = f"rows[{tap.row}]" if type(tap.row) is int else str(tap.row)
    row, cin = next((row, cin) for at, row, cin in spec.convs() if at == where)
    has = row.points(cin)
    if tap.point not in has:
        there = ", ".join(p for p in POINTS if p in has)
        yield Fault(f"{path}.point", f"{where} has no such point", tap.point, f"it has {there}")


def _place(tap: Tap, spec: ArchSpec) -> tuple[int, int]:
    """(how many rows deep a tap is, its stride)."""
    at = {"stem": 0, "tail": len(spec.rows) + 1}.get(tap.row, 0) if isinstance(tap.row, str) else tap.row + 1
    *before, row = [row for _, row, _ in spec.convs()][: at + 1]
    return at, math.prod(row.s for row in before) * row.stride_at(tap.point)


def _check_taps(spec: ArchSpec, head: Dense, path: str) -> Iterator[Fault]:
    """Taps that exist, in an order that the head can use."""
    taps = taps_of(head)
    faults = [f for name, tap in taps for f in _tap(f"{path}.{name}", tap, spec)]
    yield from faults
    if faults or not taps:
        return
    places = {name: _place(tap, spec) for name, tap in taps}
    if isinstance(head, SSDLite):
        ordered = list(places.values())
        if any(b[0] < a[0] or b[1] < a[1] for a, b in pairwise(ordered)):
            yield Fault(f"{path}.maps", "must go from finer to coarser maps", shown([t.row for t in head.maps]))
    else:
        for name, (_, stride) in places.items():
            if stride > places["high"][1]:
                rule = f"must be at least as fine as high, which has stride {places['high'][1]}"
                yield Fault(f"{path}.{name}", rule, f"stride {stride}", "tap an earlier row")
    deepest = max(depth for depth, _ in places.values())
    if path == "head" and deepest != len(spec.rows) + (spec.tail is not None):
        last = "tail" if spec.tail is not None else len(spec.rows) - 1
        yield Fault(
            path, "what comes after its deepest tap is computed for nothing", "", f"tap {last}, or cut the rows"
        )
    if (aux := aux_of(head)) is not None:
        yield from _check_taps(spec, aux, f"{path}.aux")


def _check_dense(spec: ArchSpec, head: Dense) -> Iterator[Fault]:
    faults = list(check_head("head", head))
    yield from faults
    rows_sound = all(type(row.s) is int for _, row, _ in spec.convs())
    if rows_sound and not any(f.path.startswith(("head.maps", "head.low", "head.high")) for f in faults):
        yield from _check_taps(spec, head, "head")
    sides = [side for side in spec.resolution if type(side) is int]
    if rows_sound and any(side < spec.stride for side in sides):
        got = "x".join(map(str, sides))
        yield Fault("input.resolution", f"may not be smaller than the network's stride, {spec.stride}", got)


MOST_SOUND = 50_000
_sound: dict[tuple[int, int], Row] = {}  # rows without a fault, by identity and input channels


def check(spec: ArchSpec) -> Iterator[Fault]:
    """Every broken invariant of `spec`."""
    yield from _line("name", spec.name, 1000)
    if len(spec.resolution) != 2:
        yield Fault("input.resolution", "must be (height, width)", shown(spec.resolution))
    for side in spec.resolution:
        yield from whole("input.resolution", side, 1, MAX_RESOLUTION)
    yield from whole("input.channels", spec.in_channels, 1, 1024)
    if len(spec.rows) > MAX_ROWS:
        yield Fault("rows", f"at most {MAX_ROWS} rows", str(len(spec.rows)))
    if spec.gate not in GATES:
        yield Fault("gate", f"must be one of {', '.join(GATES)}", shown(spec.gate))
    if spec.padding not in PADDINGS:
        yield Fault("padding", f"must be one of {', '.join(PADDINGS)}", shown(spec.padding))
    for name, values, (low, high) in (("mean", spec.mean, MEANS), ("std", spec.std, STDS)):
        if type(values) is not tuple or len(values) != 3:
            yield Fault(f"input.{name}", "must be three numbers, of red, green and blue", shown(values))
        else:
            for value in values:
                yield from real(f"input.{name}", value, low, high)
    if spec.in_channels != 3 and (spec.mean, spec.std) != (MEAN, STD):
        yield Fault("input.mean", "only images of 3 channels have their own", f"{spec.in_channels} channels")
    yield from real("bn.eps", spec.bn_eps, *REALS["bn_eps"])
    yield from real("bn.momentum", spec.bn_momentum, *REALS["bn_momentum"])
    for path, row, cin in spec.convs():
        # NetAdapt makes thousands of networks that share most rows; by identity, as 3.0 equals 3
        if _sound.get((id(row), cin)) is row:
            continue
        faults = list(row.faults(path, cin))
        yield from faults
        if not faults:
            if len(_sound) >= MOST_SOUND:
                _sound.clear()
            _sound[id(row), cin] = row
    if isinstance(spec.head, Classify):
        yield from spec.head.faults("head")
    else:
        yield from _check_dense(spec, spec.head)
    yield from _notes(spec.provenance)
