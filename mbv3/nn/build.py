"""Torch modules of the rows. State-dict names are those of the lowering (`rows.3.depthwise.conv.weight`)."""

from __future__ import annotations

from typing import cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from mbv3.nn.heads import HeadNet, Maps
from mbv3.nn.ops import ACTS, OpsNet, run_op
from mbv3.spec import (
    ANSWERS,
    MEAN,
    STD,
    ArchSpec,
    Classify,
    Dense,
    Layer,
    Point,
    SSDLite,
    Tap,
    Where,
    aux_of,
    lower,
    lower_aux,
    taps_of,
)

__all__ = ["MEAN", "STD", "Network", "Statistics", "build", "state_shapes", "statistics"]


Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean, deviation of RGB from 0 to 1


def statistics(net: nn.Module) -> Statistics:
    """What images are normalised by for `net`: as its spec says, ImageNet's where it has none."""
    spec = getattr(net, "spec", None)
    return (spec.mean, spec.std) if isinstance(spec, ArchSpec) else (MEAN, STD)


class RowModule(OpsNet):
    """One row as lowered: (N, cin, H, W) to (N, out, H/s, W/s) rounded up."""

    def __init__(self, layer: Layer, spec: ArchSpec) -> None:
        prefix = layer.path.replace("[", ".").removesuffix("]")
        # SE last: the order in which initial weights have always been drawn
        ordered = sorted(layer.ops, key=lambda op: op.name.startswith(f"{prefix}.se."))
        super().__init__(ordered, prefix, spec.bn_eps, spec.bn_momentum)
        self.layer = layer
        last = {op.name.removeprefix(f"{prefix}.").partition(".")[0]: op.output for op in layer.ops}
        self.points: dict[str, Point] = {last[p]: p for p in get_args(Point) if p in last}

    def forward(self, x: Tensor, points: dict[Point, Tensor] | None = None) -> Tensor:
        """`points` takes the tensors that a head may tap."""
        at = {self.layer.inputs[0]: x}
        for op in self.layer.ops:
            y = self.convolved(op, at[op.inputs[0]]) if op.kind == "conv" else run_op(op, at, in_place=True)
            at[op.output] = y
            if points is not None and op.output in self.points:
                points[self.points[op.output]] = y
        return at[self.layer.outputs[0]]


