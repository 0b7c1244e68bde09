"""Integer codes of the activations of an ONNX file: what their values were on some images, and where codes end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mbv3.graph.quantize import pools_as_convolutions

__all__ = ["CLIPS", "GATE", "INTEGER", "PROBE", "Calibration", "Code", "calibrate", "code_of", "probe", "takers_of"]

Array = NDArray[np.float32]
CLIPS = (0.0, 0.001, 0.01, 0.1)  # percent of the values that may lie beyond each end of the codes; 0: none
PROBE = ("code/step", "code/zero")
SAMPLE = 4096  # values of each activation that an image gives
INTEGER = frozenset(("Conv", "Relu", "Clip", "HardSwish", "HardSigmoid", "GlobalAveragePool", "Mul", "Add"))


@dataclass(frozen=True, slots=True)
class Code:
    """uint8 codes of an activation: value = step * (code - zero)."""

    step: float
    zero: int


# of what a hard sigmoid takes: -3 to 3, once half a step is taken off; then the code is the gate, in steps of 1 / 255
GATE = Code(6 / 255, 128)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibrate` saw: extremes and a sample of each activation, and the mean of each of its channels."""

    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    sample: dict[str, Array] = field(default_factory=dict)
    mean: dict[str, Array] = field(default_factory=dict)


def takers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that take each value."""
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    return takers


def calibrate(model: bytes, images: Sequence[Array], seed: int = 0) -> Calibration:
    """Every activation of a file of `network_model` on `images`, (1, C, H, W) each."""
    import onnxruntime  # slow to import, and needed here only

    net = pools_as_convolutions(onnx.load_from_string(model))
    first = net.graph.input[0].name
    constants = {first, "", *(t.name for t in net.graph.initializer)}
    nodes = [n for n in net.graph.node if n.op_type in INTEGER]
    names = [first, *dict.fromkeys(x for n in nodes for x in (*n.input, *n.output) if x not in constants)]
    del net.graph.output[:]
    net.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names[1:])
    session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    seen = Calibration()
    samples: dict[str, list[Array]] = {n: [] for n in names}
    means: dict[str, list[Array]] = {n: [] for n in names}
    rng = np.random.default_rng(seed)
    for image in images:
        for name, value in zip(names, [image, *session.run(None, {first: image})], strict=True):
            seen.low[name] = min(seen.low.get(name, np.inf), float(value.min()))
            seen.high[name] = max(seen.high.get(name, -np.inf), float(value.max()))
            flat = value.ravel()
            samples[name].append(flat[rng.integers(flat.size, size=SAMPLE)] if flat.size > SAMPLE else flat)
            means[name].append(value.mean(axis=(0, *range(2, value.ndim))))
    seen.sample.update((n, np.concatenate(v)) for n, v in samples.items())
    seen.mean.update((n, np.mean(v, axis=0)) for n, v in means.items())
    return seen


def code_of(seen: Calibration, name: str, clip: float, *, swish: bool) -> Code:
    """Codes for an activation, without `clip` percent of its values at each end. `swish`: only h-swish takes it, which
    is 0 up to -3; then n steps are 3, code 0 is -3 or less, and code 2 n is 3, where h-swish leaves its bend."""
    low, high = seen.low[name], seen.high[name]
    if clip:
        low, high = (float(v) for v in np.percentile(seen.sample[name], (clip, 100 - clip)))
    if swish:
        n = min(max(int(3 * 255 / (max(high, 1e-3) + 3)), 1), 254)
        return Code(3 / n, n)
    low, high = min(low, 0.0), max(high, 0.0)
    step = max(high - low, 1e-6) / 255
    return Code(step, round(-low / step))


def probe(model: bytes, name: str) -> bytes:
    """`model` with the activation `name` rounded to codes, whose step and zero are inputs of the file, called PROBE."""
    net = pools_as_convolutions(onnx.load_from_string(model))
    graph = net.graph
    nodes: list[onnx.NodeProto] = []

    def rounded() -> None:
        nodes.append(helper.make_node("QuantizeLinear", [name, *PROBE], [f"{name}/code"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}/code", *PROBE], [f"{name}/real"]))

    if name == graph.input[0].name:
        rounded()
    for node in graph.node:
        for i, taken in enumerate(node.input):
            if taken == name:
                node.input[i] = f"{name}/real"
        nodes.append(node)
        if name in node.output:
            rounded()
    kept: list[Any] = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    graph.input.append(helper.make_tensor_value_info(PROBE[0], TensorProto.FLOAT, []))
    graph.input.append(helper.make_tensor_value_info(PROBE[1], TensorProto.UINT8, []))
    return cast(bytes, net.SerializeToString())
