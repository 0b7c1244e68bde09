"""A TFLite file read into steps, with the schema in the LiteRT package. Weights in integers become floats."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput, plain
from mbv3.graph.found import Array, Found, Pads, Pen, Value, refuse
from mbv3.graph.tflite import _schema
from mbv3.spec import far_pads

__all__ = ["read_tflite"]

_BROKEN = (struct.error, IndexError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, MemoryError,
           RecursionError)  # fmt: skip
_TYPES = {"FLOAT32": "f4", "FLOAT16": "f2", "INT8": "i1", "UINT8": "u1", "INT32": "i4", "INT64": "i8", "INT16": "i2",
          "FLOAT64": "f8"}  # fmt: skip
_INTEGERS = ("INT8", "UINT8", "INT16")
_FUSED = {"NONE": "NONE", "RELU": "RE", "RELU6": "RE6"}
_ACTS = {"RELU": "RE", "RELU6": "RE6", "HARD_SWISH": "HS", "LOGISTIC": "SIGMOID"}


def _words(kinds: Any) -> dict[int, str]:
    """The schema's names of an enumeration by number."""
    return {v: k for k, v in vars(kinds).items() if not k.startswith("_") and type(v) is int}


def read_tflite(content: bytes, source: str) -> Found:
    """The steps of a TFLite file. `source` names it in messages.

    Raises:
        BadInput: it is cut off or damaged, LiteRT is not installed, or it holds an operator that no step expresses; the
            first one is named.
    """
    schema = _schema()
    if content[4:8] != b"TFL3":
        raise BadInput(f"{plain(source, 4096)}: is no TFLite file (it does not say TFL3)")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
        return _Reader(schema, model, source).read()
    except _BROKEN as e:
        why = plain((str(e).strip() or type(e).__name__).splitlines()[0], 120)
        raise BadInput(f"{plain(source, 4096)}: this TFLite file is cut off or damaged ({why})") from None


