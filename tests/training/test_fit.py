"""The training loop: the same bits after a stop, the schedule, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mbv3.data import ImageSet, make_batch
from mbv3.errors import BadInput, Mbv3Error
from mbv3.events import Event, Note
from mbv3.nn import build
from mbv3.space import parse_space
from mbv3.spec import ArchSpec, Classify, Conv, MBConv
from mbv3.supernet import Supernet, path_forward
from mbv3.training import (
    Diverged,
    Epoch,
    Fit,
    evaluate,
    fit,
    learning_rate,
    load_checkpoint,
    make_optimizer,
    one_step,
    read_weights,
    recalibrate,
    save_checkpoint,
    save_weights,
)
from mbv3.training.optimizer import optimizer_state, restore_optimizer
from tests.drawn import drawn_images

SPEC = ArchSpec(
    name="small",
    resolution=(16, 16),
    stem=Conv(k=3, out=8, nl="HS", s=2),
    rows=(
        MBConv(k=3, exp=16, out=8, se=4, nl="RE", skip="identity"),
        MBConv(k=5, exp=24, out=16, nl="HS", s=2),
    ),
    tail=None,
    head=Classify(features=16, nl="HS", dropout=0.5, classes=8),
)
SPACE = parse_space("""\
format: mbv3-space/1
name: tiny
input: {resolution: 16}
stem: {k: 3, out: 8, nl: HS, s: 2}
blocks:
  - {name: a, s: 2, out: 8, e: [2, 3], k: [3, 5], l: [1, 2], se: [0, 1]}
