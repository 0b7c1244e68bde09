"""Write mbv3/accuracy/networks/*.yaml: networks of the zoo that mbv3.spec does not have by name, from their tables.

python scripts/write_zoo_networks.py
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagenet_networks as nets
from imagenet_networks import B

from mbv3.spec import ArchSpec, Classify, Conv, DSConv, MBConv, Row, dump_spec, make_divisible

OUT = Path(__file__).resolve().parents[1] / "mbv3/accuracy/networks"


def network(
    name: str, source: str, blocks: Sequence[B], *, stem: int, nl: Any, tail: int, features: int = 0,
    se_of: str = "input", gate: Any = "SIGMOID", eps: float = 1e-5, width: float = 1.0, depth: float = 1.0,
    fixed: bool = False, side: int = 224,
) -> ArchSpec:  # fmt: skip
    """A network of stages as rows; `fixed` leaves stem, tail and the depth of the first and last stage as they are."""
    rows: list[Row] = []
    cin = stem if fixed else make_divisible(stem * width)
    first = Conv(k=3, out=cin, nl=nl, s=2)
    for i, b in enumerate(blocks):
        for j in range(b.n if fixed and i in (0, len(blocks) - 1) else math.ceil(b.n * depth)):
            out, s, exp = make_divisible(b.c * width), b.s if j == 0 else 1, make_divisible(cin * b.e)
            se = 0 if not b.se else max(1, int(cin * b.se)) if se_of == "input" else make_divisible(exp * b.se)
            shared: dict[str, Any] = {
                "k": b.k, "out": out, "se": se, "nl": b.nl or nl, "s": s,
                "skip": "identity" if s == 1 and cin == out else "none",
            }  # fmt: skip
            rows.append(DSConv(**shared) if exp == cin else MBConv(exp=exp, **shared))
            cin = out
    return ArchSpec(
        name=name,
        resolution=(side, side),
        stem=first,
        rows=tuple(rows),
        tail=Conv(k=1, out=tail, nl=nl),
        head=Classify(features=features, nl=nl if features else "HS"),
        gate=gate,
        bn_eps=eps,
        bn_momentum=0.1,
        provenance=(("source", source),),
    )


def main() -> None:
    made = [
        network("spnasnet_100", "Stamoulis 2019 (arXiv:1904.02877)", nets.SPNAS, stem=32, nl="RE", tail=1280),
        network("mnasnet_small", "Tan 2019 (arXiv:1807.11626)", nets.SMALL_MNAS, stem=8, nl="RE", tail=1280),
    ]
    for letter, width, depth in (("110d", 1.1, 1.2), ("120d", 1.2, 1.4)):
        source = "Sandler 2018 (arXiv:1801.04381), deeper: timm"
        made.append(
            network(
                f"mobilenetv2_{letter}",
                source,
                nets.V2,
                stem=32,
                nl="RE6",
                tail=1280,
                width=width,
                depth=depth,
                fixed=True,
            )
        )
    lite = ((1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 300), (1.4, 1.8, 380))
    for n, (width, depth, side) in enumerate(lite):
        made.append(
            network(
                f"efficientnet_lite{n}",
                "EfficientNet-Lite (tensorflow/tpu, Apache-2.0)",
                nets.LITE,
                stem=32,
                nl="RE6",
                tail=1280,
                eps=1e-3,
                width=width,
                depth=depth,
                fixed=True,
                side=side,
            )
        )
    for letter in nets.HARDCORE:
        made.append(
            network(
                f"hardcorenas_{letter}",
                "Nayman 2021 (arXiv:2102.11646)",
                nets.hardcore_rows(letter),
                stem=32,
                nl="HS",
                tail=960,
                features=1280,
                se_of="expansion",
                gate="HSIGMOID",
            )
        )
    OUT.mkdir(exist_ok=True)
    for spec in made:
        (OUT / f"{spec.name}.yaml").write_text(dump_spec(spec), encoding="utf-8")


if __name__ == "__main__":
    main()
