"""Scores of channels: the derivative of the loss in a gate, against the gate itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mbv3.netadapt import channel_scores, maker_of, site_scores
from mbv3.nn import Network, build, channel_sets, cut_state
from mbv3.spec import ArchSpec, Classify, all_sites, channels, cut, load_spec, with_head

from .test_proposals import SMALL

BACKBONE = replace(load_spec("mobilenet_v3_small@0.35"), resolution=(64, 64))


def loss(out: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return functional.cross_entropy(out, y)


def network(spec: ArchSpec) -> Network:
    """With statistics of real maps: those of new batch norms let nothing through."""
    net = build(spec, 0).double()
    g = torch.Generator().manual_seed(0)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.weight.data = 1 + 0.2 * torch.randn(m.weight.shape, generator=g, dtype=torch.float64)
            m.bias.data = 0.2 * torch.randn(m.weight.shape, generator=g, dtype=torch.float64)
            m.momentum = None
        if isinstance(m, torch.nn.Linear):
            m.weight.data *= 20
    with torch.no_grad():
        net.train()(torch.randn(8, 3, *spec.resolution, generator=g, dtype=torch.float64))
    return net.eval()


def batch(spec: ArchSpec, seed: int, n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, 3, *spec.resolution, generator=g, dtype=torch.float64),
        torch.randint(0, spec.head.classes, (n,), generator=g),
    )


@pytest.mark.parametrize("spec", [SMALL, replace(load_spec("mobilenetv4_conv_small"), resolution=(64, 64))],
                         ids=["small", "uib"])  # fmt: skip
def test_a_score_is_the_derivative_of_the_loss_in_a_gate(spec: ArchSpec) -> None:
    """The gate scales what every reader takes of one channel; tied layers are gated together."""
    spec = replace(spec, head=replace(spec.head, classes=5, dropout=0.0))  # type: ignore[arg-type]
    net = network(spec)
    x, y = batch(spec, 1)
    scores = channel_scores(net, "taylor", [(x, y)], loss)
    squared = channel_scores(net, "taylor-squared", [(x, y)], loss)
    sets = {c.makers[0]: c for c in channel_sets(spec) if c.makers}
    checked = 0
    for name in (maker_of(sets.values(), spec, site) for site in all_sites(spec)[::3]):
        group = sets[name]
        channel = int(scores[name].argmax())

        def gated(gate: float) -> float:
            weights = [(net.get_submodule(reader).weight, start + channel) for reader, start in group.readers]  # noqa: B023
            with torch.no_grad():
                for weight, at in weights:
                    weight[:, at] *= gate  # type: ignore[index, operator]
                value = float(loss(net(x), y, x))
                for weight, at in weights:
                    weight[:, at] /= gate  # type: ignore[index, operator]
            return value

        slope = (gated(1 + 1e-5) - gated(1 - 1e-5)) / 2e-5
        assert float(scores[name][channel]) == pytest.approx(abs(slope), rel=5e-3, abs=1e-9)
        assert float(squared[name][channel]) == pytest.approx(float(scores[name][channel]) ** 2)
        checked += abs(slope) > 1e-5
    assert checked > 2


def test_a_dead_channel_has_no_score_and_goes_first() -> None:
    net = network(replace(SMALL, head=Classify(features=32, nl="HS", classes=5, dropout=0.0)))
    site = next(s for s in all_sites(net.spec) if s.kind == "expansion")
    name = maker_of(channel_sets(net.spec), net.spec, site)
    dead = [3, 17, 40]
    with torch.no_grad():
        net.get_submodule("rows.1.project.conv").weight[:, dead] = 0  # type: ignore[index, operator]
    batches = [batch(net.spec, seed) for seed in range(3)]
    scores = channel_scores(net, "taylor", batches, loss)
    assert sorted(int(i) for i in scores[name].topk(3, largest=False).indices) == dead
    after = cut(net.spec, site, channels(net.spec, site) - 3)
    assert after is not None
    small = build(after).double().eval()
    small.load_state_dict(cut_state(net.state_dict(), net.spec, after, scores))
    torch.testing.assert_close(small(batches[0][0]), net(batches[0][0]), rtol=1e-9, atol=1e-9)


def test_scores_leave_the_network_as_it_was() -> None:
    net = network(replace(SMALL, head=Classify(features=32, nl="HS", classes=5)))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for kind in ("taylor", "taylor-squared", "l2", "bn"):
        channel_scores(net, kind, [batch(net.spec, 0)], loss)  # type: ignore[arg-type]
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_l2_is_what_cuts_have_always_been_made_by() -> None:
    net = build(SMALL, 3)
    scores = channel_scores(net, "l2")
    for site in all_sites(SMALL):
        after = cut(SMALL, site, channels(SMALL, site) - 5)
        assert after is not None
        plain, scored = (cut_state(net.state_dict(), SMALL, after, s) for s in (None, scores))
        assert all(torch.equal(plain[k], scored[k]) for k in plain)


def test_a_loss_is_asked_for_and_dense_heads_have_scores() -> None:
    with pytest.raises(ValueError, match="taylor needs batches and a loss"):
        channel_scores(build(SMALL, 0), "taylor")
    for head in ("lraspp", "lraspp-mmseg", "pspnet", "deeplabv3plus", "ssdlite"):
        spec = with_head(BACKBONE, head, 4)
        found = site_scores(spec, channel_scores(build(spec, 0), "bn"))
        assert list(found) == all_sites(spec) and any(s.of_head for s in found)
        assert all(len(values) == channels(spec, s) and (values > 0).all() for s, values in found.items())


@pytest.mark.parametrize("head", ["lraspp-mmseg", "deeplabv3plus", "ssdlite"])
def test_a_width_of_a_head_is_worth_the_best_channels_of_all_its_layers(head: str) -> None:
    """What a menu counts for a width is what surgery keeps of it."""
    spec = with_head(BACKBONE, head, 4)
    g = torch.Generator().manual_seed(0)
    scores = {c.makers[0]: torch.rand(c.size, generator=g) for c in channel_sets(spec) if c.makers}
    for site in (s for s in all_sites(spec) if s.of_head):
        after = cut(spec, site, channels(spec, site) // 16 * 8)
        assert after is not None
        kept = 0.0
        for mine, less in zip(channel_sets(spec), channel_sets(after), strict=True):
            if mine.size > less.size:
                kept += float(scores[mine.makers[0]].topk(less.size).values.sum())
        best = np.sort(site_scores(spec, scores)[site])[::-1]
        assert best[: channels(after, site)].sum() == pytest.approx(kept)


@pytest.mark.parametrize("head", ["fcn", "pspnet", "deeplabv3", "deeplabv3plus"])
def test_channels_of_an_auxiliary_head_that_the_loss_does_not_see_score_nothing(head: str) -> None:
    spec = replace(with_head(BACKBONE, head, 4), resolution=(64, 64))
    net = build(spec, 0)
    assert net.aux is not None
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 64, 64, generator=g), torch.randint(0, 4, (2, 64, 64), generator=g)
    found = channel_scores(net, "taylor", [(x, y)], lambda out, y, x: functional.cross_entropy(out, y))
    assert all(torch.isfinite(values).all() for values in found.values())
    aux = {c.makers[0] for c in channel_sets(spec) if c.makers and c.makers[0].startswith("aux")}
    assert aux and not any(found[name].any() for name in aux)
    assert sum(bool(values.any()) for values in found.values()) > len(found) - len(aux) - 3
