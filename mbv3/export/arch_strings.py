"""timm's block strings as a spec: the inverse of the `arch_def` that `export --to timm` writes.

Source: timm 1.0.31, models/_efficientnet_builder.py (`_decode_block_str`) and _efficientnet_blocks.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from mbv3.errors import BadInput, plain
from mbv3.spec import NL, UIB, ArchSpec, Classify, Conv, DSConv, Fused, MBConv, Row, make_divisible

__all__ = ["block_strings", "spec_of_strings"]

_BLOCK = re.compile(r"(?<![A-Za-z0-9_.])[a-z]+_r[0-9]+[A-Za-z0-9_.\-]*")
_PART = re.compile(r"([a-z]+)([0-9]{1,6}(?:\.[0-9]{1,20})?)")
_NLS: dict[str, NL] = {"re": "RE", "r6": "RE6", "hs": "HS", "sw": "SILU"}
_KINDS = ("ds", "dsa", "ir", "er", "cn", "uir")


def block_strings(text: str) -> list[str]:
    """The block strings of a text, with or without brackets and quotes around them."""
    return _BLOCK.findall(text)


def spec_of_strings(
    strings: Sequence[str], name: str, *, stem: int = 0, features: int | None = None, nl: str = ""
) -> ArchSpec:
    """The network of timm's block strings, for 1,000 classes at 224 px.

    Strings say neither stem nor head. Where the last is a 1x1 convolution it is timm's MobileNetV3 (stem 16, h-swish,
    1,280 features behind the average, squeeze ratios of the expansion), else its EfficientNet (stem 32, ReLU6, a 1x1
    convolution to 1,280, squeeze ratios of the block's input). `stem`, `features`, `nl`: others.

    Raises:
        BadInput: no strings, or one that a spec cannot express.
    """
    if not strings:
        raise BadInput("timm's block strings are like ir_r2_k3_s2_e6_c24_se0.25_nre (got none)")
    parts = [_decoded(text) for text in strings]
    last = parts[-1]
    v3 = last["kind"] == "cn" and last.get("k") == 1
    act = cast(NL, nl or ("HS" if v3 else "RE6"))
    size = 1280 if features is None else features
    first = Conv(k=3, out=stem or (16 if v3 else 32), nl=act, s=2)
    rows: list[Row] = []
    cin = first.out
    for part in parts:
        for i in range(part["r"]):
            row = _row(part, cin, part["s"] if i == 0 else 1, act, v3)
            rows.append(row)
            cin = row.out
    tail: Conv | None = None
    if v3 and isinstance(rows[-1], Conv) and rows[-1].skip == "none" and rows[-1].s == 1:
        tail = cast(Conv, rows.pop())
    elif not v3 and size:
        tail = Conv(k=1, out=size, nl=act)
    sigmoid = not v3 and any(row.se for row in rows)
    return ArchSpec(
        name=name, resolution=(224, 224), stem=first, rows=tuple(rows), tail=tail, bn_eps=1e-5, bn_momentum=0.1,
        head=Classify(features=size if v3 else 0, nl=act), gate="SIGMOID" if sigmoid else "HSIGMOID",
    )  # fmt: skip


def _decoded(text: str) -> dict[str, Any]:
    kind, *rest = text.split("_")
    if kind not in _KINDS:
        raise BadInput(f"{plain(text)}: blocks of kind {plain(kind)} have no row here; there are {', '.join(_KINDS)}")
    found: dict[str, Any] = {"kind": kind, "s": 1, "e": 1.0, "text": text}
    for word in rest:
        if word in ("skip", "noskip"):
            found[word] = True
        elif word.startswith("n") and word[1:] in _NLS:
            found["nl"] = _NLS[word[1:]]
        elif (part := _PART.fullmatch(word)) and part[1] in ("r", "k", "s", "c", "a", "d") and part[2].isdigit():
            found[part[1]] = int(part[2])
        elif part and part[1] in ("e", "se"):
            found[part[1]] = float(part[2])
        else:
            raise BadInput(f"{plain(text)}: {plain(word)} has no meaning for a spec")
    missing = [letter for letter in ("r", "k", "c") if letter not in found]
    if missing:
        raise BadInput(f"{plain(text)}: says no {', '.join(missing)} (repeats, kernel, channels)")
    if not 1 <= found["r"] <= 64:
        raise BadInput(f"{plain(text)}: repeats must be from 1 to 64")
    if found["c"] < 1:
        raise BadInput(f"{plain(text)}: channels must be 1 or more")
    if found["e"] <= 0:
        raise BadInput(f"{plain(text)}: the expansion must be above 0")
    if found.get("d"):
        raise BadInput(f"{plain(text)}: d{found['d']} is space-to-depth in timm, which no row has")
    if "a" in found and kind != "uir":
        raise BadInput(f"{plain(text)}: a{found['a']} has a meaning for uir blocks only")
    return found


def _row(part: dict[str, Any], cin: int, s: int, act: NL, v3: bool) -> Row:
    out = make_divisible(part["c"])
    nl = part.get("nl", act)
    kind, k = part["kind"], part["k"]
    joined = s == 1 and cin == out and not part.get("noskip", False)
    skip: Any = "identity" if joined else "none"
    mid = make_divisible(cin * part["e"])
    if kind == "cn":
        return Conv(k=k, out=out, nl=nl, s=s, skip=skip if part.get("skip") else "none")
    if kind == "er":
        return Fused(k=k, exp=mid, out=out, nl=nl, s=s, skip=skip, **_squeezed(part, cin, mid, nl, v3))
    if kind == "uir":
        squeezed = _squeezed(part, cin, mid, nl, v3)
        return UIB(a=part.get("a", 0), k=k, exp=mid, out=out, nl=nl, s=s, skip=skip, **squeezed)
    if kind == "ir":
        squeezed = _squeezed(part, cin, mid, nl, v3)
        if mid == cin:  # timm's always expands
            return UIB(a=0, k=k, exp=mid, out=out, nl=nl, s=s, skip=skip, **squeezed)
        return MBConv(k=k, exp=mid, out=out, nl=nl, s=s, skip=skip, **squeezed)
    squeezed = _squeezed({**part, "e": 1.0}, cin, cin, nl, v3)
    if kind == "dsa":
        return DSConv(k=k, out=out, nl=nl, out_nl=nl, s=s, **squeezed)
    return replace(MBConv(k=k, exp=cin, out=out, nl=nl, s=s, **squeezed), skip=skip)


def _squeezed(part: dict[str, Any], cin: int, mid: int, nl: NL, v3: bool) -> dict[str, Any]:
    """Squeeze channels: a share of the expansion in MobileNetV3, rounded to 8s with ReLU inside; of the block's input
    in EfficientNet, with the block's activation."""
    share = part.get("se", 0.0)
    if not share:
        return {}
    if v3:
        return {"se": make_divisible(mid * share)}
    return {"se": max(1, round(mid * (share / part["e"]))), "se_nl": nl}
