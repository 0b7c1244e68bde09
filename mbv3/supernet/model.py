"""A weight-sharing network over a space.

Elastic kernel (centre crop), expansion, depth (the first layers), width and SE by slicing the largest weights
(Cai 2020, arXiv:1908.09791; the kernel's transform matrices are left out). Kinds of rows that a block chooses between
have weights of their own, as the choices of Guo 2020 (arXiv:1904.00420) have; identity has none, or a 1x1 convolution
where the shape changes. One path is trained at a time, on batch statistics.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from mbv3.errors import BadInput
from mbv3.nn import Network, build, run_op
from mbv3.space import Block, Genome, SearchSpace, Variant
from mbv3.spec import ArchSpec, Layer, LayerKey, Op, Row, lower, lower_key

__all__ = ["Norms", "Supernet", "run_layer", "run_row", "slice_of"]

# what batch norms go by: the batch, which the running statistics follow; the batch alone; the running statistics
Norms = Literal["training", "batch", "running"]

_Kind = tuple[str, ...]  # what has weights of its own in a block: the kind of its rows, and perhaps the choice's name


@dataclass(frozen=True, slots=True)
class _Place:
    """What a block may be: for every kind of rows those that hold each choice of the kind, the dearest kind first."""

    name: str
    rows: Mapping[_Kind, tuple[Row, ...]]

    def chosen(self, n: int) -> tuple[_Kind, tuple[Row, ...]]:
        """The n-th kind; the first one where there are fewer, or where the n-th has no rows."""
        kinds = list(self.rows)
        kind = kinds[n] if n < len(kinds) and self.rows[kinds[n]] else kinds[0]
        return kind, self.rows[kind]


def _kind(block: Block, choices: tuple[int, ...], apart: bool) -> _Kind:
    """What lends weights to these choices of a block; `apart`: every named choice has its own."""
    op = str(block.settings(choices)["op"])
    if not apart:
        return (op,)
    values = (gene.values[i] for gene, i in zip(block.genes, choices, strict=True))
    return op, *(v.name for v in values if isinstance(v, Variant))


def _most(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The largest of every size. What is no size, such as a nonlinearity, has no weights."""
    sizes = {f for f, v in settings[0].items() if isinstance(v, (int, float))}
    return {**settings[0], **{f: max(s[f] for s in settings) for f in sizes}}


def _places(space: SearchSpace, apart: bool) -> list[_Place]:
    """What every block of `space` may be. Raises: BadInput."""
    places: list[_Place] = []
    cins = {space.scaled_stem().out}
    for block, rate in zip(space.blocks, space.rates, strict=True):
        kinds: dict[_Kind, list[dict[str, Any]]] = {}
        for choices in itertools.product(*(range(len(g.values)) for g in block.genes)):
            kinds.setdefault(_kind(block, choices, apart), []).append(block.settings(choices))
        every = [s for settings in kinds.values() for s in settings]
        widest = max(every, key=space.block_out)
        rows: dict[_Kind, tuple[Row, ...]] = {}
        for kind, settings in kinds.items():
            largest = _most(settings) | {f: widest[f] for f in ("out", "width")}
            if kind[0] == "identity":
                # where the widest network has no 1x1, a narrower one may still need it
                needed = any(space.block_rows(block, s, c, rate) for c in cins for s in settings)
                rows[kind] = tuple(space.block_rows(block, largest, 0, rate)) if needed else ()
            else:
                rows[kind] = tuple(space.block_rows(block, largest, max(cins), rate))
                _check_expansion(space, block, rows[kind], max(cins), {s["e"] for s in settings})
        dear = {kind: _params(r, max(cins), space) for kind, r in rows.items()}
        order = sorted(rows, key=lambda kind: -dear[kind])
        places.append(_Place(block.name, {kind: rows[kind] for kind in order}))
        cins = {space.block_out(s) for s in every}
    return places


def _params(rows: Sequence[Row], cin: int, space: SearchSpace) -> int:
    total = 0
    for row in rows:
        total += lower_key(LayerKey(row, cin, 64, 64, space.gate)).params
        cin = row.out
    return total


def _check_expansion(space: SearchSpace, block: Block, rows: Sequence[Row], cin: int, ratios: set[Any]) -> None:
    """Raise BadInput where the largest rows of a block lack an expansion that smaller ones have."""
    for row in rows:
        if type(row).word() == "mbconv" and not row.expands(cin) and ratios != {1}:
            raise BadInput(
                f"space {space.name!r}: block {block.name} has no expansion in its largest network but may have one "
                f"in others (e of {sorted(ratios, key=str)}), so weights cannot be shared; use e of 1 or more than 1"
            )
        cin = row.out