class Classifier(OpsNet):
    """Pool, optional features layer, classifier, as lowered. (N, C, H, W) to (N, classes)."""

    def __init__(self, layer: Layer, head: Classify, spec: ArchSpec) -> None:
        super().__init__(layer.ops, "head", spec.bn_eps, spec.bn_momentum, linear=True)
        self.ops = layer.ops[1:]  # after the pool
        self.dropout = nn.Dropout(head.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(x.mean((2, 3)))

    def pooled(self, x: Tensor) -> Tensor:
        """From averages (N, C); of fewer channels than the head was made for they are its first ones."""
        for op in self.ops:
            if op.kind == "act":
                x = ACTS[op.nl](x)
                continue
            layer = cast(nn.Linear, self.module(op.name))
            x = self.dropout(x) if op is self.ops[-1] else x
            few = not torch.jit.is_tracing() and x.shape[1] < layer.in_features  # type: ignore[attr-defined,no-untyped-call]
            x = functional.linear(x, layer.weight[:, : x.shape[1]], layer.bias) if few else layer(x)
            x = x if op.bn is None else cast(Tensor, self.module(op.bn)(x[:, :, None, None]))[:, :, 0, 0]
        return x


class Network(nn.Module):
    """The torch module of an ArchSpec. (N, 3, H, W) images to (N, classes) logits of a classifier, (N, classes, H, W)
    logits of a segmentation head, `Maps` of a detector."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        layers = lower(spec)
        stem, *rows = (RowModule(layer, spec) for layer in layers[:-1])
        tail = rows.pop() if spec.tail is not None else None
        self.stem, self.rows, self.tail = stem, nn.ModuleList(rows), tail
        self.taps = [tap for _, tap in taps_of(spec.head)] if isinstance(spec.head, Dense) else []
        aux = aux_of(spec.head)
        self.aux_taps = [] if aux is None else [tap for _, tap in taps_of(aux)]
        self.head: nn.Module
        self.aux: HeadNet | None = None
        if isinstance(spec.head, Dense):
            self.head = HeadNet(layers[-1], spec.head, "head")
            layer = lower_aux(spec)
            if aux is not None and layer is not None:
                self.aux = HeadNet(layer, aux, "aux")
        else:
            self.head = Classifier(layers[-1], spec.head, spec)

    def forward(self, x: Tensor) -> Tensor | Maps:
        return self.with_aux(x, aux=False)[0]

    def with_aux(self, x: Tensor, aux: bool = True) -> tuple[Tensor | Maps, Tensor | None]:
        """(what `forward` gives, the auxiliary head's logits), for training; None without such a head."""
        image = x.shape[2], x.shape[3]
        parts: list[tuple[Where, nn.Module]] = [("stem", self.stem), *enumerate(self.rows)]
        if self.tail is not None:
            parts.append(("tail", self.tail))
        points: dict[Tap, Tensor] = {}
        wanted = set(self.taps) | set(self.aux_taps if aux else ())
        for where, row in parts:
            inner: dict[Point, Tensor] = {}
            x = inner["out"] = row(x, inner)
            points |= {tap: t for point, t in inner.items() if (tap := Tap(where, point)) in wanted}
        if not isinstance(self.head, HeadNet):
            return cast(Tensor, self.head(x)), None
        outputs = self.head([points[tap] for tap in self.taps], image)
        result = outputs[0] if len(outputs) == 1 else Maps(outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :])
        if self.aux is None or not aux:
            return result, None
        return result, self.aux([points[tap] for tap in self.aux_taps], image)[0]


def build(spec: ArchSpec, seed: int | None = None) -> Network:
    """The network of `spec`, initialised as torchvision does: Kaiming fan-out, classifier N(0, 0.01), detectors
    N(0, 0.03). What gives a segmentation head's answers is N(0, 0.01) as mmsegmentation's: its inputs may be the
    backbone's own, however large.

    `seed` makes the initial weights a function of it; None uses torch's global generator.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        net = Network(spec)
        for m in net.modules():
            if isinstance(m, nn.Conv2d):
                if isinstance(spec.head, SSDLite):
                    nn.init.normal_(m.weight, 0, 0.03)
                else:
                    nn.init.kaiming_normal_(m.weight, mode="fan_out")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.01)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        if not isinstance(spec.head, SSDLite):
            for head in (h for h in (net.head, net.aux) if isinstance(h, HeadNet)):
                for op in head.layer.ops:
                    if op.name.removeprefix(head.prefix) in ANSWERS:
                        nn.init.normal_(cast(nn.Conv2d, head.module(op.name)).weight, 0, 0.01)
    return net


def state_shapes(spec: ArchSpec) -> dict[str, tuple[int, ...]]:
    """Every floating-point state-dict entry of `spec` with its shape, from the lowering alone; those of an auxiliary
    head last."""
    shapes: dict[str, tuple[int, ...]] = {}
    aux = lower_aux(spec)
    for layer in (*lower(spec), *([aux] if aux is not None else [])):
        for op in layer.ops:
            if op.kind != "conv":
                continue
            linear = isinstance(layer.key.row, Classify)
            shape = (op.cout, op.cin // op.groups)
            shapes[f"{op.name}.weight"] = shape if linear else (*shape, op.k, op.k)
            if op.bn is None:
                if op.bias:
                    shapes[f"{op.name}.bias"] = (op.cout,)
            else:
                for part in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{op.bn}.{part}"] = (op.cout,)
    return shapes
