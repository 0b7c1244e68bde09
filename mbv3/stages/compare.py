"""The found network beside MobileNetV3-Large and -Small scaled to the same measured milliseconds, trained alike."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from mbv3.data import ImageSet
from mbv3.events import Event, Note, StageStart
from mbv3.latency import Device
from mbv3.nn import Network, build
from mbv3.spec import ArchSpec, count, load_spec, scale_spec
from mbv3.stages.budget import Budget
from mbv3.stages.images import Images, calibration_batches, subset
from mbv3.stages.judge import step_seconds
from mbv3.stages.keep import Keep, Memory
from mbv3.training import Fit, evaluate, fit, load_checkpoint, recalibrate, save_checkpoint

__all__ = ["Compared", "Rival", "final_steps", "rivals_at", "train_alike"]

STAGE = "training"
RIVALS = ("mobilenet_v3_large", "mobilenet_v3_small")
BATCH = 128
MOST_EPOCHS, UNTIMED_EPOCHS = 60, 2
CHOSEN_ON = 512  # held-out images that decide between two sets of weights


@dataclass(frozen=True)
class Rival:
    """A network and its measured ms, None where nothing was timed."""

    spec: ArchSpec
    ms: float | None


@dataclass(frozen=True)
class Compared:
    """A network trained as all others of the comparison: top-1 and its standard error in percent on `n` test images,
    top-1 on held-out images, and its weights."""

    spec: ArchSpec
    ms: float | None
    top1: float
    error: float
    n: int
    held_out_top1: float
    state: dict[str, Tensor]

    @property
    def params(self) -> int:
        return count(self.spec).params

    @property
    def madds(self) -> int:
        return count(self.spec).madds


def rivals_at(device: Device, found: ArchSpec) -> list[Rival]:
    """`found` first, then MobileNetV3-Large and -Small at its resolution and classes, their widths chosen so that
    their measured time is nearest to its own; all are timed in the same rounds."""
    widths = np.arange(4, 121) / 20
    families: list[list[ArchSpec]] = []
    for name in RIVALS:
        base = load_spec(name)
        base = replace(base, head=replace(base.head, classes=found.head.classes))
        scaled = [replace(scale_spec(base, float(w), found.resolution), name=f"{name}@{w:g}") for w in widths]
        families.append(scaled)
    [aim] = device.networks([found]).ms
    near: list[ArchSpec] = []
    for family in families:
        coarse = family[::8]
        times = device.networks(coarse, rounds=3, parts=2).ms
        best = int(np.argmin(np.abs(np.log(np.array(times) / aim)))) * 8
        near += family[max(0, best - 6) : best + 7]
    measured = device.networks([found, *near]).ms
    chosen = [Rival(found, measured[0])]
    for name in RIVALS:
        mine = [(s, t) for s, t in zip(near, measured[1:], strict=True) if s.name.startswith(name + "@")]
        chosen.append(Rival(*min(mine, key=lambda m: abs(m[1] - measured[0]))))
    return chosen


def final_steps(spec: ArchSpec, images: Images, networks: int, epochs: float | None, budget: Budget, keep: Keep) -> int:
    """Training steps of each of `networks` networks: `epochs` by hand, else what the budget's share allows."""
    batch = min(BATCH, len(images.train))
    epoch = max(1, len(images.train) // batch)
    return keep.value(
        "final_steps",
        lambda: budget.amount(
            None if epochs is None else int(epochs * epoch),
            UNTIMED_EPOCHS * epoch,
            lambda: min(budget.seconds("training") / networks / step_seconds(spec, images, batch), MOST_EPOCHS * epoch),
        ),
    )


def train_alike(
    rivals: Sequence[Rival],
    images: Images,
    steps: int,
    *,
    test: ImageSet | None = None,
    seed: int = 0,
    keep: Keep | None = None,
) -> Generator[Event, None, list[Compared]]:
    """Train every network from scratch by one recipe for `steps` steps (Howard 2019, section 4.2) and score it on
    `test`, by default the held-out images."""
    keep = keep or Memory()
    test = images.held_out if test is None else test
    batch = min(BATCH, len(images.train))
    recipe = Fit(steps=steps, size=images.size, batch=batch, lr=0.2, weight_decay=1e-4, seed=seed)
    yield StageStart(STAGE, f"training {len(rivals)} network(s) from scratch, {steps} steps each")
    compared: list[Compared] = []
    for i, rival in enumerate(rivals):
        net = yield from _trained(i, rival.spec, images, recipe, keep)
        score = evaluate(net, test, images.size)
        held = evaluate(net, subset(images.held_out, CHOSEN_ON), images.size).top1
        name = "found" if i == 0 else rival.spec.name
        yield Note(STAGE, f"{name}: {score.top1:.2f} +- {score.sigma:.2f} % top-1 on {score.n} images")
        first = rivals[0].ms
        off = abs(rival.ms / first - 1) if rival.ms and first else 0.0
        if off > 0.03:
            keep.note(f"{name} takes {100 * off:.0f} % more or less time than the found network: no width is nearer")
        compared.append(Compared(rival.spec, rival.ms, score.top1, score.sigma, score.n, held, dict(net.state_dict())))
    return compared


def _trained(i: int, spec: ArchSpec, images: Images, recipe: Fit, keep: Keep) -> Generator[Event, None, Network]:
    """Network `i` of the comparison with its trained weights, those kept where it was trained before."""
    done = keep.file(f"trained-{i}.safetensors")
    net = build(spec, recipe.seed)
    kept = load_checkpoint(done) if done is not None else None
    if kept is not None:
        net.load_state_dict(kept[0]["net"])
        return net
    yield from fit(net, images.train, recipe, stage=STAGE, checkpoint=keep.file(f"training-{i}.safetensors"))
    recalibrate(net, calibration_batches(images, 16))
    if done is not None:
        save_checkpoint(done, {"net": net.state_dict()}, {"spec": spec.name})
    return net
