"""Steps of a foreign network one after the other: each convolution with what belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mbv3.graph import Found, Step, refuse
from mbv3.spec import GATES, MAX_ROWS, NL, NLS, far_pads

__all__ = ["Array", "Atom", "AtomWalk"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Atom:
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


class AtomWalk:
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

    def trunk(self) -> Iterator[Atom]:
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

    def atom(self, conv: Step) -> Atom:
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
        return Atom(conv, cin, (size[0], size[1]), nl, squeeze, source, self.here, skip)

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
        gate, *others = self.next() or [mul]
        if others:
            self.refuse(others[0], "takes what only the gate of a squeeze-and-excitation may take")
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
