"""Layers that make up for the channels that they read no more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mbv3.netadapt import maker_of
from mbv3.nn import Moments, Network, build, channel_sets, cut_state, input_moments
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, all_sites, channels, cut, with_head

SPEC = ArchSpec(
    name="small",
    resolution=(32, 32),
    stem=Conv(k=3, out=16, nl="HS", s=2),
    rows=(
        MBConv(k=3, exp=64, out=24, se=16, nl="HS", s=2),
        MBConv(k=3, exp=96, out=24, nl="HS", skip="identity"),
    ),
    tail=Conv(k=1, out=64, nl="HS"),
    head=Classify(features=48, nl="HS", classes=10, dropout=0.0),
)
IMAGES = torch.randn(96, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(spec: ArchSpec = SPEC) -> Network:
    """With the statistics of its images, and answers that depend on them."""
    net = build(spec, 0)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = None
        if isinstance(m, torch.nn.Linear):
            m.weight.data *= 20
    with torch.no_grad():
        net.train()(IMAGES)
    return net.eval()


def answers(spec: ArchSpec, state: dict[str, Tensor]) -> Tensor:
    net = build(spec)
    net.load_state_dict(state)
    with torch.no_grad():
        found: Tensor = net.eval()(IMAGES)
    return found


def moments_of(net: Network) -> dict[str, Moments]:
    return dict(input_moments(net, IMAGES.split(32)))


def test_moments_are_those_of_what_a_layer_reads() -> None:
    net = network()
    seen: list[Tensor] = []
    layer = net.get_submodule("rows.1.project.conv")
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    moments = moments_of(net)
    hook.remove()
    x = torch.cat([x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in seen]).double()
    found = moments["rows.1.project.conv"]
    assert found.n == len(x)
    torch.testing.assert_close(found.mean, x.mean(0))
    torch.testing.assert_close(found.covariance, torch.cov(x.T, correction=0))
    # depthwise layers and the stem read nothing that makes up for anything
    assert {"rows.0.expand.conv", "head.features", "head.classifier", "rows.0.se.reduce"} <= set(moments)
    assert not any("depthwise" in name or name.startswith("stem") for name in moments)


def test_a_channel_that_never_changes_goes_into_the_bias() -> None:
    net = network()
    weight, bias = net.get_submodule("head.features").weight, net.get_submodule("head.features").bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    with torch.no_grad():
        weight[:8], bias[:8] = 0, 2.0  # h-swish makes it 5/3; small filters: these go first
    site = next(s for s in all_sites(SPEC) if s.kind == "features")
    after = cut(SPEC, site, 40)
    assert after is not None
    state = net.state_dict()
    whole = answers(SPEC, state)
    plain, mended = (answers(after, cut_state(state, SPEC, after, moments=m)) for m in (None, moments_of(net)))
    torch.testing.assert_close(mended, whole, rtol=1e-4, atol=1e-5)
    assert (plain - whole).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["expansion", "bottleneck", "tail", "features"])
def test_copies_make_up_for_each_other(kind: str) -> None:
    """Where half of the channels are the others, and go."""
    net = network()
    site = next(s for s in all_sites(SPEC) if s.kind == kind and s.last > 0)
    makers = {"expansion": ["rows.1.expand", "rows.1.depthwise"], "bottleneck": ["rows.0.project", "rows.1.project"],
              "tail": ["tail"], "features": ["head.features"]}[kind]  # fmt: skip
    half = channels(SPEC, site) // 2
    state = {k: v.clone() for k, v in net.state_dict().items()}
    for name in (k for k in state if any(k.startswith(f"{m}.") for m in makers) and state[k].dim() > 0):
        state[name][half:] = state[name][:half]
    net.load_state_dict(state)
    after = cut(SPEC, site, half)
    assert after is not None
    scores = {maker_of(channel_sets(SPEC), SPEC, site): torch.arange(2 * half, 0, -1.0)}
    whole = answers(SPEC, state)
    plain, mended = (answers(after, cut_state(state, SPEC, after, scores, m)) for m in (None, moments_of(net)))
    assert (mended - whole).square().mean() < 0.2 * (plain - whole).square().mean()


def test_without_a_cut_the_weights_stay_and_dense_heads_have_moments() -> None:
    spec = with_head(replace(SPEC, rows=(*SPEC.rows, replace(SPEC.rows[0], s=2))), "lraspp", 4)
    net = network(spec)
    state, moments = net.state_dict(), moments_of(net)
    same = cut_state(state, spec, spec, moments=moments)
    assert all(torch.equal(same[k], state[k]) for k in state)
    site = next(s for s in all_sites(spec) if s.of_head)
    after = cut(spec, site, 64)
    assert after is not None and "head.high" in moments
    build(after).load_state_dict(cut_state(state, spec, after, moments=moments))


def test_places_are_of_the_whole_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 maps of 32 x 32 are more than what is taken: not of one column, as a stride would."""
    spec = replace(SPEC, resolution=(64, 64))
    net = build(spec, 0).eval()
    seen: list[Tensor] = []
    column = torch.arange(32.0).expand(128, 16, 32, 32)  # of the map that the first expansion reads
    layer = net.get_submodule("rows.0.expand.conv")
    hook = layer.register_forward_pre_hook(lambda _, inputs: (column,))
    monkeypatch.setattr("mbv3.nn.moments._moments", lambda total, places: seen.append(total))
    input_moments(net, [torch.zeros(128, 3, 64, 64)])
    hook.remove()
    of_columns = [t for t in seen if t.shape[0] == 17 and t[-1, -1] > 128]  # not of what is pooled
    assert of_columns and all(float(t[-1, 0] / t[-1, -1]) == pytest.approx(15.5, abs=0.7) for t in of_columns)


