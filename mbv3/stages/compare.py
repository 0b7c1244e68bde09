"""The found network beside MobileNetV3-Large and -Small scaled to the same measured milliseconds, trained alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.data import ImageSet, load_class_folder
from mbv3.events import Event, Note, StageStart
from mbv3.latency import Device
from mbv3.nn import build
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir
from mbv3.spec import ArchSpec, count, dump_spec, load_spec, parse_spec, scale_spec
from mbv3.stages.judge import Images, calibration_batches, step_seconds, subset
from mbv3.training import Fit, evaluate, fit, load_checkpoint, recalibrate, save_checkpoint

__all__ = ["rivals_at", "train_and_compare"]

STAGE = "training"
RIVALS = ("mobilenet_v3_large", "mobilenet_v3_small")


def rivals_at(device: Device, found: ArchSpec) -> list[tuple[ArchSpec, float]]:
    """MobileNetV3-Large and -Small at the found network's resolution and classes, their width chosen so that their
    measured time is nearest to the found network's, all timed in the same rounds. (network, ms); the found first."""
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
    chosen = [(found, measured[0])]
    for name in RIVALS:
        mine = [(s, t) for s, t in zip(near, measured[1:], strict=True) if s.name.startswith(name + "@")]
        chosen.append(min(mine, key=lambda m: abs(m[1] - measured[0])))
    return chosen


def train_and_compare(
    options: Options, run: RunDir, found: ArchSpec, images: Images, device: Device | None, netadapt_top1: float
) -> Iterator[Event]:
    """Train the found network from scratch (Howard 2019, section 4.2) and, with --test, its rivals the same way;
    accuracies go to run.json, the found network's weights to weights.safetensors."""
    plan: dict[str, Any] = run.record["plan"]
    test: ImageSet = images.held_out
    if options.test is not None:
        test = load_class_folder(Path(options.test), images.size[0], classes=images.train.classes)
    networks: list[tuple[ArchSpec, float | None]] = [(found, run.record.get("measured_ms"))]
    if options.test is not None and device is not None:
        if "rivals" not in plan:
            yield StageStart(STAGE, "scaling MobileNetV3-Large and -Small to the same measured milliseconds")
            plan["rivals"] = [[dump_spec(s), ms] for s, ms in rivals_at(device, found)]
            run.save()
        networks = [(found if i == 0 else parse_spec(t), ms) for i, (t, ms) in enumerate(plan["rivals"])]
    batch = min(128, len(images.train))
    if "final_steps" not in plan:
        epoch = max(1, len(images.train) // batch)
        if options.final_epochs is not None:
            plan["final_steps"] = int(options.final_epochs * epoch)
        elif options.estimate_only:
            plan["final_steps"] = 2 * epoch
        else:
            given = 0.2 * options.minutes * 60 / len(networks)
            plan["final_steps"] = int(min(given / step_seconds(found, images, batch), 60 * epoch))
        run.save()
    if plan["final_steps"] == 0:
        return
    steps = plan["final_steps"]
    recipe = Fit(steps=steps, size=images.size, batch=batch, lr=0.2, weight_decay=1e-4, seed=options.seed)
    yield StageStart(STAGE, f"training {len(networks)} network(s) from scratch, {steps} steps each")
    rows: list[dict[str, Any]] = []
    for i, (spec, ms) in enumerate(networks):
        done = run.path / f"trained-{i}.safetensors"
        net = build(spec, options.seed)
        kept = load_checkpoint(done)
        if kept is not None:
            net.load_state_dict(kept[0]["net"])
        else:
            yield from fit(net, images.train, recipe, stage=STAGE, checkpoint=run.path / f"training-{i}.safetensors")
            recalibrate(net, calibration_batches(images, 16))
            save_checkpoint(done, {"net": net.state_dict()}, {"spec": spec.name})
        score = evaluate(net, test, images.size)
        if i == 0:
            # the paper trains the result from scratch; a budget too short for that must not spoil NetAdapt's weights
            plan["keep_trained"] = evaluate(net, subset(images.held_out, 512), images.size).top1 >= netadapt_top1
        counts = count(spec)
        name = "found" if i == 0 else spec.name
        rows.append(
            {
                "name": name, "ms": ms, "params": counts.params, "madds": counts.madds,
                "top1": round(score.top1, 2), "sigma": round(score.sigma, 2), "n": score.n,
            }
        )  # fmt: skip
        yield Note(STAGE, f"{name}: {score.top1:.2f} +- {score.sigma:.2f} % top-1 on {score.n} images")
        off = abs(ms / networks[0][1] - 1) if ms and networks[0][1] else 0.0
        if off > 0.03:
            run.note(f"{name} takes {100 * off:.0f} % more or less time than the found network: no width is nearer")
        run.save(comparison=rows)
