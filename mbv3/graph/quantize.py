"""An ONNX file in int8, by the static quantization of ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["quantized"]


def quantized(model: bytes, images: Sequence[NDArray[np.float32]] = ()) -> bytes:
    """`model` with int8 weights, one scale for each channel, and uint8 activations.

    The ranges of activations are calibrated on `images`, each (1, C, H, W) as an input of the network; without images
    on one random image, which is enough to measure the latency. Input and output stay float; between them ONNX Runtime
    uses integer kernels where it has them (QDQ format). Its integer average pooling is many times slower than its
    depthwise convolution, so the pooled skip paths of MnasNet's space become depthwise convolutions."""
    # slow to import, and needed here only
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    net = pools_as_convolutions(onnx.load_from_string(model))
    graph = net.graph
    rng = np.random.default_rng(0)
    shapes = {x.name: [d.dim_value for d in x.type.tensor_type.shape.dim] for x in graph.input}
    inputs = [{"input": image} for image in images]
    if not inputs:  # a single head has several inputs
        inputs = [{name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = list(inputs)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return self.left.pop() if self.left else None

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # for every file it advises a preprocessing step that is done here already
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "int8.onnx"
            quantize_static(
                net, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            return out.read_bytes()
    finally:
        logging.disable(before)


def _padded_pool(node: onnx.NodeProto) -> bool:
    """Whether it is the pool of a skip path: the pools of heads have no padding."""
    return node.op_type == "AveragePool" and any(a.name == "pads" and any(a.ints) for a in node.attribute)


def pools_as_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, as `network_model` writes it, with depthwise convolutions in place of padded average pools: a kernel of
    1 / k^2, times k^2 over the number of positions in each window that are not padding."""
    if not any(map(_padded_pool, model.graph.node)):  # then no shapes are needed
        return model
    shapes = {
        x.name: [d.dim_value for d in x.type.tensor_type.shape.dim]
        for x in (*onnx.shape_inference.infer_shapes(model).graph.value_info, *model.graph.input)
    }
    nodes = []
    for node in model.graph.node:
        if not _padded_pool(node):
            nodes.append(node)
            continue
        at = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        (x,), (y,) = node.input, node.output
        _, c, h, w = shapes[x]
        (k, _), (s, _), (pad, *_) = at["kernel_shape"], at["strides"], at["pads"]
        inside = np.pad(np.ones((h, w), np.float32), pad)
        counted = np.lib.stride_tricks.sliding_window_view(inside, (k, k))[::s, ::s].sum(axis=(2, 3))
        for name, value in (
            ("kernel", np.full((c, 1, k, k), 1 / k**2, np.float32)),
            ("whole", (k**2 / counted)[None, None].astype(np.float32)),
        ):
            model.graph.initializer.append(numpy_helper.from_array(value, f"{y}.{name}"))
        same = {"kernel_shape": [k, k], "strides": [s, s], "pads": [pad] * 4, "group": c}
        nodes.append(helper.make_node("Conv", [x, f"{y}.kernel"], [f"{y}.sum"], f"{y}.sum", **same))
        nodes.append(helper.make_node("Mul", [f"{y}.sum", f"{y}.whole"], [y], y))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
