"""What a layer's latency depends on, as a value and as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, cast

from mbv3.errors import BadInput, Fault, shown
from mbv3.spec.arch import MAX_RESOLUTION
from mbv3.spec.checks import check_head
from mbv3.spec.classify import Classify
from mbv3.spec.heads import FLAGS, LISTS, NUMBERS, TAPS, TYPES, WORDS, Dense, Head, SSDLite, Tap, plain_head, taps_of
from mbv3.spec.kinds import ROWS, Row
from mbv3.spec.rows import GATES, MAX_CHANNELS, Gate

__all__ = ["LayerKey", "parse_key"]

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True, slots=True)
class LayerKey:
    """What a layer's latency depends on: the row, its input shape and the gate of its SE; of a head that takes several
    maps all their shapes, and the image's size where it restores it.

    Made canonical: what does not reach the graph (dropout, the gate of no SE) is set to one value, so that
    equal layers have equal keys.
    """

    row: Row | Head
    cin: int
    h: int
    w: int
    gate: Gate = "HSIGMOID"
    more: tuple[Shape, ...] = ()  # shapes of further inputs
    image: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        row = self.row
        if isinstance(row, (Classify, Row)):
            object.__setattr__(self, "row", row.plain())
        elif isinstance(row, Dense):
            object.__setattr__(self, "row", plain_head(row))
        if isinstance(row, Head) or not row.se:
            object.__setattr__(self, "gate", "HSIGMOID")

    @property
    def inputs(self) -> tuple[Shape, ...]:
        """Shapes of all inputs."""
        return ((self.cin, self.h, self.w), *self.more)

    def __str__(self) -> str:
        row = self.row
        head = f"h{self.h}w{self.w}_i{self.cin}"
        if isinstance(row, Classify):
            return "_".join(("classify", head, *row.parts()))
        if isinstance(row, Dense):
            return self._dense(row)
        own = "".join(f"_{letter}{getattr(row, name)}" for name, letter in row.OWN.items())
        gate = self.gate if row.se else "NONE"
        text = f"{row.word()}_{head}_k{row.k}_s{row.s}_d{row.dilation}{own}_o{row.out}_q{row.se}_g{gate}"
        extra = "".join(f"_{row.EXTRA[name]}{value}" for name, value in row.extras())
        return f"{text}_n{row.nl}_r{row.skip}{extra}"

    def _dense(self, row: Dense) -> str:
        """`raspp;960x14x14;224x224;filters=256;classes=21;align_corners=0`: inputs, image, what reaches the graph."""
        parts = [type(row).__name__.lower(), *("x".join(map(str, shape)) for shape in self.inputs)]
        if self.image is not None:
            parts.append("x".join(map(str, self.image)))
        for f in fields(row):
            value = getattr(row, f.name)
            if f.name in LISTS:
                parts.append(f"{f.name}={'-'.join(map(str, value))}")
            elif f.name in NUMBERS or f.name in FLAGS:
                parts.append(f"{f.name}={int(value)}")
            elif f.name in WORDS:
                parts.append(f"{f.name}={value}")
        return ";".join(parts)


def parse_key(text: str) -> LayerKey:
    """The inverse of `str(LayerKey)`. Raises: BadInput."""
    try:
        key = _parse_dense(text) if ";" in text else _parse_row(text)
        row = key.row
        # one spelling a layer: no repeated, unknown or padded parts
        if str(key) != text or any(_faults(row, key.cin)):
            raise ValueError
        for c, h, w in key.inputs:
            if not (1 <= h <= MAX_RESOLUTION and 1 <= w <= MAX_RESOLUTION and 1 <= c <= MAX_CHANNELS):
                raise ValueError
    except (ValueError, KeyError, IndexError, TypeError):
        raise BadInput(f"not a layer key: {shown(text)}") from None
    return key


def _faults(row: Row | Head, cin: int) -> Iterator[Fault]:
    if isinstance(row, Row):
        return row.faults("", cin)
    return check_head("", row) if isinstance(row, Dense) else row.faults("")


def _parse_row(text: str) -> LayerKey:
    op, shape, *rest = text.split("_")
    h, w = (int(v) for v in shape.removeprefix("h").split("w"))
    f = {part[0]: part[1:] for part in rest}
    cin = int(f["i"])
    if op == "classify":
        return LayerKey(Classify.of_parts(f), cin, h, w)
    if f["g"] not in (*GATES, "NONE"):
        raise ValueError
    kind = ROWS[op]
    letters = {"k": "k", "s": "s", "dilation": "d", "out": "o", "se": "q", **kind.OWN}
    values: dict[str, Any] = {name: int(f[letter]) for name, letter in letters.items()}
    gate = cast(Gate, f["g"]) if f["g"] != "NONE" else "HSIGMOID"
    values |= {"nl": f["n"], "skip": f["r"]}
    values |= {name: f[letter] for name, letter in kind.EXTRA.items() if letter in f}
    return LayerKey(kind(**values), cin, h, w, gate)


def _parse_dense(text: str) -> LayerKey:
    kind, *parts = text.split(";")
    given = dict(p.split("=", 1) for p in parts if "=" in p)
    shapes = [tuple(int(v) for v in p.split("x")) for p in parts if "=" not in p]
    image = shapes.pop() if len(shapes[-1]) == 2 else None
    if any(len(s) != 3 for s in shapes) or (kind == "ssdlite") != (image is None):
        raise ValueError
    if image is not None and not all(1 <= side <= MAX_RESOLUTION for side in image):
        raise ValueError
    kept = TYPES[kind]
    values: dict[str, Any] = {"maps": (Tap("tail"),) * len(shapes)} if kept is SSDLite else {"high": Tap("tail")}
    names = {f.name for f in fields(kept)}
    if "low" in names:
        values["low"] = (Tap("tail"),) * (len(shapes) - 1)
    for name, value in given.items():
        if name in LISTS:
            values[name] = tuple(int(v) for v in value.split("-")) if value else ()
        elif name in WORDS:
            values[name] = value
        else:
            values[name] = bool(int(value)) if name in FLAGS else int(value)
    head = kept(**values)
    if len(taps_of(head)) != len(shapes) or set(given) & {*TAPS, "high"}:
        raise ValueError
    (c, h, w), *more = cast(list[Shape], shapes)
    return LayerKey(head, c, h, w, more=tuple(more), image=cast("tuple[int, int] | None", image))
