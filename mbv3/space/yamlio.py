"""Search spaces in YAML: the presets of this package, and files of a user."""

from __future__ import annotations

import itertools
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from mbv3.errors import BadInput, shown
from mbv3.space.model import FIELDS, OWN, Block, Gene, SearchSpace, Value, Variant
from mbv3.spec import (
    GATES,
    MAX_CHANNELS,
    MAX_ROWS,
    NL,
    NLS,
    ROWS,
    SKIPS,
    Classify,
    Conv,
    Gate,
    Reader,
    make_divisible,
    parse_yaml,
    read_resolution,
    read_text,
)

__all__ = ["FORMAT", "load_space", "parse_space", "preset_names", "space_text"]

FORMAT = "mbv3-space/1"
PRESETS = (
    "mnasnet", "mnasnet-imagenet", "mobilenetv3", "mobilenetv4", "nas-bench-macro", "ofa-mbv3-w1.0", "ofa-mbv3-w1.2",
)  # fmt: skip
OTHER_NAMES = {"ofa-mbv3": "ofa-mbv3-w1.0"}
_OPS = (*ROWS, "identity")
_DEFAULTS: dict[str, Any] = {
    "op": "mbconv", "e": 1, "k": 3, "l": 1, "se": 0, "width": 1, "nl": "RE", "skip": "identity",
    **dict.fromkeys(OWN, 0),
}  # fmt: skip
# kernels that a kind of row can do without
_ABSENT = {name for kind in ROWS.values() for name in kind.KERNELS if kind.RANGES[name][0] == 0}
MAX_COMBINATIONS = 20_000  # of one block: its cost table has an entry for each


def preset_names() -> tuple[str, ...]:
    """The presets of `load_space`."""
    return PRESETS


def _value(r: Reader, path: str, name: str, value: Any) -> Any:
    """One value of a field of a block, checked; a fault is recorded with its path."""
    words = {"op": _OPS, "nl": NLS, "skip": SKIPS}.get(name)
    if words is not None:
        if type(value) is not str or value not in words:
            r.fault(path, f"must be one of {', '.join(words)}", value)
            return words[0]
        return value
    low, high, rule = {
        "e": (0.25, 16.0, "a number"),
        "k": (1, 31, "an odd whole number"),
        "l": (0, 32, "a whole number"),
        "se": (0, 1, "0 or 1, a number"),
        "out": (1, MAX_CHANNELS, "a whole number"),
        "width": (0.05, 8.0, "a number"),
        **dict.fromkeys(OWN, (1, 31, "an odd whole number")),
    }[name]
    if type(value) is int and value == 0 and name in _ABSENT:
        return value
    kinds = (int, float) if name in ("e", "width") else (int,)
    if type(value) not in kinds or not low <= value <= high or (name in ("k", *OWN) and value % 2 == 0):
        r.fault(path, f"must be {rule} from {low:g} to {high:g}", value)
        return low
    return value


def _choice(r: Reader, path: str, name: str, value: Any) -> Value:
    if not isinstance(value, dict):
        return cast(Value, _value(r, path, name, value))
    v = Reader(value, r.source, path, r.faults)
    label = v.text("name")
    fields = tuple((f, _value(v, v.at(f), f, v.raw(f))) for f in FIELDS if v.has(f))
    v.no_other_keys()
    return Variant(label, fields)


