"""Ops to ONNX, batch norm folded, with random weights for timing or given ones for export."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mbv3.errors import BadInput
from mbv3.spec import ArchSpec, LayerKey, Op, lower, lower_key

__all__ = ["fold", "layer_model", "network_model", "onnx_weights", "random_weights"]

OPSET = 17
IR_VERSION = 8
Array = NDArray[np.float32]
Weights = Mapping[str, Array]


def _convs(ops: Iterable[Op]) -> list[Op]:
    return [op for op in ops if op.kind == "conv"]


@cache
def _normal() -> Array:
    """A million normal numbers. Drawing all weights anew took most of the time of opening a network."""
    return np.random.default_rng(0).standard_normal(1_000_003, dtype=np.float32)


def random_weights(ops: Iterable[Op], seed: int) -> dict[str, Array]:
    """Folded weights `{op.name: kernel, op.name + ".bias": bias}`, scaled so that activations neither vanish
    into denormals (which a CPU computes slowly) nor overflow."""
    rng = np.random.default_rng(seed)
    out: dict[str, Array] = {}

    def normal(shape: tuple[int, ...], deviation: float) -> Array:
        pool, n = _normal(), math.prod(shape)
        start = int(rng.integers(len(pool)))
        drawn = pool[start : start + n] if start + n <= len(pool) else np.resize(np.roll(pool, -start), n)
        return drawn.reshape(shape) * np.float32(deviation)

    for op in _convs(ops):
        shape = (op.cout, op.cin // op.groups, op.k, op.k)
        out[op.name] = normal(shape, (2.0 / (shape[1] * op.k * op.k)) ** 0.5)
        out[f"{op.name}.bias"] = normal((op.cout,), 0.1)
    return out


def fold(ops: Iterable[Op], state: Weights, bn_eps: float) -> dict[str, Array]:
    """Batch norms folded into the convolutions, with r = g / sqrt(var + eps): kernel * r, bias b - mean * r.

    Raises:
        BadInput: missing or mis-shaped entries, all listed.
    """
    out: dict[str, Array] = {}
    faults: list[str] = []

    def take(name: str, shape: tuple[int, ...]) -> Array:
        value = state.get(name)
        if value is None:
            faults.append(f"{name} is missing")
        elif tuple(value.shape) not in (shape, shape[:2] if shape[2:] == (1, 1) else shape):
            faults.append(f"{name} has shape {tuple(value.shape)}, not {shape}")
        else:
            return np.asarray(value, dtype=np.float32).reshape(shape)
        return np.ones(shape, dtype=np.float32)

    for op in _convs(ops):
        c = (op.cout,)
        kernel = take(f"{op.name}.weight", (op.cout, op.cin // op.groups, op.k, op.k))
        if op.bn is None:
            out[op.name], out[f"{op.name}.bias"] = kernel, take(f"{op.name}.bias", c)
            continue
        gain = take(f"{op.bn}.weight", c) / np.sqrt(take(f"{op.bn}.running_var", c) + np.float32(bn_eps))
        out[op.name] = kernel * gain[:, None, None, None]
        out[f"{op.name}.bias"] = take(f"{op.bn}.bias", c) - take(f"{op.bn}.running_mean", c) * gain
    if faults:
        shown = "\n".join(f"  {f}" for f in faults[:20]) + ("\n  ..." if len(faults) > 20 else "")
        raise BadInput(f"these weights do not fit the network, {len(faults)} fault(s):\n{shown}")
    return out


def _nodes(op: Op) -> list[onnx.NodeProto]:
    def node(kind: str, inputs: list[str], output: str, **attrs: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], name=output, **attrs)

    x, y = list(op.inputs), op.output
    if op.kind == "conv":
        pad = op.dilation * (op.k - 1) // 2
        return [
            node(
                "Conv", [*x, op.name, f"{op.name}.bias"], y,
                kernel_shape=[op.k, op.k], strides=[op.s, op.s], pads=[pad] * 4,
                dilations=[op.dilation] * 2, group=op.groups,
            )
        ]  # fmt: skip
    if op.kind == "gpool":
        return [node("GlobalAveragePool", x, y)]
    if op.kind == "pool":
        pad = (op.k - 1) // 2
        return [node("AveragePool", x, y, kernel_shape=[op.k] * 2, strides=[op.s] * 2, pads=[pad] * 4)]
    if op.kind in ("add", "mul"):
        return [node(op.kind.capitalize(), x, y)]
    if op.nl == "HS":
        return [node("HardSwish", x, y)]
    if op.nl == "HSIGMOID":
        return [node("HardSigmoid", x, y, alpha=1 / 6, beta=0.5)]
    if op.nl == "RE6":
        return [node("Clip", [*x, "zero", "six"], y)]
    return [node({"RE": "Relu", "SIGMOID": "Sigmoid"}[op.nl], x, y)]


def _model(ops: list[Op], folded: Weights, output: str, flat: bool) -> bytes:
    first, last = ops[0], ops[-1]
    nodes = [n for op in ops for n in _nodes(op)]
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, value.shape, np.ascontiguousarray(value).tobytes(), raw=True)
        for name, value in folded.items()
    ]
    if any(op.nl == "RE6" for op in ops):
        tensors += [
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("six", TensorProto.FLOAT, [], [6.0]),
        ]
    shape: list[int] = [1, last.cout, last.hout, last.wout]
    result = last.output
    if flat:
        nodes.append(helper.make_node("Flatten", [result], [output], name=output, axis=1))
        shape, result = [1, last.cout], output
    else:
        nodes.append(helper.make_node("Identity", [result], [output], name=output))
    graph = helper.make_graph(
        nodes,
        "mbv3",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, first.cin, first.hin, first.win])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        tensors,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mbv3-search",
    )
    return cast(bytes, model.SerializeToString())


def layer_model(key: LayerKey, seed: int = 0) -> bytes:
    """One layer alone as an ONNX file: `input` (1, cin, h, w) to `output`, random weights."""
    ops = list(lower_key(key).ops)
    return _model(ops, random_weights(ops, seed), "output", flat=False)


def network_model(spec: ArchSpec, state: Weights | None = None, seed: int = 0) -> bytes:
    """A whole network as an ONNX file: `input` (1, C, H, W) to `logits` (1, classes).

    `state`: arrays under the torch state-dict names; None: random weights from `seed`.

    Raises:
        BadInput: `state` does not fit the network.
    """
    ops = [op for layer in lower(spec) for op in layer.ops]
    weights = random_weights(ops, seed) if state is None else fold(ops, state, spec.bn_eps)
    return _model(ops, weights, "logits", flat=True)


def onnx_weights(model: bytes) -> Iterator[tuple[int, Array]]:
    """(place in the file, values) of each float tensor of an ONNX file of ours."""
    at = 0
    for tensor in onnx.load_from_string(model).graph.initializer:
        if tensor.raw_data:
            at = model.index(tensor.raw_data, at)
            yield at, np.frombuffer(tensor.raw_data, dtype="<f4")
            at += len(tensor.raw_data)