class _Reader:
    def __init__(self, schema: Any, model: Any, source: str) -> None:
        self.s, self.model, self.source = schema, model, source
        self.graph = model.subgraphs[0]
        self.pen = Pen(source)
        self.codes, self.kinds = _words(schema.BuiltinOperator), _words(schema.TensorType)
        self.acts, self.paddings = _words(schema.ActivationFunctionType), _words(schema.Padding)
        self.values: dict[int, Value] = {}
        self.opaque: dict[int, str] = {}  # what no step makes, with the operator that does
        self.numbers: dict[int, NDArray[Any]] = {}  # constants that an operator makes of constants
        self.integer = False

    # ---- tensors

    def const(self, i: int) -> Array | None:
        """A constant as floats; None where the tensor is computed."""
        raw = self.raw(i)
        if raw is None:
            return None
        tensor = self.graph.tensors[i]
        q = tensor.quantization
        if self.kinds[tensor.type] in (*_INTEGERS, "INT32") and q is not None and _some(q.scale):
            self.integer |= self.kinds[tensor.type] in _INTEGERS
            scale = np.asarray(q.scale, np.float64)
            zero = np.asarray(q.zeroPoint if _some(q.zeroPoint) else [0], np.float64)
            if scale.size > 1:
                along = [1] * raw.ndim
                along[int(q.quantizedDimension or 0)] = scale.size
                scale = scale.reshape(along)
                zero = zero.reshape(along) if zero.size > 1 else zero
            return ((raw.astype(np.float64) - zero) * scale).astype(np.float32)
        return raw.astype(np.float32)

    def raw(self, i: int) -> NDArray[Any] | None:
        if i in self.numbers:
            return self.numbers[i]
        if i < 0:
            return None
        tensor = self.graph.tensors[i]
        data = self.model.buffers[tensor.buffer].data
        if data is None or len(data) == 0:
            return None
        kind = self.kinds.get(tensor.type, str(tensor.type))
        name = _text(tensor.name)
        if getattr(tensor, "sparsity", None) is not None:
            refuse(self.source, f"tensor {name}", "its numbers are stored sparsely")
        if kind not in _TYPES:
            refuse(self.source, f"tensor {name}", f"its numbers are of type {kind}")
        shape = tuple(int(n) for n in tensor.shape) if tensor.shape is not None else ()
        return np.frombuffer(np.asarray(data, np.uint8).tobytes(), dtype="<" + _TYPES[kind]).reshape(shape)

    def data(self, i: int, label: str) -> Value:
        if i in self.values:
            return self.values[i]
        if i in self.opaque:
            refuse(self.source, self.opaque[i], "this operator is not expressed by a spec")
        refuse(self.source, label, "takes a constant or a tensor that nothing makes, where an image or a map belongs")

    # ---- the walk

    def read(self) -> Found:
        graph = self.graph
        ins, outs = list(graph.inputs), list(graph.outputs)
        if len(ins) != 1 or len(outs) != 1:
            raise BadInput(f"{plain(self.source, 4096)}: has {len(ins)} inputs and {len(outs)} outputs; a classifier "
                           "has one of each")  # fmt: skip
        first = graph.tensors[ins[0]]
        shape = [int(n) for n in first.shape]
        kind, q = self.kinds.get(first.type, ""), first.quantization
        signature = [] if first.shapeSignature is None else [int(n) for n in first.shapeSignature]
        notes: tuple[str, ...] = ()
        if len(shape) != 4:
            raise BadInput(f"{plain(self.source, 4096)}: its input has the shape {tuple(shape)}; a classifier of "
                           "images takes (1, height, width, channels)")  # fmt: skip
        _, h, w, c = shape
        if len(signature) == 4 and -1 in signature[1:3] and min(h, w) < 8:
            raise BadInput(f"{plain(self.source, 4096)}: takes images of any size; convert it with a fixed one")
        codes = None
        if kind in _INTEGERS and q is not None and _some(q.scale):
            codes = (float(q.scale[0]), int(q.zeroPoint[0]) if _some(q.zeroPoint) else 0, kind.lower())
            self.integer = True
        self.values[ins[0]] = self.pen.start(f"{ins[0]}", (c, h, w), last=True)
        for n, op in enumerate(graph.operators):
            self.operator(n, op)
        end = self.data(outs[0], "the output")
        texts = {}
        for entry in self.model.metadata or []:
            data = self.model.buffers[entry.buffer].data
            texts[_text(entry.name)] = (
                bytes(np.asarray(data, np.uint8)).decode("utf-8", "replace") if _some(data) else ""
            )
        return Found(
            steps=tuple(self.pen.steps), input=f"{ins[0]}", output=end.name, shapes=self.pen.shapes, channels_last=True,
            codes=codes, integer=self.integer, texts=texts, notes=notes,
        )  # fmt: skip

    def operator(self, n: int, op: Any) -> None:
        entry = self.model.operatorCodes[op.opcodeIndex]
        code = max(int(entry.builtinCode or 0), int(entry.deprecatedBuiltinCode or 0))
        word = self.codes.get(code, f"operator of code {code}")
        if word == "CUSTOM":
            word = f"CUSTOM {_text(entry.customCode)}"
        ins, outs = [int(i) for i in op.inputs], [int(i) for i in op.outputs]
        label = f"operator {n}, {word} ({plain(_text(self.graph.tensors[outs[0]].name), 80)})"
        made = _OPERATORS.get(word)
        if made is None or len(outs) != 1:
            self.opaque.update(dict.fromkeys(outs, label))
            return
        y = made(self, label, ins, outs[0], op.builtinOptions)
        if y is not None:
            self.values[outs[0]] = y

    def fused(self, label: str, y: Value, options: Any) -> Value:
        """The activation that an operator has of its own."""
        word = self.acts[options.fusedActivationFunction] if options is not None else "NONE"
        if word not in _FUSED:
            refuse(self.source, label, f"its activation is {word}")
        return self.pen.act(label, y, f"{y.name}/{word}", _FUSED[word])

    def same(self, x: Value, options: Any, k: tuple[int, int], d: tuple[int, int]) -> Pads:
        if self.paddings[options.padding] != "SAME":
            return (0, 0, 0, 0)
        h, w = x.h + x.pads[0] + x.pads[2], x.w + x.pads[1] + x.pads[3]
        (top, bottom), (left, right) = (
            far_pads(size, k[i], s, d[i]) for i, (size, s) in enumerate(((h, options.strideH), (w, options.strideW)))
        )
        return top, left, bottom, right


Made = Value | None


def _some(values: Any) -> bool:
    return values is not None and len(values) > 0


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")


def _weights(r: _Reader, label: str, i: int) -> Array:
    kernel = r.const(i)
    if kernel is None:
        if i in r.opaque:
            refuse(r.source, r.opaque[i], "this operator is not expressed by a spec")
        refuse(r.source, label, "its weights are computed, not stored")
    return kernel


def _bias(r: _Reader, label: str, ins: list[int]) -> Array | None:
    return _weights(r, label, ins[2]).reshape(-1) if len(ins) > 2 and ins[2] >= 0 else None


