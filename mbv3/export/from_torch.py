"""A classifier of a torch library read into steps, by torch.export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mbv3.errors import BadInput
from mbv3.graph import Found, Norm, Pen, Value, refuse

__all__ = ["read_module"]

_ACTS = {
    "relu": "RE",
    "relu6": "RE6",
    "hardswish": "HS",
    "silu": "SILU",
    "hardsigmoid": "HSIGMOID",
    "sigmoid": "SIGMOID",
}
_SAME = ("dropout", "clone", "contiguous", "alias", "detach", "to", "_to_copy", "feature_dropout")
_FLAT = ("flatten", "view", "reshape", "squeeze", "unsqueeze", "_unsafe_view")


def read_module(net: nn.Module, resolution: tuple[int, int], source: str) -> Found:
    """The steps of a classifier in eval mode, which takes (N, 3, H, W) at `resolution`.

    Raises:
        BadInput: it cannot be traced, or has an operator that no step expresses; the first one is named.
    """
    image = torch.zeros(1, 3, *resolution)
    try:
        with torch.no_grad():
            program = torch.export.export(net.eval(), (image,), strict=False)
    except Exception as e:  # whatever the library's own code raises
        why = (str(e).strip() or type(e).__name__).splitlines()[0][:120]
        raise BadInput(f"{source}: torch cannot trace this network ({why})") from None
    return _Reader(program, source, resolution).read()


class _Reader:
    def __init__(self, program: Any, source: str, resolution: tuple[int, int]) -> None:
        self.program, self.source, self.resolution = program, source, resolution
        self.pen = Pen(source)
        self.values: dict[str, Value] = {}
        self.numbers: dict[str, NDArray[np.float32]] = {}
        self.opaque: dict[str, str] = {}

    def read(self) -> Found:
        signature, state = self.program.graph_signature, self.program.state_dict
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        constants = {**state, **dict(self.program.constants)}
        first, last = "", ""
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name in stored:
                self.numbers[node.name] = constants[stored[node.name]].detach().float().numpy()
            elif node.op == "placeholder":
                first = node.name
                self.values[first] = self.pen.start(first, (3, *self.resolution), last=False)
            elif node.op == "call_function":
                self.node(node)
            elif node.op == "output":
                [end] = node.args[0]
                last = self.data(end, "the output").name
        return Found(steps=tuple(self.pen.steps), input=first, output=last, shapes=self.pen.shapes, channels_last=False)

    def data(self, node: Any, label: str) -> Value:
        name = getattr(node, "name", str(node))
        if name in self.values:
            return self.values[name]
        refuse(self.source, self.opaque.get(name, label), "this operator is not expressed by a spec")

    def number(self, node: Any) -> NDArray[np.float32] | None:
        """A constant tensor or a number; None for what is computed."""
        if isinstance(node, (int, float)) and not isinstance(node, bool):
            return np.asarray(node, np.float32)
        return self.numbers.get(getattr(node, "name", ""))

    def node(self, node: Any) -> None:
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0].rstrip("_")
        layer = next((str(path) for path, _ in reversed(list((node.meta.get("nn_module_stack") or {}).values()))), "")
        label = f"layer {layer or node.name}, {name}"
        made = _OPERATORS.get(name)
        if made is None:
            self.opaque[node.name] = label
            return
        self.values[node.name] = made(self, label, node, name)


def _pair(value: Any) -> tuple[int, int]:
    pair = list(value) if isinstance(value, (list, tuple)) else [value]
    return (int(pair[0]), int(pair[-1]))


def _given(node: Any, *names: str) -> list[Any]:
    """Arguments of an operator by name, whether they stand by place or by name, with the schema's defaults."""
    schema = node.target._schema.arguments
    at = {a.name: (node.args[i] if i < len(node.args) else node.kwargs.get(a.name, a.default_value))
          for i, a in enumerate(schema)}  # fmt: skip
    return [at.get(name) for name in names]


def _conv(r: _Reader, label: str, node: Any, name: str) -> Value:
    x, weight, bias, stride, padding, dilation, groups = _given(
        node, "input", "weight", "bias", "stride", "padding", "dilation", "groups"
    )
    kernel = r.number(weight)
    if kernel is None or isinstance(padding, str):
        refuse(r.source, label, "its weights are computed, or it pads by name")
    top, left = _pair(padding)
    return r.pen.conv(
        label, r.data(x, label), node.name, kernel, r.number(bias), stride=_pair(stride), dilation=_pair(dilation),
        pads=(top, left, top, left), groups=int(groups),
    )  # fmt: skip


