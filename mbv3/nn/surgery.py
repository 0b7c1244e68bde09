"""Weights of a smaller network from a larger one of the same structure (Yang 2018, arXiv:1804.03230)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from mbv3.errors import BadInput
from mbv3.nn.build import state_shapes
from mbv3.spec import ArchSpec, Classify, Head, Op, lower, lower_aux, widths_of, with_widths

__all__ = ["ChannelSet", "channel_sets", "cut_state"]


@dataclass(slots=True, eq=False)
class _Space:
    """A set of channels, `size` before the cut and `cut` after. Layers whose outputs are added share one set and keep
    the same channels."""

    size: int
    cut: int
    makers: list[str] = field(default_factory=list)  # layers that count, and the score of each channel in each of them
    norm: list[Tensor] = field(default_factory=list)
    into: _Space | None = None

    def root(self) -> _Space:
        return self if self.into is None else self.into.root()

    def take(self, other: _Space, norm: bool) -> None:
        """Become one with `other`, whose filters count where `norm`."""
        mine, theirs = self.root(), other.root()
        if mine is not theirs:
            mine.norm += theirs.norm if norm else []
            mine.makers += theirs.makers if norm else []
            theirs.into = mine


class MadeUp(Protocol):
    """What is known of the channels that a layer reads."""

    def made_up(self, weight: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """(weights (O, K) for the channels `kept`, what is added to a bias (O,)), from weights (O, C)."""


_Channels = tuple[_Space, ...]  # of a tensor: several after a concatenation


def _frame(head: Head) -> object:
    """What may not differ."""
    return head.frame() if isinstance(head, Classify) else with_widths(head, dict.fromkeys(widths_of(head), 2))


def _alike(before: ArchSpec, after: ArchSpec) -> None:
    """Raises: BadInput where the networks differ in more than their channels."""
    if len(before.rows) != len(after.rows) or (before.tail is None) != (after.tail is None):
        raise BadInput("cut_state: the networks have different rows")
    for what in ("in_channels", "gate", "bn_eps", "padding"):
        if getattr(before, what) != getattr(after, what):
            raise BadInput(f"cut_state: the networks differ in {what}")
    if _frame(before.head) != _frame(after.head):
        raise BadInput("cut_state: head differs in more than its channels")
    for (path, a, a_in), (_, b, b_in) in zip(before.convs(), after.convs(), strict=True):
        prefix = path.replace("[", ".").removesuffix("]")
        if type(a) is not type(b) or a.frame() != b.frame():
            raise BadInput(f"cut_state: {prefix} differs in more than its channels")
        if a.expands(a_in) != b.expands(b_in):
            raise BadInput(f"cut_state: {prefix} has an expansion in one network only")


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


def _ops(spec: ArchSpec) -> Iterator[Op]:
    aux = lower_aux(spec)
    for layer in (*lower(spec), *([aux] if aux is not None else [])):
        yield from layer.ops


def _what(op: Op) -> str:
    """The field of a spec that says how many channels a convolution has."""
    for ending, field_ in ((".expand.conv", ".exp"), (".se.reduce", ".se"), (".project.conv", ""), (".conv", "")):
        if op.name.endswith(ending):
            return op.name.removesuffix(ending) + field_
    return op.name


def _walk(
    score: Callable[[str, int], Tensor], before: ArchSpec, after: ArchSpec
) -> dict[str, tuple[_Channels, _Channels]]:
    """(output, input) channels of every convolution and batch norm by name; a depthwise one has no input of its own.

    `score`: a convolution's name and output channels to a score of each of them."""
    image: _Channels = (_Space(before.in_channels, after.in_channels),)
    at: dict[str, _Channels] = {"input": image}
    dims: dict[str, tuple[_Channels, _Channels]] = {}
    for a, b in zip(_ops(before), _ops(after), strict=True):
        first = at[a.inputs[0]]
        if a.kind == "conv" and a.groups > 1:
            dims[a.name] = (first, ())
        elif a.kind == "conv":
            if b.cout > a.cout:
                raise BadInput(f"cut_state: {_what(a)} grows from {a.cout} to {b.cout} channels")
            source, first = first, (_Space(a.cout, b.cout, [a.name], [score(a.name, a.cout)]),)
            dims[a.name] = (first, source)
        elif a.kind in ("add", "mul"):
            # a gate follows what it gates; of two that are added the earlier comes first
            trunk, other = (first, at[a.inputs[1]]) if a.kind == "mul" else (at[a.inputs[1]], first)
            for mine, theirs in zip(trunk, other, strict=True):
                mine.take(theirs, norm=a.kind == "add")
        elif a.kind == "concat":
            first = tuple(space for name in a.inputs for space in at[name])
        if a.bn is not None:
            dims[a.bn] = (first, ())
        at[a.output] = first
    return dims