def _block(r: Reader) -> Block:
    if not r.is_mapping():
        return Block("?", 1, (), ())
    name = r.text("name")
    s = r.integer("s", 1, 4, 1)
    fixed: list[tuple[str, Any]] = []
    genes: list[Gene] = []
    single: list[tuple[str, Any]] = []  # fields of a named choice that is the only one
    decided_by: dict[str, list[str]] = {}  # field: the lists that set it
    for f in FIELDS:
        default = _DEFAULTS.get(f)
        raw = r.raw(f) if default is None else r.raw(f, default)
        if raw is None and not r.has(f):  # the missing `out` is recorded already
            fixed.append((f, 8))
        elif isinstance(raw, list):
            values = tuple(_choice(r, f"{r.at(f)}[{i}]", f, v) for i, v in enumerate(raw))
            labels = Gene("", f, values).labels()
            if not 1 <= len(values) <= 64:
                r.fault(r.at(f), "must offer 1 to 64 choices", raw)
            if len(set(labels)) != len(labels):
                r.fault(r.at(f), "offers the same choice twice", raw)
            if len(values) > 1:
                genes.append(Gene(f"{name}_{f}", f, values))
            if values and not isinstance(values[0], Variant):
                fixed.append((f, values[0]))
            elif len(values) == 1:
                single += cast(Variant, values[0]).fields
            for name_of in {f} | {n for v in values if isinstance(v, Variant) for n, _ in v.fields}:
                decided_by.setdefault(name_of, []).append(f)
        else:
            fixed.append((f, _value(r, r.at(f), f, raw)))
    r.no_other_keys()
    if (n := math.prod(len(g.values) for g in genes)) > MAX_COMBINATIONS:
        r.fault(r.path, f"a block offers at most {MAX_COMBINATIONS:,} combinations of its choices", n)
    for f, lists in decided_by.items():
        if len(lists) > 1:
            r.fault(r.at(f), f"is set by {' and '.join(lists)}", cure="set it in one of them only")
    block = Block(name, s, (*_DEFAULTS.items(), *fixed, *single), tuple(genes))
    if not r.faults:
        _possible(r, block)
    return block


def _every(block: Block, name: str) -> set[Any]:
    """The values that a field of a block can have."""
    pairs = [(f, v) for f, v in dict(block.fixed).items() if not any(gene.field == f for gene in block.genes)]
    for gene in block.genes:
        for value in gene.values:
            pairs += value.fields if isinstance(value, Variant) else [(gene.field, value)]
    return {v for f, v in pairs if f == name}


def _most(block: Block, name: str) -> Any:
    """The largest value of a field of a block."""
    return max(_every(block, name))


def _size(r: Reader, blocks: tuple[Block, ...], stem: Conv) -> None:
    """Record faults where the largest network of the space exceeds a limit of ArchSpec."""
    if (rows := sum(_most(b, "l") for b in blocks)) > MAX_ROWS:
        r.fault("blocks", f"a network has at most {MAX_ROWS} rows", rows)
    cin = stem.out
    for i, block in enumerate(blocks):
        out = make_divisible(_most(block, "out") * _most(block, "width"))
        if max(out, _most(block, "e") * max(cin, out if _most(block, "l") > 1 else 0)) > MAX_CHANNELS:
            r.fault(f"blocks[{i}]", f"its largest layer has more than {MAX_CHANNELS} channels")
        cin = out


def _absent(r: Reader, blocks: tuple[Block, ...], stem: Conv) -> None:
    """Record faults of blocks that may be left out (`l` of 0) and change the map that they would leave."""
    widths = {float(stem.out)}
    for i, block in enumerate(blocks):
        own = {o * w for o, w in itertools.product(_every(block, "out"), _every(block, "width"))}
        if 0 in _every(block, "l") and (block.s != 1 or len(own) != 1 or own != widths):
            rule = "only a block of stride 1 that is as wide as the one before it can be left out"
            r.fault(f"blocks[{i}].l", rule, 0, "give it one layer or more")
        widths = own


def _possible(r: Reader, block: Block) -> None:
    """Faults of a block that has a layer which its kind of row cannot be."""
    chosen = [range(len(g.values)) if _decides(g) else range(1) for g in block.genes]
    for choices in itertools.product(*chosen):
        s = block.settings(choices)
        if s["op"] == "identity":
            continue
        kind = ROWS[s["op"]]
        own: dict[str, Any] = {name: s[name] if name in OWN else 8 for name in kind.OWN}
        if fault := next(iter(kind(k=s["k"], out=8, s=block.s, **own).faults("", 8)), None):
            r.fault(f"{r.path}{fault.path}", f"{s['op']}: {fault.rule}", s["k"], fault.cure)
            return


def _decides(gene: Gene) -> bool:
    """Whether a gene says which kind a row is, or its kernels."""
    fields = {f for v in gene.values for f in (dict(v.fields) if isinstance(v, Variant) else (gene.field,))}
    return bool(fields & {"op", "k", *OWN})


def _plain_conv(r: Reader) -> Conv:
    if not r.is_mapping():
        return Conv(k=1, out=8)
    k = r.integer("k", 1, 31)
    if k % 2 == 0:
        r.fault(r.at("k"), "must be odd", k)
    conv = Conv(
        k=k if k % 2 else 1,
        out=r.integer("out", 1, MAX_CHANNELS),
        nl=cast(NL, r.word("nl", NLS)),
        s=r.integer("s", 1, 4, 1),
    )
    r.no_other_keys()
    return conv


