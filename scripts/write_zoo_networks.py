"""Write mbv3/accuracy/networks/*.yaml: networks of the zoo that mbv3.spec does not have by name, from their tables.

python scripts/write_zoo_networks.py
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagenet_networks as nets
from imagenet_evidence import EFFICIENT, TINY
from imagenet_networks import B, with_limit

from mbv3.spec import UIB, ArchSpec, Classify, Conv, DSConv, Fused, MBConv, Row, dump_spec, load_spec, make_divisible

OUT = Path(__file__).resolve().parents[1] / "mbv3/accuracy/networks"


@dataclass(frozen=True, kw_only=True)
class Style:
    """What all rows of a network share. `fixed` leaves stem, tail and the depth of the first and last stage as they
    are; `se_of`: squeeze channels are a quarter of the "input" or of the "expansion"; `out_nl`: ds rows end in it."""

    nl: Any
    stem: int
    tail: int
    features: int = 0
    se_of: str = "input"
    se_round: Callable[[float], int] = round
    se_nl: Any = "RE"
    gate: Any = "SIGMOID"
    eps: float = 1e-5
    width: float = 1.0
    depth: float = 1.0
    depth_round: Callable[[float], int] = math.ceil
    fixed: bool = False
    fix_stem: bool = False
    out_nl: Any = "NONE"
    round_to: Callable[[float], int] = make_divisible
    side: int = 224
    features_bias: bool = True


def row(b: B, style: Style, cin: int, out: int, s: int) -> Row:
    """One block after `cin` channels."""
    exp = make_divisible(cin * b.e)
    se = 0
    if b.se:
        se = max(1, style.se_round((exp if style.se_of == "expansion" else cin) * b.se))
    more: dict[str, Any] = {
        "k": b.k, "out": out, "se": se, "nl": b.nl or style.nl, "s": s,
        "skip": "identity" if s == 1 and cin == out and b.skip and b.kind != "ds" else "none",
    }  # fmt: skip
    if se:
        more["se_nl"] = style.se_nl
    if b.kind == "conv":
        return Conv(**more)
    if b.kind == "fused":
        return Fused(exp=exp, **more)
    if b.kind == "ds":
        return DSConv(out_nl=style.out_nl, **more)
    if exp == cin:
        return UIB(a=0, exp=exp, **more) if b.kind == "always" else DSConv(**more)
    return MBConv(exp=exp, **more)


def network(name: str, source: str, blocks: Sequence[B], style: Style, stages: str = "") -> ArchSpec:
    """A network of stages as rows; `stages`: how many blocks timm's have, where that is not seen from the rows."""
    rows: list[Row] = []
    cin = style.stem if style.fixed or style.fix_stem else style.round_to(style.stem * style.width)
    first = Conv(k=3, out=cin, nl=style.nl, s=2)
    for i, b in enumerate(blocks):
        ends = style.fixed and i in (0, len(blocks) - 1)
        for j in range(b.n if ends else max(1, style.depth_round(b.n * style.depth))):
            rows.append(row(b, style, cin, style.round_to(b.c * style.width), b.s if j == 0 else 1))
            cin = rows[-1].out
    notes = (("source", source), *((("timm stages", stages),) if stages else ()))
    head = Classify(features=style.features, nl=style.nl if style.features else "HS", features_bias=style.features_bias)
    return ArchSpec(
        name=name,
        resolution=(style.side, style.side),
        stem=first,
        rows=tuple(rows),
        tail=Conv(k=1, out=style.tail, nl=style.nl) if style.tail else None,
        head=head,
        gate=style.gate,
        bn_eps=style.eps,
        bn_momentum=0.1,
        provenance=notes,
    )


def v1_and_lcnet() -> Iterator[ArchSpec]:
    for name, width, tail in (("100", 1.0, 0), ("100h", 1.0, 1024), ("125", 1.25, 0)):
        style = Style(nl="RE6", stem=32, tail=tail, width=width, out_nl="RE6")
        yield network(f"mobilenetv1_{name}", "Howard 2017 (arXiv:1704.04861)", nets.V1, style)
    for name, width in (("050", 0.5), ("075", 0.75), ("100", 1.0)):
        # at 1.0 MobileNetV3's rule and timm's round(C / 4) agree: every width here is a multiple of 32
        style = Style(nl="HS", stem=16, tail=0, features=1280, gate="HSIGMOID", width=width, out_nl="HS")
        yield network(f"lcnet_{name}", "Cui 2021 (arXiv:2109.15099)", nets.LCNET, style, "1 2 2 2 4 2")


def v2() -> Iterator[ArchSpec]:
    for letter, width, depth in (("110d", 1.1, 1.2), ("120d", 1.2, 1.4)):
        style = Style(nl="RE6", stem=32, tail=1280, width=width, depth=depth, fixed=True)
        yield network(f"mobilenetv2_{letter}", "Sandler 2018 (arXiv:1801.04381), deeper: timm", nets.V2, style)


def v3() -> Iterator[ArchSpec]:
    v3 = {"se_of": "expansion", "se_round": make_divisible, "gate": "HSIGMOID"}
    style = Style(nl="HS", stem=16, tail=288, features=1024, width=0.5, fix_stem=True, **v3)  # type: ignore[arg-type]
    yield network("mobilenetv3_small_050", "Howard 2019 (arXiv:1905.02244)", nets.V3_SMALL, style, "1 2 3 2 3")
    style = Style(nl="HS", stem=16, tail=0, features=1280, width=1.5, side=256, **v3)  # type: ignore[arg-type]
    deeper = "Howard 2019 (arXiv:1905.02244), wider and deeper: timm"
    yield network("mobilenetv3_large_150d", deeper, nets.V3_150D, style)
    large = load_spec("mobilenet_v3_large")
    # timm's first one: no skip in row 0, squeezes that are not rounded, the row's own activation inside, no bias
    rows = [replace(r, se=round(r.inner(0) / 4) if r.se else 0, se_nl=r.nl if r.se else "RE") for r in large.rows]
    rows[0] = replace(rows[0], skip="none")
    yield replace(
        large, name="mobilenetv3_rw", rows=tuple(rows), head=replace(large.head, features_bias=False), bn_momentum=0.1,
        provenance=(("source", "Howard 2019 (arXiv:1905.02244), timm's reading"),),
    )  # fmt: skip


