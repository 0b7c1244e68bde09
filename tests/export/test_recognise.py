"""Files of networks read back: the same rows, weights that answer alike, and refusals that name the operator."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
from onnx import TensorProto, helper

from mbv3.errors import BadInput
from mbv3.export import loaded, recognise, unfolded
from mbv3.graph import Found, answers, network_model, network_tflite, portable, quantized, read_onnx, read_tflite
from mbv3.nn import Network, build
from mbv3.spec import UIB, ArchSpec, Classify, Conv, DSConv, Fused, MBConv, load_spec
from tests.moved import moved

SIZE = (32, 48)
_XNNPACK = "ignore:.*XNNPACK.*"


def v1(width: int = 8) -> ArchSpec:
    """MobileNetV1: depthwise and 1x1 convolutions with ReLU6 after both (Howard 2017)."""
    rows = [DSConv(k=3, out=width * n, s=s, nl="RE6", out_nl="RE6") for n, s in ((2, 1), (4, 2), (4, 1), (8, 2))]
    return ArchSpec(name="v1", resolution=SIZE, stem=Conv(k=3, out=width, s=2, nl="RE6"), rows=tuple(rows), tail=None,
                    head=Classify(classes=7))  # fmt: skip


def lite() -> ArchSpec:
    """EfficientNet's rows: fused ones, swish inside squeeze-and-excitation, a sigmoid gate."""
    rows = (
        MBConv(k=3, exp=16, out=16, nl="SILU", se=4, se_nl="SILU", skip="identity"),
        MBConv(k=5, exp=64, out=24, nl="SILU", se=4, se_nl="SILU", s=2),
        Fused(k=3, exp=48, out=24, nl="SILU", skip="identity"),
        Fused(k=3, exp=48, out=32, nl="SILU", s=2),
    )
    return ArchSpec(name="lite", resolution=SIZE, stem=Conv(k=3, out=16, s=2, nl="SILU"), rows=rows, gate="SIGMOID",
                    tail=Conv(k=1, out=64, nl="SILU"), head=Classify(classes=7))  # fmt: skip


def dilated() -> ArchSpec:
    spec = named("mobilenet_v3_small@0.35")
    rows = tuple(replace(row, dilation=2 if i > 8 else 1) for i, row in enumerate(spec.rows))
    return replace(spec, rows=rows, name="dilated")


def named(name: str, padding: Any = "both") -> ArchSpec:
    spec = load_spec(name)
    return replace(spec, resolution=SIZE, padding=padding, head=replace(spec.head, classes=11))


SPECS: dict[str, Callable[[], ArchSpec]] = {
    "v1": v1,
    "v1 tensorflow": lambda: replace(v1(), padding="tensorflow"),
    "lite": lite,
    "dilated": dilated,
    **{
        f"{name} {padding}": lambda name=name, padding=padding: named(name, padding)  # type: ignore[misc]
        for name, padding in (
            ("mobilenet_v2@0.35", "both"), ("mobilenet_v2@0.5", "tensorflow"), ("mobilenet_v3_small", "both"),
            ("mobilenet_v3_small@0.35", "tensorflow"), ("mobilenet_v3_large@0.35", "both"),
            ("mobilenet_v3_small_tensorflow@1.4", "tensorflow"), ("mnasnet_a1@0.5", "both"),
            ("mnasnet_b1@0.35", "both"), ("mobilenetv4_conv_small", "both"),
            ("mobilenet_v3_small_minimalistic", "both"),
        )
    },
}  # fmt: skip


def trained(spec: ArchSpec) -> Network:
    return moved(build(spec, 3))


def arrays(net: Network) -> dict[str, Any]:
    return {k: v.numpy() for k, v in net.state_dict().items()}


def images(spec: ArchSpec, n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, *spec.resolution, generator=torch.Generator().manual_seed(2))


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


