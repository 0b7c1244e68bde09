"""Operators of an ONNX file on constants alone, which converters leave: they are done at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray
from onnx import helper

__all__ = ["attributes", "folded"]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def folded(const: Callable[[str], NDArray[Any] | None], node: onnx.NodeProto) -> NDArray[Any] | None:
    """What an operator makes of constants; None where it is not one of the few that converters leave."""
    at = attributes(node)
    if node.op_type == "Constant":
        for key in ("value", "value_float", "value_floats", "value_int", "value_ints"):
            if key in at:
                return onnx.numpy_helper.to_array(at[key]) if key == "value" else np.asarray(at[key])
        return None
    x, *more = (v for name in node.input if name and (v := const(name)) is not None)
    word = node.op_type
    if word in ("Identity", "Cast", "CastLike"):
        return x
    if word == "Transpose":
        return x.transpose(at.get("perm"))
    if word == "Reshape":
        return x.reshape(tuple(int(n) for n in more[0])) if -1 in more[0] or math.prod(more[0]) == x.size else None
    if word in ("Squeeze", "Unsqueeze"):
        axes = [int(a) for a in (more[0].reshape(-1) if more else at.get("axes", []))]
        if word == "Unsqueeze":
            return np.expand_dims(x, tuple(axes))
        return np.squeeze(x, tuple(axes)) if axes else np.squeeze(x)
    if word == "DequantizeLinear":
        step = more[0].astype(np.float64)
        zero = more[1].astype(np.float64) if len(more) > 1 else np.zeros(1)
        if at.get("block_size", 0):
            return None
        if step.size > 1:
            along = [1] * x.ndim
            along[int(at.get("axis", 1))] = step.size
            step, zero = step.reshape(along), zero.reshape(along) if zero.size > 1 else zero
        result: NDArray[Any] = ((x.astype(np.float64) - zero) * step).astype(np.float32)
        return result
    if word == "Gather":
        return np.asarray(np.take(x, more[0].astype(np.int64), axis=at.get("axis", 0)))
    if word == "Concat":
        return np.concatenate([x, *more], axis=at["axis"])
    if word == "Slice" and len(more) >= 2:
        starts, ends, *rest = (v.reshape(-1).astype(int).tolist() for v in more)
        axes = rest[0] if rest else list(range(len(starts)))
        steps = rest[1] if len(rest) > 1 else [1] * len(starts)
        cut = [slice(None)] * x.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            cut[axis] = slice(start, end, step)
        return x[tuple(cut)]
    two: dict[str, Callable[[Any, Any], Any]] = {
        "Add": np.add,
        "Sub": np.subtract,
        "Mul": np.multiply,
        "Div": np.divide,
    }
    one: dict[str, Callable[[Any], Any]] = {"Neg": np.negative, "Sqrt": np.sqrt, "Reciprocal": lambda v: 1 / v}
    if word in two:
        return np.asarray(two[word](x, more[0]))
    return np.asarray(one[word](x)) if word in one else None
