"""A weight-sharing network over a space of mbconv blocks.

Elastic kernel (centre crop), expansion, depth (the first layers), width and SE by slicing the largest weights
(Cai 2020, arXiv:1908.09791; the kernel's transform matrices are left out). One path is trained at a time
(Guo 2020, arXiv:1904.00420), on batch statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv3.errors import BadInput
from mbv3.nn import build
from mbv3.space import Genome, SearchSpace
from mbv3.spec import ArchSpec, MBConv

__all__ = ["Supernet"]

_NL: dict[str, Callable[[Tensor], Tensor]] = {"RE": F.relu, "RE6": F.relu6, "HS": F.hardswish, "NONE": lambda x: x}


def _largest(space: SearchSpace) -> tuple[ArchSpec, tuple[int, ...]]:
    """The network that holds every network of the space, and the number of layers each block can have."""
    genome: list[int] = []
    for gene in space.genes:
        values = gene.values
        if gene.field == "nl":
            genome.append(0)
        elif all(isinstance(v, (int, float)) for v in values):
            genome.append(max(range(len(values)), key=lambda i: float(values[i])))  # type: ignore[arg-type]
        else:
            raise BadInput(
                f"space {space.name!r}: {gene.name} is no size, so weights cannot be shared over it; use "
                "--accuracy train, or a space of mbconv blocks such as mobilenetv3"
            )
    spec = space.spec(tuple(genome), "supernet")
    if not all(isinstance(r, MBConv) for r in spec.rows):
        raise BadInput(f"space {space.name!r}: weight sharing needs mbconv blocks only; use --accuracy train")
    depths = tuple(block.settings(c)["l"] for block, c in space.split(tuple(genome)))
    owner = [block for block, depth in zip(space.blocks, depths, strict=True) for _ in range(depth)]
    cin = spec.stem.out
    for block, row in zip(owner, spec.rows, strict=True):
        ratios = {v for g in block.genes if g.field == "e" for v in g.values} or {dict(block.fixed)["e"]}
        if isinstance(row, MBConv) and row.exp == cin and ratios != {1}:
            raise BadInput(
                f"space {space.name!r}: block {block.name} has no expansion in its largest network but may have one "
                f"in others (e of {sorted(ratios, key=str)}), so weights cannot be shared; use e of 1 or more than 1"
            )
        cin = row.out
    return spec, depths


class Supernet(nn.Module):
    """Weights of the largest network of `space`; any genome runs on slices of them. (N, 3, H, W) to logits."""

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        self.largest, self.depths = _largest(space)
        self.net = build(self.largest, seed)
        self._starts = [sum(self.depths[:i]) for i in range(len(self.depths))]

    def rows_of(self, genome: Genome) -> list[int]:
        """For each row of the genome's network, the supernet's row that lends its weights."""
        out: list[int] = []
        for i, (block, choices) in enumerate(self.space.split(genome)):
            out += [self._starts[i] + j for j in range(block.settings(choices)["l"])]
        return out

    def extract(self, genome: Genome) -> dict[str, Tensor]:
        """The state dict of the genome's own network; running statistics are the slices' and want recalibration."""
        spec = self.space.spec(genome)
        full = self.net.state_dict()
        source = self.rows_of(genome)
        target = build(replace(spec, name="subnet")).state_dict()
        out: dict[str, Tensor] = {}
        for name, value in target.items():
            donor = name
            if name.startswith("rows."):
                _, i, rest = name.split(".", 2)
                donor = f"rows.{source[int(i)]}.{rest}"
            out[name] = _slice(full[donor], tuple(value.shape)).clone()
        return out

    def forward_path(self, genome: Genome, x: Tensor) -> Tensor:
        """Training forward of one path, batch statistics, gradients into the shared weights."""
        spec = self.space.spec(genome)
        net = self.net
        x = net.stem(x)
        cin = spec.stem.out
        for row, i in zip(spec.rows, self.rows_of(genome), strict=True):
            assert isinstance(row, MBConv)
            x = _row(net.rows[i], row, cin, x, spec)
            cin = row.out
        if net.tail is not None and spec.tail is not None:
            tail: Any = net.tail
            x = _conv_bn(x, tail.conv, tail.bn, spec.tail.out, cin, 1, 1, spec.tail.nl)
            cin = spec.tail.out
        head: Any = net.head
        x = x.mean((2, 3))
        if head.features is not None:
            x = head.act(F.linear(x, head.features.weight[:, :cin], head.features.bias))
            cin = head.features.out_features
        return F.linear(head.dropout(x), head.classifier.weight[:, :cin], head.classifier.bias)


def _slice(full: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The leading channels, the centre of the kernel."""
    if full.dim() < 1 or tuple(full.shape) == shape:
        return full
    full = full[: shape[0]]
    if full.dim() > 1:
        full = full[:, : shape[1]]
    if full.dim() == 4:
        cut = (full.shape[2] - shape[2]) // 2
        full = full[:, :, cut : cut + shape[2], cut : cut + shape[3]]
    return full


def _conv_bn(
    x: Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d, out: int, cin: int, k: int, s: int, nl: str, groups: int = 1
) -> Tensor:
    weight = _slice(conv.weight, (out, cin // groups, k, k))
    x = F.conv2d(x, weight, None, s, (k - 1) // 2, 1, groups)
    x = F.batch_norm(x, None, None, bn.weight[:out], bn.bias[:out], True, 0.0, bn.eps)
    return _NL[nl](x)


def _row(module: Any, row: MBConv, cin: int, x: Tensor, spec: ArchSpec) -> Tensor:
    y = x
    if module.expand is not None and row.exp != cin:
        y = _conv_bn(y, module.expand.conv, module.expand.bn, row.exp, cin, 1, 1, row.nl)
    dw = module.depthwise
    y = _conv_bn(y, dw.conv, dw.bn, row.exp, row.exp, row.k, row.s, row.nl, row.exp)
    if row.se:
        se = module.se
        g = y.mean((2, 3), keepdim=True)
        g = F.relu(F.conv2d(g, _slice(se.reduce.weight, (row.se, row.exp, 1, 1)), se.reduce.bias[: row.se]))
        g = F.conv2d(g, _slice(se.expand.weight, (row.exp, row.se, 1, 1)), se.expand.bias[: row.exp])
        y = y * (F.hardsigmoid(g) if spec.gate == "HSIGMOID" else torch.sigmoid(g))
    y = _conv_bn(y, module.project.conv, module.project.bn, row.out, row.exp, 1, 1, "NONE")
    if row.skip == "pool":
        return y + F.avg_pool2d(x, 3, row.s, 1, count_include_pad=False)
    return y + x if row.skip == "identity" else y
