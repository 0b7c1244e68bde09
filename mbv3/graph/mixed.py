"""An ONNX file of which a part is in int8: h-swish on integer codes, and weights that no CPU saturates on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbv3.graph.codes import GATE, INTEGER, Array, Calibration, Code, code_of, takers_of
from mbv3.graph.quantize import pools_as_convolutions

__all__ = ["Recipe", "coded_activations", "mixed", "parts", "weight_steps"]

_BOUNDED = ("Relu", "Clip")  # done by the ends of a code


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is in int8, and how.

    `floats`: what stays in float, such as `stem`, `rows.3`, `rows.3.se`. `clips`: for each activation one of CLIPS,
    0 where it is not named. `safe`: weights so small that two products fit 16 bits together, in which CPUs without VNNI
    add them. `correct`: what the rounding of weights does to the mean goes into the bias."""

    floats: tuple[str, ...] = ()
    clips: Mapping[str, float] = field(default_factory=dict)
    safe: bool = True
    correct: bool = True

    def in_float(self, node: str) -> bool:
        whole = node.replace(":", ".") + "."
        return any(whole.startswith(f"{name}.") for name in self.floats)


def parts(model: bytes) -> tuple[str, ...]:
    """What can stay in float as a whole, in order: `stem`, `rows.0`, ..., `tail`, `head`."""
    found: dict[str, None] = {}
    for node in onnx.load_from_string(model).graph.node:
        words = node.name.partition(":")[0].split(".")
        if node.op_type == "Conv":
            found[".".join(words[:2]) if words[0] == "rows" else words[0]] = None
    return tuple(found)


def coded_activations(model: bytes, seen: Calibration) -> dict[str, bool]:
    """Every activation that has codes of its own once all is in int8; true where only h-swish takes it."""
    net = pools_as_convolutions(onnx.load_from_string(model))
    writer = _Writer(net, seen, Recipe())
    for node in net.graph.node:
        writer.write(node)
    return {name: writer.only(name, "HardSwish") for name in writer.encoded if not writer.only(name, "HardSigmoid")}


def weight_steps(kernel: Array, safe: bool = True) -> Array:
    """One step a channel, so that weights are whole from -127 to 127. `safe`: 255 times the sum of two neighbours of
    one sign, (0, 1), (2, 3), ... with channels innermost, as ONNX Runtime multiplies them, fits 16 bits."""
    largest = np.abs(kernel).max(axis=(1, 2, 3))
    if safe and kernel.shape[1] > 1:  # depthwise kernels add up in 32 bits
        rows = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
        rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
        pairs = rows.reshape(len(rows), -1, 2)
        # 255 * 128 fits; 127 leaves room for rounding
        largest = np.maximum(largest, np.maximum(*(np.maximum(s * pairs, 0).sum(2).max(1) for s in (1, -1))))
    return cast(Array, np.maximum(largest / 127, 1e-12).astype(np.float32))


