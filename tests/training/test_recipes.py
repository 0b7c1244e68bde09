"""Recipes: the published figures, what they become on given data, schedules by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mbv3.data import normalise
from mbv3.errors import BadInput
from mbv3.nn import MEAN, STD, build, statistics
from mbv3.spec import load_spec
from mbv3.tasks import TASKS
from mbv3.training import (
    RECIPES,
    Fit,
    classify_objective,
    distilled,
    learning_rate,
    make_optimizer,
    recipe_for,
    segment_objective,
    usual_epochs,
)
from mbv3.training.optimizer import Average


def test_published_figures() -> None:
    paper, tv, mm = (RECIPES[n] for n in ("paper", "torchvision", "mmseg"))
    assert (paper.optimizer, paper.lr, paper.lr_batch, paper.momentum, paper.ema) == ("rmsprop", 0.1, 4096, 0.9, 0.9999)
    assert (paper.decay, paper.decay_epochs, paper.weight_decay) == (0.99, 3.0, 1e-5)  # Howard 2019, 6.1.1
    assert (tv.epochs, tv.lr, tv.lr_batch, tv.alpha, tv.eps) == (600, 0.064, 1024, 0.9, 0.0316)
    assert (tv.decay, tv.decay_epochs, tv.erase) == (0.973, 2.0, 0.2)
    assert (mm.optimizer, mm.lr, mm.momentum, mm.weight_decay, mm.schedule) == ("sgd", 0.01, 0.9, 5e-4, "poly")
    assert (mm.power, mm.min_lr) == (0.9, 1e-4)
    assert recipe_for("mmseg", 2975, (8, 8), processes=4).steps == pytest.approx(
        320_000, rel=0.01
    )  # whole batches only
    half = recipe_for("mmseg", 2975, (8, 8), processes=2)
    assert (half.lr, half.min_lr) == pytest.approx((0.005, 5e-5))
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    for name, theirs in (("mmseg", True), ("torchvision", True), ("ssdlite", True), ("paper", False)):
        groups = make_optimizer(net, recipe_for(name, 3000, (8, 8))).param_groups
        assert all((g["weight_decay"] > 0) for g in groups) is theirs and not any(g.get("nesterov") for g in groups)
    assert all(r.source for r in RECIPES.values())


def test_the_rate_follows_the_images_of_a_step() -> None:
    one, two = (recipe_for("paper", 10_000, (224, 224), processes=p) for p in (1, 2))
    assert one.lr == pytest.approx(0.1 * 128 / 4096) and two.lr == pytest.approx(2 * one.lr)
    assert (one.epoch_steps, two.epoch_steps, two.steps) == (78, 39, 600 * 39)
    assert recipe_for("paper", 10_000, (224, 224), lr=0.5).lr == 0.5  # by hand: final
    assert recipe_for("paper", 10_000, (224, 224), batch=64).lr == pytest.approx(one.lr / 2)
    small = recipe_for("small-data", 20, (32, 32), epochs=3, ema=0.0, batch=None)
    assert (small.batch, small.epoch_steps, small.steps, small.ema) == (20, 1, 3, 0.0)


def test_steps_grow_with_the_root_of_the_images() -> None:
    assert [usual_epochs(n) for n in (0, 16, 500, 5_625, 50_000, 10**6)] == [80, 80, 40, 12, 4, 3]
    few, many = (recipe_for("finetune", n, (8, 8)) for n in (512, 5_625))
    assert (few.epochs, many.epochs) == (40, 12)
    assert (few.steps, many.steps) == (40 * 512 // few.batch, 12 * (5_625 // many.batch))
    assert recipe_for("finetune", 512, (8, 8), epochs=2).epochs == 2  # by hand: final
    # few images: norms held, whose statistics are not taken anew then; the rate is the same for both batches
    assert (few.batch, few.hold_norms, few.recalibrate) == (32, True, 0) and few.lr == many.lr == RECIPES["finetune"].lr
    assert (many.batch, many.hold_norms, many.recalibrate) == (64, False, 16)
    assert recipe_for("finetune", 512, (8, 8), batch=16).lr == pytest.approx(few.lr / 2)
    assert recipe_for("small-data", 512, (8, 8)).epochs == RECIPES["small-data"].epochs


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_masks_and_boxes_are_learned_as_from_scratch_but_shorter(task: str) -> None:
    scratch, tuned = (recipe_for(name, 367, (8, 8)) for name in (TASKS[task].recipe, TASKS[task].finetune))
    assert (scratch.epochs, tuned.epochs) == (150, usual_epochs(367)) and tuned.steps < scratch.steps
    assert replace(tuned, epochs=150, steps=scratch.steps, source=scratch.source) == scratch
    assert recipe_for(TASKS[task].finetune, 10_000, (8, 8)).epochs == 9


def test_a_short_training_from_scratch_takes_small_batches() -> None:
    long, short, shortest = (recipe_for("small-data", 6400, (8, 8), epochs=e) for e in (10, 6, 2))
    assert (long.batch, long.steps, long.lr) == (128, 500, 0.2)
    assert (short.batch, short.steps, short.lr) == (64, 600, 0.1)
    assert (shortest.batch, shortest.steps, shortest.lr) == (32, 400, 0.05)
    # images that are seen a few times
    assert [recipe_for("small-data", 25_600, (8, 8), epochs=e).batch for e in (3, 4, 4.99, 5)] == [64, 64, 64, 128]
    assert recipe_for("small-data", 6400, (8, 8), epochs=10, processes=2).batch == 64  # a step has two of them
    assert recipe_for("small-data", 6400, (8, 8), epochs=2, batch=128).batch == 128  # by hand: final
    assert recipe_for("small-data", 6400, (8, 8), epochs=2, lr=0.2).batch == 128  # a rate by hand is for that
    assert recipe_for("small-data", 63, (8, 8), epochs=5).batch == 63  # 32 would make no more steps
    assert recipe_for("paper", 6400, (8, 8), epochs=2).batch == RECIPES["paper"].batch


def test_what_is_refused() -> None:
    with pytest.raises(
        BadInput, match=r"--recipe magic: there are small-data, finetune, finetune-far, finetune-sgd, paper"
    ):
        recipe_for("magic", 100, (8, 8))
    with pytest.raises(BadInput, match=r"a recipe has no wieght_decay; it has alpha, "):
        recipe_for("paper", 100, (8, 8), wieght_decay=1)
    with pytest.raises(BadInput, match=r"3 training image\(s\) for 2 process\(es\).*at least two"):
        recipe_for("paper", 3, (8, 8), processes=2)


def test_schedules_by_hand() -> None:
    poly = Fit(steps=100, size=(8, 8), lr=0.01, schedule="poly", min_lr=1e-4, power=0.9, warmup=0.0)
    assert learning_rate(poly, 0) == pytest.approx(0.01)
    assert learning_rate(poly, 50) == pytest.approx((0.01 - 1e-4) * 0.5**0.9 + 1e-4)
    assert learning_rate(poly, 100) == pytest.approx(1e-4)
    steps = Fit(steps=100, size=(8, 8), lr=0.1, schedule="steps", decay=0.5, decay_epochs=2, epoch_steps=5, warmup=0.0)
    assert [learning_rate(steps, s) for s in (0, 9, 10, 19, 20)] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])
    warm = replace(poly, warmup=0.1)
    assert [learning_rate(warm, s) for s in (0, 4, 10)] == pytest.approx([0.001, 0.005, 0.01])


def test_rmsprop_by_hand() -> None:
    net = nn.Linear(2, 1, bias=False)
    w = net.weight.detach().numpy().copy()
    recipe = Fit(steps=2, size=(1, 1), optimizer="rmsprop", lr=0.1, weight_decay=0.0, alpha=0.9, eps=0.03)
    optimizer = make_optimizer(net, recipe)
    net.weight.grad = torch.tensor([[0.5, -1.0]])
    optimizer.step()
    g = np.array([[0.5, -1.0]])
    np.testing.assert_allclose(net.weight.detach().numpy(), w - 0.1 * g / (np.sqrt(0.1 * g * g) + 0.03), rtol=1e-5)


def test_the_average_begins_short_and_counts_statistics() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    average = Average(net, 0.999)
    with torch.no_grad():
        net[0].weight.fill_(1.0)  # type: ignore[operator, union-attr]
        average.state["0.weight"].fill_(0.0)
        net[1].running_mean.fill_(2.0)  # type: ignore[operator, union-attr]
    average.update(0)
    assert float(average.state["0.weight"]) == pytest.approx(0.9)  # decay (1 + 0) / (10 + 0)
    assert float(average.state["1.running_mean"]) == pytest.approx(1.8)
    assert "1.num_batches_tracked" not in average.state
    for _ in range(2):
        average.update(10**6)
    assert float(average.state["0.weight"]) == pytest.approx(1 - 0.1 * 0.999**2)
    with average.in_place():
        assert float(net.state_dict()["0.weight"]) == pytest.approx(1 - 0.1 * 0.999**2)
    assert float(net.state_dict()["0.weight"]) == 1.0


def test_distillation_by_hand() -> None:
    recipe = Fit(steps=1, size=(1, 1), label_smoothing=0.0, distill=0.3, temperature=2.0)
    teacher = nn.Linear(3, 4)
    x, said, y = torch.randn(5, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    got = float(distilled(classify_objective(recipe), teacher, recipe, (MEAN, STD))(said, y, x).detach())

    def soft(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p, q = soft(teacher(x).detach().numpy() / 2), soft(said.numpy() / 2)
    apart = (p * np.log(p / q)).sum(1).mean()
    plain = -np.log(soft(said.numpy())[np.arange(5), y.numpy()]).mean()
    assert got == pytest.approx(0.3 * 4 * apart + 0.7 * plain, rel=1e-4)
    assert not teacher.training


def test_a_teacher_sees_images_by_its_own_statistics() -> None:
    spec = replace(load_spec("mobilenet_v3_small@0.35"), mean=(0.5, 0.4, 0.5), std=(0.5, 0.6, 0.25))
    teacher = build(replace(spec, head=replace(spec.head, classes=3)), 0)
    seen, inputs = [], []
    teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pixels, said = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8).numpy(), torch.randn(2, 3)

    def plain(out: torch.Tensor, target: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        inputs.append(x)
        return out.sum()

    own, y = normalise(pixels, (32, 32), by=statistics(teacher)), torch.tensor([0, 1])
    for by in ((MEAN, STD), statistics(teacher)):
        x = normalise(pixels, (32, 32), by=by)
        distilled(plain, teacher, Fit(steps=1, size=(32, 32)), by)(said, y, x)
        torch.testing.assert_close(seen.pop(), own, rtol=1e-4, atol=1e-5)
        assert inputs.pop() is x


def test_pixels_of_no_class_count_for_nothing() -> None:
    loss = classify_objective(Fit(steps=1, size=(1, 1), label_smoothing=0.1))
    out, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    want = nn.functional.cross_entropy(out, target, label_smoothing=0.1)
    torch.testing.assert_close(loss(out, target, out), want)
    half = target.clone()
    half[0] = 255
    torch.testing.assert_close(loss(out, half, out), loss(out[1:], target[1:], out))
    assert float(loss(out, torch.full_like(target, 255), out)) == 0.0


def test_the_dice_loss_counts_classes_whatever_their_size() -> None:
    fit = Fit(steps=1, size=(1, 1), label_smoothing=0.1)
    bare, with_dice = segment_objective(fit), segment_objective(replace(fit, dice=2.0))
    truth = torch.zeros(2, 40, 50, dtype=torch.int64)
    truth[0, :5, :10], truth[1, 30:] = 1, 255  # class 1 has 50 of 3,500 pixels, class 2 none

    def dice(out: torch.Tensor) -> float:
        return float(with_dice(out, truth, out) - bare(out, truth, out)) / 2

    right = 50.0 * nn.functional.one_hot(truth.where(truth != 255, 2), 3).permute(0, 3, 1, 2)
    blind = torch.zeros_like(right)
    blind[:, 0] = 50.0  # class 0 everywhere
    assert dice(right) == pytest.approx(1 - (6900 / 6901 + 100 / 101) / 2, abs=1e-5)  # a pixel more below
    assert dice(blind) == pytest.approx(1 - 6900 / 6951 / 2, abs=1e-5)
    some = torch.randn(2, 3, 40, 50)
    counts = (truth != 255)[:, None]
    said, is_it = some.softmax(1) * counts, (truth[:, None] == torch.arange(3).view(1, 3, 1, 1)).float()
    share = 2 * (said * is_it).sum((0, 2, 3)) / (said.sum((0, 2, 3)) + is_it.sum((0, 2, 3)) + 1)
    assert dice(some) == pytest.approx(1 - float(share[:2].mean()), abs=1e-5)
    half = some.to(torch.bfloat16)
    torch.testing.assert_close(with_dice(half, truth, half), with_dice(half.float(), truth, half))
    none = torch.full_like(truth, 255)
    assert float(with_dice(right, none, right)) == 0.0
    some.requires_grad_()
    with_dice(some, none, some).backward()
    assert some.grad is not None and not some.grad.any()
