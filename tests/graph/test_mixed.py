"""Files that are partly in int8: what the codes mean, what fuses, what cannot saturate, what stays in float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from mbv3.graph import (
    CLIPS,
    PROBE,
    Calibration,
    Recipe,
    calibrate,
    code_of,
    coded_activations,
    layer_model,
    mixed,
    network_model,
    parts,
    probe,
    weight_steps,
)
from mbv3.spec import LayerKey, MBConv, load_spec

SE_ROW = LayerKey(MBConv(exp=48, out=24, k=5, s=2, nl="HS", se=16), 24, 28, 28)
Array = NDArray[np.float32]


def images(n: int, shape: tuple[int, ...] = (1, 24, 28, 28)) -> list[Array]:
    return list(np.random.default_rng(1).standard_normal((n, *shape), dtype=np.float32))


def answer(model: bytes, image: Array, **settings: str) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, value in settings.items():
        options.add_session_config_entry(f"session.{name}", value)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"input": image})[0]
    return found


def fused(model: bytes, folder: Path) -> list[str]:
    """The kinds of node that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "run.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(folder / "run.onnx").graph.node]


def test_a_row_with_h_swish_and_se_runs_in_integers(tmp_path: Path) -> None:
    whole, x = layer_model(SE_ROW), images(6)
    small = mixed(whole, calibrate(whole, x[:5]))
    y, z = answer(whole, x[5]), answer(small, x[5])
    assert np.corrcoef(y.ravel(), z.ravel())[0, 1] > 0.99
    kinds = fused(small, tmp_path)
    assert not {"Conv", "HardSwish", "HardSigmoid", "Mul", "Sigmoid"} & set(kinds)
    assert kinds.count("QLinearConv") == 5 and kinds.count("QLinearMul") == 3  # two h-swish, one gate
    assert kinds.count("QuantizeLinear") == 1 and kinds.count("DequantizeLinear") == 1  # at the ends


@given(high=st.floats(0.01, 300), low=st.floats(-300, -0.01), clip=st.sampled_from(CLIPS))
def test_codes_of_what_h_swish_takes_meet_its_bends(high: float, low: float, clip: float) -> None:
    x = np.linspace(low, high, 5001, dtype=np.float32)
    seen = Calibration({"x": low}, {"x": high}, {"x": x}, {})
    code = code_of(seen, "x", clip, swish=True)
    assert code.step * code.zero == pytest.approx(3)  # code 0 is -3, code 2 zero is 3
    assert code.step * (255 - code.zero) >= np.percentile(x, 100 - clip) - 1e-3
    plain = code_of(seen, "x", 0.0, swish=False)
    coded = (np.clip(np.round(x / plain.step) + plain.zero, 0, 255) - plain.zero) * plain.step
    assert np.abs(coded - x).max() <= plain.step * 1.01


@pytest.mark.parametrize("shape", [(16, 40, 1, 1), (8, 3, 3, 3), (5, 7, 3, 3)])
def test_products_of_neighbours_fit_16_bits(shape: tuple[int, ...]) -> None:
    kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    steps = weight_steps(kernel)
    whole = np.round(kernel / steps[:, None, None, None])
    rows = whole.transpose(0, 2, 3, 1).reshape(len(whole), -1)
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(whole), -1, 2)
    for sign in (1, -1):
        assert 255 * np.maximum(sign * rows, 0).sum(2).max() <= 32767
    assert np.abs(whole).max() <= 127 and (steps >= weight_steps(kernel, safe=False)).all()
    depthwise = kernel[:, :1]
    assert np.array_equal(weight_steps(depthwise), weight_steps(depthwise, safe=False))


def test_answers_do_not_depend_on_how_a_cpu_adds() -> None:
    """With weights as u8 ONNX Runtime adds in 32 bits everywhere: the same answers, so nothing saturates."""
    whole, x = layer_model(SE_ROW), [4 * i for i in images(4)]
    small = mixed(whole, calibrate(whole, x[:3]))
    assert np.array_equal(answer(small, x[3]), answer(small, x[3], x64quantprecision="1"))


def test_rounded_weights_leave_the_mean() -> None:
    """Five products a sum, all of one sign: without the correction the rounding of each channel shifts its mean."""
    whole = layer_model(SE_ROW)
    x = [np.abs(i) + 1 for i in images(4)]
    seen = calibrate(whole, x)
    first = next(n for n in onnx.load_from_string(whole).graph.node if n.op_type == "Conv").output[0]

    def shift(correct: bool) -> float:
        net = onnx.load_from_string(mixed(whole, seen, Recipe(correct=correct)))
        net.graph.output.append(onnx.helper.make_tensor_value_info(f"{first}/sum", onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
        means = np.mean([session.run([f"{first}/sum"], {"input": i})[0].mean(axis=(0, 2, 3)) for i in x], axis=0)
        return float(np.abs(means - seen.mean[first]).mean())

    assert shift(True) < 0.5 * shift(False)


def test_parts_stay_in_float(tmp_path: Path) -> None:
    whole = network_model(load_spec("mobilenet_v3_small@0.35"))
    assert parts(whole) == ("stem", *(f"rows.{i}" for i in range(11)), "tail", "head")
    x = images(2, (1, 3, 224, 224))
    seen = calibrate(whole, x)
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(whole).graph.initializer}
    half = onnx.load_from_string(mixed(whole, seen, Recipe(floats=("stem", "rows.1", "rows.4.se"))))
    floats = {t.name.partition(":")[0] for t in half.graph.initializer if t.name in before}
    convs = {name for name in floats if not name.endswith(".bias")}
    assert {c.rpartition(".")[0] for c in convs} == {
        "stem", "rows.1.expand", "rows.1.depthwise", "rows.1.project", "rows.4.se",
    }  # fmt: skip
    everything = mixed(whole, seen, Recipe(floats=parts(whole)))
    assert np.allclose(answer(everything, x[0]), answer(whole, x[0]), atol=1e-6)


def test_a_probe_rounds_one_activation() -> None:
    whole, x = layer_model(SE_ROW), images(2)
    seen = calibrate(whole, x)
    for name, swish in coded_activations(whole, seen).items():
        session = onnxruntime.InferenceSession(probe(whole, name), providers=["CPUExecutionProvider"])
        y = answer(whole, x[0])
        code = code_of(seen, name, 0.0, swish=swish)
        ends = dict(zip(PROBE, (np.array(code.step, np.float32), np.array(code.zero, np.uint8)), strict=True))
        z = session.run(None, {"input": x[0], **ends})[0]
        assert 0 < np.abs(z - y).max() < 0.2 * np.abs(y).max(), name


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v2@0.35", "mnasnet_a1@0.35", "lraspp_m-v3s-d8", "mobilenetv4_conv_small",
     "ssdlite320_mobilenet_v3_large@0.35"],
)  # fmt: skip
def test_other_networks_and_heads(name: str) -> None:
    """ReLU6, a sigmoid as gate, resizes and concatenations, several outputs."""
    spec = load_spec(name)
    spec = replace(spec, resolution=(64, 64)) if name.startswith("lraspp") else spec
    whole = network_model(spec, seed=1)
    x = images(3, (1, 3, *spec.resolution))
    small = mixed(whole, calibrate(whole, x[:2]))
    assert len(small) < 0.5 * len(whole)
    y, z = answer(whole, x[2]).ravel(), answer(small, x[2]).ravel()
    assert np.corrcoef(y, z)[0, 1] > 0.9