class _Writer:
    """Nodes of a float graph one after the other; between those that are in int8, activations are codes."""

    def __init__(self, net: onnx.ModelProto, seen: Calibration, recipe: Recipe) -> None:
        self.seen, self.recipe = seen, recipe
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.kernels = {t.name: t for t in net.graph.initializer}
        self.takers = takers_of(net.graph)
        self.ends = {o.name for o in net.graph.output}
        self.codes: dict[str, Code] = {}  # of activations that are there as codes
        self.real: set[str] = set()  # activations that are there as floats
        self.encoded: list[str] = []

    # -- graph pieces

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.tensors[name] = numpy_helper.from_array(value, name)
        return name

    def add(self, kind: str, inputs: Iterable[str], output: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attrs))
        return output

    def ends_of(self, code: Code, name: str) -> tuple[str, str]:
        step = self.constant(f"{name}/step", np.array(code.step, np.float32))
        return step, self.constant(f"{name}/zero", np.array(code.zero, np.uint8))

    def encode(self, made: str, name: str, code: Code) -> None:
        self.encoded.append(name)
        self.codes[name] = code
        self.add("QuantizeLinear", [made, *self.ends_of(code, name)], f"{name}/code")

    def decoded(self, name: str) -> str:
        """The activation `name` from its codes, as ONNX Runtime expects it before an integer node."""
        if name not in self.codes:
            self.encode(name, name, self.chosen_code(name))
        if f"{name}/real" not in self.real:
            self.real.add(f"{name}/real")
            self.add("DequantizeLinear", [f"{name}/code", *self.ends_of(self.codes[name], name)], f"{name}/real")
        return f"{name}/real"

    # -- what is in int8

    def chosen(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in INTEGER or self.recipe.in_float(node.name):
            return False
        return node.op_type not in ("Mul", "Add") or not any(x in self.kernels for x in node.input)

    def only(self, name: str, kind: str) -> bool:
        """Whether nodes of `kind`, all of them in int8, are all that takes an activation."""
        takers = self.takers.get(name, [])
        return bool(takers) and name not in self.ends and all(n.op_type == kind and self.chosen(n) for n in takers)

    def chosen_code(self, name: str) -> Code:
        if self.only(name, "HardSigmoid"):
            return GATE
        return code_of(self.seen, name, self.recipe.clips.get(name, 0.0), swish=self.only(name, "HardSwish"))

    # -- nodes

    def write(self, node: onnx.NodeProto) -> None:
        x, y, kind = node.input[0], node.output[0], node.op_type
        if not self.chosen(node) or (kind in _BOUNDED and x not in self.codes):
            self.in_float(node)
        elif kind == "Conv":
            [after, *more] = [*self.takers.get(y, []), node]
            bounded = len(more) == 1 and y not in self.ends and after.op_type in _BOUNDED and self.chosen(after)
            self.conv(node, self.chosen_code(after.output[0] if bounded else y))
        elif kind in _BOUNDED and len(self.takers[x]) == 1:
            self.same_codes(node, self.codes[x])
        elif kind == "HardSigmoid" and self.codes.get(x) is GATE:
            self.same_codes(node, Code(1 / 255, 0))
        elif kind == "HardSwish" and x in self.codes and self.only(x, kind):
            self.swish(node)
        elif kind in ("GlobalAveragePool", "Mul", "Add"):
            self.add(kind, [self.decoded(name) for name in node.input], f"{y}/{kind}")
            self.encode(f"{y}/{kind}", y, self.chosen_code(y))
        else:
            self.in_float(node)

    def in_float(self, node: onnx.NodeProto) -> None:
        same = onnx.NodeProto.FromString(node.SerializeToString())
        for i, name in enumerate(node.input):
            if name in self.codes and name not in self.real:
                same.input[i] = self.decoded(name)
        self.real.update(node.output)
        self.nodes.append(same)

    def same_codes(self, node: onnx.NodeProto, code: Code) -> None:
        """ReLU and a clip at 6 are done by the ends of the codes; a hard sigmoid is its code under another step."""
        x, y = node.input[0], node.output[0]
        self.codes[y] = code
        self.add("Identity", [f"{x}/code"], f"{y}/code")

    def swish(self, node: onnx.NodeProto) -> None:
        """h-swish on codes: x times a hard sigmoid, which is the code of x, at most 2 n, in steps of 1 / 2 n."""
        x, y = node.input[0], node.output[0]
        top, gate = 2 * self.codes[x].zero, f"{x}/code"
        if top < 255:
            ends = [self.constant(f"code/{v}", np.array(v, np.uint8)) for v in (0, top)]
            gate = self.add("Clip", [gate, *ends], f"{y}/low")
        self.add("DequantizeLinear", [gate, *self.ends_of(Code(1 / top, 0), f"{y}/gate")], f"{y}/gate")
        self.add("Mul", [self.decoded(x), f"{y}/gate"], f"{y}/product")
        self.encode(f"{y}/product", y, self.chosen_code(y))

    def conv(self, node: onnx.NodeProto, code: Code) -> None:
        x, y = node.input[0], node.output[0]
        kernel = numpy_helper.to_array(self.kernels[node.input[1]])
        bias = (
            numpy_helper.to_array(self.kernels[node.input[2]]) if node.input[2:] else np.zeros(len(kernel), np.float32)
        )
        taken = self.decoded(x)
        inside = np.float32(self.codes[x].step)
        # a bias that does not fit 32 bits in the steps of its products gets larger ones
        steps = np.maximum(weight_steps(kernel, self.recipe.safe), np.abs(bias) / (inside * 2**30))
        whole = np.clip(np.round(kernel / steps[:, None, None, None]), -127, 127)
        if self.recipe.correct and x in self.seen.mean:
            # Nagel 2019, section 4.2, arXiv:1906.04721; departure: means that were seen, not those of batch norms
            lost = (kernel - whole * steps[:, None, None, None]).sum(axis=(2, 3))
            mean = self.seen.mean[x]
            bias = bias + (lost[:, 0] * mean if kernel.shape[1] == 1 < len(mean) else lost @ mean)
        if code is GATE:
            bias = bias - np.float32(GATE.step / 2)
        products = (steps * inside).astype(np.float32)
        zeros = np.zeros(len(steps), np.int8)
        for name, values, step, zero in (
            ("weight", whole.astype(np.int8), steps, zeros),
            ("bias", np.round(bias / products).astype(np.int32), products, zeros.astype(np.int32)),
        ):
            constants = [(f"{y}/{name}", values), (f"{y}/{name}/step", step), (f"{y}/{name}/zero", zero)]
            self.add("DequantizeLinear", [self.constant(*c) for c in constants], f"{y}/{name}/real", axis=0)
        same = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.add("Conv", [taken, f"{y}/weight/real", f"{y}/bias/real"], f"{y}/sum", **same)
        self.encode(f"{y}/sum", y, code)


def mixed(model: bytes, seen: Calibration, recipe: Recipe | None = None) -> bytes:
    """`model`, as `network_model` writes it, in int8 by `recipe`: QDQ nodes, which ONNX Runtime fuses.

    Weights have one step a channel, activations uint8 codes; input and output stay float. A hard sigmoid is free on
    codes and h-swish a product of codes, where ONNX Runtime's quantizer leaves both in float between two conversions.
    What has no integer form stays in float."""
    net = pools_as_convolutions(onnx.load_from_string(model))
    writer = _Writer(net, seen, recipe or Recipe())
    for node in net.graph.node:
        writer.write(node)
    used = {name for node in writer.nodes for name in node.input}
    kept = [t for t in net.graph.initializer if t.name in used]
    for repeated, new in (
        (net.graph.node, writer.nodes), (net.graph.initializer, [*kept, *writer.tensors.values()]),
        (net.graph.value_info, []),
    ):  # fmt: skip
        del repeated[:]
        repeated.extend(new)
    return cast(bytes, net.SerializeToString())
