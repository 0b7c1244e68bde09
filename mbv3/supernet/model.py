"""A weight-sharing network over a space of mbconv blocks.

Elastic kernel (centre crop), expansion, depth (the first layers), width and SE by slicing the largest weights
(Cai 2020, arXiv:1908.09791; the kernel's transform matrices are left out). One path is trained at a time
(Guo 2020, arXiv:1904.00420), on batch statistics.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from mbv3.errors import BadInput
from mbv3.nn import build, run_op
from mbv3.space import Genome, SearchSpace
from mbv3.spec import ArchSpec, Layer, Op, lower

__all__ = ["Supernet"]


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
    if not all(r.SLICEABLE for r in spec.rows):
        raise BadInput(f"space {space.name!r}: weight sharing needs mbconv blocks only; use --accuracy train")
    depths = tuple(block.settings(c)["l"] for block, c in space.split(tuple(genome)))
    owner = [block for block, depth in zip(space.blocks, depths, strict=True) for _ in range(depth)]
    cin = spec.stem.out
    for block, row in zip(owner, spec.rows, strict=True):
        ratios = {v for g in block.genes if g.field == "e" for v in g.values} or {dict(block.fixed)["e"]}
        if not row.expands(cin) and ratios != {1}:
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
        layers = {layer.path: layer for layer in lower(spec)}
        for i, donor in enumerate(self.rows_of(genome)):
            x = _row(net.rows[donor], layers[f"rows[{i}]"], x)
        if net.tail is not None:
            x = _row(net.tail, layers["tail"], x)
        return cast(Tensor, cast(Any, net.head).pooled(x.mean((2, 3))))


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


def _conv(module: Any, op: Op, name: str, x: Tensor) -> Tensor:
    """A convolution of the path with slices of the shared weights, on batch statistics."""
    conv: nn.Conv2d = module.get_submodule(name)
    weight = _slice(conv.weight, (op.cout, op.cin // op.groups, op.k, op.k))
    bias = None if conv.bias is None else conv.bias[: op.cout]
    x = F.conv2d(x, weight, bias, op.s, op.dilation * (op.k - 1) // 2, op.dilation, op.groups)
    if op.bn is None:
        return x
    bn = module.get_submodule(f"{name.removesuffix('conv')}bn")
    return F.batch_norm(x, None, None, bn.weight[: op.cout], bn.bias[: op.cout], True, 0.0, bn.eps)


def _row(module: Any, layer: Layer, x: Tensor) -> Tensor:
    """One row of the path, its ops on the weights of a larger row."""
    prefix = layer.path.replace("[", ".").removesuffix("]") + "."
    at = {layer.inputs[0]: x}
    for op in layer.ops:
        if op.kind == "conv":
            at[op.output] = _conv(module, op, op.name.removeprefix(prefix), at[op.inputs[0]])
        else:
            at[op.output] = run_op(op, at)
    return at[layer.outputs[0]]
