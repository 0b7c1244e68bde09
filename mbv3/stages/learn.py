"""Training of one network on given images."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from mbv3.data import batch_order, normalise
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.nn import Network, build, statistics
from mbv3.spec import ArchSpec, count, dump_spec, with_head
from mbv3.stages.keep import Keep, Memory
from mbv3.tasks import TaskData, smallest_map, task_of
from mbv3.training import (
    Batches,
    Epoch,
    Fit,
    WithAux,
    adopt,
    and_aux,
    distilled,
    fit,
    load_checkpoint,
    measure,
    processes,
    recalibrate,
)

__all__ = ["CHECKPOINT", "LOG", "SETTLED", "Learned", "default_device", "learn", "on_network", "ready"]

STAGE = "training"
CHECKPOINT, LOG = "checkpoint.safetensors", "log.csv"
POINTS = 40  # of the curve of scores, where nothing else is asked for
SETTLED = 16  # batches over which the batch norms of a cut or resized network are taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A trained network. `net` is in eval mode; `metrics` are in percent, over the `n` images of `judged_on`, and
    `by_class` the first of them by class, NaN of one that does not occur; `rows` has one row an epoch."""

    spec: ArchSpec
    net: Network
    metrics: dict[str, float]
    by_class: dict[str, float]
    judged_on: str  # "test" or "held-out"
    n: int
    rows: tuple[Mapping[str, float], ...]

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights, on the CPU."""
        return {k: v.cpu() for k, v in self.net.state_dict().items()}


def default_device() -> torch.device:
    """This process's GPU, the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def on_network(recipe: Fit, spec: ArchSpec, cut: bool = False) -> Fit:
    """`recipe` for `spec`: statistics that came with the weights cannot be kept where channels were `cut`, nor where
    the last map is one place. All that is around it there is padding: at 32 px MobileNetV3-Small's loss stays at chance
    with them."""
    if recipe.hold_norms and (cut or max(smallest_map(spec)) == 1):
        return replace(recipe, hold_norms=False, recalibrate=SETTLED)
    return recipe


def learn(
    spec: ArchSpec,
    data: TaskData,
    recipe: Fit,
    *,
    init: Mapping[str, Tensor] | None = None,
    init_name: str = "init",
    recipe_name: str = "",
    teacher: nn.Module | None = None,
    score_every: int | None = None,
    device: torch.device | None = None,
    keep: Keep | None = None,
) -> Generator[Event, None, Learned]:
    """Train `spec`, its head resized to the classes of `data`, and score it on the test images, else on those held out.

    `init`: weights to start from; a head of another shape stays new. `teacher`: a network whose answers are learned
    too. `score_every`: epochs between two scores on the held-out images. Batch norms are recalibrated before a score
    where the recipe says so. The checkpoint, the rows of the log and the spec go to `keep`, which a resumed training
    goes on from.

    Raises:
        BadInput: `init` is of another network; every entry that does not fit is listed.
        Diverged: the loss is not finite any more.
    """
    keep, device = keep or Memory(), device or default_device()
    spec = with_head(spec, spec.head, data.outputs)
    net = build(spec, recipe.seed)
    yield from _described(spec, data, recipe, recipe_name, device)
    if init is not None:
        yield _adopted(net, init, init_name)
    net.to(device)
    keep.text("network.yaml", dump_spec(spec))
    objective = data.objective(recipe)
    if teacher is not None:
        objective = distilled(objective, teacher.to(device), recipe, statistics(net))
    module: nn.Module | None = None
    if net.aux is not None:
        module, objective = WithAux(net), and_aux(objective)
    log = _Log(net, data, recipe, score_every, keep)
    if log.start:
        yield Note(STAGE, f"goes on at step {log.start} of {recipe.steps}")
    yield from fit(
        net, data.train, recipe, stage=STAGE, checkpoint=keep.file(CHECKPOINT), objective=objective, module=module,
        at_epoch=log.at_epoch, keep=True,
    )  # fmt: skip
    ready(net, data.train, recipe)
    judged, on = (data.validation, "held-out") if data.test is None else (data.test, "test")
    yield Progress("scoring", 0, 1, f"{len(judged)} {on} images")
    metric = data.metric(judged)
    metrics = measure(net, judged, metric, spec.resolution, recipe.batch)
    by_class = dict(zip(data.classes, metric.by_class().tolist(), strict=True))
    return Learned(
        spec=spec, net=net, metrics=metrics, by_class=by_class, judged_on=on, n=len(judged), rows=tuple(log.rows)
    )