def answered(net: Network, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(x)  # type: ignore[no-any-return]


FORMATS: dict[str, tuple[Callable[[ArchSpec, dict[str, Any]], bytes], Callable[[bytes, str], Found]]] = {
    "onnx": (network_model, read_onnx),
    "opset 11, any batch": (lambda s, w: portable(network_model(s, w), opset=11, batch="dynamic"), read_onnx),
    "opset 21": (lambda s, w: portable(network_model(s, w), opset=21), read_onnx),
    "litert": (network_tflite, read_tflite),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("form", FORMATS)
def test_what_we_export_comes_back(spec: str, form: str) -> None:
    was = SPECS[spec]()
    net, x = trained(was), images(was)
    write, read = FORMATS[form]
    back = recognise(read(write(was, arrays(net)), "file"), was.name, "file")
    assert [row.plain() for row in back.spec.rows] == [row.alike(0).plain() if isinstance(row, DSConv) else row.plain()
                                                       for row in was.rows]  # fmt: skip
    assert (back.spec.stem, back.spec.tail, back.spec.padding) == (was.stem, was.tail, was.padding)
    assert back.spec.head.classes == was.head.classes and not back.softmax and not back.found.integer
    if any(row.se for row in was.rows):
        assert back.spec.gate == was.gate
    assert back.folded and all(f"{name}.running_var" in back.state for name in back.folded)
    assert relative(answered(loaded(back.spec, back.state), x), answered(net, x)) < 1e-5


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_the_runtimes_answer_like_the_network(form: str) -> None:
    was = named("mobilenet_v3_small@0.35", "tensorflow")
    net, x = trained(was), images(was)
    content = FORMATS[form][0](was, arrays(net))
    found = FORMATS[form][1](content, "file")
    got = answers(content, found, [image.numpy()[None] for image in x])
    assert relative(torch.from_numpy(got), answered(net, x)) < 1e-5


def exported(net: Network, opset: int, folded: bool, fixed: bool = True) -> bytes:
    """As torch's own exporter writes it."""
    file = BytesIO()
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (images(net.spec, 1),), file, dynamo=False, opset_version=opset, training=mode,
            do_constant_folding=folded, dynamic_axes=None if fixed else {"x": {0: "n", 2: "h", 3: "w"}},
            input_names=["x"],
        )  # fmt: skip
    return file.getvalue()


@pytest.mark.parametrize("spec", ["v1", "lite", "mobilenet_v3_small both", "mobilenet_v2@0.35 both",
                                  "mobilenetv4_conv_small both"])  # fmt: skip
@pytest.mark.parametrize(("opset", "folded"), [(11, True), (13, True), (17, True), (17, False), (20, True)])
def test_what_torch_exports_is_read(spec: str, opset: int, folded: bool) -> None:
    was = SPECS[spec]()
    net, x = trained(was), images(was)
    back = recognise(read_onnx(exported(net, opset, folded), "file"), was.name, "file")
    assert bool(back.folded) == folded
    assert relative(answered(loaded(back.spec, back.state), x), answered(net, x)) < 1e-5
    if not folded:  # the statistics of its batch norms are those that it had
        assert back.spec.bn_eps == pytest.approx(was.bn_eps)
        torch.testing.assert_close(back.state["stem.bn.running_var"], net.state_dict()["stem.bn.running_var"])


def test_a_file_for_any_size_has_the_size_that_is_asked_for() -> None:
    net = trained(named("mobilenet_v2@0.35"))
    content = exported(net, 17, True, fixed=False)
    found = read_onnx(content, "file")
    assert recognise(found, "n", "file").spec.resolution == (224, 224) and "any size" in found.notes[0]
    assert recognise(read_onnx(content, "file", SIZE), "n", "file").spec.resolution == SIZE


# ---- integers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_v3_small both", "mobilenet_v2@0.35 both", "v1", "mnasnet_a1@0.5 both"])
def test_an_int8_file_becomes_floats(name: str) -> None:
    """Only weights are rounded then: to 8 bits a channel, so answers are near those before."""
    was = SPECS[name]()
    net, x = trained(was), 8 * images(was, 8)  # so large that a ReLU6 meets its 6
    content = quantized(network_model(was, arrays(net)), [image.numpy()[None] for image in x])
    back = recognise(read_onnx(content, "file"), was.name, "file")
    assert back.found.integer
    assert [(row.nl, row.se) for row in back.spec.rows] == [(row.nl, row.se) for row in was.rows]
    assert relative(answered(loaded(back.spec, back.state), x), answered(net, x)) < 0.1


# ---- unfolding -----------------------------------------------------------------------------------------------


def test_unfolded_norms_answer_alike_and_survive_a_training_step() -> None:
    was = named("mobilenet_v3_small")
    x = images(was, 16)
    back = recognise(read_onnx(network_model(was, arrays(trained(was))), "file"), "n", "file")
    state = unfolded(back.spec, back.state, back.folded, [x[:8], x[8:]])
    before, after = loaded(back.spec, back.state), loaded(back.spec, state)
    assert relative(answered(after, x), answered(before, x)) < 1e-5
    # in training mode norms normalise by the batch: nothing changes much where statistics are those of the images
    want = answered(after, x)
    shift = {}
    for kind, net in (("folded", before), ("unfolded", after)):
        net.train().get_submodule("head.dropout").eval()
        shift[kind] = relative(answered(net, x), want)
    assert shift["unfolded"] < 0.02 < 0.2 < shift["folded"]
    # by hand for the first one: the mean and variance of what the convolution gives
    first = torch.nn.functional.conv2d(x, state["stem.conv.weight"], stride=2, padding=1)
    torch.testing.assert_close(state["stem.bn.running_mean"], first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state["stem.bn.running_var"], first.var((0, 2, 3), unbiased=False), rtol=1e-4, atol=1e-5)


def test_statistics_need_images() -> None:
    back = recognise(read_onnx(network_model(v1(), arrays(trained(v1()))), "file"), "n", "file")
    with pytest.raises(BadInput, match="statistics of batch norms need images"):
        unfolded(back.spec, back.state, back.folded, [])


# ---- what a file of Keras or tf2onnx looks like --------------------------------------------------------------


class Graph:
    """Writes an ONNX file node by node, on images with channels last."""

    def __init__(self, size: int = 16) -> None:
        self.nodes: list[Any] = [helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])]
        self.tensors: list[Any] = []
        self.size, self.n, self.rng = size, 0, np.random.default_rng(0)

    def const(self, value: Any) -> str:
        self.n += 1
        self.tensors.append(onnx.numpy_helper.from_array(np.asarray(value), f"c{self.n}"))
        return f"c{self.n}"

    def add(self, kind: str, *inputs: str, **attrs: Any) -> str:
        self.n += 1
        self.nodes.append(helper.make_node(kind, list(inputs), [f"v{self.n}"], name=f"{kind.lower()}{self.n}", **attrs))
        return f"v{self.n}"

    def conv(self, x: str, cin: int, out: int, k: int = 1, s: int = 1, groups: int = 1, pads: Any = None) -> str:
        kernel = (
            self.rng.standard_normal((out, cin // groups, k, k)).astype(np.float32) / (cin // groups * k * k) ** 0.5
        )
        bias = self.rng.standard_normal(out).astype(np.float32) / 10
        pads = pads if pads is not None else [(k - 1) // 2] * 4
        return self.add("Conv", x, self.const(kernel), self.const(bias), kernel_shape=[k, k], strides=[s, s], pads=pads,
                        group=groups)  # fmt: skip

    def swish(self, x: str, how: str) -> str:
        """h-swish in the ways that converters write it."""
        three, sixth = self.const(np.float32(3)), self.const(np.float32(1 / 6))
        ends = [self.const(np.float32(v)) for v in (0, 6)]
        gate = self.add("Clip", self.add("Add", x, three), *ends)
        if how == "gate first":
            return self.add("Mul", x, self.add("Mul", gate, sixth))
        if how == "product first":
            return self.add("Div", self.add("Mul", gate, x), self.const(np.float32(6)))
        return self.add("Mul", self.add("Mul", x, sixth), gate)

    def head(self, x: str, cin: int, classes: int = 5, softmax: bool = True) -> bytes:
        y = self.add("ReduceMean", x, axes=[2, 3], keepdims=0)
        y = self.add("MatMul", y, self.const(self.rng.standard_normal((cin, classes)).astype(np.float32)))
        y = self.add("Add", y, self.const(self.rng.standard_normal(classes).astype(np.float32)))
        return self.model(self.add("Softmax", y, axis=-1) if softmax else y, classes)

    def model(self, y: str, classes: int = 5) -> bytes:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", self.size, self.size, 3])
        end = helper.make_tensor_value_info(y, TensorProto.FLOAT, ["n", classes])
        graph = helper.make_graph(self.nodes, "g", [image], [end], self.tensors)
        opset = [helper.make_opsetid("", 13)]
        return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["gate first", "product first", "a sixth first"])
def test_a_converted_keras_network(how: str) -> None:
    """Rescaled inside, channels last, explicit zero padding, h-swish in parts, a batch norm, a softmax."""
    g = Graph()
    x = g.add("Sub", g.add("Mul", "x", g.const(np.float32(1 / 127.5))), g.const(np.float32(1)))
    x = g.add("Pad", x, g.const(np.array([0, 0, 0, 0, 0, 0, 1, 1])), mode="constant")
    x = g.swish(g.conv(x, 3, 8, k=3, s=2, pads=[0, 0, 0, 0]), how)
    y = g.conv(x, 8, 8, k=3, groups=8)
    norm = [g.const(np.float32(v) + np.abs(g.rng.standard_normal(8)).astype(np.float32)) for v in (0.5, 0, 0, 0.5)]
    y = g.swish(g.add("BatchNormalization", y, *norm, epsilon=2e-3), how)
    x = g.add("Add", x, g.conv(y, 8, 8))
    content = g.head(x, 8)
    back = recognise(read_onnx(content, "file"), "keras", "file")
    assert back.softmax and back.spec.padding == "tensorflow" and back.found.channels_last
    assert [type(row) for row in back.spec.rows] == [MBConv] and back.spec.rows[0].nl == "HS"
    assert back.spec.rows[0].skip == "identity" and back.spec.bn_eps == pytest.approx(2e-3)
    assert "rows.0.depthwise.bn" not in back.folded and "stem.bn" in back.folded
    scale, shift = back.before
    assert scale == pytest.approx(1 / 127.5) and shift == pytest.approx(-1)
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 3, 16, 16)).astype(np.float32)
    want = answers(content, back.found, [p[None] for p in pixels])
    ours = answered(loaded(back.spec, back.state), torch.from_numpy(pixels / 127.5 - 1)).softmax(1)
    assert np.abs(ours.numpy() - want).max() < 1e-6


