"""Ops to ONNX with folded batch norms; weights are random for timing, or given for export."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mbv3.errors import BadInput
from mbv3.spec import ArchSpec, Classify, Dense, LayerKey, Op, lower, lower_key

__all__ = ["fold", "layer_model", "network_model", "onnx_weights", "random_weights"]

OPSET = 17
IR_VERSION = 8
Array = NDArray[np.float32]
Weights = Mapping[str, Array]
Shape = tuple[int, int, int]  # channels, height, width


def _convs(ops: Iterable[Op]) -> list[Op]:
    return [op for op in ops if op.kind == "conv"]


@cache
def _normal() -> Array:
    """A million normal numbers, drawn once: drawing weights took most of the time of opening a network."""
    return np.random.default_rng(0).standard_normal(1_000_003, dtype=np.float32)


def random_weights(ops: Iterable[Op], seed: int) -> dict[str, Array]:
    """Folded weights `{op.name: kernel, op.name + ".bias": bias}`, scaled so that activations neither become denormal,
    which a CPU computes slowly, nor overflow."""
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


def fold(ops: Iterable[Op], state: Weights, bn_eps: float, head_eps: float | None = None) -> dict[str, Array]:
    """Batch norms folded into the convolutions: with r = g / sqrt(var + eps), kernel * r and bias b - mean * r.

    `head_eps`: the eps of ops whose name begins with `head.`; None: `bn_eps`.

    Raises:
        BadInput: missing entries or wrong shapes, all listed.
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
            out[op.name] = kernel
            out[f"{op.name}.bias"] = take(f"{op.name}.bias", c) if op.bias else np.zeros(c, dtype=np.float32)
            continue
        eps = head_eps if head_eps is not None and op.name.startswith("head.") else bn_eps
        gain = take(f"{op.bn}.weight", c) / np.sqrt(take(f"{op.bn}.running_var", c) + np.float32(eps))
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
        return [
            node(
                "Conv", [*x, op.name, f"{op.name}.bias"], y,
                kernel_shape=[op.k, op.k], strides=[op.s, op.s], pads=list(op.pads),
                dilations=[op.dilation] * 2, group=op.groups,
            )
        ]  # fmt: skip
    if op.kind == "gpool":
        return [node("GlobalAveragePool", x, y)]
    if op.kind == "pool":
        pad = (op.k - 1) // 2
        return [node("AveragePool", x, y, kernel_shape=[op.k] * 2, strides=[op.s] * 2, pads=[pad] * 4)]
    if op.kind == "wpool" and op.window is not None:
        kh, kw, sh, sw = op.window
        return [node("AveragePool", x, y, kernel_shape=[min(kh, op.hin), min(kw, op.win)], strides=[sh, sw])]
    if op.kind == "apool":
        # the mean of each cell over rows, then over columns: a matrix product from each side
        across = node("MatMul", [*x, f"{y}/across"], f"{y}/columns")
        return [across, node("MatMul", [f"{y}/down", f"{y}/columns"], y)]
    if op.kind == "resize":
        mode = "align_corners" if op.align else "half_pixel"
        return [node("Resize", [*x, "", "", f"{y}/size"], y, mode="linear", coordinate_transformation_mode=mode)]
    if op.kind == "concat":
        return [node("Concat", x, y, axis=1)]
    if op.kind in ("add", "mul"):
        return [node(op.kind.capitalize(), x, y)]
    if op.nl == "HS":
        return [node("HardSwish", x, y)]
    if op.nl == "SILU":
        return [node("Sigmoid", x, f"{y}/gate"), node("Mul", [*x, f"{y}/gate"], y)]
    if op.nl == "HSIGMOID":
        return [node("HardSigmoid", x, y, alpha=1 / 6, beta=0.5)]
    if op.nl == "RE6":
        return [node("Clip", [*x, "zero", "six"], y)]
    return [node({"RE": "Relu", "SIGMOID": "Sigmoid"}[op.nl], x, y)]


