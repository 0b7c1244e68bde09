"""Steps of a foreign network as a spec and its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbv3.graph import Found, Step, refuse, tidy
from mbv3.spec import (
    GATES,
    MAX_ROWS,
    NL,
    NLS,
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
    far_pads,
    lower,
)

__all__ = ["Recognised", "recognise"]

Array = NDArray[np.float32]
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


@dataclass(frozen=True, slots=True)
class _Atom:
    """A convolution with its activation and squeeze-and-excitation. `skip`: the value that is added after it."""

    conv: Step
    cin: int
    size: tuple[int, int]  # height and width of its input
    nl: NL
    squeeze: tuple[Step, NL, Step, str] | None  # reduce, its activation, expand, gate
    source: str
    end: str  # the value after all of it, an addition included
    skip: str = ""

    @property
    def k(self) -> int:
        assert self.conv.kernel is not None
        return int(self.conv.kernel.shape[2])

    @property
    def out(self) -> int:
        assert self.conv.kernel is not None
        return int(self.conv.kernel.shape[0])

    @property
    def depthwise(self) -> bool:
        return self.conv.groups == self.cin == self.out and self.cin > 1

    @property
    def point(self) -> bool:
        return self.k == 1 and self.conv.groups == 1 and self.s == 1

    @property
    def s(self) -> int:
        return self.conv.stride[0]

    @property
    def se(self) -> int:
        if self.squeeze is None:
            return 0
        reduce = self.squeeze[0].kernel
        assert reduce is not None
        return int(reduce.shape[0])

    def steps(self) -> Iterator[Step]:
        yield self.conv
        if self.squeeze is not None:
            yield self.squeeze[0]
            yield self.squeeze[2]


def recognise(found: Found, name: str, source: str) -> Recognised:
    """The spec and the weights that `found` is; both answer alike. `source` names the file in messages.

    Raises:
        BadInput: a spec cannot express it; the first operator in the way is named.
    """
    found = tidy(found)
    walk = _Walk(found, source)
    before = walk.image()
    atoms = list(walk.trunk())
    head = walk.head()
    softmax = walk.softmax()
    spec = _spec(found, atoms, head, name, source, walk.pads)
    steps = [step for atom in atoms for step in atom.steps()] + [step for step, _ in head]
    state, folded = _state(spec, steps)
    return Recognised(spec, state, folded, before, softmax, found)


class _Walk:
    """From the image to the answers, one convolution after the other."""

    def __init__(self, found: Found, source: str) -> None:
        self.found, self.source = found, source
        self.takers: dict[str, list[Step]] = {}
        for step in found.steps:
            for value in step.inputs:
                self.takers.setdefault(value, []).append(step)
        self.here = found.input
        self.pads: dict[str, str] = {}  # strided convolutions that pad in one way only, by label

    def refuse(self, step: Step, rule: str) -> Any:
        refuse(self.source, step.label, rule)

    def next(self) -> list[Step]:
        return self.takers.get(self.here, [])

    def image(self) -> tuple[Array, Array]:
        channels = self.found.shapes[self.found.input][0]
        scale, shift = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        if len(taken := self.next()) == 1 and taken[0].kind == "affine":
            [step] = taken
            assert step.scale is not None and step.shift is not None
            if (step.scale <= 0).any():
                self.refuse(step, "turns the image into its negative")
            scale, shift = scale * step.scale, shift + step.shift
            self.here = step.output
        return scale, shift

    def act(self) -> NL:
        """The activation that comes next, passed; NONE where none does."""
        taken = self.next()
        if len(taken) == 1 and taken[0].kind == "act":
            [step] = taken
            if step.nl not in NLS:
                self.refuse(step, f"{step.nl.lower()} stands where a spec has {', '.join(NLS)}")
            self.here = step.output
            return cast(NL, step.nl)
        return "NONE"

    def trunk(self) -> Iterator[_Atom]:
        """The convolutions up to the average over the whole map."""
        seen = {self.here}
        while True:
            taken = self.next()
            convs = [s for s in taken if s.kind == "conv"]
            others = [s for s in taken if s.kind not in ("conv", "add")]
            if not convs and len(taken) == 1 and taken[0].kind == "gpool":
                return
            if others or len(convs) != 1:
                odd = next(iter(others or convs[1:] or taken), None)
                if odd is None:
                    last = next((s for s in self.found.steps if s.output == self.here), self.found.steps[-1])
                    self.refuse(last, "ends the network before an average over the whole map")
                self.refuse(cast(Step, odd), "stands where a spec has the next convolution")
            atom = self.atom(convs[0])
            seen.add(atom.end)
            yield atom
            if len(seen) > 4 * MAX_ROWS:
                self.refuse(convs[0], f"a spec has at most {MAX_ROWS} rows")

    def atom(self, conv: Step) -> _Atom:
        source, (cin, *size) = self.here, self.found.shapes[self.here]
        self.check(conv, size[0], size[1])
        self.here = conv.output
        nl = self.act()
        squeeze = self.squeeze()
        if squeeze is not None and len(after := self.next()) == 1 and after[0].kind == "act":
            self.refuse(after[0], "an activation after squeeze-and-excitation; a spec has it before")
        skip = ""
        taken = self.next()
        if len(taken) == 1 and taken[0].kind == "add":
            a, b = taken[0].inputs
            skip = b if a == self.here else a
            if skip == self.here:
                self.refuse(taken[0], "adds a map to itself")
            self.here = taken[0].output
            if len(after := self.next()) == 1 and after[0].kind == "act":
                self.refuse(after[0], "an activation after a residual")
        return _Atom(conv, cin, (size[0], size[1]), nl, squeeze, source, self.here, skip)

    def squeeze(self) -> tuple[Step, NL, Step, str] | None:
        trunk, taken = self.here, self.next()
        if sorted(s.kind for s in taken) != ["gpool", "mul"]:
            return None
        pool, mul = sorted(taken, key=lambda s: s.kind)
        self.here = pool.output
        convs = []
        inside: list[NL] = []
        for last in (False, True):
            following = self.next()
            if len(following) != 1 or following[0].kind != "conv":
                self.refuse(following[0] if following else pool, "is no squeeze-and-excitation of two convolutions")
            convs.append(following[0])
            self.here = following[0].output
            if not last:
                inside.append(self.act())
        [gate] = self.next() or [mul]
        if gate.kind != "act" or gate.nl not in GATES or set(mul.inputs) != {trunk, gate.output}:
            self.refuse(gate, f"stands where squeeze-and-excitation has its gate, one of {', '.join(GATES)}")
        self.here = mul.output
        return convs[0], inside[0], convs[1], gate.nl

    def check(self, conv: Step, h: int, w: int) -> None:
        """A square kernel, odd, padded as a spec's is."""
        assert conv.kernel is not None
        out, _, kh, kw = conv.kernel.shape
        cin = self.found.shapes[conv.inputs[0]][0]
        (sh, sw), (dh, dw) = conv.stride, conv.dilation
        if kh != kw or sh != sw or dh != dw:
            self.refuse(conv, f"kernel {kh}x{kw}, stride {sh}x{sw}, dilation {dh}x{dw}; a spec has square ones")
        if kh % 2 == 0:
            self.refuse(conv, f"a kernel of {kh}x{kh}; a spec has odd ones")
        if conv.groups != 1 and not (conv.groups == cin == out):
            self.refuse(conv, f"{conv.groups} groups of {cin} channels to {out}; a spec has full and depthwise ones")
        _, ho, wo = self.found.shapes[conv.output]
        if (ho, wo) != (-(-h // sh), -(-w // sw)):
            self.refuse(conv, f"makes a map of {ho}x{wo} of one of {h}x{w}; a spec pads to {-(-h // sh)}x{-(-w // sw)}")
        both = (dh * (kh - 1) // 2,) * 2
        far = (far_pads(h, kh, sh, dh)[0], far_pads(w, kw, sw, dw)[0])
        before = conv.pads[0], conv.pads[1]
        ways = [way for way, pads in (("both", both), ("tensorflow", far)) if pads == before]
        if not ways:
            self.refuse(
                conv, f"pads {conv.pads} (top, left, bottom, right); a spec pads both sides alike or as TensorFlow"
            )
        if len(ways) == 1:
            self.pads[conv.label] = ways[0]

    def head(self) -> list[tuple[Step, NL]]:
        """The layers behind the average."""
        [pool] = self.next()
        self.here = pool.output
        self.averaged()
        found: list[tuple[Step, NL]] = []
        while len(taken := self.next()) == 1 and taken[0].kind == "conv":
            if len(found) == 2:
                self.refuse(taken[0], "a third layer behind the average; a spec has two")
            assert taken[0].kernel is not None
            if taken[0].kernel.shape[2:] != (1, 1) or taken[0].groups != 1:
                self.refuse(taken[0], "is no fully connected layer, behind the average")
            self.here = taken[0].output
            found.append((taken[0], self.act()))
            self.averaged()
        if not found:
            self.refuse(pool, "no classifier follows the average")
        return found

    def averaged(self) -> None:
        """Past further averages: of what is one pixel they are nothing."""
        while len(taken := self.next()) == 1 and taken[0].kind == "gpool":
            self.here = taken[0].output

    def softmax(self) -> bool:
        taken = self.next()
        if len(taken) == 1 and taken[0].kind == "softmax":
            self.here = taken[0].output
            taken = self.next()
        if taken:
            self.refuse(taken[0], "stands behind the classifier")
        return any(s.kind == "softmax" for s in self.found.steps)


# ---- rows ----------------------------------------------------------------------------------------------------


def _spec(
    found: Found, atoms: Sequence[_Atom], head: Sequence[tuple[Step, NL]], name: str, source: str,
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


def _common(atom: _Atom, start: str, source: str) -> dict[str, Any]:
    """Fields that the last atom of a row decides."""
    if atom.skip and atom.skip != start:
        refuse(source, atom.conv.label, "what is added to it is not the input of its row")
    return {"out": atom.out, "skip": "identity" if atom.skip else "none"}


def _squeezed(atom: _Atom) -> dict[str, Any]:
    return {"se": atom.se, "se_nl": atom.squeeze[1]} if atom.squeeze is not None else {}


def _conv(atom: _Atom) -> Conv:
    return Conv(k=atom.k, out=atom.out, nl=atom.nl, s=atom.s, dilation=atom.conv.dilation[0], **_squeezed(atom))


def _rows(atoms: Sequence[_Atom], source: str) -> tuple[list[Row], Conv | None]:
    """(rows, tail): the tail is a 1x1 convolution with an activation that nothing follows."""
    rows: list[Row] = []
    i = 0
    while i < len(atoms):
        made = _row(atoms[i:], source)
        used = made[1]
        for inner in atoms[i : i + used - 1]:
            if inner.skip:
                refuse(source, inner.conv.label, "a residual that ends inside a row")
        rows.append(made[0])
        i += used
    if any(isinstance(row, UIB) and row.a for row in rows):  # MobileNetV4: one kind for all of its bottlenecks
        rows = [_universal(row) for row in rows]
    last = rows[-1] if rows else None
    if isinstance(last, Conv) and last.k == 1 and last.nl != "NONE" and last.skip == "none":
        return rows[:-1], last
    return rows, None


def _row(atoms: Sequence[_Atom], source: str) -> tuple[Row, int]:
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


def _universal(row: Row) -> Row:
    """An `mbconv` with an expansion as the `uib` that it is."""
    if type(row) is not MBConv:
        return row
    return UIB(a=0, **{f.name: getattr(row, f.name) for f in fields(row)})


def _ends(expand: _Atom, depthwise: _Atom, project: _Atom) -> bool:
    """Whether three convolutions are an expansion, a depthwise one and a linear projection."""
    return (
        expand.point and depthwise.depthwise and project.point and project.nl == "NONE" and expand.nl == depthwise.nl
        and not expand.se and not project.se
    )  # fmt: skip


def _uib(start: _Atom | None, expand: _Atom, depthwise: _Atom | None, project: _Atom, source: str) -> UIB:
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
