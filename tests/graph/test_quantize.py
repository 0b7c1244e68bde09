"""int8 files of ONNX Runtime's quantizer: integer weights, outputs near those in float."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from mbv3.graph import network_model, quantized
from mbv3.spec import load_spec, lower


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