head: {features: 16, classes: 8, dropout: 0.5}
""")
DATA = drawn_images(52, 16, 0)  # with batches of 16: three steps an epoch
RECIPE = Fit(steps=11, size=(16, 16), batch=16, lr=0.05, seed=3)

Forward = Callable[[int], Callable[[Tensor], Tensor]] | None


class Ticks:
    """A clock on which a second passes at every look."""

    def __init__(self) -> None:
        self.t = 0.0

    def __call__(self) -> float:
        self.t += 1.0
        return self.t


def plain(seed: int) -> tuple[nn.Module, Forward]:
    return build(SPEC, seed), None


def shared(seed: int) -> tuple[nn.Module, Forward]:
    supernet = Supernet(SPACE, seed)
    return supernet, path_forward(supernet, 5)


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.mark.parametrize("every_s", [0.0, 3.5], ids=["every-step", "now-and-then"])
@pytest.mark.parametrize("make", [plain, shared])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path,
    optimizer: Literal["sgd", "adamw", "rmsprop"],
    make: Callable[[int], tuple[nn.Module, Forward]],
    every_s: float,
) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.05 if optimizer == "sgd" else 0.003)
    if optimizer == "rmsprop":
        recipe = replace(recipe, ema=0.9, erase=0.5, augment="inception+trivial")
    whole, forward = make(0)
    untouched = {k: v.clone() for k, v in whole.state_dict().items()}
    for _ in fit(whole, DATA, recipe, forward=forward):
        pass
    assert not all(torch.equal(untouched[k], v) for k, v in whole.state_dict().items())

    path = tmp_path / "c.safetensors"
    net, forward = make(0)
    stops = []
    for stop in (5, 9):  # stopped twice
        run = fit(net, DATA, recipe, forward=forward, checkpoint=path, every_s=every_s, clock=Ticks())
        next(p for p in run if p.done >= stop)
        run.close()  # type: ignore[attr-defined]
        found = load_checkpoint(path)
        assert found is not None
        stops.append(found[1]["step"])
        net, forward = make(stop)  # other weights: everything comes from the checkpoint
        assert not same(net, whole)
    assert 0 < stops[0] < stops[1] < recipe.steps
    done = [p.done for p in fit(net, DATA, recipe, forward=forward, checkpoint=path, clock=Ticks())]
    assert done[0] > stops[1] and done[-1] == recipe.steps
    assert same(net, whole)
    assert not path.exists()


def test_a_checkpoint_is_of_one_recipe(tmp_path: Path) -> None:
    """A version whose recipes are others must not go on in silence; what recipes did not have yet is its default."""
    path = tmp_path / "c.safetensors"

    def begun(recipe: Fit) -> None:
        run = fit(build(SPEC, 0), DATA, recipe, checkpoint=path, every_s=0.0, clock=Ticks())
        next(p for p in run if p.done >= 5)
        run.close()  # type: ignore[attr-defined]

    begun(RECIPE)
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"c.safetensors: this training began with lr \S+, now 0.5; erase 0.0, now 0.2"):
        list(fit(build(SPEC, 0), DATA, replace(RECIPE, lr=0.5, erase=0.25), checkpoint=path))
    assert path.read_bytes() == before
    parts, meta = load_checkpoint(path) or ({}, {})
    del meta["recipe"]["erase"]  # as an older version wrote it
    save_checkpoint(path, parts, meta)
    with pytest.raises(BadInput, match=r"this training began with erase 0.0, now 0.25; "):
        list(fit(build(SPEC, 0), DATA, replace(RECIPE, erase=0.25), checkpoint=path))
    whole, rest = build(SPEC, 0), build(SPEC, 1)
    list(fit(whole, DATA, RECIPE))
    list(fit(rest, DATA, replace(RECIPE, source="in other words"), checkpoint=path))
    assert same(whole, rest)


def test_other_seeds_give_other_weights() -> None:
    nets = []
    for recipe in (RECIPE, RECIPE, replace(RECIPE, seed=4), replace(RECIPE, augment="none")):
        nets.append(build(SPEC, 0))
        assert [p.done for p in fit(nets[-1], DATA, recipe)][-1] == 11
    assert same(nets[0], nets[1]) and not same(nets[0], nets[2]) and not same(nets[0], nets[3])


def test_dropout_is_a_function_of_the_step_not_of_the_global_generator() -> None:
    nets = [build(SPEC, 0), build(SPEC, 0)]
    for i, net in enumerate(nets):
        torch.manual_seed(i)
        for _ in fit(net, DATA, RECIPE, clock=Ticks()):
            torch.rand(i + 1)
    assert same(*nets)


def test_a_kept_checkpoint_holds_the_end_and_is_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    net, again = build(SPEC, 0), build(SPEC, 1)
    list(fit(net, DATA, RECIPE, checkpoint=path, keep=True))
    found = load_checkpoint(path)
    assert found is not None and found[1]["step"] == 11
    assert list(fit(again, DATA, RECIPE, checkpoint=path, keep=True)) == []
    assert same(net, again)


def test_progress_is_told_and_ends_at_the_last_step() -> None:
    events = list(fit(build(SPEC, 0), DATA, RECIPE, stage="mine", clock=Ticks()))
    assert [e.done for e in events] == sorted({e.done for e in events}) and events[-1].done == 11
    assert {(e.stage, e.total) for e in events} == {("mine", 11)} and events[-1].left_s == 0
    assert "loss " in events[-1].text and "nan" not in events[-1].text


def test_training_learns() -> None:
    net = build(replace(SPEC, head=replace(SPEC.head, dropout=0.0)), 0)
    recipe = replace(RECIPE, steps=60, lr=0.1, augment="none", label_smoothing=0.0)
    list(fit(net, DATA, recipe))
    recalibrate(net, [make_batch(DATA, np.arange(52), 16)[0]])  # the networks' momentum of 0.01 is slow
    score = evaluate(net, DATA, (16, 16))
    assert score.loss < np.log(8) - 0.05 and score.top1 > 12.5  # of 8 classes, before: ln 8 and by chance


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    net = build(SPEC, 0)
    with torch.no_grad():
        net.head.classifier.bias.fill_(float("nan"))
    assert issubclass(Diverged, Mbv3Error)
    message = r"^training: the loss became nan at step 0, with a learning rate of 0\.05$"
    with pytest.raises(Diverged, match=message):
        list(fit(net, DATA, RECIPE, checkpoint=tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(BadInput, match=r"c.safetensors: not a safetensors file"):
        list(fit(build(SPEC, 0), DATA, RECIPE, checkpoint=path))
    save_weights(path, build(SPEC, 0).state_dict())
    with pytest.raises(BadInput, match=r"c.safetensors: no checkpoint"):
        list(fit(build(SPEC, 0), DATA, RECIPE, checkpoint=path))


def test_learning_rate_by_hand() -> None:
    recipe = Fit(steps=100, size=(8, 8), lr=0.4, warmup=0.1)
    assert [learning_rate(recipe, s) for s in (0, 4, 9)] == pytest.approx([0.04, 0.2, 0.4])
    assert learning_rate(recipe, 10) == pytest.approx(0.4)
    assert learning_rate(recipe, 55) == pytest.approx(0.2)  # half way down
    assert learning_rate(recipe, 100) == pytest.approx(0.0)
    assert 0 < learning_rate(recipe, 99) < 0.4 * 0.001
    down = [learning_rate(recipe, s) for s in range(9, 100)]
    assert down == sorted(down, reverse=True)
    short = replace(recipe, steps=1, warmup=0.0)
    assert learning_rate(short, 0) == pytest.approx(0.4)


def test_only_matrices_are_decayed() -> None:
    net = build(SPEC, 0)
    by_decay = {
        g["weight_decay"]: g["params"] for g in make_optimizer(net, replace(RECIPE, weight_decay=0.01)).param_groups
    }
    assert set(by_decay) == {0.01, 0.0}
    assert all(p.dim() > 1 for p in by_decay[0.01]) and all(p.dim() == 1 for p in by_decay[0.0])
    assert len(by_decay[0.01]) + len(by_decay[0.0]) == len(list(net.parameters()))


def test_one_step_of_sgd_by_hand() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    w, b = net.weight.detach().numpy().copy(), net.bias.detach().numpy().copy()
    recipe = Fit(steps=10, size=(1, 1), lr=0.5, warmup=0.0, weight_decay=0.1, label_smoothing=0.2, clip=1e9)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    loss = one_step(net, net, make_optimizer(net, recipe), x, y, recipe, 0)
    logits = x.numpy() @ w.T + b
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = 0.8 * np.eye(2)[y.numpy()] + 0.1
    assert loss == pytest.approx(float(-(q * np.log(p)).sum(1).mean()), rel=1e-5)
    g = (p - q) / 4
    gw, gb = g.T @ x.numpy() + 0.1 * w, g.sum(0)
    # Nesterov's first step: the gradient and 0.9 of the momentum, which is the gradient
    np.testing.assert_allclose(net.weight.detach().numpy(), w - 0.5 * 1.9 * gw, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.bias.detach().numpy(), b - 0.5 * 1.9 * gb, rtol=1e-5, atol=1e-6)
    assert recipe.lr == 0.5 and learning_rate(recipe, 0) == 0.5


def test_gradients_are_clipped() -> None:
    net = nn.Linear(3, 2)
    before = net.weight.detach().clone(), net.bias.detach().clone()
    recipe = Fit(steps=10, size=(1, 1), lr=1.0, warmup=0.0, weight_decay=0.0, clip=0.01)
    one_step(net, net, make_optimizer(net, recipe), 100 * torch.randn(4, 3), torch.tensor([0, 1, 1, 0]), recipe, 0)
    moved = (net.weight.detach() - before[0]).square().sum() + (net.bias.detach() - before[1]).square().sum()
    assert float(moved.sqrt()) == pytest.approx(1.9 * 0.01, rel=1e-3)


def test_epochs_are_told_with_the_averaged_weights(tmp_path: Path) -> None:
    recipe = replace(RECIPE, ema=0.999, epoch_steps=3)  # 11 steps: three epochs and a rest
    net = build(SPEC, 0)
    seen: list[tuple[int, float, Tensor]] = []

    def at_epoch(e: Epoch) -> Iterator[Event]:
        assert 0 <= e.waiting <= 1 and e.images_s > 0
        seen.append((e.step, e.loss, net.state_dict()["stem.conv.weight"].clone()))
        net.eval()  # as a score would
        yield Note("x", f"at {e.step}")

    events = list(fit(net, DATA, recipe, at_epoch=at_epoch))
    assert [s for s, _, _ in seen] == [3, 6, 9, 11]
    assert [e.text for e in events if isinstance(e, Note)] == ["at 3", "at 6", "at 9", "at 11"]
    plain = build(SPEC, 0)
    list(fit(plain, DATA, replace(recipe, ema=0.0)))
    assert not torch.equal(plain.state_dict()["stem.conv.weight"], net.state_dict()["stem.conv.weight"])
    assert torch.equal(seen[-1][2], net.state_dict()["stem.conv.weight"])  # what is left at the end is the average
    whole = build(SPEC, 0)
    list(fit(whole, DATA, recipe))
    assert same(whole, net)  # looking on changes nothing


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    net = nn.Linear(3, 2)
    before = {k: v.clone() for k, v in net.state_dict().items()}

    def objective(out: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return (out * 0).sum().sqrt()  # finite, with an infinite slope

    with pytest.raises(Diverged, match=r"the gradient became (nan|inf) at step 4"):
        one_step(net, net, make_optimizer(net, RECIPE), torch.randn(4, 3), torch.zeros(4), RECIPE, 4, objective)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_thread_that_makes_batches_ends_with_the_training() -> None:
    before = threading.active_count()
    run = fit(build(SPEC, 0), DATA, RECIPE, clock=Ticks())
    next(run)
    assert threading.active_count() > before
    run.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_fault_of_the_data_reaches_the_caller() -> None:
    class Broken:
        def __len__(self) -> int:
            return 32

        def batch(self, *_: object) -> object:
            raise BadInput("x.png: cannot be decoded")

    with pytest.raises(BadInput, match=r"x\.png: cannot be decoded"):
        list(fit(build(SPEC, 0), Broken(), RECIPE))  # type: ignore[arg-type]


TWO = """\
import sys, torch
import numpy as np
from torch import distributed, nn
from mbv3.data import ImageSet
from mbv3.training import Diverged, Fit, fit, save_weights, together
steps = 0
rng = np.random.default_rng(0)
data = ImageSet(rng.integers(0, 256, (52, 16, 16, 3), dtype=np.uint8), rng.integers(0, 8, 52), tuple("abcdefgh"), "")
def objective(out, y, x):
    global steps
    steps += 1
    wrong = sys.argv[2:] and steps == 4 and distributed.get_rank() == 1
    return nn.functional.cross_entropy(out, y, label_smoothing=0.1) * (float("nan") if wrong else 1)
