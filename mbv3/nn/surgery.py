"""Weights of a smaller network out of a larger one of the same structure (Yang 2018, arXiv:1804.03230)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mbv3.errors import BadInput
from mbv3.nn.build import state_shapes
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, Row

__all__ = ["cut_state"]


@dataclass(slots=True)
class _Space:
    """A set of channels that several layers share: they keep the same ones."""

    size: int
    norm: list[Tensor] = field(default_factory=list)  # squared L2 norm of each channel's filters


def _inner(row: Row, cin: int) -> int:
    return row.exp if isinstance(row, MBConv) else row.out if isinstance(row, Conv) else cin


def _structure(row: Row) -> tuple[object, ...]:
    return row.k, row.s, row.nl, row.skip, row.dilation, row.se > 0


def _fits(state: Mapping[str, Tensor], spec: ArchSpec) -> None:
    faults = [
        f"{name} is missing" if name not in state else f"{name} has shape {tuple(state[name].shape)}, not {shape}"
        for name, shape in state_shapes(spec).items()
        if name not in state or tuple(state[name].shape) != shape
    ]
    known = state_shapes(spec)
    faults += [f"{n} is no part of it" for n in state if n not in known and not n.endswith(".num_batches_tracked")]
    if faults:
        raise BadInput("cut_state: the weights are not those of the network: " + "; ".join(faults))


def _l2(weight: Tensor) -> Tensor:
    return weight.flatten(1).square().sum(1)


def cut_state(state: Mapping[str, Tensor], before: ArchSpec, after: ArchSpec) -> dict[str, Tensor]:
    """The state dict of `after`, each layer keeping the filters of largest L2 norm from `before`'s `state`.

    Channels that a residual ties together keep the same indices in all their rows, by the sum of their norms.
    `after` has the same rows as `before` with equal or fewer `exp`, `out` and `se`.

    Raises:
        BadInput: the two networks differ in more than their channel counts, or `state` is not `before`'s.
    """
    if len(before.rows) != len(after.rows) or (before.tail is None) != (after.tail is None):
        raise BadInput("cut_state: the networks have different rows")
    for what in ("in_channels", "gate", "bn_eps"):
        if getattr(before, what) != getattr(after, what):
            raise BadInput(f"cut_state: the networks differ in {what}")
    a_head, b_head = before.head, after.head
    if not isinstance(a_head, Classify) or not isinstance(b_head, Classify):
        raise BadInput("cut_state: only classifiers are cut; a segmentation or detection head is trained anew")
    heads = [(head.features > 0, head.nl, head.classes) for head in (a_head, b_head)]
    if heads[0] != heads[1]:
        raise BadInput("cut_state: head differs in more than its features")
    _fits(state, before)
    pairs: list[tuple[str, Row, Row]] = [("stem", before.stem, after.stem)]
    pairs += [(f"rows.{i}", a, b) for i, (a, b) in enumerate(zip(before.rows, after.rows, strict=True))]
    if before.tail is not None and after.tail is not None:
        pairs.append(("tail", before.tail, after.tail))

    image = _Space(before.in_channels)
    sizes: dict[int, int] = {id(image): before.in_channels}
    dims: dict[str, tuple[_Space, _Space | None]] = {}  # weight or norm prefix: its (output, input) channels
    last, a_in, b_in = image, before.in_channels, after.in_channels

    def produce(prefix: str, space: _Space, source: _Space | None, bn: str | None = None) -> None:
        dims[prefix] = (space, source)
        if bn:
            dims[bn] = (space, None)

    spaces: list[_Space] = [image]

    def new(a: int, b: int, where: str) -> _Space:
        if b > a:
            raise BadInput(f"cut_state: {where} grows from {a} to {b} channels")
        space = _Space(a)
        spaces.append(space)
        sizes[id(space)] = b
        return space

    for prefix, a, b in pairs:
        if type(a) is not type(b) or _structure(a) != _structure(b):
            raise BadInput(f"cut_state: {prefix} differs in more than its channels")
        out = last if a.skip != "none" else new(a.out, b.out, prefix)
        if isinstance(a, Conv):
            inner = out
            produce(f"{prefix}.conv", out, last, f"{prefix}.bn")
            out.norm.append(_l2(state[f"{prefix}.conv.weight"]))
        else:
            expanded = _inner(a, a_in) != a_in
            if expanded != (_inner(b, b_in) != b_in):
                raise BadInput(f"cut_state: {prefix} has an expansion in one network only")
            inner = new(_inner(a, a_in), _inner(b, b_in), f"{prefix}.exp") if expanded else last
            if expanded:
                produce(f"{prefix}.expand.conv", inner, last, f"{prefix}.expand.bn")
                inner.norm.append(_l2(state[f"{prefix}.expand.conv.weight"]))
            produce(f"{prefix}.depthwise.conv", inner, None, f"{prefix}.depthwise.bn")
            produce(f"{prefix}.project.conv", out, inner, f"{prefix}.project.bn")
            out.norm.append(_l2(state[f"{prefix}.project.conv.weight"]))
        if a.se:
            squeeze = new(a.se, b.se, f"{prefix}.se")
            produce(f"{prefix}.se.reduce", squeeze, inner)
            produce(f"{prefix}.se.expand", inner, squeeze)
            squeeze.norm.append(_l2(state[f"{prefix}.se.reduce.weight"]))
        last, a_in, b_in = out, a.out, b.out
    if a_head.features:
        features = new(a_head.features, b_head.features, "head.features")
        produce("head.features", features, last)
        features.norm.append(_l2(state["head.features.weight"]))
        last = features
    produce("head.classifier", new(a_head.classes, b_head.classes, "head.classes"), last)

    keep: dict[int, Tensor | None] = {}
    for space in spaces:
        n = sizes[id(space)]
        if n == space.size:
            keep[id(space)] = None
        else:
            total = torch.stack(space.norm).sum(0)
            keep[id(space)] = torch.sort(torch.topk(total, n).indices).values

    result: dict[str, Tensor] = {}
    for name, value in state.items():
        prefix, _, part = name.rpartition(".")
        if part == "num_batches_tracked":
            result[name] = value.clone()
            continue
        space, source = dims[prefix]
        rows = keep[id(space)]
        value = value if rows is None else value.index_select(0, rows)
        columns = keep[id(source)] if source is not None and part == "weight" else None
        value = value if columns is None else value.index_select(1, columns)
        result[name] = value.clone()
    return result
