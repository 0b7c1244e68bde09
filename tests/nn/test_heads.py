"""Heads in torch: names and counts from the lowering, parity with torchvision, mmsegmentation's forms written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mbv3.export import import_state
from mbv3.nn import Maps, build, flatten_maps, state_shapes
from mbv3.spec import (
    LRASPP,
    ArchSpec,
    DeepLabV3,
    count,
    head_names,
    load_spec,
    network_names,
    reference_names,
    with_head,
    with_output_stride,
    without_tail,
)

from .test_build import floats, randomised

Array = NDArray[np.float32]
Relative = Callable[[Array, Array], float]
RandomState = Callable[[dict[str, tuple[int, ...]], int], dict[str, Array]]
State = dict[str, Tensor]


@pytest.mark.parametrize("name", sorted({*network_names()} - {*reference_names()}))
def test_entries_and_parameters_are_those_of_the_lowering(name: str) -> None:
    spec = load_spec(name)
    net, counts = build(spec), count(spec)
    assert floats(net) == state_shapes(spec)
    assert sum(p.numel() for p in net.parameters()) == counts.params + counts.aux_params


# -- torchvision


def weights_of(spec: ArchSpec, theirs: torch.nn.Module) -> State:
    """Our state dict from a torchvision system."""
    return import_state(spec, theirs.state_dict(), "torchvision")


def loaded(spec: ArchSpec, state: State) -> Any:
    net = build(spec)
    net.load_state_dict(state, strict=False)
    return net.eval()


def image(*size: int) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
@pytest.mark.parametrize("size", [(64, 96), (65, 111)])
def test_segmentation_is_torchvisions(name: str, size: tuple[int, int], torchvision: Any, relative: Relative) -> None:
    torch.manual_seed(0)
    more = {"aux_loss": True} if name.startswith("deeplab") else {}
    theirs = randomised(torchvision.models.get_model(name, weights=None, weights_backbone=None, **more))
    spec = load_spec(name)
    net = loaded(spec, weights_of(spec, theirs))
    with torch.inference_mode():
        expected, (got, aux) = theirs(image(*size)), net.with_aux(image(*size))
    assert got.shape == (1, 21, *size)
    assert relative(got.numpy(), expected["out"].numpy()) < 1e-4
    assert (aux is None) is ("aux" not in expected)
    if aux is not None:
        assert relative(aux.numpy(), expected["aux"].numpy()) < 1e-4


def test_detection_is_torchvisions(torchvision: Any, relative: Relative) -> None:
    torch.manual_seed(0)
    name = "ssdlite320_mobilenet_v3_large"
    theirs = randomised(torchvision.models.get_model(name, weights=None, weights_backbone=None))
    spec = load_spec(name)
    net = loaded(spec, weights_of(spec, theirs))
    with torch.inference_mode():
        expected = theirs.head(list(theirs.backbone(image(320, 320)).values()))
        maps = net(image(320, 320))
    assert isinstance(maps, Maps)
    logits, boxes = flatten_maps(maps, 91)
    assert relative(logits.numpy(), expected["cls_logits"].numpy()) < 1e-4
    assert relative(boxes.numpy(), expected["bbox_regression"].numpy()) < 1e-4


def test_parity_can_fail(torchvision: Any, relative: Relative) -> None:
    torch.manual_seed(0)
    theirs = randomised(torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None))
    spec = load_spec("lraspp_mobilenet_v3_large")
    state = weights_of(spec, theirs)
    assert isinstance(spec.head, LRASPP)
    net = loaded(replace(spec, head=replace(spec.head, bn_eps=1e-3)), state)  # the backbone's epsilon
    with torch.inference_mode():
        got, expected = net(image(64, 64)), theirs(image(64, 64))["out"]
    assert relative(got.numpy(), expected.numpy()) > 1e-4


# -- mmsegmentation's forms, from their description (facts D2)


class Written:
    """The layers of a head with given weights."""

    def __init__(self, state: State, eps: float, prefix: str = "head") -> None:
        self.state, self.eps, self.prefix = state, eps, prefix

    def conv(self, name: str, x: Tensor) -> Tensor:
        name = f"{self.prefix}.{name}"
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def unit(self, name: str, x: Tensor, d: int = 1, depthwise: bool = False) -> Tensor:
        at = f"{self.prefix}.{name}"
        w = self.state[f"{at}.conv.weight"]
        x = F.conv2d(x, w, None, 1, d * (w.shape[2] // 2), d, len(w) if depthwise else 1)
        mean, var, gain, shift = (self.state[f"{at}.bn.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, mean, var, gain, shift, False, 0.0, self.eps))

    def separable(self, name: str, x: Tensor, d: int = 1) -> Tensor:
        return self.unit(f"{name}.pointwise", self.unit(f"{name}.depthwise", x, d, True))


def to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def lraspp(w: Written, x: Tensor, low: list[Tensor]) -> Tensor:
    y = w.unit("main", x) * to(torch.sigmoid(w.conv("gate", F.avg_pool2d(x, 49, (16, 20)))), x)
    y = w.conv("up", y)
    for i in (1, 0):
        y = w.unit(f"branches.{i}.merge", torch.cat([to(y, low[i]), w.conv(f"branches.{i}.low", low[i])], 1))
    return w.conv("classifier", y)


def fcn(w: Written, x: Tensor, low: list[Tensor]) -> Tensor:
    y = w.unit("convs.1", w.unit("convs.0", x))
    return w.conv("classifier", w.unit("merge", torch.cat([x, y], 1)))


def auxiliary(w: Written, x: Tensor) -> Tensor:
    return w.conv("classifier", w.unit("convs.0", x))


def pspnet(w: Written, x: Tensor, low: list[Tensor]) -> Tensor:
    levels = [to(w.unit(f"levels.{i}", F.adaptive_avg_pool2d(x, n)), x) for i, n in enumerate((1, 2, 3, 6))]
    return w.conv("classifier", w.unit("project", torch.cat([x, *levels], 1)))


def aspp(w: Written, x: Tensor, layer: Callable[..., Tensor]) -> Tensor:
    pooled = to(w.unit("pool", F.adaptive_avg_pool2d(x, 1)), x)
    rates = [layer(f"rates.{i}", x, d) for i, d in ((1, 12), (2, 24), (3, 36))]
    return w.unit("project", torch.cat([pooled, w.unit("rates.0", x), *rates], 1))


def deeplabv3(w: Written, x: Tensor, low: list[Tensor]) -> Tensor:
    return w.conv("classifier", aspp(w, x, w.unit))


def deeplabv3plus(w: Written, x: Tensor, low: list[Tensor]) -> Tensor:
    y = to(aspp(w, x, w.separable), low[0])
    y = torch.cat([y, w.unit("low", low[0])], 1)
    return w.conv("classifier", w.separable("refine.1", w.separable("refine.0", y)))


@pytest.mark.parametrize("head", [lraspp, fcn, pspnet, deeplabv3, deeplabv3plus])
def test_mmsegmentations_forms(head: Callable[..., Tensor], random_state: RandomState, relative: Relative) -> None:
    v3 = head is lraspp
    spec = load_spec(f"{head.__name__}_m-v{3 if v3 else 2}-d8")
    size = (400, 416) if v3 else (72, 88)  # the pool's window is 49x49 at stride 8
    if v3:
        spec = load_spec("lraspp_m-v3s-d8@0.35")
    state = {k: torch.from_numpy(v) for k, v in random_state(state_shapes(spec), 3).items()}
    net = loaded(spec, state)
    seen: list[Tensor] = []
    net.head.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    if net.aux is not None:
        net.aux.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    with torch.inference_mode():
        got, aux = net.with_aux(image(*size))
        taps = seen[: len(net.taps)]
        expected = to(head(Written(state, 1e-3 if v3 else 1e-5), taps[0], taps[1:]), image(*size))
        assert relative(got.numpy(), expected.numpy()) < 1e-4
        assert (aux is None) is v3
        if aux is not None:
            assert seen[-1].shape[1] == 96
            expected = to(auxiliary(Written(state, 1e-5, "aux"), seen[-1]), image(*size))
            assert relative(aux.numpy(), expected.numpy()) < 1e-4


# -- behaviour


@pytest.mark.parametrize("name", ["lraspp", "raspp", "deeplabv3plus", "pspnet"])
def test_training_reaches_every_parameter_and_any_size_works(name: str) -> None:
    spec = with_output_stride(
        with_head(replace(load_spec("mobilenet_v3_small@0.35"), resolution=(64, 64)), name, 3), 16
    )
    net = build(spec, seed=0).train()
    out, aux = net.with_aux(torch.randn(2, 3, 72, 88))
    assert isinstance(out, Tensor) and out.shape == (2, 3, 72, 88)
    (out.square().sum() + (0 if aux is None else aux.square().sum())).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", sorted(n for n in head_names() if n != "classify" and not n.startswith("ssdlite")))
def test_a_new_head_has_no_opinion_yet(name: str) -> None:
    """However large what the backbone hands on is; a trained network's bottlenecks are."""
    spec = with_head(replace(load_spec("mobilenet_v3_small"), resolution=(64, 96)), name, 11)
    net = build(spec, seed=0).train()
    with torch.no_grad():
        for m in net.rows.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.weight.fill_(10.0)
        scores = [maps for maps in net.with_aux(torch.cat([image(64, 96)] * 2)) if maps is not None]
    for maps in scores:
        assert isinstance(maps, Tensor)
        truth = torch.randint(11, (2, 64, 96), generator=torch.Generator().manual_seed(2))
        maps = F.interpolate(maps, (64, 96))
        assert abs(float(F.cross_entropy(maps, truth)) / math.log(11) - 1) < 0.3


def test_the_auxiliary_head_is_absent_from_the_result() -> None:
    spec = with_head(replace(without_tail(load_spec("mobilenet_v2@0.35")), resolution=(64, 64)), "fcn", 3)
    net = build(spec, seed=0).eval()
    x = image(64, 64)
    with torch.inference_mode():
        before = net(x)
        for p in net.aux.parameters():  # type: ignore[union-attr]
            p.fill_(0.0)
        assert torch.equal(before, net(x)) and not net.with_aux(x)[1].any()  # type: ignore[union-attr]


def test_dropout_acts_while_training_only() -> None:
    spec = with_head(replace(load_spec("mobilenet_v3_small@0.35"), resolution=(64, 64)), "deeplabv3-torchvision", 3)
    assert isinstance(spec.head, DeepLabV3) and spec.head.dropout == 0.5
    net = build(spec, seed=0).eval()
    x = image(64, 64)
    with torch.inference_mode():
        assert torch.equal(net(x), net(x))
        net.head.dropout.train()
        assert not torch.equal(net(x), net(x))