with together():
    torch.manual_seed(distributed.get_rank())  # other weights: the first process's are taken
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))
    recipe = Fit(steps=5, size=(16, 16), batch=8, lr=0.1, seed=3, augment="none")
    try:
        list(fit(net, data, recipe, objective=objective))
    except Diverged as e:
        sys.stdout.write(f"{distributed.get_rank()} {e}\\n")  # in one piece: two processes write here
        sys.stdout.flush()
    if distributed.get_rank() == 1:
        save_weights(__import__("pathlib").Path(sys.argv[1]), net.state_dict())
"""


def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
         str(tmp_path / "w.safetensors")],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))
    recipe = Fit(steps=5, size=(16, 16), batch=16, lr=0.1, seed=3, augment="none")
    rng = np.random.default_rng(0)  # the images and labels of TWO
    images, labels = rng.integers(0, 256, (52, 16, 16, 3), dtype=np.uint8), rng.integers(0, 8, 52)
    list(fit(net, ImageSet(images, labels, tuple("abcdefgh"), ""), recipe))
    theirs = read_weights(tmp_path / "w.safetensors")
    for name, value in net.state_dict().items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-5)


def test_what_is_not_finite_on_one_process_stops_them_all(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
         str(tmp_path / "w.safetensors"), "nan"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "0 training: the loss became not finite on another process at step 3" in done.stdout
    assert "1 training: the loss became nan at step 3" in done.stdout


def test_what_another_optimizer_kept_is_refused() -> None:
    net = torch.nn.Linear(2, 2)
    sgd = make_optimizer(net, replace(RECIPE, optimizer="sgd", momentum=0.9))
    net(torch.ones(1, 2)).sum().backward()
    sgd.step()
    kept = optimizer_state(sgd)
    restore_optimizer(make_optimizer(net, replace(RECIPE, optimizer="sgd", momentum=0.9)), kept)
    with pytest.raises(BadInput, match="had another optimizer than AdamW"):
        restore_optimizer(make_optimizer(net, replace(RECIPE, optimizer="adamw")), kept)
