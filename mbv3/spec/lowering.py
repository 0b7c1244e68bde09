"""The one walk from a network to its ops.

`lower(spec)` yields layers; a layer is one row with its input shape (the unit of the latency table) and the
ops it consists of. MAdds, parameters, table keys and every exported graph come from this walk, so they cannot
disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast

from mbv3.errors import BadInput, shown
from mbv3.spec.arch import MAX_CHANNELS, MAX_RESOLUTION, ArchSpec, check_row
from mbv3.spec.rows import GATES, NL, Classify, Conv, DSConv, Gate, MBConv, Row, Skip

__all__ = ["Layer", "LayerKey", "Op", "lower", "lower_key", "parse_key"]

Kind = Literal["conv", "act", "pool", "gpool", "add", "mul"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation on (1, C, H, W) tensors. `name` of a conv is its state-dict prefix.

    cin, hin, win: shape of the first input. mul has a (1, C, 1, 1) second input, add one of the same shape.

    conv: `bn` names the batch norm that follows, None where there is none and the conv has a bias.
    pool: k x k average pool of stride s, zeros of the padding not counted. gpool: global average pool.
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
    nl: NL | Gate = "NONE"

    @property
    def madds(self) -> int:
        """Multiply-adds of convolutions; pooling, activations and additions count nothing (facts A7)."""
        if self.kind != "conv":
            return 0
        return self.hout * self.wout * self.cout * (self.cin // self.groups) * self.k * self.k

    @property
    def params(self) -> int:
        """Learnable parameters; a batch norm's scale and shift count, its running statistics do not."""
        if self.kind != "conv":
            return 0
        return self.cout * (self.cin // self.groups) * self.k * self.k + (2 * self.cout if self.bn else self.cout)


@dataclass(frozen=True, slots=True)
class LayerKey:
    """What a layer's latency depends on: the row, its input shape and the gate of its SE.

    Made canonical: what does not reach the graph (dropout, the gate of no SE) is set to one value, so that
    equal layers have equal keys.
    """

    row: Row | Classify
    cin: int
    h: int
    w: int
    gate: Gate = "HSIGMOID"

    def __post_init__(self) -> None:
        row = self.row
        if isinstance(row, Classify):
            plain = replace(row, dropout=0.0, nl=row.nl if row.features else "NONE")
            object.__setattr__(self, "row", plain)
        if isinstance(row, Classify) or not row.se:
            object.__setattr__(self, "gate", "HSIGMOID")

    def __str__(self) -> str:
        row = self.row
        head = f"h{self.h}w{self.w}_i{self.cin}"
        if isinstance(row, Classify):
            return f"classify_{head}_f{row.features}_n{row.nl}_c{row.classes}"
        exp = f"_e{row.exp}" if isinstance(row, MBConv) else ""
        op = {Conv: "conv", DSConv: "dsconv", MBConv: "mbconv"}[type(row)]
        gate = self.gate if row.se else "NONE"
        return f"{op}_{head}_k{row.k}_s{row.s}_d{row.dilation}{exp}_o{row.out}_q{row.se}_g{gate}_n{row.nl}_r{row.skip}"


def parse_key(text: str) -> LayerKey:
    """The inverse of `str(LayerKey)`. Raises: BadInput."""
    try:
        key = _parse_key(text)
        # one spelling a layer: no repeated, unknown or padded parts
        if str(key) != text or any(check_row("", key.row, key.cin)):
            raise ValueError
    except (ValueError, KeyError, IndexError):
        raise BadInput(f"not a layer key: {shown(text)}") from None
    return key


def _parse_key(text: str) -> LayerKey:
    op, shape, *rest = text.split("_")
    h, w = (int(v) for v in shape.removeprefix("h").split("w"))
    f = {part[0]: part[1:] for part in rest}
    cin = int(f["i"])
    if not (1 <= h <= MAX_RESOLUTION and 1 <= w <= MAX_RESOLUTION and 1 <= cin <= MAX_CHANNELS):
        raise ValueError
    nl = cast(NL, f["n"])
    if op == "classify":
        return LayerKey(Classify(features=int(f["f"]), nl=nl, classes=int(f["c"])), cin, h, w)
    if f["g"] not in (*GATES, "NONE"):
        raise ValueError
    k, s, d, out, se = (int(f[c]) for c in "ksdoq")
    skip = cast(Skip, f["r"])
    gate = cast(Gate, f["g"]) if f["g"] != "NONE" else "HSIGMOID"
    row: Row
    if op == "mbconv":
        row = MBConv(k=k, s=s, dilation=d, exp=int(f["e"]), out=out, se=se, nl=nl, skip=skip)
    else:
        row = (DSConv if op == "dsconv" else Conv)(k=k, s=s, dilation=d, out=out, se=se, nl=nl, skip=skip)
    return LayerKey(row, cin, h, w, gate)


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of a network with its ops. Shapes are (C, H, W) of batch 1."""

    path: str
    key: LayerKey
    ops: tuple[Op, ...]
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]

    @property
    def madds(self) -> int:
        return sum(op.madds for op in self.ops)

    @property
    def params(self) -> int:
        return sum(op.params for op in self.ops)


class _Walk:
    """Collects ops; keeps the current tensor and its shape."""

    def __init__(self, prefix: str, tensor: str, c: int, h: int, w: int) -> None:
        self.prefix, self.tensor = prefix, tensor
        self.c, self.h, self.w = c, h, w
        self.ops: list[Op] = []

    def _emit(self, kind: Kind, name: str, cout: int, h: int, w: int, **more: object) -> None:
        full = f"{self.prefix}.{name}"
        inputs = cast(tuple[str, ...], more.pop("inputs", (self.tensor,)))
        op = Op(
            kind=kind, name=full, inputs=inputs, output=f"{full}:0",
            cin=self.c, cout=cout, hin=self.h, win=self.w, hout=h, wout=w, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        self.ops.append(op)
        self.tensor, self.c, self.h, self.w = op.output, cout, h, w

    def conv(
        self, name: str, cout: int, *, k: int = 1, s: int = 1, d: int = 1, groups: int = 1, bn: bool = True
    ) -> None:
        full = f"{self.prefix}.{name}"
        norm = (full.removesuffix(".conv") + ".bn") if bn else None
        self._emit("conv", name, cout, -(-self.h // s), -(-self.w // s), k=k, s=s, dilation=d, groups=groups, bn=norm)

    def act(self, name: str, nl: NL | Gate) -> None:
        if nl != "NONE":
            self._emit("act", f"{name}.act", self.c, self.h, self.w, nl=nl)

    def squeeze_excite(self, se: int, gate: Gate) -> None:
        """Hu 2018 as MobileNetV3 places it: on the activated depthwise output, ReLU inside, no batch norm."""
        if not se:
            return
        trunk, c, h, w = self.tensor, self.c, self.h, self.w
        self._emit("gpool", "se.pool", c, 1, 1)
        self.conv("se.reduce", se, bn=False)
        self.act("se.reduce", "RE")
        self.conv("se.expand", c, bn=False)
        self.act("se.expand", gate)
        self.h, self.w = h, w
        self._emit("mul", "se.mul", c, h, w, inputs=(trunk, self.tensor))

    def skip(self, kind: Skip, tensor: str, c: int, h: int, w: int, s: int) -> None:
        if kind == "none":
            return
        main, mh, mw = self.tensor, self.h, self.w
        if kind == "pool":
            # MnasNet names a pooling skip without defining it: 3x3 average at the row's stride
            self.tensor, self.c, self.h, self.w = tensor, c, h, w
            self._emit("pool", "skip.pool", c, mh, mw, k=3, s=s)
            tensor = self.tensor
        self.tensor, self.h, self.w = main, mh, mw
        self._emit("add", "skip.add", c, mh, mw, inputs=(main, tensor))


def _lower(key: LayerKey, prefix: str, path: str, tensor: str) -> tuple[Layer, str]:
    row, c, h, w = key.row, key.cin, key.h, key.w
    x = _Walk(prefix, tensor, c, h, w)
    if isinstance(row, Classify):
        x._emit("gpool", "pool", c, 1, 1)
        if row.features:
            x.conv("features", row.features, bn=False)
            x.act("features", row.nl)
        x.conv("classifier", row.classes, bn=False)
    elif isinstance(row, Conv):
        x.conv("conv", row.out, k=row.k, s=row.s, d=row.dilation)
        x.act("conv", row.nl)
        x.squeeze_excite(row.se, key.gate)
        x.skip(row.skip, tensor, c, h, w, row.s)
    else:
        exp = row.exp if isinstance(row, MBConv) else c
        if exp != c:
            x.conv("expand.conv", exp)
            x.act("expand", row.nl)
        x.conv("depthwise.conv", exp, k=row.k, s=row.s, d=row.dilation, groups=exp)
        x.act("depthwise", row.nl)
        x.squeeze_excite(row.se, key.gate)
        x.conv("project.conv", row.out)
        x.skip(row.skip, tensor, c, h, w, row.s)
    return Layer(path, key, tuple(x.ops), (c, h, w), (x.c, x.h, x.w)), x.tensor


def lower(spec: ArchSpec) -> tuple[Layer, ...]:
    """The layers of `spec` in order: stem, rows, tail, head. The input tensor is `input`."""
    layers: list[Layer] = []
    tensor = "input"
    c, (h, w) = spec.in_channels, spec.resolution
    parts: list[tuple[str, str, Row | Classify]] = [("stem", "stem", spec.stem)]
    parts += [(f"rows.{i}", f"rows[{i}]", row) for i, row in enumerate(spec.rows)]
    if spec.tail is not None:
        parts.append(("tail", "tail", spec.tail))
    parts.append(("head", "head", spec.head))
    for prefix, path, row in parts:
        layer, tensor = _lower(LayerKey(row, c, h, w, spec.gate), prefix, path, tensor)
        layers.append(layer)
        c, h, w = layer.out_shape
    return tuple(layers)


@lru_cache(maxsize=65536)
def lower_key(key: LayerKey) -> Layer:
    """A layer on its own, as the latency table times it."""
    return _lower(key, "layer", "layer", "input")[0]
