"""`mbv3 train`: a spec and images to a trained network in a run directory, resumable."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn

from mbv3.data import ImageSet
from mbv3.errors import BadInput
from mbv3.events import Done, Event, Note, Progress, RunStarted, StageStart, watched
from mbv3.export import read_any_weights
from mbv3.files import discard, write_atomic
from mbv3.nn import build
from mbv3.progress import drain, silent
from mbv3.record import Images, TrainRecord
from mbv3.report import contact_sheet, training_curve
from mbv3.runs.declare import moved, takes, there
from mbv3.runs.init_options import fitting
from mbv3.runs.rundir import RunDir, file_sha256, versions
from mbv3.runs.train_log import logged
from mbv3.runs.train_options import TrainOptions
from mbv3.runs.train_result import TrainResult
from mbv3.spec import ArchSpec, Classify, count, dump_spec, is_name, load_spec, parse_spec, with_head
from mbv3.stages import CHECKPOINT, Learned, default_device, far_recipe, learn, on_network
from mbv3.tasks import PREFIX, TASKS, Source, TaskData, class_folders, shaped, task_of
from mbv3.training import (
    Diverged,
    Fit,
    adopt,
    load_checkpoint,
    processes,
    recipe_for,
    save_weights,
    together,
    why_recipe,
)

__all__ = ["train", "train_events"]

PIXELS = ("pixels-*.u8", "pixels-*.json", "images.json")  # removed at the end
R = TypeVar("R")


@takes(TrainOptions)
def train(
    spec: ArchSpec | str | None = None,
    *,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    **options: Any,
) -> TrainResult:
    """Train `spec`, a network or the name or YAML file of one, and score it. Shows progress on a terminal and in a
    notebook; `train_events` yields it.

    `out`: the run directory. `resume`: go on with an interrupted one, under its own options; `data` and `test` then say
    where its images are now, if they were moved.

    Raises:
        BadInput: options, data or weights that cannot be used.
        Diverged: the loss is not finite any more; the last good state is kept and named.
    """
    return drain(train_events(spec, out=out, resume=resume, **options))


@takes(TrainOptions)
def train_events(
    spec: ArchSpec | str | None = None,
    *,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    **options: Any,
) -> Generator[Event, None, TrainResult]:
    """`train` for those who show progress themselves: yields events, returns the result.

    Under torchrun every process calls it, and the first one yields events and writes.
    """
    with together():
        if resume is None:
            run, o, spec, notes = _new(spec, out, options)
        else:
            if spec is not None or out is not None:
                raise BadInput("--resume goes on with the run's own options; give it alone")
            run, o, spec = _again(Path(resume), moved(options))
            notes = ()
        yield RunStarted(run.path)
        if run.record.status == "done":
            result = TrainResult(run.path, run.record)
            yield Done("train", result.summary)
        elif run.writes:
            result = yield from _writing(o, run, spec, notes, new=resume is None)
        else:
            result = _beside(o, run, spec)
        return result


def _new(
    asked: ArchSpec | str | None, out: Path | str | None, options: dict[str, Any]
) -> tuple[RunDir[TrainRecord], TrainOptions, ArchSpec, tuple[Note, ...]]:
    """A run directory for a new training, and what to say of it. Raises: BadInput; then there is none."""
    if asked is None:
        raise BadInput("SPEC is missing: a YAML file or a name such as mobilenet_v3_small")
    network = load_spec(asked) if isinstance(asked, str) else asked
    o = TrainOptions.of(options)
    task, command = TASKS[o.task], o.command(network.name)
    notes: tuple[Note, ...] = ()
    spec = shaped(
        network, task, resolution=o.resolution, head=o.head, output_stride=o.output_stride, unstride=o.unstride,
        dropout=o.dropout,
    )  # fmt: skip
    if o.resolution is None and isinstance(asked, str) and is_name(asked) and isinstance(network.head, Classify):
        size = task.usual_input(_source(o, Path(o.data)))
        if size is not None:
            spec = replace(spec, resolution=size)
            text = f"input {size[0]}x{size[1]}, by the shape of the images; --resolution takes another"
            notes = (Note("training", text),)
    path = Path(out or f"runs/train-{spec.name}-{Path(o.data).name}")
    rank, world = processes()
    if rank == 0:
        record = TrainRecord(
            command=command, args=o.as_dict(), hashes={}, status="running", exit=None, stages={}, notes=()
        )
        run = RunDir.create(path, record)
        run.text("network.yaml", dump_spec(spec))
    if world > 1:
        distributed.barrier()
    return (run if rank == 0 else _opened(path)), o, spec, notes


def _again(path: Path, now: dict[str, Any]) -> tuple[RunDir[TrainRecord], TrainOptions, ArchSpec]:
    """An existing run. Raises: BadInput."""
    run = _opened(path)
    network = path / "network.yaml"
    try:
        spec = parse_spec(network.read_text("utf-8"), str(network))
    except OSError as e:
        raise BadInput(f"{network}: cannot be read ({e.strerror or e}); begin again with another --out") from None
    o = TrainOptions.of({**run.record.args, **now})
    if run.record.status != "done":
        there(o.as_dict(), path)
    return run, o, spec


def _opened(path: Path) -> RunDir[TrainRecord]:
    run = RunDir.open(path, TrainRecord)
    run.writes = processes()[0] == 0
    return run


def _writing(
    o: TrainOptions, run: RunDir[TrainRecord], spec: ArchSpec, notes: Sequence[Note], new: bool
) -> Generator[Event, None, TrainResult]:
    """The process that writes; the directory is locked."""
    run.lock()
    try:
        run.update(status="running", exit=None)
        return (yield from logged(run.path, _stages(o, run, spec, notes)))
    except BadInput as e:
        if new and not (run.path / CHECKPOINT).exists():
            discard(run.path, made=run.made)  # nothing was learned: the same --out is free for the next try
        else:
            run.update(status="failed", exit=e.exit_code)
        raise
    except (KeyboardInterrupt, GeneratorExit):
        run.update(status="interrupted", exit=4)
        raise
    except Diverged as e:
        kept = _keep_last_good(run)
        run.update(status="diverged", exit=1)
        if processes()[1] > 1:
            distributed.barrier()
        raise Diverged(f"{e}; {kept}") from None
    except Exception:
        run.update(status="failed", exit=1)
        raise
    finally:
        run.unlock()


def _beside(o: TrainOptions, run: RunDir[TrainRecord], spec: ArchSpec) -> TrainResult:
    """A process that trains beside the one that writes."""
    try:
        return drain(_stages(o, run, spec), silent)
    except Diverged:
        distributed.barrier()  # torchrun ends all processes when one ends, and the first is still writing
        raise


def _stages(
    o: TrainOptions, run: RunDir[TrainRecord], spec: ArchSpec, notes: Sequence[Note] = ()
) -> Generator[Event, None, TrainResult]:
    """Images, training, scores; what they leave in the run directory."""
    yield from notes
    _, world = processes()
    begun = (run.path / CHECKPOINT).exists()
    # weights of another network are refused before the images are decoded; their heads, when the classes are known
    start = _start(o, spec) if o.init is not None and not begun else None
    if start is not None:
        spec = start.spec
        for note in start.notes:
            yield Note("training", note)
    if o.teacher is not None and not begun:
        for note in _teacher(o, spec, None)[1]:
            yield Note("training", f"teacher: {note}")
    with run.stage("images"):
        data = yield from _images(o, run, spec)
    spec = with_head(spec, spec.head, data.outputs)
    name, far = o.recipe_name, ""
    if start is not None and o.recipe is None and isinstance(data.train, ImageSet):
        with run.stage("probe"):
            name, far = far_recipe(name, spec, start.weights, data.train)
    recipe = recipe_for(
        name, len(data.train), spec.resolution, processes=world, seed=o.seed, precision=_precision(o), **o.changes()
    )
    why = why_recipe(name, o.recipe is not None, o.init is not None, o.epochs is None, len(data.train))
    recipe, named = on_network(recipe, spec), f"{name} ({'; '.join(filter(None, (why, far)))})"
    if begun:
        recipe, name, named = _as_begun(run.record, recipe), run.record.recipe_name or name, "as it was begun"
    _refuse_another(run, o, data)
    teacher = _teacher(o, spec, data.outputs)[0] if o.teacher is not None else None
    _describe(run, o, spec, data, recipe, name)
    learned = yield from _timed(
        run, "training",
        learn(
            spec, data, recipe, init=start.weights if start else None, init_name=start.name if start else "",
            recipe_name=named, teacher=teacher, score_every=o.score_every, keep=run,
        ),
    )  # fmt: skip
    result = _concluded(run, o, data, learned)
    yield Done("train", result.summary)
    return result


def _timed(run: RunDir[TrainRecord], first: str, events: Generator[Event, None, R]) -> Generator[Event, None, R]:
    """`events`, the time of their stages added to run.json: `first`, then whatever stage an event begins."""
    now = first
    with ExitStack() as stage:

        def see(event: Event) -> None:
            nonlocal now
            if isinstance(event, (StageStart, Progress)) and event.stage != now:
                now = event.stage
                stage.close()
                stage.enter_context(run.stage(now))

        stage.enter_context(run.stage(now))
        return (yield from watched(events, see))


class _Start(NamedTuple):
    weights: dict[str, Tensor]
    name: str  # of the file, with the framework whose names it has
    spec: ArchSpec  # the network that gives their outputs: its padding may be TensorFlow's
    notes: tuple[str, ...]  # what was done with them


def _start(o: TrainOptions, spec: ArchSpec) -> _Start:
    """The weights of --init. Raises: BadInput: they are of another network."""
    assert o.init is not None
    found = read_any_weights(Path(o.init), spec)
    try:
        adopt(build(found.spec, o.seed), found.state, o.init)
    except BadInput as e:
        raise BadInput(f"{e}{fitting(Path(o.init), spec.name, 'give it as SPEC')}") from None
    name = o.init + (f" (names of {found.framework})" if found.framework != "mbv3" else "")
    return _Start(found.state, name, found.spec, found.notes)


def _teacher(o: TrainOptions, spec: ArchSpec, classes: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The teacher with `classes` outputs (None: as many as its spec has, for a first look at its weights), and what was
    done with its weights."""
    assert o.teacher is not None and o.teacher_weights is not None
    larger = load_spec(o.teacher)
    if task_of(larger).name != o.task:
        raise BadInput(f"--teacher {o.teacher}: has a head for {task_of(larger).name}, not for {o.task}")
    larger = with_head(replace(larger, resolution=spec.resolution), larger.head, classes)
    found = read_any_weights(Path(o.teacher_weights), larger)
    net = build(found.spec, 0)
    adopt(net, found.state, o.teacher_weights, new_head=classes is None)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval(), found.notes


