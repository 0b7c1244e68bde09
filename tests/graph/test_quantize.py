"""int8 files of ONNX Runtime's quantizer: integer weights, outputs near those in float."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from mbv3.graph import layer_model, network_model, quantized
from mbv3.graph.quantize import pools_as_convolutions
from mbv3.spec import LayerKey, MBConv, load_spec, lower


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v2"])
def test_an_int8_network_agrees_with_its_float_original(name: str, caplog: pytest.LogCaptureFixture) -> None:
    spec = load_spec(f"{name}@0.5")
    whole = network_model(spec, seed=3)
    images = np.random.default_rng(0).standard_normal((4, 1, 3, 224, 224), dtype=np.float32)
    with caplog.at_level(logging.DEBUG):
        small = quantized(whole, list(images[:3]))
    assert not caplog.records and logging.root.manager.disable == 0  # nothing said, and the switch is as before
    assert len(small) < 0.4 * len(whole)
    weights = [t for t in onnx.load_from_string(small).graph.initializer if t.data_type == TensorProto.INT8]
    assert len(weights) >= sum(op.kind == "conv" for layer in lower(spec) for op in layer.ops)
    y, z = (onnxruntime.InferenceSession(m).run(None, {"input": images[3]})[0].ravel() for m in (whole, small))
    assert np.corrcoef(y, z)[0, 1] > 0.9 and 0.5 < z.std() / y.std() < 2


def test_without_images_it_is_the_same_every_time() -> None:
    whole = network_model(load_spec("mobilenet_v3_small@0.35"))
    assert quantized(whole) == quantized(whole)


@pytest.mark.parametrize(("s", "h", "w"), [(1, 14, 14), (1, 1, 3), (2, 14, 9), (2, 7, 12)])
def test_pooled_skips_are_convolutions_in_int8(s: int, h: int, w: int) -> None:
    """Exactly the pool that does not count its padding, and none of ONNX Runtime's integer pools is left."""
    whole = layer_model(LayerKey(MBConv(exp=24, out=16, k=3, s=s, nl="RE", skip="pool"), 16, h, w))
    x = {"input": np.random.default_rng(0).standard_normal((1, 16, h, w), dtype=np.float32) + 2}
    other = pools_as_convolutions(onnx.load_from_string(whole)).SerializeToString()
    y, z, q = (onnxruntime.InferenceSession(m).run(None, x)[0] for m in (whole, other, quantized(whole, [x["input"]])))
    assert np.abs(z - y).max() < 1e-5 * np.abs(y).max() and np.corrcoef(q.ravel(), y.ravel())[0, 1] > 0.99
    before, after = ([n.op_type for n in onnx.load_from_string(m).graph.node] for m in (whole, quantized(whole)))
    assert "AveragePool" in before and "AveragePool" not in after