def regressed(x: Tensor, y: Tensor) -> float:
    """Share of the variance of `y` (n, O) that `x` (n, K) explains, by a regression."""
    x, y = (t - t.mean(0) for t in (x, y))
    rest = y - x @ torch.linalg.lstsq(x, y).solution
    return 1 - float(rest.square().sum() / y.square().sum())


def drawn_moments(n: int, places: int = 1) -> tuple[Tensor, Moments]:
    """Twelve channels of which four are near copies, and their moments."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 12, generator=g, dtype=torch.float64).relu() * torch.linspace(0.5, 2, 12)
    x[:, 8:] = x[:, :4] + 0.1 * x[:, 8:]
    return x, Moments(n, places, x.mean(0), torch.cov(x.T, correction=0))


def test_what_channels_explain_is_a_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbv3.nn.moments.RIDGE", 0.0)
    x, moments = drawn_moments(50_000)
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    y = x @ weight.double().T
    order = torch.tensor([3, 9, 1, 8, 0, 11, 10, 2, 7])  # 4, 5 and 6 stay and come first
    shares = moments.explained(weight, order)
    for k in range(1, len(order) + 1):
        kept = torch.cat([torch.tensor([4, 5, 6]), order[:k]])
        lost = float(shares[k:].sum())
        assert 1 - lost == pytest.approx(regressed(x[:, kept], y), abs=2e-3)
    assert float(moments.explained(weight, torch.arange(12)).sum()) == pytest.approx(1)


def test_a_copy_explains_nothing_that_its_original_does_not() -> None:
    _, moments = drawn_moments(50_000)
    shares = moments.explained(torch.ones(1, 12), torch.arange(12))
    assert float(shares[8:].sum()) < 0.15 * float(shares[4:8].sum())
    first = moments.explained(torch.ones(1, 12), torch.tensor([8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]))
    assert float(first[:4].sum()) > 5 * float(first[4:8].sum())


def test_taps_of_a_kernel_are_taken_apart() -> None:
    _, moments = drawn_moments(50_000)
    weight = torch.randn(5, 12, 3, 3, generator=torch.Generator().manual_seed(1))
    apart = moments.explained(weight.permute(0, 2, 3, 1).reshape(45, 12), torch.arange(12))
    torch.testing.assert_close(moments.explained(weight, torch.arange(12)), apart)