# ---- what a spec cannot say ----------------------------------------------------------------------------------


def _max_pool(g: Graph) -> bytes:
    x = g.add("Relu", g.conv("x", 3, 8, k=3, s=2))
    return g.head(g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 8)


def _grouped(g: Graph) -> bytes:
    x = g.add("Relu", g.conv("x", 3, 8, k=3, s=2))
    return g.head(g.add("Relu", g.conv(x, 8, 8, k=3, groups=2)), 8)


def _valid(g: Graph) -> bytes:
    return g.head(g.add("Relu", g.conv(g.add("Relu", g.conv("x", 3, 8, k=3, pads=[0, 0, 0, 0])), 8, 8)), 8)


def _unpooled(g: Graph) -> bytes:
    y = g.add("Flatten", g.add("Relu", g.conv("x", 3, 8, k=3, s=2)))
    return g.model(g.add("MatMul", y, g.const(np.zeros((512, 5), np.float32))))


def _late(g: Graph) -> bytes:
    x = g.add("Relu", g.conv("x", 3, 8, k=3, s=2))
    return g.head(g.add("Relu", g.add("Add", x, g.conv(g.add("Relu", g.conv(x, 8, 8, k=3, groups=8)), 8, 8))), 8)


def _branches(g: Graph) -> bytes:
    x = g.add("Relu", g.conv("x", 3, 8, k=3, s=2))
    return g.head(g.add("Concat", g.conv(x, 8, 8), g.conv(x, 8, 8), axis=1), 16)


