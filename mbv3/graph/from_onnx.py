"""An ONNX file read into steps. Weights in integers become floats; nothing in the file is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from mbv3.errors import BadInput, plain
from mbv3.graph.found import Array, Found, Norm, Pads, Pen, Value, refuse
from mbv3.graph.onnx_constants import attributes, folded
from mbv3.spec import far_pads

__all__ = ["read_onnx"]

_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError, MemoryError,
           NotImplementedError)  # fmt: skip
_UNSIZED = (224, 224)  # of a file that takes images of any size
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_OF_CODES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Clip")  # what keeps codes codes


def read_onnx(content: bytes, source: str, size: tuple[int, int] | None = None) -> Found:
    """The steps of an ONNX file. `size`: height and width of the images where the file takes any (default 224).

    Raises:
        BadInput: it is cut off or damaged, keeps its weights elsewhere, or holds an operator that no step expresses;
            the first one is named.
    """
    name = plain(source, 4096)
    try:
        model = onnx.load_from_string(content)
    except Exception as e:  # protobuf has an error class for each of its builds
        why = plain((str(e).strip() or type(e).__name__).splitlines()[0], 120)
        raise BadInput(f"{name}: is no ONNX file, or is cut off ({why})") from None
    if not model.graph.node:
        raise BadInput(f"{name}: is no ONNX file, or holds no operator")
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise BadInput(f"{name}: keeps its weights in another file; save it as one file (onnx.save with "
                       "save_as_external_data=False)")  # fmt: skip
    try:
        return _Reader(model, source, size).read()
    except _BROKEN as e:
        why = plain((str(e).strip() or type(e).__name__).splitlines()[0], 120)
        raise BadInput(f"{name}: this ONNX file is damaged ({why})") from None


class _Reader:
    def __init__(self, model: onnx.ModelProto, source: str, size: tuple[int, int] | None) -> None:
        self.model, self.source, self.size = model, source, size
        self.pen = Pen(source)
        self.consts = {t.name: t for t in model.graph.initializer}
        self.numbers: dict[str, NDArray[Any]] = {}
        self.values: dict[str, Value] = {}
        self.coded: dict[str, tuple[str, float, int]] = {}  # of a value in codes: the value, step, zero
        self.opaque: dict[str, str] = {}
        self.integer = False
        self.notes: list[str] = []
        self.bounded = "RE"

    def const(self, name: str) -> NDArray[Any] | None:
        if name not in self.numbers and name in self.consts:
            self.numbers[name] = onnx.numpy_helper.to_array(self.consts[name])
        return self.numbers.get(name)

    def data(self, name: str, label: str) -> Value:
        if name in self.values:
            return self.values[name]
        if name in self.opaque:
            refuse(self.source, self.opaque[name], "this operator is not expressed by a spec")
        refuse(self.source, label, f"takes {plain(name, 80)}, a constant or what nothing makes, where a map belongs")

    def floats(self, name: str, label: str) -> Array:
        """Weights. Raises: BadInput where they are computed."""
        value = self.const(name)
        if value is None:
            if name in self.opaque:
                refuse(self.source, self.opaque[name], "this operator is not expressed by a spec")
            refuse(self.source, label, "its weights are computed, not stored")
        return value.astype(np.float32)

    # ---- the walk

    def read(self) -> Found:
        graph, name = self.model.graph, plain(self.source, 4096)
        ins = [x for x in graph.input if x.name not in self.consts]
        if len(ins) != 1 or len(graph.output) != 1:
            raise BadInput(
                f"{name}: has {len(ins)} inputs and {len(graph.output)} outputs; a classifier has one of each"
            )
        dims = ins[0].type.tensor_type.shape.dim
        if len(dims) != 4:
            raise BadInput(f"{name}: its input has {len(dims)} axes; a classifier of images takes four")
        sides = [d.dim_value for d in dims]
        last = sides[3] in (1, 3) and sides[1] not in (1, 3)
        c, h, w = (sides[3], sides[1], sides[2]) if last else (sides[1], sides[2], sides[3])
        if sides[0] > 1:
            raise BadInput(f"{name}: takes {sides[0]} images at once; export it with a batch of 1 or a free one")
        if self.size is not None and any(side and side != want for side, want in zip((h, w), self.size, strict=True)):
            own = f"{h or 'any'}x{w or 'any'}"
            raise BadInput(f"--resolution {self.size[0]}x{self.size[1]}: {name} takes images of {own}; resize with "
                           "mbv3 train --resolution")  # fmt: skip
        if not h or not w:
            free = self.size or _UNSIZED
            h, w = h or free[0], w or free[1]
            if self.size is None:
                self.notes.append(f"{name}: takes images of any size; {h}x{w} is taken, another with --resolution")
        if not c:
            raise BadInput(f"{name}: does not say how many channels its images have")
        codes = None
        first = ins[0].name
        self.values[first] = self.pen.start(first, (c, h, w), last)
        if ins[0].type.tensor_type.elem_type in (onnx.TensorProto.UINT8, onnx.TensorProto.INT8):
            unsigned = ins[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
            codes = (1.0, 0, "uint8" if unsigned else "int8")
            taker = next((n for n in graph.node if first in n.input), None)
            if taker is not None and taker.op_type == "DequantizeLinear":
                step, zero = self.step_zero(taker, "the input")
                codes = (step, zero, codes[2])
                self.coded[first] = (first, step, zero)
        self.bounded = self.bound()
        for n, node in enumerate(graph.node):
            self.node(n, node)
        end = self.data(graph.output[0].name, "the output")
        end_codes = self.coded[graph.output[0].name][1:] if graph.output[0].name in self.coded else None
        texts = {entry.key: entry.value for entry in self.model.metadata_props}
        return Found(
            steps=tuple(self.pen.steps), input=first, output=end.name, shapes=self.pen.shapes, channels_last=last,
            codes=codes, end_codes=end_codes, integer=self.integer, texts=texts, notes=tuple(self.notes),
        )  # fmt: skip

    def node(self, n: int, node: onnx.NodeProto) -> None:
        word = node.op_type
        if word == "Shape" and (x := self.values.get(node.input[0])) is not None and x.rank in (2, 4):
            sides = [x.h, x.w, x.c] if x.last else [x.c, x.h, x.w]
            at = attributes(node)
            self.numbers[node.output[0]] = np.array([1, *sides][: x.rank if x.rank == 4 else 2], np.int64)[
                at.get("start", 0) : at.get("end")
            ]
            return
        label = f"operator {n}, {plain(word)} ({plain(node.name or (node.output[0] if node.output else ''), 80)})"
        made = _OPERATORS.get(word) if node.domain in _DOMAINS else None
        fixed = [x for x in node.input if x]
        if word == "Constant" or (fixed and all(self.const(x) is not None for x in fixed)):
            value = folded(self.const, node)
            self.integer |= word == "DequantizeLinear"
            if value is not None:
                self.numbers[node.output[0]] = value
                return
            made = None
        if made is None or len([y for y in node.output if y]) != 1:
            if made is not None and word == "Dropout":
                self.values[node.output[0]] = self.data(node.input[0], label)
                return
            self.opaque.update(dict.fromkeys(node.output, label))
            return
        y = made(self, label, node)
        if y is not None:
            self.values[node.output[0]] = y
            if word in _OF_CODES and node.input[0] in self.coded:
                self.coded[node.output[0]] = self.coded[node.input[0]]

    def bound(self) -> str:
        """The activation that a quantizer left to the ends of the codes, where they begin at 0: ReLU6 where the
        widest of them ends at 6."""
        convs = {node.output[0] for node in self.model.graph.node if node.op_type == "Conv"}
        coded = [n for n in self.model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in convs]
        tops = [step * 255 for step, least in map(self.code_ends, coded) if least]
        return "RE6" if tops and 5.9 <= max(tops) <= 6.01 else "RE"

    def code_ends(self, node: onnx.NodeProto) -> tuple[float, bool]:
        """(step, whether the codes begin at 0) of what a QuantizeLinear writes."""
        zero = self.const(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        step, number = self.step_zero(node, "QuantizeLinear")
        return step, number == (-128 if zero is not None and zero.dtype == np.int8 else 0)

    def step_zero(self, node: onnx.NodeProto, label: str) -> tuple[float, int]:
        """Of codes of an activation, which has one step."""
        step = self.floats(node.input[1], label)
        zero = self.const(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        if step.size != 1 or zero is None or zero.size != 1:
            refuse(self.source, label, "codes an activation with several steps")
        return float(step.reshape(-1)[0]), int(zero.reshape(-1)[0])


Made = Value | None


def _pads(r: _Reader, label: str, at: dict[str, Any], x: Value, k: tuple[int, int], s: tuple[int, int],
          d: tuple[int, int]) -> Pads:  # fmt: skip
    auto = at.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto in ("NOTSET", ""):
        top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
        return top, left, bottom, right
    if auto == "VALID":
        return 0, 0, 0, 0
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        refuse(r.source, label, f"pads by {plain(auto)}")
    h, w = x.h + x.pads[0] + x.pads[2], x.w + x.pads[1] + x.pads[3]
    (t, b), (left, right) = (far_pads(size, k[i], s[i], d[i]) for i, size in enumerate((h, w)))
    return (t, left, b, right) if auto == "SAME_UPPER" else (b, right, t, left)


def _first(r: _Reader, label: str, x: Value) -> None:
    if x.last and x.rank == 4:
        refuse(r.source, label, "takes maps with channels last")


def _conv(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    at, x = attributes(node), r.data(node.input[0], label)
    kernel = r.floats(node.input[1], label)
    bias = r.floats(node.input[2], label) if len(node.input) > 2 and node.input[2] else None
    _first(r, label, x)
    if kernel.ndim != 4:
        refuse(r.source, label, f"its kernel has {kernel.ndim} axes")
    sh, sw = at.get("strides", [1, 1])
    dh, dw = at.get("dilations", [1, 1])
    pads = _pads(r, label, at, x, (kernel.shape[2], kernel.shape[3]), (sh, sw), (dh, dw))
    return r.pen.conv(label, x, node.output[0], kernel, bias, stride=(sh, sw), pads=pads, dilation=(dh, dw),
                      groups=at.get("group", 1))  # fmt: skip


def _norm(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    gain, shift, mean, var = (r.floats(name, label) for name in node.input[1:5])
    norm = Norm(gain, shift, mean, var, float(f"{attributes(node).get('epsilon', 1e-5):.6g}"))
    return r.pen.norm(label, r.data(node.input[0], label), node.output[0], norm)


def _join(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    word, (a, b) = node.op_type, node.input
    first, second = r.const(a), r.const(b)
    if first is None and second is None:
        if word in ("Sub", "Div"):
            refuse(r.source, label, "of two maps")
        return r.pen.join("add" if word == "Add" else "mul", label, r.data(a, label), r.data(b, label), node.output[0])
    number = first if first is not None else second
    assert number is not None
    number = number.astype(np.float32)
    x, flipped = r.data(b if first is not None else a, label), first is not None
    if word == "Div" and flipped:
        refuse(r.source, label, "divides by a map")
    scale: Any = (
        number if word == "Mul" else 1 / number if word == "Div" else -1.0 if word == "Sub" and flipped else 1.0
    )
    shift: Any = {"Add": number, "Sub": number if flipped else -number}.get(word, 0.0)
    return r.pen.affine(label, x, node.output[0], scale, shift)


def _act(nl: str) -> Callable[[_Reader, str, onnx.NodeProto], Made]:
    return lambda r, label, node: r.pen.act(label, r.data(node.input[0], label), node.output[0], nl)


def _clip(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    at = attributes(node)
    ends = []
    for i, (name, free) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        given = r.floats(node.input[i], label) if len(node.input) > i and node.input[i] else None
        ends.append(float(given.reshape(-1)[0]) if given is not None else float(at.get(name, free)))
    if node.input[0] in r.coded:  # an end of codes, where a hard sigmoid has its own
        return r.data(node.input[0], label)
    low, high = ends
    nl = "RE6" if (low, high) == (0, 6) else "RE" if low == 0 and high > 1e30 else ""
    if not nl:
        refuse(r.source, label, f"clips to {low:g} and {high:g}")
    return r.pen.act(label, r.data(node.input[0], label), node.output[0], nl)


def _hard_sigmoid(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    at = attributes(node)
    alpha, beta = at.get("alpha", 0.2), at.get("beta", 0.5)
    if abs(alpha - 1 / 6) > 1e-3 or abs(beta - 0.5) > 1e-3:
        refuse(r.source, label, f"a hard sigmoid of slope {alpha:g}; a spec has that of slope 1/6")
    return r.pen.act(label, r.data(node.input[0], label), node.output[0], "HSIGMOID")


def _mean(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    at, x = attributes(node), r.data(node.input[0], label)
    axes: Any = at.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = r.floats(node.input[1], label).reshape(-1)
    spatial = [1, 2] if x.last else [2, 3]
    if axes is None or x.rank != 4 or sorted(int(a) % 4 for a in axes) != spatial:
        refuse(r.source, label, "is no mean over height and width")
    return r.pen.gpool(label, x, node.output[0], keep=bool(at.get("keepdims", 1)))


def _pool(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    at, x = attributes(node), r.data(node.input[0], label)
    _first(r, label, x)
    window = tuple(at.get("kernel_shape", ()))
    if window != (x.h, x.w) or any(at.get("pads", ())):
        refuse(r.source, label, f"averages windows of {'x'.join(map(str, window))}, not the whole map")
    return r.pen.gpool(label, x, node.output[0])


def _gpool(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    x = r.data(node.input[0], label)
    _first(r, label, x)
    return r.pen.gpool(label, x, node.output[0])


def _reshape(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    x = r.data(node.input[0], label)
    shape = r.const(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
    rank, last = 2, False
    if shape is not None:
        dims = [int(n) for n in shape.reshape(-1)]
        rank = len(dims)
        last = rank > 2 and dims[1] == 1 and x.c > 1
    elif node.op_type in ("Squeeze", "Unsqueeze"):
        at = attributes(node)
        axes = r.const(node.input[1]) if len(node.input) > 1 else np.asarray(at.get("axes", []))
        n = 0 if axes is None else axes.size
        rank = x.rank - (n or 2) if node.op_type == "Squeeze" else x.rank + n
        last = x.last and rank > 2
        if node.op_type == "Unsqueeze" and axes is not None:
            last = 1 in [int(a) % rank for a in axes.reshape(-1)] and rank > 2
    return r.pen.reshaped(label, x, rank, last)


def _gather(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    """The first place of an axis of one, which drops the axis."""
    x, index, axis = r.data(node.input[0], label), r.const(node.input[1]), attributes(node).get("axis", 0)
    if index is None or index.size != 1 or index.ndim or int(index) not in (0, -1) or axis % x.rank in (0, x.axis):
        refuse(r.source, label, "takes a part of a map")
    return r.pen.reshaped(label, x, x.rank - 1, last=x.last and x.rank > 3)


def _transpose(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    x, perm = r.data(node.input[0], label), list(attributes(node).get("perm", []))
    if x.rank == 4 and perm in ([0, 3, 1, 2], [0, 2, 3, 1]) and x.last == (perm == [0, 3, 1, 2]) and not any(x.pads):
        return replace(x, last=not x.last)
    if (x.h, x.w) == (1, 1) and x.rank == 4 and sorted(perm) == [0, 1, 2, 3] and perm[0] == 0:
        return replace(x, last=perm.index(x.axis) == 3)
    refuse(r.source, label, f"orders the axes as {perm}")


def _dense(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    x = r.data(node.input[0], label)
    weight, bias = r.floats(node.input[1], label), None
    if (x.h, x.w) != (1, 1):
        refuse(r.source, label, f"takes a map of {x.h}x{x.w}, which no average reduced")
    if node.op_type == "Gemm":
        at = attributes(node)
        if at.get("transA", 0):
            refuse(r.source, label, "transposes its input")
        weight = at.get("alpha", 1.0) * (weight if at.get("transB", 0) else weight.T)
        if len(node.input) > 2 and node.input[2]:
            bias = at.get("beta", 1.0) * r.floats(node.input[2], label).reshape(-1)
    else:
        if weight.ndim != 2:
            refuse(r.source, label, f"weights of shape {weight.shape}")
        weight = weight.T
    y = r.pen.conv(label, x, node.output[0], np.asarray(weight[:, :, None, None], np.float32), bias)
    return replace(y, rank=min(x.rank, 2), last=False)


def _pad(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    at, x = attributes(node), r.data(node.input[0], label)
    mode = at.get("mode", b"constant")
    widths: Sequence[Any] = at["pads"] if "pads" in at else r.floats(node.input[1], label).reshape(-1).tolist()
    value = (
        r.floats(node.input[2], label) if len(node.input) > 2 and node.input[2] else np.asarray(at.get("value", 0.0))
    )
    if mode not in (b"constant", "constant") or np.any(value) or len(widths) != 8 or x.rank != 4:
        refuse(r.source, label, "pads with other than zeros")
    places = [int(n) for n in widths]
    first = 1 if x.last else 2
    spatial = {first, first + 1}
    if any(n for i, n in enumerate(places) if i % 4 not in spatial) or min(places) < 0:
        refuse(r.source, label, "does not pad height and width")
    top, left, bottom, right = places[first], places[first + 1], places[first + 4], places[first + 5]
    t, lft, b, rgt = x.pads
    return replace(x, pads=(t + top, lft + left, b + bottom, rgt + right))


def _alias(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    return r.data(node.input[0], label)


def _code(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    r.integer = True
    x = r.data(node.input[0], label)
    after = next((s for s in reversed(r.pen.steps) if s.output == x.name), None)
    if r.code_ends(node)[1] and after is not None and after.kind in ("conv", "norm"):
        x = r.pen.act(label, x, f"{node.output[0]}/bound", r.bounded)
    r.values[node.output[0]] = x
    r.coded[node.output[0]] = (x.name, *r.step_zero(node, label))
    return None


def _value(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    """The values of codes; under another step than they were written with, they are a line of what they were."""
    if node.input[0] not in r.coded:
        refuse(r.source, label, "takes codes that no QuantizeLinear made")
    x, (_, step, zero) = r.values[node.input[0]], r.coded[node.input[0]]
    new_step, new_zero = r.step_zero(node, label)
    if (new_step, new_zero) == (step, zero):
        return x
    scale, shift = new_step / step, new_step * (zero - new_zero)
    if abs(scale - 1 / 6) < 2e-3 and abs(shift - 0.5) < 1e-2:  # codes from -3 to 3 read as 0 to 1: a hard sigmoid
        if abs(shift - 0.5) > 1e-4:  # half a step, which the bias before it lacks
            x = r.pen.affine(label, x, f"{node.output[0]}/moved", 1.0, (shift - 0.5) / scale)
        return r.pen.act(label, x, node.output[0], "HSIGMOID")
    return r.pen.affine(label, x, node.output[0], scale, shift)


def _softmax(r: _Reader, label: str, node: onnx.NodeProto) -> Made:
    return r.pen.softmax(label, r.data(node.input[0], label), node.output[0])


_OPERATORS: dict[str, Callable[[_Reader, str, onnx.NodeProto], Made]] = {
    "Conv": _conv, "BatchNormalization": _norm, **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _join),
    "Relu": _act("RE"), "Sigmoid": _act("SIGMOID"), "HardSwish": _act("HS"), "Swish": _act("SILU"), "Clip": _clip,
    "HardSigmoid": _hard_sigmoid, "GlobalAveragePool": _gpool, "AveragePool": _pool, "ReduceMean": _mean,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape), "Transpose": _transpose,
    "Gather": _gather,
    **dict.fromkeys(("Gemm", "MatMul"), _dense), "Pad": _pad,
    **dict.fromkeys(("Identity", "Dropout", "Cast"), _alias), "QuantizeLinear": _code, "DequantizeLinear": _value,
    "Softmax": _softmax,
}  # fmt: skip