class Supernet(nn.Module):
    """Weights that every network of `space` runs on slices of. (N, 3, H, W) to logits.

    `net` is the largest network; after its rows come those of the other kinds that blocks choose between. `apart`:
    every named choice of a block (such as MnasNet's mbconv3 and mbconv6) has weights of its own, not only every kind.

    Raises:
        BadInput: networks of the space have an expansion that the largest one lacks.
    """

    def __init__(self, space: SearchSpace, seed: int = 0, *, apart: bool = False) -> None:
        super().__init__()
        self.space, self.apart = space, apart
        places = _places(space, apart)
        self.largest = self._chain(places, 0)
        self.net = build(self.largest, seed)
        self.depths = tuple(len(p.chosen(0)[1]) for p in places)
        self._starts: list[dict[_Kind, int]] = [{} for _ in places]
        for n in range(max(len(p.rows) for p in places)):
            other = self.net if n == 0 else build(self._chain(places, n), seed + n)
            self._take(places, n, other)

    def _chain(self, places: Sequence[_Place], n: int) -> ArchSpec:
        """The network of every block's n-th kind."""
        return self.space.network([row for p in places for row in p.chosen(n)[1]], "supernet")

    def _take(self, places: Sequence[_Place], n: int, other: Network) -> None:
        """Put the rows of every block's n-th kind, of which `other` is made, behind those that are there."""
        first = 0
        for starts, place in zip(self._starts, places, strict=True):
            kind, rows = place.chosen(n)
            if kind not in starts:
                starts[kind] = first if n == 0 else len(self.net.rows)
                if n:
                    self.net.rows.extend(other.rows[first : first + len(rows)])
            first += len(rows)

    def rows_of(self, genome: Genome) -> list[int]:
        """For each row of the genome's network, the supernet's row that lends its weights."""
        out: list[int] = []
        cin = self.space.scaled_stem().out
        for starts, (block, choices) in zip(self._starts, self.space.split(genome), strict=True):
            settings = block.settings(choices)
            rows = self.space.block_rows(block, settings, cin)
            if rows:
                start = starts[_kind(block, choices, self.apart)]
                out += range(start, start + len(rows))
                cin = rows[-1].out
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
            out[name] = slice_of(full[donor], tuple(value.shape)).clone()
        return out

    def forward_path(self, genome: Genome, x: Tensor) -> Tensor:
        """Training forward of one path, batch statistics, gradients into the shared weights."""
        net = self.net
        layers = {layer.path: layer for layer in lower(self.space.spec(genome))}
        x = run_row(net.stem, layers["stem"], x)
        for i, donor in enumerate(self.rows_of(genome)):
            x = run_row(net.rows[donor], layers[f"rows[{i}]"], x)
        if net.tail is not None:
            x = run_row(net.tail, layers["tail"], x)
        return self.answer(x)

    def answer(self, x: Tensor) -> Tensor:
        """Logits (N, classes) from the last map."""
        return cast(Tensor, cast(Any, self.net.head).pooled(x.mean((2, 3))))


def slice_of(full: Tensor, shape: tuple[int, ...]) -> Tensor:
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


def _conv(module: Any, op: Op, prefix: str, x: Tensor, norms: Norms) -> Tensor:
    """A convolution of the path with slices of the shared weights."""
    conv: nn.Conv2d = module.get_submodule(op.name.removeprefix(prefix))
    weight = slice_of(conv.weight, (op.cout, op.cin // op.groups, op.k, op.k))
    bias = None if conv.bias is None else conv.bias[: op.cout]
    x = F.conv2d(x, weight, bias, op.s, op.dilation * (op.k - 1) // 2, op.dilation, op.groups)
    if op.bn is None:
        return x
    bn: nn.BatchNorm2d = module.get_submodule(op.bn.removeprefix(prefix))
    n, momentum = op.cout, (bn.momentum or 0.0) if norms == "training" else 0.0
    mean, var = cast(Tensor, bn.running_mean)[:n], cast(Tensor, bn.running_var)[:n]
    return F.batch_norm(x, mean, var, bn.weight[:n], bn.bias[:n], norms != "running", momentum, bn.eps)


def run_layer(
    module: Any, layer: Layer, at: dict[str, Tensor], norms: Norms, image: tuple[int, int] | None = None,
    dropout: nn.Module | None = None,
) -> None:  # fmt: skip
    """The ops of a layer of a path on the weights of `module`, a larger one; their outputs join `at`, maps by name.
    `image`: (height, width) of the input, which heads resize to. `dropout`: before the ops that say so."""
    prefix = layer.path.replace("[", ".").removesuffix("]") + "."
    for op in layer.ops:
        x = at[op.inputs[0]]
        if op.kind != "conv":
            at[op.output] = run_op(op, at, image)
        else:
            at[op.output] = _conv(module, op, prefix, dropout(x) if dropout is not None and op.drop else x, norms)


def run_row(module: Any, layer: Layer, x: Tensor, norms: Norms = "training") -> Tensor:
    """One row of a path, its ops on the weights of a larger row."""
    at = {layer.inputs[0]: x}
    run_layer(module, layer, at, norms)
    return at[layer.outputs[0]]