def _norm(r: _Reader, label: str, node: Any, name: str) -> Value:
    x, eps = _given(node, "input", "eps")
    parts = [r.number(part) for part in _given(node, "weight", "bias", "running_mean", "running_var")]
    gain, shift, mean, var = parts
    if gain is None or shift is None or mean is None or var is None:
        refuse(r.source, label, "a batch norm without gain or statistics")
    return r.pen.norm(label, r.data(x, label), node.name, Norm(gain, shift, mean, var, float(eps)))


def _act(r: _Reader, label: str, node: Any, name: str) -> Value:
    return r.pen.act(label, r.data(node.args[0], label), node.name, _ACTS[name])


def _hardtanh(r: _Reader, label: str, node: Any, name: str) -> Value:
    low, high = _given(node, *(("min", "max") if name == "clamp" else ("min_val", "max_val")))
    if (low, high) != (0, 6):
        refuse(r.source, label, f"clips to {low} and {high}")
    return r.pen.act(label, r.data(node.args[0], label), node.name, "RE6")


def _mean(r: _Reader, label: str, node: Any, name: str) -> Value:
    x = r.data(node.args[0], label)
    dims, keep = _given(node, "dim", "keepdim")
    if x.rank != 4 or dims is None or sorted(d % 4 for d in dims) != [2, 3]:
        refuse(r.source, label, "is no mean over height and width")
    return r.pen.gpool(label, x, node.name, keep=bool(keep))


def _adaptive(r: _Reader, label: str, node: Any, name: str) -> Value:
    size = node.args[1]
    if _pair(size) != (1, 1):
        refuse(r.source, label, f"averages to {size}")
    return r.pen.gpool(label, r.data(node.args[0], label), node.name)


def _flat(r: _Reader, label: str, node: Any, name: str) -> Value:
    shape: Sequence[int] = node.meta["val"].shape
    return r.pen.reshaped(label, r.data(node.args[0], label), len(shape), last=False)


def _linear(r: _Reader, label: str, node: Any, name: str) -> Value:
    x, weight, bias = r.data(node.args[0], label), r.number(node.args[1]), _given(node, "bias")[0]
    if weight is None or (x.h, x.w) != (1, 1):
        refuse(r.source, label, "takes a map, which no average reduced")
    return replace(r.pen.conv(label, x, node.name, weight[:, :, None, None], r.number(bias)), rank=2)


def _join(r: _Reader, label: str, node: Any, name: str) -> Value:
    a, b = node.args[:2]
    numbers = r.number(a), r.number(b)
    if numbers == (None, None):
        kind = "add" if name == "add" else "mul"
        return r.pen.join(kind, label, r.data(a, label), r.data(b, label), node.name)  # type: ignore[arg-type]
    number = numbers[0] if numbers[0] is not None else numbers[1]
    assert number is not None
    x = r.data(b if numbers[0] is not None else a, label)
    scale: Any
    shift: Any
    scale, shift = {"add": (1.0, number), "mul": (number, 0.0), "div": (1 / number, 0.0), "sub": (1.0, -number)}[name]
    if name in ("div", "sub") and numbers[0] is not None:
        refuse(r.source, label, "of a number and a map")
    return r.pen.affine(label, x, node.name, scale, shift)


def _pad(r: _Reader, label: str, node: Any, name: str) -> Value:
    x, widths = r.data(node.args[0], label), list(node.args[1])
    mode, value = _given(node, "mode", "value") if name == "pad" else ("constant", 0)
    if len(widths) != 4 or mode != "constant" or value not in (None, 0, 0.0):
        refuse(r.source, label, "pads with other than zeros")
    left, right, top, bottom = widths
    return replace(x, pads=(x.pads[0] + top, x.pads[1] + left, x.pads[2] + bottom, x.pads[3] + right))


def _alias(r: _Reader, label: str, node: Any, name: str) -> Value:
    return r.data(node.args[0], label)


def _softmax(r: _Reader, label: str, node: Any, name: str) -> Value:
    return r.pen.softmax(label, r.data(node.args[0], label), node.name)


_OPERATORS: dict[str, Callable[[_Reader, str, Any, str], Value]] = {
    "conv2d": _conv, "batch_norm": _norm, **dict.fromkeys(_ACTS, _act),
    **dict.fromkeys(("hardtanh", "clamp"), _hardtanh),
    "mean": _mean, "adaptive_avg_pool2d": _adaptive, **dict.fromkeys(_FLAT, _flat), "linear": _linear,
    **dict.fromkeys(("add", "mul", "div", "sub"), _join), **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(_SAME, _alias), "softmax": _softmax,
}  # fmt: skip
