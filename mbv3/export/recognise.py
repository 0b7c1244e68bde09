"""Steps of a foreign network as a spec and its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mbv3.errors import BadInput, plain
from mbv3.export.atoms import Array, Atom, AtomWalk
from mbv3.graph import Found, Step, refuse, tidy
from mbv3.spec import (
    NL,
    UIB,
    ArchSpec,
    Classify,
    Conv,
    DSConv,
    Fused,
    Gate,
    MBConv,
    Op,
    Padding,
    Row,
    lower,
)

__all__ = ["Recognised", "recognise"]

EPS = 1e-3  # of batch norms that a file has folded


@dataclass(frozen=True, slots=True)
class Recognised:
    """A network that a file holds. `folded`: batch norms that it has no statistics of, by name; they do nothing yet.

    `before`: the scale and shift of the image that stand in the file before the first convolution, one a channel.
    `softmax`: its answers are shares, not logits. `found`: the steps, tidied.
    """

    spec: ArchSpec
    state: dict[str, Tensor]
    folded: tuple[str, ...]
    before: tuple[Array, Array]
    softmax: bool
    found: Found


def recognise(found: Found, name: str, source: str) -> Recognised:
    """The spec and the weights that `found` is; both answer alike. `source` names the file in messages.

    Raises:
        BadInput: a spec cannot express it; the first operator in the way is named.
    """
    found = tidy(found)
    if not found.steps:
        raise BadInput(f"{plain(source, 4096)}: holds no operator between its input and its output")
    walk = AtomWalk(found, source)
    before = walk.image()
    atoms = list(walk.trunk())
    head = walk.head()
    softmax = walk.softmax()
    spec = _spec(found, atoms, head, name, source, walk.pads)
    steps = [step for atom in atoms for step in atom.steps()] + [step for step, _ in head]
    state, folded = _state(spec, steps)
    return Recognised(spec, state, folded, before, softmax, found)


# ---- rows ----------------------------------------------------------------------------------------------------


def _spec(
    found: Found, atoms: Sequence[Atom], head: Sequence[tuple[Step, NL]], name: str, source: str,
    pads: Mapping[str, str],
) -> ArchSpec:  # fmt: skip
    if not atoms:
        refuse(source, found.steps[0].label, "no convolution stands before the average")
    stem, *rest = atoms
    if stem.depthwise or stem.conv.groups != 1:
        refuse(source, stem.conv.label, "the first convolution is not a full one")
    if stem.skip:
        refuse(source, stem.conv.label, "a residual around the first convolution")
    rows, tail = _rows(rest, source)
    ways = Counter(pads.values())
    if len(ways) > 1:
        odd = min(ways, key=lambda way: ways[way])
        label = next(label for label, way in pads.items() if way == odd)
        refuse(source, label, f"pads strided convolutions as {odd}, others do not; a spec has one way")
    padding = cast(Padding, next(iter(ways), "both"))
    gates = {atom.squeeze[3]: atom for atom in atoms if atom.squeeze is not None}
    if len(gates) > 1:
        atom = list(gates.values())[1]
        refuse(source, atom.conv.label, f"squeeze-and-excitation has the gates {', '.join(gates)}; a spec has one")
    if not rows and tail is not None:
        rows, tail = [tail], None
    if not rows:
        refuse(source, stem.conv.label, "the only convolution; a spec has rows")
    classify, last_nl = head[-1]
    if last_nl != "NONE":
        refuse(source, classify.label, "an activation behind the classifier")
    assert classify.kernel is not None
    features, norm = 0, False
    nl: NL = "HS"
    if len(head) == 2:
        step, nl = head[0]
        assert step.kernel is not None
        features, norm = int(step.kernel.shape[0]), step.norm is not None
    eps = [step.norm.eps for step in found.steps if step.norm is not None]
    channels, h, w = found.shapes[found.input]
    return ArchSpec(
        name=name, resolution=(h, w), in_channels=channels, stem=_conv(stem), rows=tuple(rows), tail=tail,
        head=Classify(features=features, features_bn=norm, nl=nl, classes=int(classify.kernel.shape[0])),
        gate=cast(Gate, next(iter(gates), "HSIGMOID")), bn_eps=Counter(eps).most_common(1)[0][0] if eps else EPS,
        padding=padding,
    )  # fmt: skip


def _common(atom: Atom, start: str, source: str) -> dict[str, Any]:
    """Fields that the last atom of a row decides."""
    if atom.skip and atom.skip != start:
        refuse(source, atom.conv.label, "what is added to it is not the input of its row")
    return {"out": atom.out, "skip": "identity" if atom.skip else "none"}


def _squeezed(atom: Atom) -> dict[str, Any]:
    return {"se": atom.se, "se_nl": atom.squeeze[1]} if atom.squeeze is not None else {}


def _conv(atom: Atom) -> Conv:
    return Conv(k=atom.k, out=atom.out, nl=atom.nl, s=atom.s, dilation=atom.conv.dilation[0], **_squeezed(atom))


def _rows(atoms: Sequence[Atom], source: str) -> tuple[list[Row], Conv | None]:
    """(rows, tail): the tail is a 1x1 convolution with an activation that nothing follows."""
    rows: list[Row] = []
    widths: list[int] = []  # input channels
    i = 0
    while i < len(atoms):
        made = _row(atoms[i:], source)
        used = made[1]
        for inner in atoms[i : i + used - 1]:
            if inner.skip:
                refuse(source, inner.conv.label, "a residual that ends inside a row")
        rows.append(made[0])
        widths.append(atoms[i].cin)
        i += used
    if any(isinstance(row, UIB) and row.a for row in rows):  # MobileNetV4: one kind for all of its bottlenecks
        rows = [_universal(row, cin) for row, cin in zip(rows, widths, strict=True)]
    last = rows[-1] if rows else None
    if isinstance(last, Conv) and last.k == 1 and last.nl != "NONE" and last.skip == "none":
        return rows[:-1], last
    return rows, None


def _row(atoms: Sequence[Atom], source: str) -> tuple[Row, int]:
    """(the row that the first atoms are, how many they are)."""
    first = atoms[0]
    second, third, fourth = (atoms[i] if i < len(atoms) else None for i in (1, 2, 3))
    linear = "NONE"
    if first.depthwise:
        if second is None or not second.point:
            refuse(source, first.conv.label, "a depthwise convolution that no 1x1 convolution follows")
        if first.nl == linear and second.nl != linear and not first.se:  # a universal inverted bottleneck
            if third is not None and third.depthwise and fourth is not None and _ends(second, third, fourth):
                return _uib(first, second, third, fourth, source), 4
            if third is not None and third.point and third.nl == linear and not third.se:
                return _uib(first, second, None, third, source), 3
        if second.se:
            refuse(source, second.conv.label, "squeeze-and-excitation after the last convolution of a row")
        fields = {"k": first.k, "nl": first.nl, "s": first.s, "dilation": first.conv.dilation[0], **_squeezed(first),
                  **_common(second, first.source, source)}  # fmt: skip
        if second.nl == linear:
            return MBConv(exp=first.cin, **fields), 2
        return DSConv(out_nl=second.nl, **fields), 2
    if second is not None and not first.se and not first.skip and first.nl != linear:
        if first.point and second.depthwise and third is not None and _ends(first, second, third):
            if first.out == first.cin:  # an mbconv would leave the expansion out
                return _uib(None, first, second, third, source), 3
            return MBConv(
                k=second.k, exp=first.out, nl=second.nl, s=second.s, dilation=second.conv.dilation[0],
                **_squeezed(second), **_common(third, first.source, source),
            ), 3  # fmt: skip
        if second.point and second.nl == linear and not second.se:
            if first.point:
                return _uib(None, first, None, second, source), 2
            if not first.depthwise:
                return Fused(
                    k=first.k, exp=first.out, nl=first.nl, s=first.s, dilation=first.conv.dilation[0],
                    **_common(second, first.source, source),
                ), 2  # fmt: skip
    if first.se and second is not None and second.point and second.nl == linear and not first.point and not second.se:
        return Fused(
            k=first.k, exp=first.out, nl=first.nl, s=first.s, dilation=first.conv.dilation[0], **_squeezed(first),
            **_common(second, first.source, source),
        ), 2  # fmt: skip
    return replace(_conv(first), **_common(first, first.source, source)), 1


def _universal(row: Row, cin: int) -> Row:
    """An `mbconv` with an expansion as the `uib` that it is."""
    if type(row) is not MBConv or not row.expands(cin):
        return row
    return UIB(a=0, **{f.name: getattr(row, f.name) for f in fields(row)})


def _ends(expand: Atom, depthwise: Atom, project: Atom) -> bool:
    """Whether three convolutions are an expansion, a depthwise one and a linear projection."""
    return (
        expand.point and depthwise.depthwise and project.point and project.nl == "NONE" and expand.nl == depthwise.nl
        and not expand.se and not project.se
    )  # fmt: skip


def _uib(start: Atom | None, expand: Atom, depthwise: Atom | None, project: Atom, source: str) -> UIB:
    first = start or expand
    s, d = 1, 1
    for part in (start, depthwise):
        if part is not None:
            s, d = max(s, part.s), max(d, part.conv.dilation[0])
    if start is not None and depthwise is not None and start.s != 1:
        refuse(source, start.conv.label, "the first depthwise convolution of a row strides")
    squeezed = _squeezed(depthwise or expand)
    return UIB(
        a=start.k if start is not None else 0, k=depthwise.k if depthwise is not None else 0, exp=expand.out,
        nl=expand.nl, s=s, dilation=d, **squeezed, **_common(project, first.source, source),
    )  # fmt: skip


# ---- weights -------------------------------------------------------------------------------------------------


def _state(spec: ArchSpec, steps: Sequence[Step]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """(weights by our names, batch norms without statistics): convolutions come in the same order in both."""
    ops = [op for layer in lower(spec) for op in layer.ops if op.kind == "conv"]
    state: dict[str, Array] = {}
    folded = []
    for op, step in zip(ops, steps, strict=True):
        assert step.kernel is not None and step.bias is not None
        kernel, bias = step.kernel, step.bias
        if step.norm is not None and op.bn is None:
            gain = step.norm.gain / np.sqrt(step.norm.var + np.float32(step.norm.eps))
            kernel, bias = kernel * gain[:, None, None, None], step.norm.shift + (bias - step.norm.mean) * gain
        state[f"{op.name}.weight"] = kernel[:, :, 0, 0] if op.name.startswith("head.") else kernel
        if op.bn is None:
            state[f"{op.name}.bias"] = bias
        else:
            state |= _norm(op, step, bias, spec.bn_eps)
            folded += [op.bn] if step.norm is None else []
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in state.items()}, tuple(folded)


def _norm(op: Op, step: Step, bias: Array, eps: float) -> dict[str, Array]:
    """A batch norm under `eps` that gives what the file's gives, or one that only adds the bias."""
    if step.norm is None:
        gain, shift = np.full_like(bias, np.sqrt(1 + eps)), bias
        mean, var = np.zeros_like(bias), np.ones_like(bias)
    else:
        n = step.norm
        gain = n.gain * np.sqrt((n.var + eps) / (n.var + n.eps))
        shift, mean, var = n.shift, n.mean - bias, n.var
    named = {"weight": gain, "bias": shift, "running_mean": mean, "running_var": var}
    return {f"{op.bn}.{part}": value for part, value in named.items()}
