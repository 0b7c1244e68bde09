"""Segmentation and detection heads: the ops of the lowering, carried out by torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from mbv3.nn.ops import OpsNet, run_op
from mbv3.spec import Dense, Layer

__all__ = ["HeadNet", "Maps"]


class Maps(NamedTuple):
    """What a detector computes for each of its levels: `classes` (N, anchors * classes, H, W), `boxes`
    (N, anchors * 4, H, W)."""

    classes: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]


class HeadNet(OpsNet):
    """A head as lowered. Its modules have the names of the ops; it works at any input size.

    `layer`: its ops, whose names start with `prefix`.
    """

    def __init__(self, layer: Layer, head: Dense, prefix: str) -> None:
        super().__init__(layer.ops, prefix, head.bn_eps, head.bn_momentum)
        self.layer = layer
        # departure: mmsegmentation drops whole channels (Dropout2d), torchvision single values, as here
        self.dropout = nn.Dropout(getattr(head, "dropout", 0.0))

    def forward(self, sources: Sequence[Tensor], image: tuple[int, int]) -> tuple[Tensor, ...]:
        """`sources`: the tapped tensors in the head's order, `image`: height and width of the input."""
        at = dict(zip(self.layer.inputs, sources, strict=True))
        for op in self.layer.ops:
            if op.kind == "conv":
                x = at[op.inputs[0]]
                at[op.output] = self.convolved(op, self.dropout(x) if op.drop else x)
            else:
                at[op.output] = run_op(op, at, image)
        return tuple(at[name] for name in self.layer.outputs)