def _precision(o: TrainOptions) -> str:
    if o.precision != "auto":
        return o.precision
    return "bf16" if default_device().type == "cuda" and torch.cuda.is_bf16_supported(False) else "fp32"


def _images(o: TrainOptions, run: RunDir[TrainRecord], spec: ArchSpec) -> Generator[Event, None, TaskData]:
    """The task's data. Under torchrun the first process decodes, and the others then find its files."""
    rank, world = processes()
    if rank > 0:
        distributed.barrier()
    path = Path(o.data)
    if o.data.startswith(PREFIX):
        path = run.path / "images"
        if rank == 0 and not (run.path / "images.json").exists():
            yield from class_folders(o.data.removeprefix(PREFIX), path)
            run.text("images.json", json.dumps({"source": o.data}) + "\n")
    data = yield from TASKS[o.task].load(spec, _source(o, path, run.path))
    if rank == 0 and world > 1:
        distributed.barrier()
    return data


def _source(o: TrainOptions, path: Path, store: Path | None = None) -> Source:
    return Source(
        path=path, test=Path(o.test) if o.test else None, augment=o.augment_name, seed=o.seed,
        skip_broken=o.skip_broken, store=store, store_gb=o.store_gb,
    )  # fmt: skip


def _as_begun(record: TrainRecord, recipe: Fit) -> Fit:
    """The recipe that a begun training goes on by, whatever `recipe` would be now. What recipes did not have yet is at
    its default; what JSON cannot say, an infinite clip, is as in `recipe`."""
    then = record.recipe
    if not then:
        return recipe
    values: dict[str, Any] = {f.name: then.get(f.name, f.default) for f in fields(Fit)}
    values["size"] = tuple(values["size"])
    return replace(recipe, **{name: value for name, value in values.items() if value is not None})


