"""Torch modules of the rows. State-dict names are those of the lowering (`rows.3.depthwise.conv.weight`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mbv3.nn.heads import HeadNet, Maps
from mbv3.spec import (
    ArchSpec,
    Classify,
    Conv,
    Dense,
    MBConv,
    Point,
    Row,
    SSDLite,
    Tap,
    Where,
    aux_of,
    lower,
    lower_aux,
    taps_of,
)

__all__ = ["MEAN", "STD", "Network", "build", "state_shapes"]

# channel statistics of ImageNet, for values from 0 to 1: every network takes images normalised by them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _act(nl: str) -> nn.Module:
    kinds: dict[str, Callable[[], nn.Module]] = {
        "RE": lambda: nn.ReLU(inplace=True),
        "RE6": lambda: nn.ReLU6(inplace=True),
        "HS": lambda: nn.Hardswish(inplace=True),
        "NONE": nn.Identity,
        "HSIGMOID": lambda: nn.Hardsigmoid(inplace=True),
        "SIGMOID": nn.Sigmoid,
    }
    return kinds[nl]()


class ConvBNAct(nn.Module):
    """Convolution, batch norm, nonlinearity: (N, cin, H, W) to (N, cout, H/s, W/s) rounded up."""

    def __init__(
        self, cin: int, cout: int, k: int, s: int, nl: str, spec: ArchSpec, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        pad = dilation * (k - 1) // 2
        self.conv = nn.Conv2d(cin, cout, k, s, pad, dilation=dilation, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=spec.bn_eps, momentum=spec.bn_momentum)
        self.act = _act(nl)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.act(self.bn(self.conv(x))))


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation with biases, ReLU inside and the network's gate."""

    def __init__(self, c: int, se: int, gate: str) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(c, se, 1)
        self.expand = nn.Conv2d(se, c, 1)
        self.gate = _act(gate)

    def forward(self, x: Tensor) -> Tensor:
        g = self.gate(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * cast(Tensor, g)


class RowModule(nn.Module):
    """One row: conv, dsconv or mbconv."""

    def __init__(self, row: Row, cin: int, spec: ArchSpec) -> None:
        super().__init__()
        self.kind = row.skip
        self.s = row.s
        self.conv = self.expand = self.depthwise = self.project = None
        if isinstance(row, Conv):
            body = ConvBNAct(cin, row.out, row.k, row.s, row.nl, spec, dilation=row.dilation)
            self.conv, self.bn, self.act = body.conv, body.bn, body.act  # names without a further level
            inner = row.out
        else:
            inner = row.exp if isinstance(row, MBConv) else cin
            if inner != cin:
                self.expand = ConvBNAct(cin, inner, 1, 1, row.nl, spec)
            self.depthwise = ConvBNAct(inner, inner, row.k, row.s, row.nl, spec, inner, row.dilation)
            self.project = ConvBNAct(inner, row.out, 1, 1, "NONE", spec)
        self.se = SqueezeExcite(inner, row.se, spec.gate) if row.se else None

    def forward(self, x: Tensor, points: dict[Point, Tensor] | None = None) -> Tensor:
        """`points` takes the tensors that a head may tap."""
        points = {} if points is None else points
        y: Tensor = x
        if self.conv is not None:
            y = self.act(self.bn(self.conv(y)))
        else:
            if self.expand is not None:
                y = points["expand"] = self.expand(y)
            y = points["depthwise"] = cast(nn.Module, self.depthwise)(y)
        if self.se is not None:
            y = self.se(y)
        if self.project is not None:
            y = self.project(y)
        if self.kind == "identity":
            y = y + x
        elif self.kind == "pool":
            pooled: Tensor = functional.avg_pool2d(x, 3, self.s, 1, count_include_pad=False)
            y = y + pooled
        return y


class Classifier(nn.Module):
    """Pool, optional features layer, classifier. (N, C, H, W) to (N, classes)."""

    def __init__(self, head: Classify, cin: int) -> None:
        super().__init__()
        self.features = nn.Linear(cin, head.features) if head.features else None
        self.act = _act(head.nl)
        self.dropout = nn.Dropout(head.dropout)
        self.classifier = nn.Linear(head.features or cin, head.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        if self.features is not None:
            x = self.act(self.features(x))
        return cast(Tensor, self.classifier(self.dropout(x)))


class Network(nn.Module):
    """The torch module of an ArchSpec. (N, 3, H, W) images to (N, classes) logits of a classifier, (N, classes, H, W)
    logits of a segmentation head, `Maps` of a detector."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = RowModule(spec.stem, spec.in_channels, spec)
        cins = [spec.stem.out, *(r.out for r in spec.rows)]
        self.rows = nn.ModuleList(RowModule(row, cin, spec) for row, cin in zip(spec.rows, cins, strict=False))
        self.tail = RowModule(spec.tail, cins[-1], spec) if spec.tail is not None else None
        self.taps = [tap for _, tap in taps_of(spec.head)] if isinstance(spec.head, Dense) else []
        aux = aux_of(spec.head)
        self.aux_taps = [] if aux is None else [tap for _, tap in taps_of(aux)]
        self.head: nn.Module
        self.aux: HeadNet | None = None
        if isinstance(spec.head, Dense):
            self.head = HeadNet(lower(spec)[-1], spec.head, "head")
            layer = lower_aux(spec)
            if aux is not None and layer is not None:
                self.aux = HeadNet(layer, aux, "aux")
        else:
            self.head = Classifier(spec.head, spec.features)

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
    N(0, 0.03).

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
                nn.init.zeros_(m.bias)
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