def cells(size: int, n: int) -> list[tuple[int, int]]:
    """(first, last + 1) of each of the `n` cells of an adaptive pool over `size` positions, by the rule of torch."""
    return [(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]


def _means(size: int, n: int) -> Array:
    """(n, size): row i computes the mean of cell i."""
    rows = np.zeros((n, size), dtype=np.float32)
    for row, (start, end) in zip(rows, cells(size, n), strict=True):
        row[start:end] = 1 / (end - start)
    return rows


def _constants(op: Op) -> list[onnx.TensorProto]:
    if op.kind == "resize":
        sizes = np.array([1, op.cout, op.hout, op.wout], dtype=np.int64)
        return [onnx.numpy_helper.from_array(sizes, f"{op.output}/size")]
    if op.kind == "apool":
        down, across = _means(op.hin, op.hout), _means(op.win, op.wout)
        return [
            onnx.numpy_helper.from_array(down, f"{op.output}/down"),
            onnx.numpy_helper.from_array(np.ascontiguousarray(across.T), f"{op.output}/across"),
        ]
    return []


def results(outputs: Sequence[str], name: str) -> tuple[str, ...]:
    """Names of the outputs of a file: `name`, or for a detector `classes0`, ..., `boxes0`, ..."""
    if len(outputs) == 1:
        return (name,)
    levels = range(len(outputs) // 2)
    return tuple(f"{part}{i}" for part in ("classes", "boxes") for i in levels)


def _model(
    ops: list[Op], folded: Weights, inputs: Mapping[str, Shape], outputs: Sequence[str], name: str, flat: bool
) -> bytes:
    nodes = [n for op in ops for n in _nodes(op)]
    tensors = [t for op in ops for t in _constants(op)]
    if any(op.nl == "RE6" for op in ops):
        tensors += [
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("six", TensorProto.FLOAT, [], [6.0]),
        ]
    made = {op.output: [1, op.cout, op.hout, op.wout] for op in ops}
    ends = []
    for output, result in zip(outputs, results(outputs, name), strict=True):
        shape = made[output]
        if flat:
            nodes.append(helper.make_node("Flatten", [output], [result], name=result, axis=1))
            shape = shape[:2]
        else:
            nodes.append(helper.make_node("Identity", [output], [result], name=result))
        ends.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        nodes,
        "mbv3",
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, *shape]) for x, shape in inputs.items()],
        ends,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mbv3-search",
    )
    for name, value in folded.items():  # in place: make_graph and make_model each copy what they are given
        tensor = model.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        tensor.raw_data = np.ascontiguousarray(value).tobytes()
    model.graph.initializer.extend(tensors)
    return cast(bytes, model.SerializeToString())


def layer_model(key: LayerKey, seed: int = 0) -> bytes:
    """One layer as an ONNX file with random weights: `input` (1, cin, h, w) to `output`. A head with several inputs
    also has `input1`, `input2`, ...; the outputs of a detector have the names of `network_model`."""
    layer = lower_key(key)
    ops = list(layer.ops)
    inputs = dict(zip(layer.inputs, key.inputs, strict=True))
    return _model(ops, random_weights(ops, seed), inputs, layer.outputs, "output", flat=False)


def network_weights(spec: ArchSpec, state: Weights | None, seed: int) -> dict[str, Array]:
    """Folded weights of a network, random where `state` is None."""
    ops = [op for layer in lower(spec) for op in layer.ops]
    if state is None:
        return random_weights(ops, seed)
    return fold(ops, state, spec.bn_eps, spec.head.bn_eps if isinstance(spec.head, Dense) else None)


def network_model(spec: ArchSpec, state: Weights | None = None, seed: int = 0) -> bytes:
    """A whole network as an ONNX file: `input` (1, C, H, W) to `logits`, (1, classes) for a classifier and
    (1, classes, H, W) for a segmentation head. A detector has the outputs `classes0`, ... and `boxes0`, ..., one for
    each level; boxes are not selected in the file.

    `state`: arrays by torch state-dict name; None: random weights from `seed`.

    Raises:
        BadInput: `state` does not fit the network.
    """
    layers = lower(spec)
    ops = [op for layer in layers for op in layer.ops]
    flat = isinstance(spec.head, Classify)
    inputs = {"input": layers[0].in_shape}
    return _model(ops, network_weights(spec, state, seed), inputs, layers[-1].outputs, "logits", flat)


def onnx_weights(model: bytes) -> Iterator[tuple[int, Array]]:
    """(offset in the file, values) of each float tensor of a file written here."""
    at = 0
    for tensor in onnx.load_from_string(model).graph.initializer:
        if tensor.raw_data and tensor.data_type == TensorProto.FLOAT:
            at = model.index(tensor.raw_data, at)
            yield at, np.frombuffer(tensor.raw_data, dtype="<f4")
            at += len(tensor.raw_data)
