"""The torch module of a spec: names and shapes from the lowering, parity with torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mbv3.nn import build, state_shapes
from mbv3.space import load_space, scale
from mbv3.spec import ArchSpec, count, load_spec, reference_names

Array = NDArray[np.float32]
RandomState = Callable[[dict[str, tuple[int, ...]], int], dict[str, Array]]
Relative = Callable[[Array, Array], float]


def floats(net: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in net.state_dict().items() if v.is_floating_point()}


@pytest.mark.parametrize("name", reference_names())
def test_the_module_has_the_entries_and_parameters_of_the_lowering(name: str) -> None:
    spec = load_spec(name)
    net = build(spec)
    assert floats(net) == state_shapes(spec)
    assert sum(p.numel() for p in net.parameters()) == count(spec).params


@pytest.mark.parametrize("seed", range(8))
def test_the_same_for_random_networks(seed: int) -> None:
    space = scale(load_space("mnasnet"), 0.25, 32, classes=3)
    spec = space.spec(tuple(space.sample(np.random.default_rng(seed), 1)[0]))
    net = build(spec)
    assert floats(net) == state_shapes(spec)
    assert sum(p.numel() for p in net.parameters()) == count(spec).params


def test_the_seed_decides_the_weights_and_leaves_torchs_generator_alone() -> None:
    spec = load_spec("mobilenet_v3_small@0.35")
    before = torch.random.get_rng_state()
    one, same, other = (build(spec, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["stem.conv.weight"], other["stem.conv.weight"])


def test_initial_weights_are_torchvisions() -> None:
    state = build(load_spec("mobilenet_v3_large"), seed=0).state_dict()
    for name, fan_out in [("rows.14.expand.conv.weight", 960), ("tail.conv.weight", 960)]:
        assert float(state[name].std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    assert float(state["head.classifier.weight"].std()) == pytest.approx(0.01, rel=0.01)
    assert not state["head.classifier.bias"].any() and not state["rows.3.se.reduce.bias"].any()


def test_training_mode_trains_every_parameter() -> None:
    spec = replace(load_spec("mobilenet_v3_small@0.35"), resolution=(32, 32))
    net = build(spec, seed=0).train()
    net(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    bn = net.stem.bn
    assert (bn.eps, bn.momentum) == (spec.bn_eps, spec.bn_momentum)


# -- parity


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """`net` in eval mode, its batch norms away from the identity that they start as."""
    g = torch.Generator().manual_seed(0)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean = 0.2 * torch.randn(m.num_features, generator=g)
            m.running_var = 0.5 + torch.rand(m.num_features, generator=g)
            m.weight.data = 0.5 + torch.rand(m.num_features, generator=g)
            m.bias.data = 0.2 * torch.randn(m.num_features, generator=g)
    return net.eval()


def mapped(spec: ArchSpec, theirs: torch.nn.Module) -> torch.nn.Module:
    """Our network with their weights: both list them in the order in which an image meets them."""
    values = [v for v in theirs.state_dict().values() if v.is_floating_point()]
    shapes = state_shapes(spec)
    assert len(values) == len(shapes)
    state = {}
    for (name, shape), value in zip(shapes.items(), values, strict=True):
        assert value.squeeze().shape == torch.zeros(shape).squeeze().shape, name
        state[name] = value.reshape(shape)
    net = build(spec)
    net.load_state_dict(state, strict=False)
    return net.eval()


def same_logits(spec: ArchSpec, theirs: torch.nn.Module, relative: Relative) -> None:
    theirs = randomised(theirs)
    ours = mapped(spec, theirs)
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert relative(ours(x).numpy(), theirs(x).numpy()) < 1e-4


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2"])
def test_parity_with_torchvision(name: str, torchvision: Any, relative: Relative) -> None:
    torch.manual_seed(0)
    same_logits(load_spec(name), torchvision.models.get_model(name, weights=None), relative)


def test_parity_with_torchvisions_mnasnet(torchvision: Any, relative: Relative) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model("mnasnet1_0", weights=None)
    same_logits(replace(load_spec("mnasnet_b1"), bn_eps=1e-5), theirs, relative)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mobilenetv3_large_100", "mobilenet_v3_large"),
        ("mobilenetv3_small_100", "mobilenet_v3_small"),
        ("mobilenetv3_large_075", "mobilenet_v3_large_tensorflow@0.75"),
        ("mobilenetv3_small_075", "mobilenet_v3_small_tensorflow@0.75"),
        ("mobilenetv2_100", "mobilenet_v2"),
    ],
)
def test_parity_with_timm(theirs: str, ours: str, torchvision: Any, relative: Relative) -> None:
    timm = pytest.importorskip("timm", reason="timm cannot be imported here")
    torch.manual_seed(0)
    same_logits(replace(load_spec(ours), bn_eps=1e-5), timm.create_model(theirs, pretrained=False), relative)


@pytest.mark.parametrize(("size", "params"), [("small", 3_774_024), ("medium", 9_715_512), ("large", 32_590_864)])
def test_parity_with_timms_mobilenetv4(size: str, params: int, torchvision: Any, relative: Relative) -> None:
    timm = pytest.importorskip("timm", reason="timm cannot be imported here")
    torch.manual_seed(0)
    theirs = timm.create_model(f"mobilenetv4_conv_{size}", pretrained=False)
    spec = load_spec(f"mobilenetv4_conv_{size}")
    assert count(spec).params == sum(p.numel() for p in theirs.parameters()) == params
    same_logits(spec, theirs, relative)


@pytest.mark.parametrize("size", ["large", "small"])
def test_the_minimalistic_variants_have_timms_entries(size: str, torchvision: Any) -> None:
    timm = pytest.importorskip("timm", reason="timm cannot be imported here")
    theirs = timm.create_model(f"tf_mobilenetv3_{size}_minimal_100", pretrained=False)
    mapped(load_spec(f"mobilenet_v3_{size}_minimalistic"), theirs)  # its convolutions pad like TensorFlow's


def test_parity_can_fail(torchvision: Any, relative: Relative) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model("mobilenet_v3_small", weights=None)
    spec = load_spec("mobilenet_v3_small")
    with pytest.raises(AssertionError, match=r"< 0\.0001"):
        same_logits(replace(spec, gate="SIGMOID"), theirs, relative)
