"""A factorized, block-wise search space (Tan 2019, section 4.1, arXiv:1807.11626)."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput, shown
from mbv3.spec import (
    NL,
    ROWS,
    ArchSpec,
    Classify,
    Conv,
    Dense,
    Gate,
    Row,
    Skip,
    make_divisible,
    with_head,
    with_output_stride,
)

__all__ = ["FIELDS", "OWN", "Block", "Gene", "Genome", "SearchSpace", "Value", "Variant", "scale", "under_head"]

Genome = tuple[int, ...]

# The fields that a block sets, in gene order.
# What kinds of rows have of their own, beside the expansion, comes last.
OWN = tuple(dict.fromkeys(name for kind in ROWS.values() for name in kind.OWN if name != "exp"))
FIELDS = ("op", "e", "k", "l", "se", "out", "width", "nl", "skip", *OWN)


@dataclass(frozen=True, slots=True)
class Variant:
    """A named choice that sets several fields at once (MnasNet's MBConv3 is op mbconv with e 3)."""

    name: str
    fields: tuple[tuple[str, Any], ...]


Value = int | float | str | Variant


@dataclass(frozen=True, slots=True)
class Gene:
    """One choice: its full name (`block3_k`), the field that it sets, and the values."""

    name: str
    field: str
    values: tuple[Value, ...]

    def labels(self) -> tuple[int | float | str, ...]:
        return tuple(v.name if isinstance(v, Variant) else v for v in self.values)


@dataclass(frozen=True, slots=True)
class Block:
    """`l` layers at one resolution: the first has the stride of the block, the others are equal with stride 1. Of none,
    where `l` may be 0, the map stays what it is."""

    name: str
    s: int
    fixed: tuple[tuple[str, Any], ...]
    genes: tuple[Gene, ...]

    def settings(self, choices: tuple[int, ...]) -> dict[str, Any]:
        """Every field of the block, for one choice of each gene."""
        out = dict(self.fixed)
        for gene, i in zip(self.genes, choices, strict=True):
            value = gene.values[i]
            out.update(value.fields if isinstance(value, Variant) else ((gene.field, value),))
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Blocks with choices around a fixed stem, tail and head.

    `width` and `resolution` are the scale: every width is multiplied and rounded by make_divisible.
    `widths` and `sides` are what --scale auto chooses from; of nothing, from any.
    `se_of`: squeeze channels are a share of the "input" of the layer (MnasNet) or of its "expansion" (MobileNetV3).
    """

    name: str
    resolution: tuple[int, int]
    stem: Conv
    blocks: tuple[Block, ...]
    tail: Conv | None
    head: Classify
    gate: Gate
    bn_eps: float
    bn_momentum: float
    se_of: Literal["input", "expansion"]
    se_ratio: float = 0.25
    width: float = 1.0
    source: str = ""
    widths: tuple[float, ...] = field(default=(), repr=False)
    sides: tuple[int, ...] = field(default=(), repr=False)  # of a square input, in pixels
    dense: tuple[str, int] | None = field(default=None, repr=False)  # name and classes of the head of deployed networks
    output_stride: int | None = field(default=None, repr=False)  # beyond it blocks are dilated instead of strided
    genes: tuple[Gene, ...] = field(init=False)
    rates: tuple[int, ...] = field(init=False, repr=False)  # dilation of each block

    def __post_init__(self) -> None:
        object.__setattr__(self, "genes", tuple(g for b in self.blocks for g in b.genes))
        most = self.output_stride or math.inf
        reached = itertools.accumulate((b.s for b in self.blocks), operator.mul, initial=self.stem.s)
        rates = tuple(max(1, int(stride // most)) for stride in itertools.islice(reached, 1, None))
        object.__setattr__(self, "rates", rates)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.genes)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(g.values) for g in self.genes)

    @property
    def size(self) -> int:
        """Number of genomes."""
        return math.prod(self.sizes)

    def check(self, genome: Genome) -> Genome:
        """`genome` as plain ints. Raises: BadInput unless it is a genome of this space."""
        whole = all(isinstance(g, (int, np.integer)) for g in genome)
        if (
            not whole
            or len(genome) != len(self.sizes)
            or any(not 0 <= g < n for g, n in zip(genome, self.sizes, strict=True))
        ):
            raise BadInput(f"{genome!r} is not a genome of space {self.name!r} (numbers of choices: {self.sizes})")
        return tuple(int(g) for g in genome)

    def genome(self, text: str) -> Genome:
        """The genome written as `0-1-2`. Raises: BadInput."""
        try:
            return self.check(tuple(int(v) for v in text.split("-")))
        except ValueError:
            raise BadInput(f"{text!r} is not a genome of space {self.name!r}, written as 0-1-2") from None

    def encode(self, values: Mapping[str, Any]) -> Genome:
        """The genome from choice values by gene name, e.g. `{"block0_e": 6, "block0_k": 3, ...}`.

        Raises:
            BadInput: unknown, missing or impossible values, all listed.
        """
        faults = [f"{name}: no such choice" for name in values if name not in self.names]
        genome: list[int] = []
        for gene in self.genes:
            labels = gene.labels()
            if gene.name not in values:
                faults.append(f"{gene.name}: is missing, one of {list(labels)}")
            elif values[gene.name] not in labels:
                faults.append(f"{gene.name}: {values[gene.name]!r} is not one of {list(labels)}")
            else:
                genome.append(labels.index(values[gene.name]))
        if faults:
            raise BadInput(f"space {self.name!r}: " + "; ".join(faults))
        return tuple(genome)

    def decode(self, genome: Genome) -> dict[str, int | float | str]:
        """Choice values by gene name."""
        return {g.name: g.labels()[i] for g, i in zip(self.genes, self.check(genome), strict=True)}

    def sample(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """`n` genomes drawn uniformly, (n, genes)."""
        return rng.integers(0, np.array(self.sizes), size=(n, len(self.sizes)))

    def mutate(self, parent: Genome, rng: np.random.Generator) -> Genome:
        """Mutation of regularized evolution (Real 2019, arXiv:1802.01548): one choice is drawn again."""
        i = int(rng.choice([j for j, n in enumerate(self.sizes) if n > 1]))
        gene = int(rng.integers(self.sizes[i] - 1))
        gene += gene >= parent[i]  # departure: never the same choice again, or the child is wasted
        return (*parent[:i], gene, *parent[i + 1 :])

    def filters(self, base: int, times: float = 1.0) -> int:
        """`base` channels at the scale of the space."""
        return base if times * self.width == 1.0 else make_divisible(base * times * self.width)

    def scaled_stem(self) -> Conv:
        return replace(self.stem, out=self.filters(self.stem.out))

    def scaled_tail(self) -> Conv | None:
        return replace(self.tail, out=self.filters(self.tail.out)) if self.tail is not None else None

    def scaled_head(self) -> Classify:
        return replace(self.head, features=self.filters(self.head.features) if self.head.features else 0)

    def block_out(self, settings: Mapping[str, Any]) -> int:
        """Output channels of a block under these settings."""
        return self.filters(settings["out"], settings["width"])

    def _se(self, settings: Mapping[str, Any], cin: int, inner: int) -> int:
        """Squeeze channels of a layer with `inner` channels between its convolutions."""
        if not settings["se"]:
            return 0
        of_input = self.se_of == "input"
        se = max(1, int(cin * self.se_ratio)) if of_input else make_divisible(inner * self.se_ratio)
        return min(se, inner)  # below 8 channels make_divisible would squeeze into more than there are

    def block_rows(self, block: Block, settings: Mapping[str, Any], cin: int, rate: int = 1) -> list[Row]:
        """The rows of one block with `cin` input channels; a `rate` above one dilates instead of striding."""
        out = self.block_out(settings)
        op, k, nl = settings["op"], settings["k"], cast(NL, settings["nl"])
        if op == "identity":
            # NAS-Bench-Macro: no row, or a plain 1x1 where the shape changes
            same = block.s == 1 and cin == out
            return [] if same else [Conv(k=1, out=out, nl="NONE", s=block.s if rate == 1 else 1)]
        rows: list[Row] = []
        for j in range(settings["l"]):
            s = block.s if j == 0 else 1
            skip = cast(Skip, settings["skip"])
            if cin != out or (skip == "identity" and s != 1):
                skip = "none"
            e = settings["e"]
            exp = round(e * cin) if float(e).is_integer() else make_divisible(e * cin)
            kind = ROWS[op]
            own = {"exp": exp, **settings}
            row = kind(
                k=k, out=out, nl=nl, s=s if rate == 1 else 1, skip=skip, **{name: own[name] for name in kind.OWN}
            )
            d = rate if max(row.kernels) > 1 else 1
            rows.append(replace(row, dilation=d, se=self._se(settings, cin, row.inner(cin))))
            cin = out
        return rows

    def split(self, genome: Genome) -> list[tuple[Block, tuple[int, ...]]]:
        """The choices of the genome, block by block."""
        parts, start = [], 0
        for block in self.blocks:
            parts.append((block, genome[start : start + len(block.genes)]))
            start += len(block.genes)
        return parts

    def spec(self, genome: Genome, name: str | None = None) -> ArchSpec:
        """The network of a genome at the scale of the space, as a classifier."""
        genome = self.check(genome)
        rows: list[Row] = []
        cin = self.scaled_stem().out
        for (block, choices), rate in zip(self.split(genome), self.rates, strict=True):
            settings = block.settings(choices)
            rows += self.block_rows(block, settings, cin, rate)
            cin = self.block_out(settings)
        return self.network(rows, name or f"{self.name}-{'-'.join(map(str, genome))}")

    def network(self, rows: Sequence[Row], name: str) -> ArchSpec:
        """A network of the stem of the space, `rows`, its tail and its classifier."""
        return ArchSpec(
            name=name,
            resolution=self.resolution,
            stem=self.scaled_stem(),
            rows=tuple(rows),
            tail=self.scaled_tail(),
            head=self.scaled_head(),
            gate=self.gate,
            bn_eps=self.bn_eps,
            bn_momentum=self.bn_momentum,
        )

    def dress(self, spec: ArchSpec) -> ArchSpec:
        """`spec` as it is deployed: with the dense head and output stride of the space, where it has them. A dense head
        that it has already, perhaps cut, stays.

        Raises:
            BadInput: the backbone is too shallow for the head, or cannot have that output stride.
        """
        if self.dense is not None and not isinstance(spec.head, Dense):
            spec = with_head(spec, *self.dense)
        if self.output_stride is not None and spec.stride > self.output_stride:
            spec = with_output_stride(spec, self.output_stride)
        return spec

    def deployed(self, genome: Genome, name: str | None = None) -> ArchSpec:
        """The network of a genome as it is deployed; this is the network that is measured."""
        return self.dress(self.spec(genome, name))


def scale(
    space: SearchSpace,
    width: float = 1.0,
    resolution: int | tuple[int, int] | None = None,
    classes: int | None = None,
) -> SearchSpace:
    """`space` with all widths multiplied by `width`, at another input resolution in pixels, for other classes.

    Raises:
        BadInput: `width` is not from 0.05 to 8.
    """
    if not 0.05 <= width <= 8:
        raise BadInput(f"width: must be a number from 0.05 to 8 (got {shown(width)})")
    res = (resolution, resolution) if isinstance(resolution, int) else resolution or space.resolution
    head = space.head if classes is None else replace(space.head, classes=classes)
    return replace(space, width=space.width * width, resolution=res, head=head)


def under_head(space: SearchSpace, head: str, classes: int, output_stride: int | None = None) -> SearchSpace:
    """`space` whose networks are deployed with the dense head `head`, one of `head_names()`.

    Their last feature map has 1/`output_stride` of the input size; by default 1/16, or the stride of the space where
    that is smaller. The last block is dilated for that, as in LR-ASPP (Howard 2019, section 6.4).

    Raises:
        BadInput: its networks are too shallow for the head or cannot have that output stride, or the input is too
        small.
    """
    example = tuple(0 for _ in space.sizes)  # every network of the space has these strides
    stride = output_stride or min(16, space.spec(example).stride)
    plain = replace(space, dense=(head, classes))
    with_output_stride(plain.dress(plain.spec(example, space.name)), stride)
    return replace(plain, output_stride=stride)
