"""Rates by depth, the head-first phase, held norms: by hand, and the same bits after a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mbv3.nn import build
from mbv3.spec import ArchSpec, Classify, Conv, MBConv
from mbv3.training import Fit, fit, learning_rate, load_checkpoint, make_optimizer
from mbv3.training.groups import in_body, rate_shares
from tests.drawn import drawn_images

SPEC = ArchSpec(
    name="small",
    resolution=(16, 16),
    stem=Conv(k=3, out=8, nl="HS", s=2),
    rows=(
        MBConv(k=3, exp=16, out=8, se=4, nl="RE", skip="identity"),
        MBConv(k=5, exp=24, out=16, nl="HS", s=2),
    ),
    tail=Conv(k=1, out=24, nl="HS"),
    head=Classify(features=16, nl="HS", dropout=0.5, classes=8),
)
DATA = drawn_images(52, 16, 0)
RECIPE = Fit(
    steps=10, size=(16, 16), batch=16, optimizer="adamw", lr=0.01, epoch_steps=3, seed=3, ema=0.9, warmup=0.2,
    head_first=0.4, first_lr=2.0, body_lr=0.5, layer_decay=0.8, hold_norms=True, augment="inception-mild",
)  # fmt: skip


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_a_layer_s_share_of_the_rate() -> None:
    shares = rate_shares(build(SPEC, 0), RECIPE)
    assert shares["head.classifier.weight"] == shares["head.features.bias"] == 1.0
    assert shares["tail.conv.weight"] == pytest.approx(0.5)
    assert shares["rows.1.project.conv.weight"] == shares["rows.1.depthwise.bn.bias"] == pytest.approx(0.5 * 0.8)
    assert shares["rows.0.se.reduce.weight"] == pytest.approx(0.5 * 0.8**2)
    assert shares["stem.conv.weight"] == pytest.approx(0.5 * 0.8**3)
    assert set(rate_shares(nn.Linear(2, 2), RECIPE).values()) == {1.0}
    assert not in_body("aux.0.conv.weight") and in_body("tail.bn.weight")


def test_groups_hold_every_parameter_once_and_decay_no_norms() -> None:
    net = build(SPEC, 0)
    names = {id(p): name for name, p in net.named_parameters()}
    shares = rate_shares(net, RECIPE)
    seen = []
    for group in make_optimizer(net, replace(RECIPE, weight_decay=0.1)).param_groups:
        for p in group["params"]:
            seen.append(names[id(p)])
            assert group["share"] == shares[names[id(p)]]
            assert group["weight_decay"] == (0.1 if p.dim() > 1 else 0.0)
    assert sorted(seen) == sorted(names.values())


def test_the_first_step_of_adam_moves_every_layer_by_its_rate() -> None:
    net = build(SPEC, 0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    recipe = replace(RECIPE, steps=1, head_first=0.0, ema=0.0, weight_decay=0.0, warmup=0.0)
    list(fit(net, DATA, recipe))
    shares = rate_shares(net, recipe)
    for name in ("head.classifier.weight", "tail.conv.weight", "rows.0.project.conv.weight", "stem.conv.weight"):
        moved = (net.state_dict()[name] - before[name]).abs().max()  # Adam's first step is the sign of the gradient
        assert float(moved) == pytest.approx(0.01 * shares[name], rel=0.03)


def test_only_the_head_learns_at_first() -> None:
    net = build(SPEC, 0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    run = fit(net, DATA, replace(RECIPE, steps=5, head_first=0.8, ema=0.0), clock=iter(range(0, 10**6, 5)).__next__)
    seen = {}
    for p in run:
        seen[p.done] = {k for k, v in net.named_parameters() if not torch.equal(v, before[k])}  # type: ignore[attr-defined]
    body = {k for k in before if in_body(k)} & {k for k, _ in net.named_parameters()}
    assert seen[4] and not seen[4] & body
    assert body <= seen[5]
    assert all(p.requires_grad for p in net.parameters())


def test_a_phase_that_is_cut_short_leaves_every_parameter_free() -> None:
    net = build(SPEC, 0)
    run = fit(net, DATA, RECIPE, clock=iter(range(0, 10**6, 5)).__next__)
    next(run)
    assert not net.get_parameter("stem.conv.weight").requires_grad
    run.close()  # type: ignore[attr-defined]
    assert all(p.requires_grad for p in net.parameters())


def test_the_schedule_with_a_head_first_phase_by_hand() -> None:
    recipe = Fit(steps=100, size=(8, 8), lr=0.4, warmup=0.1, head_first=0.2, first_lr=2.0)
    assert recipe.first_steps == 20
    assert [learning_rate(recipe, s) for s in (0, 9, 19)] == pytest.approx([0.04, 0.4, 0.8])  # rises to twice the rate
    assert [learning_rate(recipe, s) for s in (20, 27, 28)] == pytest.approx([0.05, 0.4, 0.4])  # 8 steps of warm-up
    assert learning_rate(recipe, 28 + 36) == pytest.approx(0.2)  # half of the 72 that are left
    assert learning_rate(recipe, 100) == pytest.approx(0.0)
    flat = replace(recipe, schedule="steps", decay=1.0, warmup=0.0)
    assert [learning_rate(flat, s) for s in (0, 19, 20, 99)] == pytest.approx([0.8, 0.8, 0.4, 0.4])


def test_held_norms_keep_their_statistics_and_others_do_not() -> None:
    for held in (True, False):
        net = build(SPEC, 0)
        before = net.state_dict()["rows.0.expand.bn.running_mean"].clone()
        list(fit(net, DATA, replace(RECIPE, hold_norms=held, ema=0.0)))
        assert torch.equal(net.state_dict()["rows.0.expand.bn.running_mean"], before) is held


@pytest.mark.parametrize("stops", [(2, 7), (4,)], ids=["in-both-phases", "where-they-meet"])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, stops: tuple[int, ...]) -> None:
    whole = build(SPEC, 0)
    list(fit(whole, DATA, RECIPE))
    path, net = tmp_path / "c.safetensors", build(SPEC, 0)
    for stop in stops:
        run = fit(net, DATA, RECIPE, checkpoint=path, every_s=0.0, clock=iter(range(0, 10**6, 5)).__next__)
        next(p for p in run if p.done > stop)  # type: ignore[attr-defined]
        run.close()  # type: ignore[attr-defined]
        found = load_checkpoint(path)
        assert found is not None and found[1]["step"] == stop
        net = build(SPEC, stop)
        if stop < RECIPE.first_steps:  # moments of what has learned, and of nothing else
            assert len({k.partition(".")[0] for k in found[0]["optimizer"]}) == 4
    list(fit(net, DATA, RECIPE, checkpoint=path))
    assert same(net, whole)
