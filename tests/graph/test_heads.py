"""Networks with heads in both runtimes: whole they compute what torch does, alone a head has its lowered shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from mbv3.graph import layer_model, layer_tflite, network_model, network_tflite, quantized
from mbv3.graph.onnx import cells
from mbv3.latency.sessions import KINDS
from mbv3.nn import Maps, build, state_shapes
from mbv3.spec import (
    LRASPP,
    PSP,
    RASPP,
    LayerKey,
    Tap,
    load_spec,
    lower,
    lower_key,
    network_names,
    reference_names,
    with_head,
)

Array = NDArray[np.float32]
Relative = Callable[[Array, Array], float]
RandomState = Callable[[dict[str, tuple[int, ...]], int], dict[str, Array]]
NAMES = sorted({*network_names()} - {*reference_names()})


def run_onnx(model: bytes, *xs: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    ys = session.run(None, dict(zip(names, xs, strict=True)))
    for y, told in zip(ys, session.get_outputs(), strict=True):
        assert list(y.shape) == told.shape
    return [np.asarray(y) for y in ys]


def run_litert(model: bytes, *xs: Array) -> list[Array]:
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    for x, told in zip(xs, interpreter.get_input_details(), strict=True):
        interpreter.set_tensor(told["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    interpreter.invoke()
    ys = [np.asarray(interpreter.get_tensor(told["index"])) for told in interpreter.get_output_details()]
    return [y.transpose(0, 3, 1, 2) if y.ndim == 4 else y for y in ys]


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((1, *shape), dtype=np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_both_runtimes_agree_with_torch(name: str, random_state: RandomState, relative: Relative) -> None:
    spec = replace(load_spec(name), resolution=(98, 132))  # maps of uneven sizes, cells of uneven sizes
    state = random_state(state_shapes(spec), 1)
    net = build(spec, 0).eval()
    net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    x = noise(3, *spec.resolution)
    with torch.inference_mode():
        y = net(torch.from_numpy(x))
    expected = [*y.classes, *y.boxes] if isinstance(y, Maps) else [y]
    for outputs in (run_onnx(network_model(spec, state), x), run_litert(network_tflite(spec, state), x)):
        assert len(outputs) == len(expected)
        for got, wanted in zip(outputs, expected, strict=True):
            assert relative(got, wanted.numpy()) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_head_alone_is_written_and_opened(name: str, relative: Relative) -> None:
    key = lower(replace(load_spec(name), resolution=(98, 132)))[-1].key
    model = layer_model(key)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    xs = [noise(*shape, seed=i) for i, shape in enumerate(key.inputs)]
    for got, wanted in zip(run_litert(layer_tflite(key), *xs), run_onnx(model, *xs), strict=True):
        assert relative(got, wanted.reshape(got.shape)) < 1e-4
    assert run_onnx(model, *xs)[-1].shape[1:] == lower_key(key).out_shape
    for kind, file in (("onnxruntime", model), ("litert", layer_tflite(key))):
        KINDS[kind].open(file, 1)()  # as it is timed


@pytest.mark.parametrize(("h", "w"), [(5, 9), (6, 6), (12, 4), (1, 3), (13, 24)])
def test_cells_of_every_size(h: int, w: int, relative: Relative) -> None:
    key = LayerKey(PSP(high=Tap("tail"), filters=4, classes=3), 8, h, w, image=(20, 30))
    got = run_onnx(layer_model(key), noise(8, h, w))
    assert relative(run_litert(layer_tflite(key), noise(8, h, w))[0], got[0]) < 1e-4


def test_cells_by_hand() -> None:
    assert cells(7, 3) == [(0, 3), (2, 5), (4, 7)]
    assert cells(6, 3) == [(0, 2), (2, 4), (4, 6)]
    assert cells(2, 3) == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize("align", [True, False])
def test_corners_and_windows(align: bool, random_state: RandomState, relative: Relative) -> None:
    for head in (
        LRASPP(high=Tap("tail"), low=(Tap(5, "depthwise"),), pool=(3, 2, 2, 1), classes=3, align_corners=align),
        RASPP(high=Tap("tail"), filters=8, classes=3, align_corners=align),
    ):
        spec = with_head(replace(load_spec("mobilenet_v3_large@0.35"), resolution=(129, 160)), head)
        state = random_state(state_shapes(spec), 1)
        net = build(spec, 0).eval()
        net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
        x = noise(3, 129, 160)
        with torch.inference_mode():
            expected = net(torch.from_numpy(x)).numpy()
        assert relative(run_onnx(network_model(spec, state), x)[0], expected) < 1e-3
        assert relative(run_litert(network_tflite(spec, state), x)[0], expected) < 1e-3


def test_outputs_of_a_detector_have_names() -> None:
    spec = replace(load_spec("table6_v3_small_halved"), resolution=(64, 64))
    names = [o.name for o in onnx.load_from_string(network_model(spec)).graph.output]
    assert names == [f"{part}{i}" for part in ("classes", "boxes") for i in range(6)]


def test_a_head_of_several_inputs_is_quantized_alone() -> None:
    key = lower(replace(load_spec("lraspp_m-v3s-d8"), resolution=(64, 64)))[-1].key
    whole = layer_model(key)
    small = quantized(whole)
    xs = [noise(*shape, seed=i) for i, shape in enumerate(key.inputs)]
    y, z = (run_onnx(m, *xs)[0].ravel() for m in (whole, small))
    assert len(small) < 0.7 * len(whole) and np.corrcoef(y, z)[0, 1] > 0.8


def test_the_output_of_a_segmentation_file_is_called_logits() -> None:
    model = network_tflite(replace(load_spec("lraspp_mobilenet_v3_large"), resolution=(64, 64)))
    [told] = Interpreter(model_content=model, num_threads=1).get_output_details()
    assert told["name"] == "logits"