def _scales(r: Reader) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """(widths, sides in pixels) that --scale auto chooses from."""
    s = r.child("scales")
    s.is_mapping()
    found = []
    for name, low, high, kinds, rule in (
        ("widths", 0.05, 8.0, (int, float), "numbers"), ("sides", 16, 2048, (int,), "whole numbers"),
    ):  # fmt: skip
        values = s.raw(name)
        ok = isinstance(values, list) and values and all(type(v) in kinds and low <= v <= high for v in values)
        if s.has(name) and not ok:
            s.fault(s.at(name), f"must be a list of {rule} from {low:g} to {high:g}", values)
        found.append(tuple(values) if ok and isinstance(values, list) else ())
    s.no_other_keys()
    return tuple(map(float, found[0])), found[1]


def parse_space(text: str, source: str = "space") -> SearchSpace:
    """The space of a YAML text.

    Raises:
        DocumentError: lists every fault with its path, rule and value.
    """
    r = Reader(parse_yaml(text, source), source)
    if not r.is_mapping():
        r.finish()
    r.format_line(FORMAT)
    name = r.text("name")
    about = r.text("source", "none")
    inp = r.child("input")
    inp.is_mapping()
    res = read_resolution(inp)
    inp.no_other_keys()
    bn = r.child("bn") if r.has("bn") else Reader({}, source, "bn", r.faults)
    eps, momentum = bn.number("eps", 1e-12, 1.0, 1e-3), bn.number("momentum", 0.0, 1.0, 0.01)
    bn.no_other_keys()
    gate = cast(Gate, r.word("gate", GATES, "HSIGMOID"))
    se_of = cast(Literal["input", "expansion"], r.word("se_of", ("input", "expansion"), "expansion"))
    se_ratio = r.number("se_ratio", 0.01, 1.0, 0.25)
    stem = _plain_conv(r.child("stem"))
    blocks = tuple(_block(b) for b in r.children("blocks", 32))
    if len({b.name for b in blocks}) != len(blocks):
        r.fault("blocks", "two blocks have the same name", [b.name for b in blocks])
    if blocks and not any(b.genes for b in blocks):
        r.fault("blocks", "no block offers a choice", cure="give a field a list, such as k: [3, 5]")
    widths, sides = _scales(r) if r.has("scales") else ((), ())
    tail = _plain_conv(r.child("tail")) if r.has("tail") else None
    h = r.child("head")
    h.is_mapping()
    head = Classify.read(h)
    h.no_other_keys()
    r.no_other_keys()
    if not r.faults:
        _size(r, blocks, stem)
        _absent(r, blocks, stem)
    r.finish()
    return SearchSpace(
        name=name, resolution=res, stem=stem, blocks=blocks, tail=tail, head=head, gate=gate, bn_eps=eps,
        bn_momentum=momentum, se_of=se_of, se_ratio=se_ratio, source=about, widths=widths, sides=sides,
    )  # fmt: skip


def load_space(name_or_path: str | Path) -> SearchSpace:
    """A preset by name (`mnasnet-imagenet`) or a space from a YAML file.

    Raises:
        BadInput: neither a preset nor a readable file.
        DocumentError: the file breaks its rules.
    """
    return parse_space(*space_text(name_or_path))


def space_text(name_or_path: str | Path) -> tuple[str, str]:
    """(YAML, where it is from) of a preset or a file. Raises: BadInput: neither a preset nor a readable file."""
    text = str(name_or_path)
    text = OTHER_NAMES.get(text, text)
    if text in PRESETS:
        source = f"{text}.yaml"
        return (resources.files("mbv3.space") / "presets" / source).read_text("utf-8"), source
    path = Path(name_or_path)
    # os.path.exists answers False for names that Path.exists() raises on (too long, a NUL byte)
    if not text or (path.suffix not in (".yaml", ".yml") and not os.path.exists(path)):
        known = ", ".join((*PRESETS, *OTHER_NAMES))
        raise BadInput(f"{shown(text)} is neither a YAML file nor one of the spaces {known}")
    return read_text(path, "space"), text
