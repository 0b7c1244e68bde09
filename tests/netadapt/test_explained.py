"""What a site is worth by what its readers cannot do without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mbv3.netadapt import channel_scores, explained, lost, maker_of
from mbv3.nn import channel_sets, cut_state, input_moments
from mbv3.spec import MBConv, all_sites, channels, cut, cut_many, load_spec, with_head

from .test_importance import BACKBONE, network


def test_shares_are_of_one_and_rank_a_site_of_copies_last() -> None:
    net = network(BACKBONE).float()
    sets = [c for c in channel_sets(BACKBONE) if c.makers]
    twins = next(s for s in all_sites(BACKBONE) if s.kind == "expansion" and s.first == 8)
    half = channels(BACKBONE, twins) // 2
    state = {k: v.clone() for k, v in net.state_dict().items()}
    for name in (k for k in state if k.startswith(("rows.8.expand.", "rows.8.depthwise.")) and state[k].dim() > 0):
        state[name][half : 2 * half] = state[name][:half]
    net.load_state_dict(state)
    images = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    moments = input_moments(net, images.split(16))
    scores = channel_scores(net, "l2")
    scores[maker_of(sets, BACKBONE, twins)] = torch.arange(2 * half, 0, -1.0)
    shares = explained(BACKBONE, state, moments, scores)
    assert set(shares) == set(all_sites(BACKBONE))
    assert all(v.sum() == pytest.approx(1) and (v >= 0).all() for v in shares.values())
    halves = {s: cut(BACKBONE, s, channels(BACKBONE, s) // 2) for s in shares if s.kind == "expansion"}
    gone = {s: lost(BACKBONE, after, shares) for s, after in halves.items() if after is not None}
    assert min(gone, key=gone.__getitem__) == twins and gone[twins] < 0.75 * float(np.median(list(gone.values())))


def test_sites_add_up_and_nothing_cut_loses_nothing() -> None:
    net = network(BACKBONE).float()
    images = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    shares = explained(BACKBONE, net.state_dict(), input_moments(net, [images]), channel_scores(net, "l2"))
    a, b = [s for s in all_sites(BACKBONE) if s.kind in ("expansion", "tail")][-2:]
    one, other, both = (cut_many(BACKBONE, counts) for counts in ({a: 8}, {b: 8}, {a: 8, b: 8}))
    assert one is not None and other is not None and both is not None
    assert lost(BACKBONE, BACKBONE, shares) == 0
    assert lost(BACKBONE, both, shares) == pytest.approx(lost(BACKBONE, one, shares) + lost(BACKBONE, other, shares))


def test_the_gate_of_a_row_counts_by_its_work() -> None:
    """Squeeze-and-excitation reads the expansion too, pooled: next to nothing beside the projection."""
    net = network(BACKBONE).float()
    images = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    moments, scores = input_moments(net, [images]), channel_scores(net, "l2")
    at, row = next((i, r) for i, r in enumerate(BACKBONE.rows) if isinstance(r, MBConv) and r.se and i)
    assert f"rows.{at}.se.reduce" in moments and row.se
    site = next(s for s in all_sites(BACKBONE) if s.kind == "expansion" and s.first == at)
    both = explained(BACKBONE, net.state_dict(), moments, scores)[site]
    alone = explained(
        BACKBONE, net.state_dict(), {k: m for k, m in moments.items() if not k.endswith("se.reduce")}, scores
    )[site]
    assert np.abs(both - alone).sum() < 0.1


def test_heads_and_unread_channels_have_shares() -> None:
    spec = with_head(replace(BACKBONE), "lraspp", 4)
    net = network(spec).float()
    moments = input_moments(net, [torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(3))])
    shares = explained(spec, net.state_dict(), moments, channel_scores(net, "l2"))
    head = next(s for s in shares if s.of_head)
    assert len(shares[head]) == channels(spec, head) and shares[head].sum() > 0
    without = explained(spec, net.state_dict(), {}, channel_scores(net, "l2"))
    assert all(np.allclose(v, v[0]) for s, v in without.items() if not s.of_head)


def test_kernels_that_read_are_known_and_not_mended() -> None:
    spec = replace(load_spec("mobilenetv4_conv_small"), resolution=(64, 64))
    net = network(spec).float()
    moments = input_moments(net, [torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(3))])
    wide = [n for n in moments if net.get_submodule(n).weight.dim() == 4 and net.get_submodule(n).weight.shape[-1] > 1]
    assert wide
    site = next(s for s in all_sites(spec) if s.kind == "stem" or (s.kind == "bottleneck" and s.first < 1))
    after = cut(spec, site, channels(spec, site) // 2)
    assert after is not None
    plain, mended = (cut_state(net.state_dict(), spec, after, moments=m) for m in (None, moments))
    assert all(torch.equal(plain[f"{n}.weight"], mended[f"{n}.weight"]) for n in wide)


def test_what_is_not_finite_counts_as_channels_that_are_alike() -> None:
    net = network(BACKBONE).float()
    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    moments, scores = input_moments(net, [images]), channel_scores(net, "l2")
    state = {k: v.clone() for k, v in net.state_dict().items()}
    name = next(k for k in state if k.startswith("rows.8.project") and state[k].dim() == 4)
    state[name][0, 0] = torch.inf
    shares = explained(BACKBONE, state, moments, scores)
    site = next(s for s in all_sites(BACKBONE) if s.kind == "expansion" and s.first == 8)
    assert all(np.isfinite(v).all() for v in shares.values())
    broken = {n: replace(m, covariance=m.covariance * torch.nan) for n, m in moments.items()}
    alike = explained(BACKBONE, net.state_dict(), broken, scores)[site]
    assert alike == pytest.approx(np.full(channels(BACKBONE, site), 1 / channels(BACKBONE, site)))
