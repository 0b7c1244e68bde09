"""Segmentation and detection heads: the ops of the lowering as torch modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mbv3.spec import IMAGE, Dense, Layer, Op

__all__ = ["HeadNet", "Maps"]

_ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "RE": functional.relu,
    "RE6": functional.relu6,
    "HS": functional.hardswish,
    "HSIGMOID": functional.hardsigmoid,
    "SIGMOID": torch.sigmoid,
}


class Maps(NamedTuple):
    """Outputs of a detector for each of its levels: `classes` (N, anchors * classes, H, W), `boxes`
    (N, anchors * 4, H, W)."""

    classes: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]


class HeadNet(nn.Module):
    """A head as lowered. Its modules have the names of the ops; it works at any input size.

    `layer`: its ops, whose names start with `prefix`.
    """

    def __init__(self, layer: Layer, head: Dense, prefix: str) -> None:
        super().__init__()
        self.layer = layer
        self.prefix = f"{prefix}."
        for op in layer.ops:
            if op.kind != "conv":
                continue
            pad = op.dilation * (op.k - 1) // 2
            conv = nn.Conv2d(
                op.cin, op.cout, op.k, op.s, pad, dilation=op.dilation, groups=op.groups,
                bias=op.bn is None and op.bias,
            )  # fmt: skip
            self._put(op.name, conv)
            if op.bn is not None:
                self._put(op.bn, nn.BatchNorm2d(op.cout, eps=head.bn_eps, momentum=head.bn_momentum))
        # departure: mmsegmentation drops whole channels (Dropout2d), torchvision single values, as here
        self.dropout = nn.Dropout(getattr(head, "dropout", 0.0))

    def _put(self, name: str, module: nn.Module) -> None:
        *folders, last = name.removeprefix(self.prefix).split(".")
        place: nn.Module = self
        for folder in folders:
            if folder not in place._modules:
                place.add_module(folder, nn.Module())
            place = place.get_submodule(folder)
        place.add_module(last, module)

    def _conv(self, op: Op, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(op.name.removeprefix(self.prefix))(self.dropout(x) if op.drop else x)
        if op.bn is not None:
            y = self.get_submodule(op.bn.removeprefix(self.prefix))(y)
        return y

    def forward(self, sources: Sequence[Tensor], image: tuple[int, int]) -> tuple[Tensor, ...]:
        """`sources`: the tapped tensors in the head's order, `image`: height and width of the input."""
        at = dict(zip(self.layer.inputs, sources, strict=True))
        for op in self.layer.ops:
            x, *more = (at[name] for name in op.inputs)
            if op.kind == "conv":
                y = self._conv(op, x)
            elif op.kind == "act":
                y = _ACTS[op.nl](x)
            elif op.kind == "gpool":
                y = x.mean((2, 3), keepdim=True)
            elif op.kind == "wpool" and op.window is not None:
                kh, kw, sh, sw = op.window
                window = min(kh, x.shape[2]), min(kw, x.shape[3])  # a window larger than the map is the map
                y = functional.avg_pool2d(x, window, (sh, sw))
            elif op.kind == "apool":
                y = functional.adaptive_avg_pool2d(x, (op.hout, op.wout))
            elif op.kind == "resize":
                size = image if op.like == IMAGE else tuple(at[op.like].shape[2:])
                y = functional.interpolate(x, size=size, mode="bilinear", align_corners=op.align)
            elif op.kind == "concat":
                y = torch.cat((x, *more), 1)
            else:
                y = x + more[0] if op.kind == "add" else x * more[0]
            at[op.output] = y
        return tuple(at[name] for name in self.layer.outputs)