def _refuse_another(run: RunDir[TrainRecord], o: TrainOptions, data: TaskData) -> None:
    """Raises: BadInput: the run began with other images, another teacher or number of processes: its steps would not go
    on."""
    then = run.record
    if then.data_sha256 not in (None, data.sha256):
        raise BadInput(
            f"--resume {run.path}: the images of {o.data} are not those that this training began with; restore them, "
            "or begin again with another --out"
        )
    sha = file_sha256(Path(o.teacher_weights)) if o.teacher_weights is not None else None
    if then.teacher_sha256 not in (None, sha):
        raise BadInput(f"--resume {run.path}: {o.teacher_weights} is not the teacher that this training began with")
    run.record = replace(then, data_sha256=data.sha256, teacher_sha256=sha, args=o.as_dict())
    now = processes()[1]
    if (run.path / CHECKPOINT).exists() and then.processes not in (None, now):
        raise BadInput(
            f"--resume {run.path}: it began with processes {then.processes}, now {now}; resume it with as many, or "
            "begin again with another --out"
        )


def _describe(
    run: RunDir[TrainRecord], o: TrainOptions, spec: ArchSpec, data: TaskData, recipe: Fit, name: str
) -> None:
    """What is trained, into run.json."""
    counts = count(spec)
    run.update(
        network=spec.name, params=counts.params, madds=counts.madds, classes=tuple(data.classes), task=o.task,
        images=Images(training=len(data.train), validation=len(data.validation), test=len(data.test or ())),
        recipe=asdict(recipe), recipe_name=name,
        device=str(default_device()), processes=processes()[1], threads=torch.get_num_threads(), versions=versions(),
        started=run.record.started or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )  # fmt: skip