def _leaky(g: Graph) -> bytes:
    return g.head(g.add("LeakyRelu", g.conv("x", 3, 8, k=3, s=2)), 8)


def _two_ways(g: Graph) -> bytes:
    x = g.add("Relu", g.conv("x", 3, 8, k=3, s=2, pads=[0, 0, 1, 1]))
    return g.head(g.conv(g.add("Relu", g.conv(x, 8, 8, k=3, s=2, groups=8)), 8, 8), 8)


def _gate_twice(g: Graph) -> bytes:
    x = g.add("Relu", g.conv("x", 3, 8, k=3, s=2))
    y = g.conv(g.add("Relu", g.conv(g.add("GlobalAveragePool", x), 8, 8)), 8, 8)
    x = g.add("Mul", x, g.add("Sigmoid", y))
    return g.head(g.add("Mul", x, g.add("Relu", y)), 8)


def _nothing(g: Graph) -> bytes:
    return g.model(g.add("Identity", "x"), 3)


def _third(g: Graph) -> bytes:
    x = g.add("GlobalAveragePool", g.add("Relu", g.conv("x", 3, 8, k=3, s=2)))
    for _ in range(3):
        x = g.add("Relu", g.conv(x, 8, 8))
    return g.model(g.add("Flatten", x), 8)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (_max_pool, r"f\.onnx: operator 3, MaxPool \(maxpool\d+\): this operator is not expressed by a spec"),
        (_grouped, r"operator 3, Conv \(conv\d+\): 2 groups of 8 channels to 8; a spec has full and depthwise ones"),
        (_valid, r"operator 1, Conv \(conv\d+\): makes a map of 14x14 of one of 16x16; a spec pads to 16x16"),
        (_unpooled, r"operator 3, Flatten \(flatten\d+\): reshapes a map of 8x8"),
        (_late, r"operator 7, Relu \(relu\d+\): an activation after a residual"),
        (_branches, r"operator 5, Concat \(concat\d+\): this operator is not expressed by a spec"),
        (_leaky, r"operator 2, LeakyRelu \(leakyrelu\d+\): this operator is not expressed"),
        (
            _two_ways,
            r"Conv \(conv\d+\): pads strided convolutions as (both|tensorflow), others do not; a spec has one way",
        ),
        (_gate_twice, r"Relu \(relu\d+\): takes what only the gate of a squeeze-and-excitation may take"),
        (_nothing, r"f\.onnx: holds no operator between its input and its output"),
        (_third, r"a third layer behind the average; a spec has two"),
    ],
)
def test_the_first_operator_in_the_way_is_named(make: Callable[[Graph], bytes], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        recognise(read_onnx(make(Graph()), "f.onnx"), "n", "f.onnx")


def test_padding_of_a_converter_after_a_pad() -> None:
    """SAME is of the padded map: 15 and 1 pixels make 16, to which one more is added at the end."""
    g = Graph(15)
    x = g.add("Pad", "x", g.const(np.array([0, 0, 0, 0, 0, 0, 1, 1])), mode="constant")
    kernel = g.const(np.ones((8, 3, 3, 3), np.float32))
    x = g.add("Conv", x, kernel, auto_pad="SAME_UPPER", kernel_shape=[3, 3], strides=[2, 2])
    assert read_onnx(g.head(g.add("Relu", x), 8), "f").steps[0].pads == (0, 0, 2, 2)


def test_a_file_of_several_images_at_once() -> None:
    content = portable(network_model(v1(), arrays(trained(v1()))), batch=8)
    with pytest.raises(BadInput, match=r"f\.onnx: takes 8 images at once; export it with a batch of 1 or a free one"):
        read_onnx(content, "f.onnx")


def test_answers_in_codes_are_read_as_values() -> None:
    g = Graph()
    x = g.add("Relu", g.conv("x", 3, 8, k=3, s=2))
    y = g.add("Relu", g.conv(x, 8, 8))
    content = g.head(y, 8, softmax=False)
    model = onnx.load_from_string(content)
    end = model.graph.output[0].name
    model.graph.initializer.extend([
        onnx.numpy_helper.from_array(np.array(0.05, np.float32), "step"),
        onnx.numpy_helper.from_array(np.array(7, np.int8), "zero"),
    ])  # fmt: skip
    model.graph.node.append(helper.make_node("QuantizeLinear", [end, "step", "zero"], ["codes"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("codes", TensorProto.INT8, ["n", 5]))
    pixels = [np.random.default_rng(2).standard_normal((1, 3, 16, 16)).astype(np.float32)]
    want = answers(content, read_onnx(content, "f"), pixels)
    coded = model.SerializeToString()
    assert np.abs(answers(coded, read_onnx(coded, "f"), pixels) - want).max() < 0.026
    with pytest.raises(BadInput, match=r"f\.onnx: ONNX Runtime cannot run it"):
        answers(coded, read_onnx(coded, "f"), [pixels[0][:, :, :8]], "f.onnx")


def test_a_bottleneck_without_an_expansion_among_universal_ones() -> None:
    rows = (
        MBConv(k=3, exp=8, out=8, skip="identity"), UIB(a=3, k=5, exp=32, out=16, nl="RE", s=2),
        UIB(a=0, k=3, exp=64, out=16, nl="RE", skip="identity"),
    )  # fmt: skip
    was = ArchSpec(
        name="n", resolution=SIZE, stem=Conv(k=3, out=8, s=2), rows=rows, tail=None, head=Classify(classes=3)
    )
    net, x = trained(was), images(was)
    back = recognise(read_onnx(network_model(was, arrays(net)), "f"), "n", "f")
    assert back.spec.rows == was.rows
    assert relative(answered(loaded(back.spec, back.state), x), answered(net, x)) < 1e-5


def test_hand_made_rows_are_told_apart() -> None:
    """A plain convolution row, a `uib` without a depthwise convolution, one that expands to as many channels."""
    rows = (
        Conv(k=3, out=16, s=2), UIB(a=0, k=0, exp=32, out=16, nl="RE", skip="identity"),
        UIB(a=0, k=3, exp=16, out=16, nl="RE", skip="identity"), Conv(k=3, out=16, skip="identity"),
        UIB(a=5, k=0, exp=32, out=16, nl="RE"), Conv(k=5, out=24, nl="NONE"),
    )  # fmt: skip
    was = ArchSpec(name="n", resolution=SIZE, stem=Conv(k=5, out=8, s=2, nl="HS", se=4), rows=rows, tail=None,
                   head=Classify(classes=3))  # fmt: skip
    net, x = trained(was), images(was)
    back = recognise(read_onnx(network_model(was, arrays(net)), "f"), "n", "f")
    assert back.spec.rows == was.rows and back.spec.stem == was.stem
    assert relative(answered(loaded(back.spec, back.state), x), answered(net, x)) < 1e-5


@pytest.mark.parametrize("read", [read_onnx, read_tflite])
def test_a_file_that_is_cut_off_or_damaged(read: Callable[[bytes, str], Found]) -> None:
    was = v1()
    content = (network_model if read is read_onnx else network_tflite)(was, arrays(trained(was)))
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match=r"f: "):
        read(content[: len(content) // 2], "f")
    for _ in range(60):  # whatever is changed, it is refused in words or read
        broken = bytearray(content)
        for at in rng.integers(8, len(broken), 20):
            broken[at] = int(rng.integers(256))
        try:
            recognise(read(bytes(broken), "f"), "n", "f")
        except BadInput as e:
            assert str(e).startswith("f: ") or "network" in str(e)


# ---- TFLite's kinds of numbers -------------------------------------------------------------------------------


def rewritten(content: bytes, change: Callable[[Any, Any, Any], None]) -> bytes:
    """A TFLite file after `change(schema, model, graph)`."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    change(schema, model, model.subgraphs[0])
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def kernels(schema: Any, model: Any, graph: Any) -> list[tuple[Any, int]]:
    """(operator, index of its kernel) of every convolution."""
    words = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)
    return [(op, int(op.inputs[1])) for op in graph.operators
            if model.operatorCodes[op.opcodeIndex].builtinCode in words]  # fmt: skip


def floats(model: Any, tensor: Any) -> Any:
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
    return np.frombuffer(data, "<f4").reshape([int(n) for n in tensor.shape])


def test_weights_in_bytes_of_one_step_a_tensor() -> None:
    """As TensorFlow's first quantizer wrote them: uint8 with a zero point."""

    def change(schema: Any, model: Any, graph: Any) -> None:
        for _, i in kernels(schema, model, graph):
            tensor = graph.tensors[i]
            value = floats(model, tensor)
            step = float(value.max() - value.min()) / 255
            zero = round(-float(value.min()) / step)
            model.buffers[tensor.buffer].data = np.clip(np.round(value / step) + zero, 0, 255).astype(np.uint8).ravel()
            tensor.type = schema.TensorType.UINT8
            tensor.quantization = schema.QuantizationParametersT(scale=[step], zeroPoint=[zero])

    was = named("mobilenet_v2@0.35", "tensorflow")
    net = trained(was)
    back = recognise(read_tflite(rewritten(network_tflite(was, arrays(net)), change), "f"), "n", "f")
    assert back.found.integer and back.spec.rows == was.rows
    plain = recognise(read_tflite(network_tflite(was, arrays(net)), "f"), "n", "f")
    for name, value in plain.state.items():
        if value.dim() > 1:  # within half a step of what was written
            half = float(value.max() - value.min()) / 255 / 2
            assert float((back.state[name] - value).abs().max()) <= half * 1.01
    assert all(torch.equal(back.state[n], v) for n, v in plain.state.items() if v.dim() == 1)


def test_weights_of_16_bits_behind_a_dequantize() -> None:
    def change(schema: Any, model: Any, graph: Any) -> None:
        code = len(model.operatorCodes)
        model.operatorCodes.append(schema.OperatorCodeT(deprecatedBuiltinCode=6, builtinCode=6, version=1))
        added = []
        for op, i in kernels(schema, model, graph):
            tensor = graph.tensors[i]
            half = floats(model, tensor).astype(np.float16)
            model.buffers[tensor.buffer].data = np.frombuffer(half.tobytes(), np.uint8)
            tensor.type = schema.TensorType.FLOAT16
            wide = schema.TensorT(shape=tensor.shape, type=schema.TensorType.FLOAT32, buffer=0, name=f"wide{i}")
            graph.tensors.append(wide)
            inputs = list(op.inputs)
            inputs[1] = len(graph.tensors) - 1
            op.inputs = inputs
            added.append(schema.OperatorT(opcodeIndex=code, inputs=[i], outputs=[inputs[1]]))
        graph.operators = added + graph.operators

    was = named("mobilenet_v3_small@0.35")
    net, x = trained(was), images(was)
    content = rewritten(network_tflite(was, arrays(net)), change)
    found = read_tflite(content, "f")
    back = recognise(found, "n", "f")
    assert not back.found.integer and back.spec.rows == was.rows
    got = torch.from_numpy(answers(content, found, [image.numpy()[None] for image in x]))
    assert relative(answered(loaded(back.spec, back.state), x), got) < 1e-4


def test_an_operator_of_tflite_in_the_way_is_named() -> None:
    def change(schema: Any, model: Any, graph: Any) -> None:
        at = next(i for i, op in enumerate(graph.operators) if model.operatorCodes[op.opcodeIndex].builtinCode
                  == schema.BuiltinOperator.HARD_SWISH)  # fmt: skip
        model.operatorCodes.append(schema.OperatorCodeT(builtinCode=schema.BuiltinOperator.CUSTOM, customCode="Mish",
                                                        deprecatedBuiltinCode=32, version=1))  # fmt: skip
        graph.operators[at].opcodeIndex = len(model.operatorCodes) - 1

    was = named("mobilenet_v3_small@0.35")
    content = rewritten(network_tflite(was, arrays(trained(was))), change)
    with pytest.raises(BadInput, match=r"f\.tflite: operator \d+, CUSTOM Mish \(stem.*\): this operator is not"):
        recognise(read_tflite(content, "f.tflite"), "n", "f.tflite")