def mnasnet_like() -> Iterator[ArchSpec]:
    style = Style(nl="RE", stem=32, tail=1280)
    yield network("spnasnet_100", "Stamoulis 2019 (arXiv:1904.02877)", nets.SPNAS, style)
    style = Style(nl="RE", stem=8, tail=1280)
    yield network("mnasnet_small", "Tan 2019 (arXiv:1807.11626)", nets.SMALL_MNAS, style, "1 1 2 4 3 3 1")
    style = Style(nl="RE", stem=16, tail=1984, eps=1e-3)
    yield network("fbnetc_100", "Wu 2019 (arXiv:1812.03443)", nets.FBNETC, style)


def hardcore_and_fbnetv3() -> Iterator[ArchSpec]:
    for letter in nets.HARDCORE:
        style = Style(
            nl="HS", stem=32, tail=960, features=1280, se_of="expansion", se_round=make_divisible, gate="HSIGMOID"
        )
        yield network(f"hardcorenas_{letter}", "Nayman 2021 (arXiv:2102.11646)", nets.hardcore_rows(letter), style)
    for letter, (stem, tail, rows) in nets.FBNETV3.items():
        style = Style(
            nl="HS", stem=stem, tail=tail, features=1984, se_round=with_limit(0.95), se_nl="HS", gate="HSIGMOID",
            features_bias=False, side=288 if letter == "g" else 256,
        )  # fmt: skip
        stages: list[int] = []
        for i, b in enumerate(rows):  # a stage begins with a stride, or with the fifth's wider blocks
            if i == 0 or b.s == 2 or (b.c > rows[i - 1].c and b.c < 200):
                stages.append(0)
            stages[-1] += b.n
        yield network(f"fbnetv3_{letter}", "Dai 2020 (arXiv:2006.02049)", rows, style, " ".join(map(str, stages)))


def efficientnets() -> Iterator[ArchSpec]:
    lite = "EfficientNet-Lite (tensorflow/tpu, Apache-2.0)"
    for n, side in enumerate((224, 240, 260, 300, 380)):
        width, depth = EFFICIENT[f"b{n}"]
        style = Style(nl="RE6", stem=32, tail=1280, eps=1e-3, width=width, depth=depth, fixed=True, side=side)
        yield network(f"efficientnet_lite{n}", lite, nets.LITE, style)
        swish = Style(
            nl="SILU", stem=32, tail=make_divisible(1280 * width), se_nl="SILU", width=width, depth=depth, side=side
        )
        yield network(f"efficientnet_b{n}", "Tan 2019 (arXiv:1905.11946)", nets.B0, swish)
    for letter, side in zip("abcde", (192, 188, 184, 152, 106), strict=True):
        width, depth = TINY[letter]
        style = Style(
            nl="SILU", stem=32, tail=1280, se_nl="SILU", width=width, depth=depth, depth_round=round, fix_stem=True,
            side=side,
        )  # fmt: skip
        yield network(f"tinynet_{letter}", "Han 2020 (arXiv:2010.14819)", nets.B0, style)
    v2_sides = {"b0": 192, "b1": 192, "b2": 208, "b3": 240}
    for name, side in v2_sides.items():
        width, depth = EFFICIENT[name]
        plain = with_limit(0)
        style = Style(
            nl="SILU", stem=32, tail=plain(1280 * width), se_nl="SILU", width=width, depth=depth, round_to=plain,
            eps=1e-3, side=side,
        )  # fmt: skip
        yield network(f"efficientnetv2_{name}", "Tan 2021 (arXiv:2104.00298)", nets.EFFICIENT_V2, style)


def edge() -> Iterator[ArchSpec]:
    """EfficientNet-EdgeTPU: its first stage expands 4 times its output, and adds nothing."""
    for size, width, depth, side in (("es", 1.0, 1.0, 224), ("em", 1.0, 1.1, 240), ("el", 1.2, 1.4, 300)):
        stem, first = make_divisible(32 * width), make_divisible(24 * width)
        ahead = [B(24, 3, 4 * first / stem, kind="fused", skip=False)]
        ahead += [B(24, 3, 4, kind="fused", skip=False)] * (math.ceil(depth) - 1)
        rest = [
            B(32, 3, 8, 2, 2, kind="fused"), B(48, 3, 8, 4, 2, kind="fused"), B(96, 5, 8, 5, 2), B(144, 5, 8, 4),
            B(192, 5, 8, 2, 2),
        ]  # fmt: skip
        rows = [*ahead, *(replace(b, n=math.ceil(b.n * depth)) for b in rest)]
        style = Style(nl="RE", stem=32, tail=make_divisible(1280 * width), width=width, side=side)
        yield network(f"efficientnet_{size}", "EfficientNet-EdgeTPU (tensorflow/tpu, Apache-2.0)", rows, style)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for made in (v1_and_lcnet, v2, v3, mnasnet_like, hardcore_and_fbnetv3, efficientnets, edge):
        for spec in made():
            (OUT / f"{spec.name}.yaml").write_text(dump_spec(spec), encoding="utf-8")


if __name__ == "__main__":
    main()
