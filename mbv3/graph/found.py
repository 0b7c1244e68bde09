"""What a reader of a foreign file finds: its operators in order, as plain numbers and names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput, plain

__all__ = ["Array", "Found", "Norm", "Pads", "Pen", "Shape", "Step", "Value", "refuse"]

Array = NDArray[np.float32]
Shape = tuple[int, int, int]  # channels, height, width
Pads = tuple[int, int, int, int]  # top, left, bottom, right
Kind = Literal["conv", "norm", "affine", "act", "gpool", "add", "mul", "softmax"]


@dataclass(frozen=True, slots=True)
class Norm:
    """A batch norm: (C,) each."""

    gain: Array
    shift: Array
    mean: Array
    var: Array
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One operator on values (1, C, H, W). `label` names it in a message, as its file does.

    conv: `kernel` (out, in / groups, k, k), `bias` (out,), and the batch norm that follows, if there is one.
    affine: x * `scale` + `shift`, each (1,) or (C,). act: the nonlinearity `nl`. norm: a batch norm that follows
    something else. gpool: the mean of the whole map. add, mul: of two values; one of a mul may be (1, C, 1, 1).
    """

    kind: Kind
    label: str
    inputs: tuple[str, ...]
    output: str
    kernel: Array | None = None
    bias: Array | None = None
    stride: tuple[int, int] = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    norm: Norm | None = None
    scale: Array | None = None
    shift: Array | None = None
    nl: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A network as a file has it. `shapes`: (C, H, W) of every value by name.

    `channels_last`: of the file's input; `codes`: (step, zero) of an input in integers, value = step * (code - zero);
    `end_codes`: the same of an output, for ONNX; `integer`: weights or activations are in integers; `texts`: what the
    file says about itself, by name.
    """

    steps: tuple[Step, ...]
    input: str
    output: str
    shapes: dict[str, Shape]
    channels_last: bool
    codes: tuple[float, int, str] | None = None
    end_codes: tuple[float, int] | None = None
    integer: bool = False
    texts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Value:
    """A value in the file's own layout: rank 4, or fewer where axes of one were dropped; `last`: channels come last.
    `pads`: zeros that are around it."""

    name: str
    c: int
    h: int
    w: int
    rank: int = 4
    last: bool = False
    pads: Pads = (0, 0, 0, 0)

    @property
    def axis(self) -> int:
        """Which axis the channels are."""
        return self.rank - 1 if self.last else min(1, self.rank - 1)


def refuse(source: str, label: str, rule: str) -> NoReturn:
    """Raises: BadInput that names the operator in the way."""
    raise BadInput(f"{plain(source, 4096)}: {label}: {rule}; networks of MobileNet kind are read: convolutions, batch "
                   "norms, squeeze-and-excitation, residuals, a classifier behind a global average")  # fmt: skip


class Pen:
    """Writes steps and keeps their shapes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.steps: list[Step] = []
        self.shapes: dict[str, Shape] = {}

    def start(self, name: str, shape: Shape, last: bool) -> Value:
        self.shapes[name] = shape
        return Value(name, *shape, last=last)

    def _put(self, step: Step, like: Value, shape: Shape) -> Value:
        self.steps.append(step)
        self.shapes[step.output] = shape
        return replace(like, name=step.output, c=shape[0], h=shape[1], w=shape[2], pads=(0, 0, 0, 0))

    def _bare(self, label: str, x: Value) -> None:
        if any(x.pads):
            refuse(self.source, label, "takes a padded value, which only a convolution may")

    def conv(
        self, label: str, x: Value, output: str, kernel: Array, bias: Array | None, *, stride: tuple[int, int] = (1, 1),
        pads: Pads = (0, 0, 0, 0), dilation: tuple[int, int] = (1, 1), groups: int = 1,
    ) -> Value:  # fmt: skip
        """A convolution; raises: BadInput where its numbers contradict each other."""
        if kernel.ndim != 4 or kernel.shape[1] * groups != x.c or kernel.shape[0] % max(groups, 1):
            refuse(self.source, label, f"a kernel of shape {kernel.shape} does not fit {x.c} channels, {groups} groups")
        out, (kh, kw) = kernel.shape[0], kernel.shape[2:]
        bias = np.zeros(out, np.float32) if bias is None else np.asarray(bias, np.float32).reshape(-1)
        if bias.shape != (out,):
            refuse(self.source, label, f"a bias of {bias.size} numbers for {out} channels")
        top, left, bottom, right = (a + b for a, b in zip(x.pads, pads, strict=True))
        h = (x.h + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
        w = (x.w + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
        if h < 1 or w < 1:
            refuse(self.source, label, f"a map of {x.h}x{x.w} is smaller than the kernel")
        step = Step(
            kind="conv", label=label, inputs=(x.name,), output=output, kernel=np.asarray(kernel, np.float32), bias=bias,
            stride=stride, pads=(top, left, bottom, right), dilation=dilation, groups=groups,
        )  # fmt: skip
        return self._put(step, x, (out, h, w))

    def norm(self, label: str, x: Value, output: str, norm: Norm) -> Value:
        self._bare(label, x)
        if any(part.shape != (x.c,) for part in (norm.gain, norm.shift, norm.mean, norm.var)):
            refuse(self.source, label, f"a batch norm that is not of {x.c} channels")
        return self._put(Step(kind="norm", label=label, inputs=(x.name,), output=output, norm=norm), x, (x.c, x.h, x.w))

    def affine(self, label: str, x: Value, output: str, scale: Array | float, shift: Array | float) -> Value:
        """x * scale + shift; arrays in any shape that broadcasts along the channels."""
        self._bare(label, x)
        numbers = [self._along(label, x, np.asarray(v, np.float32)) for v in (scale, shift)]
        step = Step(kind="affine", label=label, inputs=(x.name,), output=output, scale=numbers[0], shift=numbers[1])
        return self._put(step, x, (x.c, x.h, x.w))

    def _along(self, label: str, x: Value, value: Array) -> Array:
        if value.size == 1:
            return value.reshape(1)
        shape = (1,) * (x.rank - value.ndim) + value.shape
        want = tuple(x.c if i == x.axis else 1 for i in range(x.rank))
        if len(shape) != x.rank or shape != want:
            refuse(self.source, label, f"constants of shape {value.shape}, which are not one a channel")
        return value.reshape(-1)

    def act(self, label: str, x: Value, output: str, nl: str) -> Value:
        if nl == "NONE":
            return x
        self._bare(label, x)
        return self._put(Step(kind="act", label=label, inputs=(x.name,), output=output, nl=nl), x, (x.c, x.h, x.w))

    def softmax(self, label: str, x: Value, output: str) -> Value:
        self._bare(label, x)
        return self._put(Step(kind="softmax", label=label, inputs=(x.name,), output=output), x, (x.c, x.h, x.w))

    def gpool(self, label: str, x: Value, output: str, keep: bool = True) -> Value:
        self._bare(label, x)
        y = self._put(Step(kind="gpool", label=label, inputs=(x.name,), output=output), x, (x.c, 1, 1))
        return y if keep else replace(y, rank=2, last=False)

    def join(self, kind: Literal["add", "mul"], label: str, a: Value, b: Value, output: str) -> Value:
        for x in (a, b):
            self._bare(label, x)
        if kind == "mul" and (a.h, a.w) == (1, 1):
            a, b = b, a
        gate = kind == "mul" and (b.h, b.w) == (1, 1)
        if a.c != b.c or not (gate or (a.h, a.w) == (b.h, b.w)):
            refuse(self.source, label, f"of {a.c}x{a.h}x{a.w} and {b.c}x{b.h}x{b.w}")
        return self._put(Step(kind=kind, label=label, inputs=(a.name, b.name), output=output), a, (a.c, a.h, a.w))

    def reshaped(self, label: str, x: Value, rank: int, last: bool) -> Value:
        """Axes of one dropped or put in."""
        self._bare(label, x)
        if (x.h, x.w) != (1, 1):
            refuse(self.source, label, f"reshapes a map of {x.h}x{x.w}")
        return replace(x, rank=rank, last=last)