def _concluded(run: RunDir[TrainRecord], o: TrainOptions, data: TaskData, learned: Learned) -> TrainResult:
    """Weights, curve, contact sheet and scores; what only a resume needs is removed."""
    spec, judged = learned.spec, data.validation if data.test is None else data.test
    with run.stage("scoring"):
        sheet = data.panels(learned.net, judged, spec.resolution)
    metrics = {k: round(v, 3) for k, v in learned.metrics.items()}
    if run.writes:
        save_weights(
            run.path / "weights.safetensors",
            learned.state,
            (spec.mean, spec.std),
            network=spec.name,
            classes=json.dumps(data.classes),
        )
        if learned.rows:
            title = f"{spec.name}, recipe {run.record.recipe_name}"
            rows = [dict(row) for row in learned.rows]
            write_atomic(run.path / "curve.png", training_curve(rows, data.main_metric, title))
        main = f"{data.main_metric} {learned.metrics[data.main_metric]:.2f} %"
        title = f"{spec.name} on {learned.judged_on} images, {main}"
        write_atomic(run.path / "predictions.png", contact_sheet(sheet, data.classes, title))
        run.hash(**{name: file_sha256(run.path / name) for name in ("network.yaml", "weights.safetensors")})
    run.update(
        log=learned.rows[-1] if learned.rows else None, metrics=metrics, judged_on=learned.judged_on, n=learned.n,
        by_class={k: None if math.isnan(v) else round(v, 3) for k, v in learned.by_class.items()},
        status="done", exit=0, total_s=round(sum(run.record.stages.values()), 1),
    )  # fmt: skip
    if run.writes:
        for file in _left_over(run.path):
            file.unlink()
        shutil.rmtree(run.path / "images", ignore_errors=True)  # of a data set of the hub
    return TrainResult(run.path, run.record)


def _left_over(folder: Path) -> Iterator[Path]:
    for pattern in (CHECKPOINT, *PIXELS):
        yield from list(folder.glob(pattern))


def _keep_last_good(run: RunDir[TrainRecord]) -> str:
    """After a loss that is not finite: the weights of the last checkpoint, and what to do with them."""
    found = load_checkpoint(run.path / CHECKPOINT)
    if found is None:
        return "nothing was learned before it; try a lower --lr"
    parts, meta = found
    save_weights(run.path / "weights.safetensors", parts.get("average") or parts["net"], network="before divergence")
    return (
        f"the state after step {meta['step']} is kept as {run.path / 'weights.safetensors'}; "
        "start from it with --init and a lower --lr"
    )
