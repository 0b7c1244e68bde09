"""ArchSpec to YAML and back: `parse_spec(dump_spec(spec)) == spec`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from mbv3.errors import BadInput, DocumentError
from mbv3.spec.arch import MAX_RESOLUTION, MAX_ROWS, MEAN, MEANS, PADDINGS, STD, STDS, ArchSpec, Padding, Scalar
from mbv3.spec.document import Reader, parse_yaml, quoted, read_text, scalar_text
from mbv3.spec.heads import REALS
from mbv3.spec.headyaml import head_line, read_head
from mbv3.spec.kinds import ROWS, Conv, Row
from mbv3.spec.rows import GATES, Gate

__all__ = ["FORMAT", "dump_spec", "parse_spec", "read_spec"]

FORMAT = "mbv3-spec/1"


def _row(r: Reader, cin: int, ops: tuple[str, ...] = tuple(ROWS)) -> Row:
    """One row; `skip` left out means MobileNetV3's rule: a residual iff stride 1 and in == out."""
    if not r.is_mapping():
        return Conv(k=1, out=cin)
    row = ROWS[r.word("op", ops)].read(r, cin)
    r.no_other_keys()
    return row


def _conv(r: Reader, cin: int) -> Conv:
    return cast(Conv, _row(r, cin, ("conv",)))  # stem and tail


def resolution(r: Reader) -> tuple[int, int]:
    """`resolution: 224` or `resolution: [512, 1024]` (height, width)."""
    value = r.raw("resolution")
    if not r.has("resolution"):
        return 224, 224
    sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
    if not all(type(v) is int and 1 <= v <= MAX_RESOLUTION for v in sides):
        r.fault(
            r.at("resolution"),
            f"must be a side or [height, width] in pixels, each from 1 to {MAX_RESOLUTION}",
            value,
        )
        return 224, 224
    return sides[0], sides[1]


# of a head, what says where and how many its inputs are
_INPUTS = ("head.high", "head.low", "head.maps", "head.branches", "head.extras", "head.anchors", "head.aux.high")


def _follows(path: str, seen: set[str]) -> bool:
    """Whether a fault may come from the stand-in for an unreadable value among its neighbours, at `seen`."""
    if path in seen or path.endswith(".skip") or path.removesuffix(".se") + ".exp" in seen:
        return True
    rows = any(p.startswith(("rows", "stem", "tail")) for p in seen)
    if path.endswith((".row", ".point")):
        return rows
    about_inputs = path == "head" or path.startswith(_INPUTS)
    return about_inputs and (rows or any(p.startswith(_INPUTS) for p in seen))


def parse_spec(text: str, source: str = "spec") -> ArchSpec:
    """The network that a YAML text describes.

    Raises:
        DocumentError: lists every fault with its path, rule and value.
    """
    r = Reader(parse_yaml(text, source), source)
    if not r.is_mapping():
        r.finish()
    r.format_line(FORMAT)
    name = r.text("name")
    inp = r.child("input")
    res = resolution(inp)
    channels = inp.integer("channels", 1, 1024, 3)
    mean, std = inp.triple("mean", *MEANS, MEAN), inp.triple("std", *STDS, STD)
    inp.no_other_keys()
    padding = r.word("padding", PADDINGS, "both")
    gate = r.word("gate", GATES, "HSIGMOID")
    bn = r.child("bn") if r.has("bn") else Reader({}, source, "bn", r.faults)
    eps = bn.number("eps", *REALS["bn_eps"], 1e-3)
    momentum = bn.number("momentum", *REALS["bn_momentum"], 0.01)
    bn.no_other_keys()
    stem = _conv(r.child("stem"), channels)
    rows: list[Row] = []
    cin = stem.out
    for item in r.children("rows", MAX_ROWS):
        rows.append(_row(item, cin))
        cin = rows[-1].out
    tail = _conv(r.child("tail"), cin) if r.has("tail") else None
    head = read_head(r.child("head"))
    notes = r.child("provenance").data if r.has("provenance") else {}
    provenance: tuple[tuple[str, Scalar], ...] = tuple(notes.items()) if isinstance(notes, dict) else ()
    r.no_other_keys()
    try:
        spec = ArchSpec(
            name=name,
            resolution=res,
            in_channels=channels,
            stem=stem,
            rows=tuple(rows),
            tail=tail,
            head=head,
            gate=cast(Gate, gate),
            bn_eps=eps,
            bn_momentum=momentum,
            padding=cast(Padding, padding),
            mean=mean,
            std=std,
            provenance=provenance,
        )
    except DocumentError as e:
        seen = {f.path for f in r.faults}
        r.faults += [f for f in e.faults if not seen or not _follows(f.path, seen)]
        r.finish()
        raise
    r.finish()
    return spec


def read_spec(path: Path) -> ArchSpec:
    """The network in a YAML file. Raises: BadInput, DocumentError."""
    return parse_spec(read_text(path, "spec"), str(path))


def _row_line(row: Row) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in row.pairs()) + "}"


def _statistics(spec: ArchSpec) -> str:
    """What images are normalised by, where it is not ImageNet's mean and deviation."""
    if (spec.mean, spec.std) == (MEAN, STD):
        return ""
    parts = (f"{n}: [{', '.join(map(scalar_text, values))}]" for n, values in (("mean", spec.mean), ("std", spec.std)))
    return "".join(f", {part}" for part in parts)


def dump_spec(spec: ArchSpec) -> str:
    """YAML text of `spec`, one row a line, the same bytes for the same value."""
    h, w = spec.resolution
    lines = [
        f"format: {FORMAT}",
        f"name: {quoted(spec.name)}",
        f"input: {{resolution: {h if h == w else f'[{h}, {w}]'}, channels: {spec.in_channels}{_statistics(spec)}}}",
        *([f"padding: {spec.padding}"] if spec.padding != "both" else []),
        f"gate: {spec.gate}",
        f"bn: {{eps: {scalar_text(spec.bn_eps)}, momentum: {scalar_text(spec.bn_momentum)}}}",
        f"stem: {_row_line(spec.stem)}",
        "rows:",
        *(f"  - {_row_line(row)}" for row in spec.rows),
    ]
    if not spec.rows:
        raise BadInput(f"network {spec.name!r} has no rows and cannot be written as YAML")
    if spec.tail is not None:
        lines.append(f"tail: {_row_line(spec.tail)}")
    lines.append(f"head: {head_line(spec.head)}")
    if spec.provenance:
        lines.append("provenance:")
        lines += [f"  {quoted(key)}: {scalar_text(value)}" for key, value in spec.provenance]
    return "\n".join(lines) + "\n"
