"""Operations on (1, C, H, W) tensors, and the pen that writes them down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from mbv3.spec.rows import NL, Gate, Skip

__all__ = ["IMAGE", "Kind", "Op", "Tensor", "Walk", "far_pads"]

Kind = Literal["conv", "act", "pool", "gpool", "wpool", "apool", "resize", "concat", "add", "mul"]
IMAGE = "image"  # what a resize is `like` where it restores the input's size


def far_pads(size: int, k: int, s: int, d: int) -> tuple[int, int]:
    """Zeros before and after one side of a map under TensorFlow's SAME."""
    whole = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
    return whole // 2, whole - whole // 2


class Tensor(NamedTuple):
    """A tensor by name, with its shape."""

    name: str
    c: int
    h: int
    w: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation on (1, C, H, W) tensors. `name` of a conv is its state-dict prefix.

    cin, hin, win: shape of the first input. add and mul have a second one of the same shape, or (1, C, 1, 1) for mul.

    conv: `bn` names the batch norm that follows, None where there is none; then `bias` tells whether it has one.
    `far`: it pads as TensorFlow's SAME does, where strided one more at the far side; else the same on both.
    `drop`: in training its input passes the head's dropout.
    pool: k x k average pool of stride s, zeros of the padding not counted. gpool: global average pool.
    wpool: averages of windows, `window` (height, width, stride down, stride across), no padding.
    apool: average pool to hout x wout cells, cell i of n over [floor(i h / n), ceil((i + 1) h / n)).
    resize: bilinear, `align` for corners that stay corners; `like` names the tensor whose size it takes.
    concat: along channels.
    """

    kind: Kind
    name: str
    inputs: tuple[str, ...]
    output: str
    cin: int
    cout: int
    hin: int
    win: int
    hout: int
    wout: int
    k: int = 1
    s: int = 1
    groups: int = 1
    dilation: int = 1
    bn: str | None = None
    bias: bool = True
    drop: bool = False
    far: bool = False
    nl: NL | Gate = "NONE"
    window: tuple[int, int, int, int] | None = None
    align: bool = False
    like: str = ""

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Zeros around a convolution's input: top, left, bottom, right."""
        both = self.dilation * (self.k - 1) // 2
        if not self.far:
            return (both, both, both, both)
        (top, bottom), (left, right) = (far_pads(size, self.k, self.s, self.dilation) for size in (self.hin, self.win))
        return top, left, bottom, right

    @property
    def madds(self) -> int:
        """Multiply-adds of convolutions; pooling, resizing, activations and additions count nothing (facts A7)."""
        if self.kind != "conv":
            return 0
        return self.hout * self.wout * self.cout * (self.cin // self.groups) * self.k * self.k

    @property
    def params(self) -> int:
        """Learnable parameters; a batch norm's scale and shift count, its running statistics do not."""
        if self.kind != "conv":
            return 0
        own = 2 * self.cout if self.bn else self.cout if self.bias else 0
        return self.cout * (self.cin // self.groups) * self.k * self.k + own


class Walk:
    """Collects ops; keeps the current tensor and its shape."""

    def __init__(self, prefix: str, here: Tensor) -> None:
        self.prefix = prefix
        self.ops: list[Op] = []
        self.at(here)

    def at(self, here: Tensor) -> None:
        """Go on from another tensor."""
        self.tensor, self.c, self.h, self.w = here

    @property
    def here(self) -> Tensor:
        return Tensor(self.tensor, self.c, self.h, self.w)

    def emit(self, kind: Kind, name: str, cout: int, h: int, w: int, **more: object) -> None:
        full = f"{self.prefix}.{name}"
        inputs = cast(tuple[str, ...], more.pop("inputs", (self.tensor,)))
        op = Op(
            kind=kind, name=full, inputs=inputs, output=f"{full}:0",
            cin=self.c, cout=cout, hin=self.h, win=self.w, hout=h, wout=w, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        self.ops.append(op)
        self.at(Tensor(op.output, cout, h, w))

    def conv(
        self, name: str, cout: int, *, k: int = 1, s: int = 1, d: int = 1, groups: int = 1, bn: bool = True,
        bias: bool = True, drop: bool = False,
    ) -> None:  # fmt: skip
        full = f"{self.prefix}.{name}"
        norm = (full.removesuffix(".conv") + ".bn") if bn else None
        h, w = -(-self.h // s), -(-self.w // s)
        self.emit("conv", name, cout, h, w, k=k, s=s, dilation=d, groups=groups, bn=norm, bias=bias, drop=drop)

    def act(self, name: str, nl: NL | Gate) -> None:
        if nl != "NONE":
            self.emit("act", f"{name}.act", self.c, self.h, self.w, nl=nl)

    def unit(
        self, name: str, cout: int, nl: NL = "RE", *, k: int = 1, s: int = 1, d: int = 1, groups: int = 1,
        drop: bool = False,
    ) -> None:  # fmt: skip
        """Convolution, batch norm, nonlinearity."""
        self.conv(f"{name}.conv", cout, k=k, s=s, d=d, groups=groups, drop=drop)
        self.act(name, nl)

    def average(self, name: str, pool: tuple[int, ...] = ()) -> None:
        """Of windows, or of the whole map. A window larger than the map is the map."""
        if not pool:
            self.emit("gpool", name, self.c, 1, 1)
            return
        kh, kw, sh, sw = pool
        h, w = ((size - min(k, size)) // s + 1 for size, k, s in ((self.h, kh, sh), (self.w, kw, sw)))
        self.emit("wpool", name, self.c, h, w, window=(kh, kw, sh, sw))

    def cells(self, name: str, n: int) -> None:
        """Average pool to n x n cells."""
        if n == 1:
            self.emit("gpool", name, self.c, 1, 1)
        else:
            self.emit("apool", name, self.c, n, n)

    def resize(self, name: str, like: Tensor, align: bool) -> None:
        self.emit("resize", name, self.c, like.h, like.w, like=like.name, align=align)

    def concat(self, name: str, parts: Sequence[Tensor]) -> None:
        self.at(parts[0])
        self.emit("concat", name, sum(p.c for p in parts), self.h, self.w, inputs=tuple(p.name for p in parts))

    def join(self, kind: Literal["add", "mul"], name: str, a: Tensor, b: Tensor) -> None:
        self.at(a)
        self.emit(kind, name, a.c, a.h, a.w, inputs=(a.name, b.name))

    def squeeze_excite(self, se: int, gate: Gate, nl: NL = "RE") -> None:
        """Hu 2018 as MobileNetV3 places it: on the activated depthwise output, no batch norm. Inside is ReLU, and
        EfficientNet's swish (Tan 2019, arXiv:1905.11946)."""
        if not se:
            return
        trunk = self.here
        self.emit("gpool", "se.pool", self.c, 1, 1)
        self.conv("se.reduce", se, bn=False)
        self.act("se.reduce", nl)
        self.conv("se.expand", trunk.c, bn=False)
        self.act("se.expand", gate)
        self.join("mul", "se.mul", trunk, self.here)

    def skip(self, kind: Skip, source: Tensor, s: int) -> None:
        if kind == "none":
            return
        main = self.here
        if kind == "pool":
            # MnasNet names a pooling skip without defining it: 3x3 average at the row's stride
            self.at(source)
            self.emit("pool", "skip.pool", source.c, main.h, main.w, k=3, s=s)
            source = self.here
        self.join("add", "skip.add", main, source)
