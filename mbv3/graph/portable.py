"""An ONNX file of ours for others' readers: another batch, an older or newer opset, and what an app must know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto, helper

from mbv3.errors import BadInput

__all__ = ["OPSETS", "Batch", "check_opset", "opset_note", "portable"]

Batch = int | Literal["dynamic"]
OPSETS = (11, 21)  # first and last that are written
_HARD_SWISH, _PER_CHANNEL, _EMPTY_INPUTS = 14, 13, 13  # opsets since which these are


def portable(
    model: bytes, *, batch: Batch = 1, opset: int | None = None, properties: Mapping[str, str] | None = None
) -> bytes:
    """`model`, as `network_model` or `quantized` writes it, for `batch` images at once (a number, or "dynamic": any),
    in `opset` (None: as it is), with `properties` as its metadata_props.

    Below opset 14, h-swish is written out as x times a hard sigmoid.

    Raises:
        BadInput: a batch below 1; an opset that is not written, or that has no scales a channel for an int8 file.
    """
    net = onnx.load_from_string(model)
    if batch != 1:
        _rebatch(net, batch)
    if opset is not None:
        _at_opset(net, opset)
    if properties:
        helper.set_model_props(net, dict(properties))
    return cast(bytes, net.SerializeToString())


def _rebatch(net: onnx.ModelProto, batch: Batch) -> None:
    if isinstance(batch, int) and batch < 1:
        raise BadInput(f"--batch must be a number from 1, or dynamic (got {batch})")
    graph = net.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if len(dims) in (2, 4) and dims[0].dim_value == 1:
            dims[0].Clear()
            if batch == "dynamic":
                dims[0].dim_param = "batch"
            else:
                dims[0].dim_value = batch
    sizes = {node.input[3] for node in graph.node if node.op_type == "Resize"}
    for tensor in graph.initializer:
        if tensor.name in sizes and batch != "dynamic":
            _, *rest = onnx.numpy_helper.to_array(tensor).tolist()
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([batch, *rest], dtype=np.int64), tensor.name))
    if batch == "dynamic":
        nodes = [new for node in graph.node for new in _sized_by_input(net, node)]
        del graph.node[:]
        graph.node.extend(nodes)


def _sized_by_input(net: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A resize whose batch is its input's; other nodes as they are."""
    if node.op_type != "Resize":
        return [node]
    graph, name = net.graph, node.input[3]
    size = next(onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == name)
    for part, values in (("rest", size[1:]), ("first", [0]), ("second", [1])):
        if not any(t.name == f"{name}/{part}" for t in graph.initializer):
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, dtype=np.int64), f"{name}/{part}"))
    shape, n, whole = (f"{node.name}/{part}" for part in ("shape", "batch", "sizes"))
    resized = onnx.NodeProto()
    resized.CopyFrom(node)
    resized.input[3] = whole
    return [
        helper.make_node("Shape", [node.input[0]], [shape], name=shape),
        helper.make_node("Slice", [shape, f"{name}/first", f"{name}/second"], [n], name=n),
        helper.make_node("Concat", [n, f"{name}/rest"], [whole], name=whole, axis=0),
        resized,
    ]


def check_opset(opset: int | None, *, int8: bool) -> None:
    """Raises: BadInput: an opset that is not written, or that has no scales a channel for an int8 file."""
    if opset is None:
        return
    first, last = OPSETS[0], min(OPSETS[1], onnx.defs.onnx_opset_version())
    if not first <= opset <= last:
        raise BadInput(f"--opset must be from {first} to {last} (got {opset})")
    if int8 and opset < _PER_CHANNEL:
        raise BadInput(f"--opset {opset} --precision int8: one scale a channel is there since opset {_PER_CHANNEL}; "
                       "give that, or leave --precision out")  # fmt: skip


def opset_note(model: bytes, opset: int | None) -> str:
    """What the readers of an older opset get in place of what `model` has; empty where it is the same."""
    if opset is None or opset >= _HARD_SWISH:
        return ""
    n = sum(node.op_type == "HardSwish" for node in onnx.load_from_string(model).graph.node)
    if not n:
        return ""
    return (f"opset {opset}: {n} h-swish are written as HardSigmoid and Mul, as HardSwish is there since opset "
            f"{_HARD_SWISH}")  # fmt: skip


def _at_opset(net: onnx.ModelProto, opset: int) -> None:
    check_opset(opset, int8=any(node.op_type == "DequantizeLinear" for node in net.graph.node))
    nodes: list[onnx.NodeProto] = []
    for node in net.graph.node:
        if node.op_type == "HardSwish" and opset < _HARD_SWISH:
            gate = f"{node.output[0]}/gate"
            nodes.append(helper.make_node("HardSigmoid", [node.input[0]], [gate], name=gate, alpha=1 / 6, beta=0.5))
            nodes.append(helper.make_node("Mul", [node.input[0], gate], [node.output[0]], name=node.name))
            continue
        if node.op_type == "Resize" and opset < _EMPTY_INPUTS:
            for i, name in ((1, "no/roi"), (2, "no/scales")):
                node.input[i] = name
                if not any(t.name == name for t in net.graph.initializer):
                    net.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [0], []))
        nodes.append(node)
    del net.graph.node[:]
    net.graph.node.extend(nodes)
    own = next(o for o in net.opset_import if not o.domain)
    own.version = opset
    net.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