@dataclass(frozen=True, slots=True)
class ChannelSet:
    """Channels that can only be cut together: those of one layer, or of all layers that a residual joins.

    `makers`: the convolutions that write them, depthwise ones and gates aside; `norms`: the batch norms over
    nothing else; `readers`: the convolutions that take them, each with the index of its input where they begin.
    """

    size: int
    makers: tuple[str, ...]
    norms: tuple[str, ...]
    readers: tuple[tuple[str, int], ...]


def channel_sets(spec: ArchSpec) -> list[ChannelSet]:
    """Every set of channels of `spec`, in network order, the image's own aside."""
    dims = _walk(lambda name, n: torch.zeros(n), spec, spec)
    convs = {op.name for op in _ops(spec) if op.kind == "conv"}
    norms: dict[_Space, list[str]] = {}
    readers: dict[_Space, list[tuple[str, int]]] = {}
    for name, (outputs, inputs) in dims.items():
        root = outputs[0].root()
        norms.setdefault(root, []).extend([] if name in convs or len(outputs) > 1 else [name])
        start = 0
        for space in inputs:
            readers.setdefault(space.root(), []).append((name, start))
            start += space.size
    return [
        ChannelSet(space.size, tuple(space.makers), tuple(names), tuple(readers.get(space, ())))
        for space, names in norms.items()
    ]


def cut_state(
    state: Mapping[str, Tensor],
    before: ArchSpec,
    after: ArchSpec,
    scores: Mapping[str, Tensor] | None = None,
    moments: Mapping[str, MadeUp] | None = None,
) -> dict[str, Tensor]:
    """The state dict of `after`, each layer keeping the filters of largest L2 norm from `before`'s `state`, or of the
    highest score.

    Channels that a residual ties together keep the same indices in all their rows, by the sum of their scores; what a
    head takes of the backbone follows.
    `after` has the same rows as `before` with equal or fewer `exp`, `out` and `se`, and the same head with equal or
    fewer channels. `scores`: a convolution's name to a
    score of each of its output channels; tied layers without one add nothing, sets without any are cut by L2 norm.
    `moments`: of what 1x1 layers read (`input_moments`): their weights make up for the channels that they read no more.

    Raises:
        BadInput: the two networks differ in more than their channel counts, or `state` is not `before`'s.
    """
    _alike(before, after)
    _fits(state, before)
    scores = scores or {}
    given: set[str] = set()
    for channels in channel_sets(before) if scores else ():
        if any(name in scores for name in channels.makers):
            given.update(channels.makers)

    def score(name: str, n: int) -> Tensor:
        weight = state[f"{name}.weight"]
        if name not in given:
            return _l2(weight)
        return scores[name].to(weight.device) if name in scores else torch.zeros(n, device=weight.device)

    dims = _walk(score, before, after)
    kept: dict[_Space, Tensor] = {}

    def keep(channels: _Channels) -> Tensor | None:
        """Indices of the channels that are kept; None where all are."""
        roots = [space.root() for space in channels]
        if all(space.cut == space.size for space in roots):
            return None
        found, start = [], 0
        for space in roots:
            if space not in kept:
                total = torch.stack(space.norm).sum(0) if space.norm else torch.zeros(space.size)
                kept[space] = torch.sort(torch.topk(total, space.cut).indices).values
            found.append(kept[space] + start)
            start += space.size
        return torch.cat(found)

    result: dict[str, Tensor] = {}
    for name, value in state.items():
        prefix, _, part = name.rpartition(".")
        if part == "num_batches_tracked":
            result[name] = value.clone()
            continue
        outputs, inputs = dims[prefix]
        rows, columns = keep(outputs), keep(inputs) if part in ("weight", "bias") and inputs else None
        value = value if rows is None else value.index_select(0, rows)
        known = (moments or {}).get(prefix)
        weight = state[f"{prefix}.weight"]
        if columns is not None and known is not None and weight[0, 0].numel() == 1:
            weight = weight.flatten(1)
            made_up, more = known.made_up(weight if rows is None else weight.index_select(0, rows), columns)
            value = made_up.view(-1, len(columns), *value.shape[2:]) if part == "weight" else value + more
        elif columns is not None and part == "weight":
            value = value.index_select(1, columns)
        result[name] = value.clone()
    return result
