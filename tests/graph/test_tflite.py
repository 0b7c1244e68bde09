"""The TFLite graph computes what the torch module computes, padding of strided layers included."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.graph import layer_model, layer_tflite, network_tflite
from mbv3.graph.tflite import ALIGNMENT, _padding
from mbv3.nn import build
from mbv3.spec import GATES, NLS, Conv, DSConv, LayerKey, MBConv, load_spec, reference_names, scale_spec

Array = NDArray[np.float32]


def run(model: bytes, x: Array) -> Array:
    """Output in (N, C, H, W) order of an input in that order."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    [source], [result] = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    interpreter.invoke()
    y = interpreter.get_tensor(result["index"])
    return np.asarray(y.transpose(0, 3, 1, 2) if y.ndim == 4 else y)


def relative(a: Array, b: Array) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def image(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)


@pytest.mark.parametrize("name", reference_names())
@pytest.mark.parametrize("resolution", [(96, 96), (97, 128)])
def test_networks_agree_with_torch(name: str, resolution: tuple[int, int]) -> None:
    spec = scale_spec(load_spec(name), 0.5, resolution)
    net = build(spec, 1).eval()
    with torch.no_grad():
        for module in net.modules():  # statistics as after training, so that folding is seen
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.6, 1.4)
        x = image(3, *resolution)
        expected = net(torch.from_numpy(x)).numpy()
    state = {k: v.numpy() for k, v in net.state_dict().items()}
    assert relative(run(network_tflite(spec, state), x), expected) < 1e-3


LAYERS = [
    LayerKey(row, 16, h, w, gate)
    for h, w in ((16, 16), (17, 16), (7, 12), (1, 1))
    for gate in GATES
    for row in (
        MBConv(k=3, s=2, exp=24, out=16, se=8, nl="HS", skip="none"),
        MBConv(k=5, s=1, exp=16, out=16, se=8, nl="RE", skip="identity"),
        MBConv(k=7, s=2, exp=40, out=24, se=4, nl="RE6", skip="none"),
    )
] + [
    LayerKey(row, 16, h, w)
    for h, w in ((16, 16), (17, 16), (7, 12))
    for nl in NLS
    for row in (
        Conv(k=3, s=2, out=24, nl=nl, skip="none"),
        Conv(k=5, s=1, out=24, nl=nl, skip="none", dilation=2),
        DSConv(k=3, s=2, out=16, nl=nl, skip="pool"),
        DSConv(k=5, s=1, out=16, nl=nl, skip="pool"),
        DSConv(k=3, s=1, out=16, se=4, se_nl=nl, out_nl=nl, skip="identity"),
        MBConv(k=3, s=1, exp=24, out=16, se=0, nl=nl, skip="identity", dilation=2),
    )
]


@pytest.mark.parametrize("key", LAYERS, ids=str)
def test_layers_agree_with_onnx(key: LayerKey) -> None:
    x = image(key.cin, key.h, key.w)
    session = onnxruntime.InferenceSession(layer_model(key), providers=["CPUExecutionProvider"])
    [expected] = session.run(None, {"input": x})
    assert relative(run(layer_tflite(key), x), expected) < 1e-4


def test_padding_by_hand() -> None:
    # 4 wide, k 3, stride 2: windows at -1 and 1; SAME would put them at 0 and 2
    assert _padding(4, 2, 3, 2, 1) == (1, 0, False)
    assert _padding(5, 3, 3, 2, 1) == (1, 1, True)  # windows at -1, 1, 3
    assert _padding(7, 7, 5, 1, 1) == (2, 2, True)
    assert _padding(8, 8, 3, 1, 4) == (4, 4, True)
    assert _padding(1, 1, 7, 2, 1) == (3, 3, True)
    assert _padding(1, 1, 1, 2, 1) == (0, 0, True)


def test_activations_go_into_the_operator_before_them() -> None:
    def operators(key: LayerKey) -> list[str]:
        graph = schema.ModelT.InitFromPackedBuf(model := layer_tflite(key))
        assert model[4:8] == b"TFL3"
        names = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
        return [names[graph.operatorCodes[op.opcodeIndex].builtinCode] for op in graph.subgraphs[0].operators]

    plain = MBConv(k=3, s=1, exp=24, out=16, se=0, nl="RE", skip="identity")
    assert operators(LayerKey(plain, 16, 8, 8)) == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD"]
    strided = MBConv(k=3, s=2, exp=24, out=16, se=0, nl="HS", skip="none")
    assert operators(LayerKey(strided, 16, 8, 8)) == [
        "CONV_2D", "HARD_SWISH", "PAD", "DEPTHWISE_CONV_2D", "HARD_SWISH", "CONV_2D",
    ]  # fmt: skip


def test_weights_are_aligned_as_the_schema_asks() -> None:
    data = layer_tflite(LayerKey(MBConv(k=3, s=2, exp=24, out=17, se=3, nl="HS", skip="none"), 5, 8, 8))
    model = schema.Model.GetRootAs(data)
    filled = [model.Buffers(i) for i in range(model.BuffersLength()) if not model.Buffers(i).DataIsNone()]
    assert len(filled) > 8
    for buffer in filled:
        assert buffer._tab.Vector(buffer._tab.Offset(4)) % ALIGNMENT == 0
    sizes = {b.DataLength() for b in filled}
    assert 24 * 5 * 4 in sizes and 24 * 9 * 4 in sizes  # float32 of the expansion and the depthwise kernel


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fail(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("ai_edge_litert"):
            raise ModuleNotFoundError("No module named 'ai_edge_litert'")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(BadInput, match=r"LiteRT is not installed .*pip install 'mbv3-search\[litert\]'"):
        layer_tflite(LAYERS[0])
