"""`mbv3 train`: a spec and images to a trained network, resumable, with its score, curve and contact sheet."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from mbv3.data import batch_order, normalise
from mbv3.errors import BadInput
from mbv3.events import Done, Event, Note, Progress, StageStart
from mbv3.files import write_atomic
from mbv3.nn import build
from mbv3.pipeline.job import STAGE, Job
from mbv3.pipeline.job_classify import classify_job
from mbv3.pipeline.job_detect import detect_job
from mbv3.pipeline.job_hub import PREFIX, class_folders
from mbv3.pipeline.job_segment import segment_job
from mbv3.pipeline.rundir import RunDir, file_sha256, json_ready, versions
from mbv3.pipeline.train_init import initial_weights
from mbv3.pipeline.train_log import logged, read_rows, write_rows
from mbv3.pipeline.train_options import TrainOptions
from mbv3.pipeline.train_shape import shaped, smallest_map, task_of
from mbv3.report import contact_sheet, training_curve
from mbv3.spec import ArchSpec, count, dump_spec, load_spec, parse_spec, with_head
from mbv3.training import (
    RECIPES,
    Diverged,
    Epoch,
    Fit,
    Objective,
    WithAux,
    adopt,
    and_aux,
    distilled,
    fit,
    load_checkpoint,
    measure,
    processes,
    recalibrate,
    recipe_for,
    save_weights,
    together,
    why_recipe,
)

__all__ = ["train"]

FORMAT = "mbv3-train/1"
_PIXELS = ("pixels-*.u8", "pixels-*.json", "images.json")


def train(
    spec: ArchSpec | None = None, *, out: Path | str | None = None, resume: Path | str | None = None, **options: Any
) -> Iterator[Event]:
    """Train `spec`; options are those of TrainOptions. Yields events, at last Done with the content of run.json.

    Raises:
        BadInput: options, data or weights that cannot be used.
        Diverged: the loss is not finite any more; the last good state is kept and named.
    """
    with together():
        rank, world = processes()
        if resume is not None:
            run = RunDir.open(Path(resume), FORMAT)
            if run.record["status"] == "done":
                yield Note("run", f"run directory {run.path}")
                yield Done("train", _verdict(run.record), run.record)
                return
            o = TrainOptions.of(run.record["args"])
            spec = parse_spec((run.path / "network.yaml").read_text("utf-8"), str(run.path / "network.yaml"))
        else:
            if spec is None:
                raise BadInput("SPEC is needed: a YAML file or a name such as mobilenet_v3_small")
            o = TrainOptions.of(options)
            command = o.command(spec.name)
            spec = shaped(spec, o)
            path = Path(out or f"runs/train-{spec.name}-{Path(o.data).name}")
            if rank == 0:
                run = RunDir.create(path, {"command": command, "args": o.as_dict(), "hashes": {}}, FORMAT)
                run.write("network.yaml", dump_spec(spec))
            if world > 1:
                distributed.barrier()
            run = run if rank == 0 else RunDir.open(path, FORMAT)
        yield Note("run", f"run directory {run.path}")
        if rank > 0:
            run.save = lambda **changes: run.record.update(changes)  # type: ignore[method-assign]
            try:
                yield from (e for e in _stages(o, run, spec) if isinstance(e, Done))
            except Diverged:
                distributed.barrier()  # torchrun ends them all when one ends: the first is still writing
                raise
            return
        run.lock()
        try:
            yield from logged(run.path, _stages(o, run, spec))
        except BadInput:
            if resume is None and not (run.path / "checkpoint.safetensors").exists():
                shutil.rmtree(run.path)  # nothing was learned: the same --out is free for the next try
            raise
        except Diverged as e:
            kept = _keep_last_good(run)
            run.save(status="diverged", exit=1)
            if world > 1:
                distributed.barrier()
            raise Diverged(f"{e}; {kept}") from None
        finally:
            run.unlock()


def _stages(o: TrainOptions, run: RunDir, spec: ArchSpec) -> Iterator[Event]:
    rank, world = processes()
    where = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    precision = o.precision
    if precision == "auto":
        precision = "bf16" if where.type == "cuda" and torch.cuda.is_bf16_supported(False) else "fp32"
    begun = (run.path / "checkpoint.safetensors").exists()
    started = initial_weights(Path(o.init), spec) if o.init is not None and not begun else None
    # weights of another network are told before the images are decoded; their heads, when the classes are known
    if o.init is not None and started is not None:
        adopt(build(spec, o.seed), started[0], o.init)
    if o.teacher is not None and not begun:
        _teacher(o, spec, None)
    job: Job | None = None
    with run.stage("images"):
        if rank > 0:
            distributed.barrier()
        for event in _job(o, run, spec):
            if isinstance(event, Job):
                job = event
            else:
                yield event
        if rank == 0 and world > 1:
            distributed.barrier()
    assert job is not None
    spec = with_head(spec, spec.head, len(job.classes) + (o.task == "detect"))  # a detector counts the background
    recipe = recipe_for(
        o.recipe_name, len(job.train), spec.resolution, processes=world, seed=o.seed, precision=precision, **o.changes()
    )
    if run.record.setdefault("data_sha256", job.sha256) != job.sha256:
        raise BadInput(f"--resume {run.path}: the images of {o.data} are not those that this training began with; put "
                       "them back, or begin anew with another --out")  # fmt: skip
    _same_training(run, recipe, world)
    net = build(spec, o.seed)
    yield from _describe(o, run, spec, job, recipe, where)
    if o.init is not None and started is not None:
        state, whose = started
        left = adopt(net, state, o.init)
        of = f" (names of {whose})" if whose != "mbv3" else ""
        fresh = Counter(name.partition(".")[0] for name in left)
        new = "".join(f"; new: the {part} ({n} tensors)" for part, n in fresh.items())
        yield Note(STAGE, f"weights of {o.init}{of}{new}")
    net.to(where)
    objective = job.objective(recipe)
    if o.teacher is not None and o.teacher_weights is not None:
        sha = file_sha256(Path(o.teacher_weights))
        if run.record.setdefault("teacher_sha256", sha) != sha:
            raise BadInput(f"--resume {run.path}: {o.teacher_weights} is not the teacher that this training began with")
        objective = distilled(objective, _teacher(o, spec, len(job.classes)).to(where), recipe)
    module: nn.Module | None = None
    if net.aux is not None:
        module, objective = WithAux(net), and_aux(objective)
    if rank == 0:
        run.write("network.yaml", dump_spec(spec))
    yield from _learn(o, run, net, job, recipe, objective, module)
    yield from _conclude(run, spec, _ready(net, job, recipe), job, recipe)


def _same_training(run: RunDir, recipe: Fit, world: int) -> None:
    """Raises: BadInput when the run began with another recipe or number of processes: its steps would not go on."""
    then = run.record
    if not (run.path / "checkpoint.safetensors").exists() or "recipe" not in then:
        return
    pairs = [(k, then["recipe"].get(k), v) for k, v in json.loads(json.dumps(json_ready(asdict(recipe)))).items()]
    apart = [f"{k} {a}, now {b}" for k, a, b in (*pairs, ("processes", then.get("processes"), world)) if a != b]
    if apart:
        raise BadInput(f"--resume {run.path}: it began with {'; '.join(apart)}; go on with it as it began (the same "
                       "images, machine and processes), or begin anew with another --out")  # fmt: skip


def _job(o: TrainOptions, run: RunDir, spec: ArchSpec) -> Iterator[Event | Job]:
    if o.data.startswith(PREFIX):
        fetched = run.path / "images"
        if processes()[0] == 0 and not (run.path / "images.json").exists():
            yield from class_folders(o.data.removeprefix(PREFIX), fetched)
            run.write("images.json", json.dumps({"source": o.data}) + "\n")
        o = replace(o, data=str(fetched))
    if o.task == "classify":
        yield from classify_job(o, spec.resolution, run.path, o.augment or RECIPES[o.recipe_name].augment)
    elif o.task == "segment":
        yield from segment_job(o, spec.resolution, run.path)
    else:
        yield from detect_job(o, spec, run.path)


def _teacher(o: TrainOptions, spec: ArchSpec, classes: int | None) -> nn.Module:
    """The bigger network; of so many classes, or of any, for a first look at its weights."""
    assert o.teacher is not None and o.teacher_weights is not None
    bigger = load_spec(o.teacher)
    if task_of(bigger) != o.task:
        raise BadInput(f"--teacher {o.teacher}: has a head for {task_of(bigger)}, not for {o.task}")
    bigger = with_head(replace(bigger, resolution=spec.resolution), bigger.head, classes or bigger.head.classes)
    net = build(bigger, 0)
    state = initial_weights(Path(o.teacher_weights), bigger)[0]
    adopt(net, state, o.teacher_weights, new_head=classes is None)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval()


def _describe(
    o: TrainOptions, run: RunDir, spec: ArchSpec, job: Job, recipe: Fit, where: torch.device
) -> Iterator[Event]:
    """What is about to happen, in words and in run.json."""
    counts = count(spec)
    h, w = smallest_map(spec)
    tests = f", {len(job.test)} for the test" if job.test is not None else ""
    yield Note(
        STAGE,
        f"{len(job.train)} images of {len(job.classes)} classes, {len(job.validation)} held out{tests}; {spec.name}, "
        f"{counts.params / 1e6:.2f} M parameters, {counts.madds / 1e6:.1f} M MAdds at "
        f"{spec.resolution[0]}x{spec.resolution[1]}, last map {h}x{w}",
    )
    if o.task == "classify" and max(h, w) == 1:
        yield Note(
            STAGE,
            f"at {spec.resolution[0]} px the network's last map is {h}x{w}: --unstride 1 or 2 takes its first strides "
            "away, as is usual for small images",
            warning=True,
        )
    why = why_recipe(o.recipe_name, o.recipe is not None, o.init is not None, o.epochs is None, len(job.train))
    average = f", weights averaged ({recipe.ema:g})" if recipe.ema else ""
    yield StageStart(
        STAGE,
        f"recipe {o.recipe_name} ({why}): {recipe.optimizer}, {recipe.schedule}, lr {recipe.lr:.3g}, "
        f"{recipe.batch} images x {processes()[1]} a step, {recipe.steps} steps ({recipe.epochs:g} epochs){average}; "
        f"{where}, {recipe.precision}",
    )
    run.save(
        network=spec.name, params=counts.params, madds=counts.madds, classes=list(job.classes), task=o.task,
        images={"training": len(job.train), "validation": len(job.validation), "test": len(job.test or ())},
        recipe=asdict(recipe),
        device=str(where), processes=processes()[1], threads=torch.get_num_threads(), versions=versions(),
        started=run.record.get("started") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )  # fmt: skip


def _learn(
    o: TrainOptions, run: RunDir, net: nn.Module, job: Job, recipe: Fit, objective: Objective, module: nn.Module | None
) -> Iterator[Event]:
    checkpoint = run.path / "checkpoint.safetensors"
    rank, _ = processes()
    found = load_checkpoint(checkpoint)
    start = int(found[1]["step"]) if found else 0
    rows = [r for r in read_rows(run.path / "log.csv") if r["step"] <= start]
    if found:
        yield Note(STAGE, f"goes on at step {start} of {recipe.steps}")
    epochs = -(-recipe.steps // recipe.epoch_steps)
    # a score costs time: about forty points make a curve
    every = o.score_every or max(1, epochs // 40)
    began = time.monotonic()

    def at_epoch(e: Epoch) -> Iterator[Event]:
        number = e.step / recipe.epoch_steps
        row: dict[str, float] = {
            "epoch": round(number, 3), "step": e.step, "loss": e.loss, "lr": e.lr, "images_s": e.images_s,
            "waiting": e.waiting,
        }  # fmt: skip
        nth = -(-e.step // recipe.epoch_steps)
        text = ""
        if nth % every == 0 or e.step == recipe.steps:
            # a copy: the training's own batch norms go on as they were, scored or not
            judged = _ready(copy.deepcopy(net), job, recipe)
            figures = measure(judged, job.validation, job.metric(job.validation), recipe.size, recipe.batch)
            row |= figures
            text = ", " + ", ".join(f"{k} {v:.2f} %" for k, v in figures.items())
        rows.append(row)
        if rank == 0:
            write_rows(run.path / "log.csv", rows)
        left = (recipe.steps - e.step) * (time.monotonic() - began) / max(1, e.step - start)
        yield Note(
            STAGE,
            f"epoch {number:.4g} of {recipe.epochs:g}: loss {e.loss:.4f}{text}; lr {e.lr:.2g}, "
            f"{e.images_s:.0f} images/s, {100 * e.waiting:.1f} % of it waiting for images, {left / 60:.1f} min left",
        )

    with run.stage("training"):
        yield from fit(net, job.train, recipe, stage=STAGE, checkpoint=checkpoint, objective=objective,
                       module=module, at_epoch=at_epoch, keep=True)  # fmt: skip
    if rank == 0 and rows:
        title = f"{run.record['network']}, recipe {o.recipe_name}"
        write_atomic(run.path / "curve.png", training_curve(rows, job.counts, title))
    run.save(log=rows[-1] if rows else None)


def _ready(net: nn.Module, job: Job, recipe: Fit) -> nn.Module:
    """Batch-norm statistics of the weights as they are now, over the same training images every time."""
    if recipe.recalibrate:
        device = next(net.parameters()).device
        # as many images as so many batches of at least 64 have, one pass at most, no more at once than training holds
        batches_of = recipe.recalibrate * max(64, recipe.batch) // recipe.batch
        order = batch_order(len(job.train), recipe.batch, recipe.seed)
        rng = np.random.default_rng((recipe.seed, 2))
        augment = "none" if recipe.recalibrate_plain else recipe.augment
        batches = (
            normalise(job.train.batch(next(order), recipe.size, augment, rng)[0], recipe.size, device)
            for _ in range(min(batches_of, len(job.train) // recipe.batch))
        )
        recalibrate(net, batches)
    return net


def _conclude(run: RunDir, spec: ArchSpec, net: nn.Module, job: Job, recipe: Fit) -> Iterator[Event]:
    """Weights, the last word on the test images, the contact sheet."""
    rank, _ = processes()
    if rank == 0:
        state = {k: v.cpu() for k, v in net.state_dict().items()}
        save_weights(run.path / "weights.safetensors", state, network=spec.name, classes=json.dumps(job.classes))
    judged = job.test if job.test is not None else job.validation
    on = "test" if job.test is not None else "held-out"
    with run.stage("scoring"):
        yield Progress("scoring", 0, 1, f"{len(judged)} {on} images")
        figures = measure(net, judged, job.metric(judged), spec.resolution, recipe.batch)
        sheet = job.panels(net, judged, spec.resolution)
    if rank > 0:
        yield Done("train", "", run.record)
        return
    title = f"{spec.name} on {on} images, {job.counts} {figures[job.counts]:.2f} %"
    write_atomic(run.path / "predictions.png", contact_sheet(sheet, job.classes, title))
    for name in ("network.yaml", "weights.safetensors"):
        run.record["hashes"][name] = file_sha256(run.path / name)
    run.save(
        **{k: round(v, 3) for k, v in figures.items()}, metrics={k: round(v, 3) for k, v in figures.items()},
        judged_on=on, n=len(judged), status="done", exit=0, total_s=round(sum(run.record["stages"].values()), 1),
    )  # fmt: skip
    for pattern in ("checkpoint.safetensors", *_PIXELS):
        for file in run.path.glob(pattern):
            file.unlink()
    shutil.rmtree(run.path / "images", ignore_errors=True)  # of a data set from the hub
    yield Done("train", _verdict(run.record), run.record)


def _verdict(record: dict[str, Any]) -> str:
    figures = ", ".join(f"{k} {v:.2f} %" for k, v in record["metrics"].items())
    return f"{figures} on {record['n']} {record['judged_on']} images; {record['total_s'] / 60:.1f} min"


def _keep_last_good(run: RunDir) -> str:
    """After a loss that is not finite: the weights of the last checkpoint, and what to do with them."""
    found = load_checkpoint(run.path / "checkpoint.safetensors")
    if found is None:
        return "nothing was learned before it; try a lower --lr"
    parts, meta = found
    save_weights(run.path / "weights.safetensors", parts.get("average") or parts["net"], network="before divergence")
    return (
        f"the state after step {meta['step']} is kept as {run.path / 'weights.safetensors'}; "
        "go on from it with --init and a lower --lr"
    )