def _conv(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    x, kernel = r.data(ins[0], label), _weights(r, label, ins[1]).transpose(0, 3, 1, 2)
    d = (int(options.dilationHFactor or 1), int(options.dilationWFactor or 1))
    y = r.pen.conv(
        label, x, f"{out}", kernel, _bias(r, label, ins), stride=(options.strideH, options.strideW), dilation=d,
        pads=r.same(x, options, (kernel.shape[2], kernel.shape[3]), d), groups=x.c // max(kernel.shape[1], 1),
    )  # fmt: skip
    return r.fused(label, y, options)


def _depthwise(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    x, kernel = r.data(ins[0], label), _weights(r, label, ins[1]).transpose(3, 0, 1, 2)
    if kernel.shape[0] != x.c:
        refuse(r.source, label, f"makes {kernel.shape[0]} channels of {x.c}: a depth multiplier above 1")
    d = (int(options.dilationHFactor or 1), int(options.dilationWFactor or 1))
    y = r.pen.conv(
        label, x, f"{out}", kernel, _bias(r, label, ins), stride=(options.strideH, options.strideW), dilation=d,
        pads=r.same(x, options, (kernel.shape[2], kernel.shape[3]), d), groups=x.c,
    )  # fmt: skip
    return r.fused(label, y, options)


def _dense(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    x, weight = r.data(ins[0], label), _weights(r, label, ins[1])
    if (x.h, x.w) != (1, 1):
        refuse(r.source, label, f"takes a map of {x.h}x{x.w}, which no average reduced")
    y = r.pen.conv(label, x, f"{out}", weight[:, :, None, None], _bias(r, label, ins))
    return r.fused(label, replace(y, rank=2, last=False), options)


def _join(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    word = label.split(", ")[1].split(" ")[0]
    consts = [r.const(i) for i in ins]
    if all(c is not None for c in consts):
        r.opaque[out] = label
        return None
    if consts[0] is None and consts[1] is None:
        if word in ("SUB", "DIV"):
            refuse(r.source, label, "of two maps")
        y = r.pen.join("add" if word == "ADD" else "mul", label, r.data(ins[0], label), r.data(ins[1], label), f"{out}")
        return r.fused(label, y, options)
    number = consts[0] if consts[0] is not None else consts[1]
    assert number is not None
    x = r.data(ins[1] if consts[0] is not None else ins[0], label)
    flipped = consts[0] is not None
    if word == "DIV" and flipped:
        refuse(r.source, label, "divides by a map")
    scale: Any
    shift: Any
    scale, shift = {
        "ADD": (1.0, number), "MUL": (number, 0.0), "DIV": (1 / number if word == "DIV" else 1.0, 0.0),
        "SUB": (-1.0 if flipped else 1.0, number if flipped else -number),
    }[word]  # fmt: skip
    return r.fused(label, r.pen.affine(label, x, f"{out}", scale, shift), options)


def _act(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    word = label.split(", ")[1].split(" ")[0]
    return r.pen.act(label, r.data(ins[0], label), f"{out}", _ACTS[word])


def _mean(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    x, axes = r.data(ins[0], label), r.raw(ins[1])
    if axes is None or sorted(int(a) % max(x.rank, 1) for a in axes.reshape(-1)) != [1, 2] or x.rank != 4:
        refuse(r.source, label, "is no mean over height and width")
    return r.pen.gpool(label, x, f"{out}", keep=bool(options.keepDims))


def _pool(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    x = r.data(ins[0], label)
    whole = (options.filterHeight, options.filterWidth) == (x.h, x.w)
    if not whole or r.same(x, options, (x.h, x.w), (1, 1)) != (0, 0, 0, 0):
        refuse(r.source, label, f"averages windows of {options.filterHeight}x{options.filterWidth}, not the whole map")
    return r.fused(label, r.pen.gpool(label, x, f"{out}"), options)


def _reshape(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    x = r.data(ins[0], label)
    shape = r.graph.tensors[out].shape
    rank = len(shape) if shape is not None else 2
    return r.pen.reshaped(label, x, rank, last=rank > 2)


def _pad(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    x, widths = r.data(ins[0], label), r.raw(ins[1])
    value = r.const(ins[2]) if len(ins) > 2 else None
    if widths is None or widths.shape != (4, 2) or widths[0].any() or widths[3].any() or widths.min() < 0:
        refuse(r.source, label, "does not pad height and width")
    if value is not None and value.any():
        refuse(r.source, label, "pads with other than zeros")
    (_, (top, bottom), (left, right), _) = widths.tolist()
    return replace(x, pads=(x.pads[0] + top, x.pads[1] + left, x.pads[2] + bottom, x.pads[3] + right))


def _alias(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    number = r.const(ins[0])
    if number is not None:
        r.numbers[out] = number
        return None
    kind = r.kinds[r.graph.tensors[out].type]
    r.integer |= kind in _INTEGERS
    return r.data(ins[0], label)


def _softmax(r: _Reader, label: str, ins: list[int], out: int, options: Any) -> Made:
    return r.pen.softmax(label, r.data(ins[0], label), f"{out}")


_OPERATORS: dict[str, Callable[[_Reader, str, list[int], int, Any], Made]] = {
    "CONV_2D": _conv, "DEPTHWISE_CONV_2D": _depthwise, "FULLY_CONNECTED": _dense,
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV"), _join), **dict.fromkeys(_ACTS, _act), "MEAN": _mean,
    "AVERAGE_POOL_2D": _pool, **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), _reshape),
    **dict.fromkeys(("PAD", "PADV2"), _pad), **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "CAST"), _alias),
    "SOFTMAX": _softmax,
}  # fmt: skip
