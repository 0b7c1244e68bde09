"""The ONNX graph computes what the torch module computes, batch norms folded."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.graph import layer_model, network_model
from mbv3.graph.onnx import fold, random_weights
from mbv3.nn import build, state_shapes
from mbv3.space import load_space, scale
from mbv3.spec import (
    GATES,
    NLS,
    ArchSpec,
    Classify,
    Conv,
    DSConv,
    LayerKey,
    MBConv,
    load_spec,
    lower,
    lower_key,
    reference_names,
)

Array = NDArray[np.float32]
RandomState = Callable[[dict[str, tuple[int, ...]], int], dict[str, Array]]
Relative = Callable[[Array, Array], float]


def run(model: bytes, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (inp,), (out,) = session.get_inputs(), session.get_outputs()
    assert tuple(inp.shape) == x.shape and inp.name == "input"
    (y,) = session.run(None, {"input": x})
    assert tuple(out.shape) == y.shape  # the shape that the file declares
    return np.asarray(y)


def image(spec: ArchSpec, seed: int = 0) -> Array:
    shape = (1, spec.in_channels, *spec.resolution)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def torch_logits(spec: ArchSpec, state: dict[str, Array], x: Array) -> Array:
    net = build(spec, seed=0).eval()
    faults = net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    assert not faults.unexpected_keys
    assert all(k.endswith("num_batches_tracked") for k in faults.missing_keys)
    with torch.inference_mode():
        return np.asarray(net(torch.from_numpy(x)))


def assert_agree(spec: ArchSpec, random_state: RandomState, relative: Relative) -> None:
    state = random_state(state_shapes(spec), 1)
    x = image(spec)
    assert relative(run(network_model(spec, state), x), torch_logits(spec, state, x)) < 1e-4


@pytest.mark.parametrize("name", [*reference_names(), "mobilenet_v3_small@0.35", "mnasnet_a1@1.3"])
def test_a_reference_network(name: str, random_state: RandomState, relative: Relative) -> None:
    assert_agree(replace(load_spec(name), resolution=(64, 96)), random_state, relative)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_of_the_widest_space(seed: int, random_state: RandomState, relative: Relative) -> None:
    space = scale(load_space("mnasnet"), 0.5, (64, 48), classes=10)
    spec = space.spec(tuple(space.sample(np.random.default_rng(seed), 1)[0]))
    assert_agree(spec, random_state, relative)


def test_those_networks_hold_every_kind_of_row() -> None:
    space = scale(load_space("mnasnet"), 0.5, (64, 48), classes=10)
    seen = set()
    for seed in range(12):
        for row in space.spec(tuple(space.sample(np.random.default_rng(seed), 1)[0])).rows:
            seen.add((type(row), row.skip, row.se > 0))
    assert seen == set(product((Conv, DSConv, MBConv), ("identity", "pool", "none"), (True, False)))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("nl", "head_nl"), list(zip(NLS, NLS[::-1], strict=True)))
def test_every_nonlinearity_stride_and_dilation(
    gate: str, nl: str, head_nl: str, random_state: RandomState, relative: Relative
) -> None:
    spec = ArchSpec(
        name="all",
        resolution=(37, 22),
        in_channels=2,
        stem=Conv(k=5, out=6, nl=nl, s=2, se=3),  # type: ignore[arg-type]
        rows=(
            DSConv(k=3, out=6, se=2, nl=nl, s=3, skip="pool", out_nl=head_nl),  # type: ignore[arg-type]
            MBConv(k=5, exp=9, out=6, se=4, se_nl=head_nl, nl=nl, dilation=2, skip="identity"),  # type: ignore[arg-type]
            MBConv(k=3, exp=6, out=6, nl=nl, s=2, skip="pool"),  # type: ignore[arg-type]
            Conv(k=3, out=6, nl=nl, s=4, skip="pool", se=1),  # type: ignore[arg-type]
            Conv(k=1, out=5, nl=nl, s=2),  # type: ignore[arg-type]
        ),
        tail=Conv(k=1, out=7, nl=nl),  # type: ignore[arg-type]
        head=Classify(features=9, features_bias=nl != "HS", nl=head_nl, classes=4),  # type: ignore[arg-type]
        gate=gate,  # type: ignore[arg-type]
        bn_eps=0.1,
    )
    assert_agree(spec, random_state, relative)


def test_the_weights_of_a_trained_module_go_straight_in(relative: Relative) -> None:
    spec = replace(load_spec("mobilenet_v3_small@0.35"), resolution=(32, 32))
    net = build(spec, seed=3)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 32, 32))  # moves the running statistics
    state = {k: v.numpy() for k, v in net.state_dict().items()}
    x = image(spec)
    assert relative(run(network_model(spec, state), x), torch_logits(spec, state, x)) < 1e-4


def test_the_file_is_valid_and_the_same_for_the_same_seed() -> None:
    spec = replace(load_spec("mobilenet_v3_small@0.35"), resolution=(32, 32))
    model = network_model(spec, seed=4)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    assert model == network_model(spec, seed=4) != network_model(spec, seed=5)
    graph = onnx.load_from_string(model).graph
    assert [o.name for o in graph.output] == ["logits"]
    assert sum(n.op_type == "Conv" for n in graph.node) == sum(op.kind == "conv" for x in lower(spec) for op in x.ops)
    assert not any(n.op_type == "BatchNormalization" for n in graph.node)


@pytest.mark.parametrize(
    "row",
    [
        Conv(k=3, out=8, nl="HS", s=2),
        DSConv(k=5, out=8, se=4, nl="RE6", skip="identity"),
        MBConv(k=3, exp=24, out=16, se=8, nl="HS", s=2),
        MBConv(k=3, exp=8, out=8, s=2, skip="pool"),
        Classify(features=12, classes=5),
        Classify(classes=5),
    ],
)
def test_a_layer_alone_has_the_shape_of_its_lowering(row: Conv) -> None:
    key = LayerKey(row, 8, 9, 7)
    model = layer_model(key)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    y = run(model, np.random.default_rng(0).standard_normal((1, 8, 9, 7), dtype=np.float32))
    assert y.shape == (1, *lower_key(key).out_shape)
    assert np.isfinite(y).all() and np.abs(y).max() > 1e-3


def test_random_weights_neither_vanish_nor_overflow_in_the_deepest_network() -> None:
    spec = replace(load_spec("mobilenet_v3_large"), resolution=(64, 64))
    y = run(network_model(spec), image(spec))
    assert np.isfinite(y).all() and 1e-3 < np.abs(y).max() < 1e6


# -- fold


def test_fold_by_hand() -> None:
    key = LayerKey(Conv(k=1, out=2, nl="NONE"), 1, 1, 1)
    state = {
        "layer.conv.weight": np.array([[[[2.0]]], [[[3.0]]]], np.float32),
        "layer.bn.weight": np.array([4.0, 5.0], np.float32),
        "layer.bn.bias": np.array([1.0, -1.0], np.float32),
        "layer.bn.running_mean": np.array([0.5, 2.0], np.float32),
        "layer.bn.running_var": np.array([3.0, 24.0], np.float32),
    }
    folded = fold(lower_key(key).ops, state, 1.0)  # divisors 2 and 5
    np.testing.assert_allclose(folded["layer.conv"].ravel(), [2 * 4 / 2, 3 * 5 / 5], rtol=1e-6)
    np.testing.assert_allclose(folded["layer.conv.bias"], [1 - 0.5 * 4 / 2, -1 - 2 * 5 / 5], rtol=1e-6)


def test_fold_has_the_names_and_shapes_of_random_weights(random_state: RandomState) -> None:
    spec = load_spec("mobilenet_v3_small@0.35")
    ops = [op for x in lower(spec) for op in x.ops]
    folded = fold(ops, random_state(state_shapes(spec), 0), spec.bn_eps)
    assert {k: v.shape for k, v in folded.items()} == {k: v.shape for k, v in random_weights(ops, 0).items()}


def test_fold_lists_everything_that_does_not_fit(random_state: RandomState) -> None:
    spec = load_spec("mobilenet_v3_small@0.35")
    state = random_state(state_shapes(spec), 0)
    missing = ["stem.bn.running_var", "rows.0.se.reduce.bias", "rows.3.expand.conv.weight"]
    missing.append("head.classifier.bias")
    for name in missing:
        del state[name]
    state["rows.1.depthwise.conv.weight"] = state["rows.1.depthwise.conv.weight"].swapaxes(0, 1)
    state["tail.bn.bias"] = state["tail.bn.bias"][:-1]
    with pytest.raises(BadInput, match=r"^these weights do not fit the network, 6 fault\(s\):\n") as e:
        network_model(spec, state)
    lines = {line.strip() for line in str(e.value).splitlines()[1:]}
    c = state_shapes(spec)["rows.1.depthwise.conv.weight"]
    t = state_shapes(spec)["tail.bn.bias"][0]
    assert lines == {f"{name} is missing" for name in missing} | {
        f"rows.1.depthwise.conv.weight has shape {(c[1], c[0], *c[2:])}, not {c}",
        f"tail.bn.bias has shape {(t - 1,)}, not {(t,)}",
    }


def test_fold_of_nothing_counts_every_entry() -> None:
    spec = load_spec("mobilenet_v3_small")
    with pytest.raises(BadInput, match=re.escape(f"{len(state_shapes(spec))} fault(s)")):
        network_model(spec, {})