class _Log:
    """The rows of the log, one an epoch, and the epoch's line."""

    def __init__(self, net: Network, data: TaskData, recipe: Fit, score_every: int | None, keep: Keep) -> None:
        self.net, self.data, self.recipe, self.keep = net, data, recipe, keep
        checkpoint = keep.file(CHECKPOINT)
        found = load_checkpoint(checkpoint) if checkpoint is not None else None
        self.start = int(found[1]["step"]) if found else 0
        rows = [{k: float(v) for k, v in row.items() if v} for row in keep.rows(LOG)]
        self.rows = [row for row in rows if row["step"] <= self.start]
        self.every = score_every or max(1, -(-recipe.steps // recipe.epoch_steps) // POINTS)
        self.began = time.monotonic()

    def at_epoch(self, e: Epoch) -> Iterator[Event]:
        recipe = self.recipe
        number = e.step / recipe.epoch_steps
        row: dict[str, float] = {
            "epoch": round(number, 3), "step": e.step, "loss": e.loss, "lr": e.lr, "images_s": e.images_s,
            "waiting": e.waiting,
        }  # fmt: skip
        text = ""
        if -(-e.step // recipe.epoch_steps) % self.every == 0 or e.step == recipe.steps:
            metrics = self._score()
            row |= metrics
            text = ", " + ", ".join(f"{k} {v:.2f} %" for k, v in metrics.items())
        self.rows.append(row)
        columns = list(dict.fromkeys(k for r in self.rows for k in r))
        self.keep.write_rows(LOG, columns, [{k: f"{v:.10g}" for k, v in r.items()} for r in self.rows])
        left = (recipe.steps - e.step) * (time.monotonic() - self.began) / max(1, e.step - self.start)
        yield Note(
            STAGE,
            f"epoch {number:.4g} of {recipe.epochs:g}: loss {e.loss:.4f}{text}; lr {e.lr:.2g}, "
            f"{e.images_s:.0f} images/s, {100 * e.waiting:.1f} % of the time waiting for images, {left / 60:.1f} min "
            "left",
        )

    def _score(self) -> dict[str, float]:
        # on a copy: the batch norms of the training go on as if nothing had been scored
        net, images = copy.deepcopy(self.net), self.data.validation
        ready(net, self.data.train, self.recipe)
        return measure(net, images, self.data.metric(images), self.recipe.size, self.recipe.batch)


def _described(spec: ArchSpec, data: TaskData, recipe: Fit, name: str, device: torch.device) -> Iterator[Event]:
    """What is trained on what, what the user should know, and how."""
    counts = count(spec)
    (height, width), (h, w) = spec.resolution, smallest_map(spec)
    tests = f", {len(data.test)} for the test" if data.test is not None else ""
    yield Note(
        STAGE,
        f"{len(data.train)} images of {len(data.classes)} classes, {len(data.validation)} held out{tests}; "
        f"{spec.name}, {counts.params / 1e6:.2f} M parameters, {counts.madds / 1e6:.1f} M MAdds at "
        f"{height}x{width}, last map {h}x{w}",
    )
    for caveat in task_of(spec).caveats(spec):
        yield Note(STAGE, caveat, warning=True)
    more = f", Dice loss x {recipe.dice:g}" if recipe.dice else ""
    more += f", weights averaged ({recipe.ema:g})" if recipe.ema else ""
    yield StageStart(
        STAGE,
        f"{f'recipe {name}: ' if name else ''}{recipe.optimizer}, {recipe.schedule}, lr {recipe.lr:.3g}, "
        f"{recipe.batch} images x {processes()[1]} a step, {recipe.steps} steps ({recipe.epochs:g} epochs){more}; "
        f"{device}, {recipe.precision}",
    )


def _adopted(net: Network, init: Mapping[str, Tensor], name: str) -> Note:
    """Start `net` from the weights `init`; the note says which parts stay new."""
    fresh = Counter(entry.partition(".")[0] for entry in adopt(net, dict(init), name))
    new = "".join(f"; new: the {part} ({n} tensors)" for part, n in fresh.items())
    return Note(STAGE, f"weights of {name}{new}")


def ready(net: nn.Module, train: Batches, recipe: Fit) -> None:
    """Batch-norm statistics of the present weights, over the same training images every time; in eval mode after."""
    if not recipe.recalibrate:
        return
    device = next(net.parameters()).device
    # `recalibrate` counts batches of at least 64 images; one pass at most, and no larger batch than in training
    batches_of = recipe.recalibrate * max(64, recipe.batch) // recipe.batch
    order = batch_order(len(train), recipe.batch, recipe.seed)
    rng = np.random.default_rng((recipe.seed, 2))
    augment = "none" if recipe.recalibrate_plain else recipe.augment
    batches = (
        normalise(train.batch(next(order), recipe.size, augment, rng)[0], recipe.size, device, statistics(net))
        for _ in range(min(batches_of, len(train) // recipe.batch))
    )
    recalibrate(net, batches)
