"""The published networks behind the ImageNet model, as layers of operations, by family, width and resolution.

Only what the accuracy model reads matters here: convolutions, kernels, channels, squeezes, nonlinearities, strides.
Sources: the papers of each family; the tables of timm (huggingface/pytorch-image-models, Apache-2.0) where it has one.
Their parameter counts are checked by tests/accuracy/test_evidence.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mbv3.spec import Op, Tensor, Walk, load_spec, lower, make_divisible

Ops = tuple[Op, ...]
SIDE = 1024  # any side that every stride divides: the model reads strides, not sizes


@dataclass(frozen=True)
class B:
    """`n` blocks: start depthwise `a`, expansion `e` (ratio to the input), spatial `k`, projection to `c`."""

    c: int
    k: int = 3
    e: float = 1
    n: int = 1
    s: int = 1
    se: float = 0.0
    nl: str = ""
    a: int = 0
    kind: str = "ir"  # ir, ds, conv, fused, always: an ir that expands to as many channels too
    skip: bool = True


def with_limit(limit: float) -> Callable[[float], int]:
    """Multiples of 8 that are not below `limit` times the number; make_divisible has 0.9."""

    def rounded(v: float) -> int:
        new = max(8, int(v + 4) // 8 * 8)
        return new + 8 if new < limit * v else new

    return rounded


class Net:
    """Collects layers while it tracks channels and size."""

    def __init__(self, nl: str, se: str = "input", round_to: Callable[[float], int] = make_divisible) -> None:
        self.layers: list[Ops] = []
        self.here = Tensor("input", 3, SIDE, SIDE)
        self.nl, self.se, self.round = nl, se, round_to

    def _walk(self) -> Walk:
        return Walk(f"layer{len(self.layers)}", self.here)

    def _end(self, x: Walk) -> None:
        self.layers.append(tuple(x.ops))
        self.here = x.here

    def conv(self, c: int, k: int = 1, s: int = 1, nl: str = "") -> None:
        x = self._walk()
        x.conv("conv", c, k=k, s=s)
        x.act("conv", nl or self.nl)  # type: ignore[arg-type]
        self._end(x)

    def block(self, b: B, c: int, s: int) -> None:
        nl: Any = b.nl or self.nl
        if b.kind == "conv":
            self.conv(c, b.k, s, nl)
            return
        x, source = self._walk(), self.here
        exp = self.round(source.c * b.e)
        if b.a:
            x.conv("start.conv", source.c, k=b.a, groups=source.c, s=1 if b.k else s)
        if b.kind == "fused":
            x.unit("expand", exp, nl, k=b.k, s=s)
        elif exp != source.c or b.kind == "always":
            x.unit("expand", exp, nl)
        if b.k and b.kind != "fused":
            x.unit("depthwise", exp, nl, k=b.k, s=s, groups=exp)
        if b.se:
            squeezed = {
                "input": max(1, int(source.c * b.se)), "rounded input": with_limit(0.95)(source.c * b.se),
                "expansion": make_divisible(exp * b.se),
            }[self.se]  # fmt: skip
            x.squeeze_excite(squeezed, "SIGMOID")
        x.conv("project.conv", c)
        if s == 1 and source.c == c and b.kind != "ds":
            x.skip("identity", source, 1)
        self._end(x)

    def head(self, features: int, classes: int = 1000, nl: str = "") -> tuple[Ops, ...]:
        x = self._walk()
        x.average("pool")
        if features:
            x.conv("features", features, bn=False)
            x.act("features", nl or self.nl)  # type: ignore[arg-type]
        x.conv("classifier", classes, bn=False)
        self._end(x)
        return tuple(self.layers)


def params(layers: Sequence[Ops]) -> int:
    return sum(op.params for ops in layers for op in ops)


def build(
    blocks: Sequence[B], *, stem: int, nl: str, tail: int, features: int = 0, se: str = "input", width: float = 1.0,
    depth: float = 1.0, fix_first_last: bool = False, fix_stem: bool = False, tail_grows: str = "fixed-below-1",
    stem_k: int = 3, tail_nl: str = "", round_to: Callable[[float], int] = make_divisible,
) -> tuple[Ops, ...]:  # fmt: skip
    """A network of stages, at a width and a depth, as timm and TensorFlow scale them."""

    def wide(c: float) -> int:
        return round_to(c * width)

    net = Net(nl, se)
    net.conv(stem if fix_stem else wide(stem), stem_k, 2)
    for i, b in enumerate(blocks):
        ends = fix_first_last and i in (0, len(blocks) - 1)
        n = b.n if ends or depth == 1.0 else math.ceil(b.n * depth)
        for j in range(n):
            net.block(b, wide(b.c), b.s if j == 0 else 1)
    if tail:
        grown = {"fixed": tail, "fixed-below-1": max(tail, wide(tail)), "scaled": wide(tail)}[tail_grows]
        net.conv(grown, nl=tail_nl)
    return net.head(features)


def spec_layers(name: str) -> tuple[Ops, ...]:
    """A network that the package itself has, by name@width."""
    return tuple(layer.ops for layer in lower(replace(load_spec(name), resolution=(SIDE, SIDE))))


def with_features(layers: tuple[Ops, ...], features: int) -> tuple[Ops, ...]:
    """The network with another layer of features before the classifier."""
    net = Net("HS")
    last = layers[-1][0]
    net.layers, net.here = list(layers[:-1]), Tensor(last.inputs[0], last.cin, last.hin, last.win)
    return net.head(features)


V1 = (
    B(64, kind="ds"), B(128, s=2, n=2, kind="ds"), B(256, s=2, n=2, kind="ds"),
    B(512, s=2, n=6, kind="ds"), B(1024, s=2, n=2, kind="ds"),
)  # fmt: skip
FD_V1 = (B(64, s=2, kind="ds"), B(128, s=2, kind="ds"), B(128, kind="ds"), B(256, s=2, kind="ds"), B(256, kind="ds"),
         B(512, s=2, kind="ds"), B(512, n=4, kind="ds"), B(1024, kind="ds"))  # fmt: skip
V2 = (B(16), B(24, e=6, n=2, s=2), B(32, e=6, n=3, s=2), B(64, e=6, n=4, s=2), B(96, e=6, n=3), B(160, e=6, n=3, s=2),
      B(320, e=6))  # fmt: skip
SMALL_MNAS = (
    B(8), B(16, e=3, s=2), B(16, e=6, n=2, s=2), B(32, 5, 6, 4, 2, 0.25), B(32, 3, 6, 3, 1, 0.25),
    B(88, 5, 6, 3, 2, 0.25), B(144, 3, 6),
)  # fmt: skip
V3_SMALL = (
    B(16, 3, 1, 1, 2, 0.25, "RE"), B(24, 3, 4.5, 1, 2, nl="RE"), B(24, 3, 3.67, nl="RE"), B(40, 5, 4, 1, 2, 0.25),
    B(40, 5, 6, 2, 1, 0.25), B(48, 5, 3, 2, 1, 0.25), B(96, 5, 6, 3, 2, 0.25),
)  # fmt: skip
SPNAS = (
    B(16), B(24, 3, 3, 3, 2), B(40, 5, 6, 1, 2), B(40, 3, 3, 3), B(80, 5, 6, 1, 2), B(80, 3, 3, 3), B(96, 5, 6),
    B(96, 5, 3, 3), B(192, 5, 6, 4, 2), B(320, 3, 6),
)  # fmt: skip
FBNETC = tuple(
    replace(b, kind="always")
    for b in (
        B(16), B(24, 3, 6, 1, 2), B(24, 3, 1, 2), B(32, 5, 6, 1, 2), B(32, 5, 3), B(32, 5, 6), B(32, 3, 6),
        B(64, 5, 6, 1, 2), B(64, 5, 3), B(64, 5, 6, 2), B(112, 5, 6, 3), B(112, 5, 3), B(184, 5, 6, 4, 2),
        B(352, 3, 6),
    )
)  # fmt: skip
B0 = tuple(
    B(c, k, e, n, s, 0.25)
    for c, k, e, n, s in (
        (16, 3, 1, 1, 1), (24, 3, 6, 2, 2), (40, 5, 6, 2, 2), (80, 3, 6, 3, 2), (112, 5, 6, 3, 1), (192, 5, 6, 4, 2),
        (320, 3, 6, 1, 1),
    )
)  # fmt: skip
LITE = tuple(B(b.c, b.k, b.e, b.n, b.s) for b in B0)
LCNET = (
    B(32, kind="ds"), B(64, s=2, n=2, kind="ds"), B(128, s=2, n=2, kind="ds"), B(256, s=2, kind="ds"),
    B(256, 5, n=5, kind="ds"), B(512, 5, s=2, n=2, kind="ds", se=0.25),
)  # fmt: skip


def _x(a: int, k: int, e: float, c: int, s: int = 1, n: int = 1) -> B:
    return B(c, k, e, n, s, a=a)


V4S = (
    B(32, 3, s=2, kind="conv"), B(32, 1, kind="conv"), B(96, 3, s=2, kind="conv"), B(64, 1, kind="conv"),
    _x(5, 5, 3, 96, 2), _x(0, 3, 2, 96, n=4), _x(3, 0, 4, 96), _x(3, 3, 6, 128, 2), _x(5, 5, 4, 128), _x(0, 5, 4, 128),
    _x(0, 5, 3, 128), _x(0, 3, 4, 128, n=2),
)  # fmt: skip
V4M = (
    B(48, 3, 4, s=2, kind="fused"), _x(3, 5, 4, 80, 2), _x(3, 3, 2, 80), _x(3, 5, 6, 160, 2), _x(3, 3, 4, 160, n=2),
    _x(3, 5, 4, 160), _x(3, 3, 4, 160), _x(3, 0, 4, 160), _x(0, 0, 2, 160), _x(3, 0, 4, 160), _x(5, 5, 6, 256, 2),
    _x(5, 5, 4, 256), _x(3, 5, 4, 256, n=2), _x(0, 0, 4, 256), _x(3, 0, 4, 256), _x(3, 5, 2, 256), _x(5, 5, 4, 256),
    _x(0, 0, 4, 256, n=2), _x(5, 0, 2, 256),
)  # fmt: skip
V4L = (
    B(48, 3, 4, s=2, kind="fused"), _x(3, 5, 4, 96, 2), _x(3, 3, 4, 96), _x(3, 5, 4, 192, 2), _x(3, 3, 4, 192, n=3),
    _x(3, 5, 4, 192), _x(5, 3, 4, 192, n=5), _x(3, 0, 4, 192), _x(5, 5, 4, 512, 2), _x(5, 5, 4, 512, n=3),
    _x(5, 0, 4, 512), _x(5, 3, 4, 512), _x(5, 0, 4, 512, n=2), _x(5, 3, 4, 512), _x(5, 5, 4, 512),
    _x(5, 0, 4, 512, n=3),
)  # fmt: skip


def _proxyless(rows: str) -> tuple[B, ...]:
    """`24.5.3.2` a row: channels, kernel, expansion, stride."""
    out = []
    for row in rows.split():
        c, k, e, s = (int(v) for v in row.split("."))
        out.append(B(c, k, e, s=s))
    return tuple(out)


PROXYLESS_MOBILE = _proxyless(
    "16.3.1.1 32.5.3.2 32.3.3.1 40.7.3.2 40.3.3.1 40.5.3.1 40.5.3.1 80.7.6.2 80.5.3.1 80.5.3.1 80.5.3.1 "
    "96.5.6.1 96.5.3.1 96.5.3.1 96.5.3.1 192.7.6.2 192.7.6.1 192.7.3.1 192.7.3.1 320.7.6.1"
)

HARDCORE = {
    "a": "24.5.3.2 24.5.3.1s 40.5.3.2 40.5.6.1s 80.5.6.2s 80.5.6.1s 112.5.6.1s 112.5.6.1s 192.5.6.2s 192.5.6.1s",
    "b": "24.5.3.2 24.5.3.1s 24.3.3.1 40.5.3.2 40.5.3.1 40.5.3.1 80.5.3.2 80.5.3.1 80.3.3.1 80.3.3.1 112.5.3.1 "
    "112.3.3.1 112.3.3.1 112.3.3.1 192.5.6.2s 192.5.6.1s 192.3.3.1s",
    "c": "24.5.3.2 24.5.3.1s 40.5.3.2 40.5.3.1 40.5.3.1 40.5.3.1 80.5.4.2 80.5.6.1s 80.3.3.1 80.3.3.1 112.5.6.1s "
    "112.3.3.1 112.3.3.1 112.3.3.1 192.5.6.2s 192.5.6.1s 192.3.3.1s",
    "d": "24.5.3.2s 24.5.3.1s 40.5.3.2s 40.5.4.1s 40.3.3.1s 80.5.4.2s 80.3.3.1s 80.3.3.1s 80.3.3.1s 112.3.4.1s "
    "112.5.4.1s 112.3.3.1s 112.5.3.1s 192.5.6.2s 192.5.6.1s 192.5.6.1s 192.3.6.1s",
    "e": "24.5.3.2s 24.5.3.1s 40.5.6.2s 40.5.4.1s 40.5.4.1s 40.3.3.1s 80.5.4.2s 80.3.6.1s 112.5.6.1s 112.5.6.1s "
    "112.5.6.1s 112.5.3.1s 192.5.6.2s 192.5.6.1s 192.5.6.1s 192.3.6.1s",
    "f": "24.5.3.2s 24.5.3.1s 40.5.6.2s 40.5.6.1s 80.5.6.2s 80.5.6.1s 80.3.3.1s 80.3.3.1s 112.3.6.1s 112.5.6.1s "
    "112.5.6.1s 112.3.3.1s 192.5.6.2s 192.5.6.1s 192.3.6.1s 192.3.6.1s",
}


def hardcore_rows(letter: str) -> list[B]:
    """HardCoRe-NAS (Nayman 2021, arXiv:2102.11646): `24.5.3.2s` is channels, kernel, expansion, stride, squeeze."""
    rows = [B(16, nl="RE")]
    for row in HARDCORE[letter].split():
        c, k, e, s = (int(v) for v in row.rstrip("s").split("."))
        rows.append(B(c, k, e, s=s, se=0.25 if row.endswith("s") else 0.0, nl="RE" if c < 80 else "HS"))
    return rows


def hardcorenas(letter: str) -> tuple[Ops, ...]:
    return build(hardcore_rows(letter), stem=32, nl="HS", tail=960, features=1280, se="expansion")


def v1(width: float, head: int = 0) -> tuple[Ops, ...]:
    return build(V1, stem=32, nl="RE6", tail=head, width=width)


def v2(width: float, depth: float = 1.0, fixed: bool = False) -> tuple[Ops, ...]:
    return build(V2, stem=32, nl="RE6", tail=1280, width=width, depth=depth, fix_first_last=fixed, fix_stem=fixed,
                 tail_grows="fixed" if fixed else "fixed-below-1")  # fmt: skip


def efficientnet(width: float, depth: float) -> tuple[Ops, ...]:
    return build(B0, stem=32, nl="HS", tail=1280, width=width, depth=depth, tail_grows="scaled")


def lite(width: float, depth: float) -> tuple[Ops, ...]:
    return build(LITE, stem=32, nl="RE6", tail=1280, width=width, depth=depth, fix_first_last=True, fix_stem=True,
                 tail_grows="fixed")  # fmt: skip


def lcnet(width: float) -> tuple[Ops, ...]:
    return build(LCNET, stem=16, nl="HS", tail=0, features=1280, se="expansion", width=width)


def v4(size: str, width: float = 1.0) -> tuple[Ops, ...]:
    rows, stem = {"s": (V4S, 32), "m": (V4M, 32), "l": (V4L, 24)}[size]
    return build(
        rows, stem=stem, nl="RE", tail=960, features=1280, width=width, fix_stem=width < 1, tail_grows="scaled"
    )


def tinynet(width: float, depth: float) -> tuple[Ops, ...]:
    rows = [B(b.c, b.k, b.e, max(1, round(b.n * depth)), b.s, b.se) for b in B0]
    return build(rows, stem=32, nl="HS", tail=1280, width=width, fix_stem=True)


EFFICIENT_V2 = (
    B(16, 3, kind="conv"), B(32, 3, 4, 2, 2, kind="fused"), B(48, 3, 4, 2, 2, kind="fused"),
    B(96, 3, 4, 3, 2, 0.25), B(112, 3, 6, 5, 1, 0.25), B(192, 3, 6, 8, 2, 0.25),
)  # fmt: skip


def efficientnetv2(width: float, depth: float) -> tuple[Ops, ...]:
    plain = with_limit(0)
    return build(
        EFFICIENT_V2, stem=32, nl="HS", tail=1280, width=width, depth=depth, tail_grows="scaled", round_to=plain
    )


FBNETV3: dict[str, tuple[int, int, tuple[B, ...]]] = {
    "b": (16, 1344, (
        B(16, 3, 1, 2), B(24, 5, 4, 1, 2), B(24, 5, 2, 3), B(40, 5, 5, 1, 2, 0.25), B(40, 5, 3, 4, 1, 0.25),
        B(72, 5, 5, 1, 2), B(72, 3, 3, 4), B(120, 3, 5, 1, 1, 0.25), B(120, 5, 3, 5, 1, 0.25),
        B(184, 3, 6, 1, 2, 0.25), B(184, 5, 4, 5, 1, 0.25), B(224, 5, 6, 1, 1, 0.25),
    )),
    "d": (24, 1440, (
        B(16, 3, 1, 2), B(24, 3, 5, 1, 2), B(24, 3, 2, 5), B(40, 5, 4, 1, 2, 0.25), B(40, 3, 3, 4, 1, 0.25),
        B(72, 3, 5, 1, 2), B(72, 3, 3, 4), B(128, 3, 5, 1, 1, 0.25), B(128, 5, 3, 6, 1, 0.25),
        B(208, 3, 6, 1, 2, 0.25), B(208, 5, 5, 5, 1, 0.25), B(240, 5, 6, 1, 1, 0.25),
    )),
    "g": (32, 1728, (
        B(24, 3, 1, 3), B(40, 5, 4, 1, 2), B(40, 5, 2, 4), B(56, 5, 4, 1, 2, 0.25), B(56, 5, 3, 4, 1, 0.25),
        B(104, 5, 5, 1, 2), B(104, 3, 3, 4), B(160, 3, 5, 1, 1, 0.25), B(160, 5, 3, 8, 1, 0.25),
        B(264, 3, 6, 1, 2, 0.25), B(264, 5, 5, 6, 1, 0.25), B(288, 5, 6, 2, 1, 0.25),
    )),
}  # fmt: skip


def fbnetv3(letter: str) -> tuple[Ops, ...]:
    stem, tail, rows = FBNETV3[letter]
    return build(rows, stem=stem, nl="HS", tail=tail, features=1984, se="rounded input")


V3_150D = (  # its 1x1 before the pool is twice as deep too
    B(16, n=2, nl="RE"), B(24, 3, 4, 1, 2, nl="RE"), B(24, 3, 3, 2, nl="RE"), B(40, 5, 3, 4, 2, 0.25, "RE"),
    B(80, 3, 6, 1, 2), B(80, 3, 2.5, 2), B(80, 3, 2.3, 2), B(112, 3, 6, 3, 1, 0.25), B(160, 5, 6, 4, 2, 0.25),
    B(960, 1, n=2, kind="conv", skip=False),
)  # fmt: skip


def mobilenetv3_150d() -> tuple[Ops, ...]:
    """timm's Large at width 1.5, every run of equal rows 1.2 times as deep."""
    return build(V3_150D, stem=16, nl="HS", tail=0, features=1280, se="expansion", width=1.5)
