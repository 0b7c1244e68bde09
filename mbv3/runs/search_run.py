"""`mbv3-search`: from a target in milliseconds to a network, stage by stage, every stage resumable."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from mbv3 import __version__
from mbv3.errors import BadInput, Unreachable
from mbv3.events import Done, Event, Note, RunStarted
from mbv3.latency import open_runtime
from mbv3.progress import drain
from mbv3.record import Accuracy, Bound, SearchRecord
from mbv3.report import write_report
from mbv3.runs.beside import put_beside
from mbv3.runs.declare import moved, takes, there
from mbv3.runs.deliver import budget_of, deliver, guarded, predicted_accuracy, remove_checkpoints
from mbv3.runs.init_options import ADVICE
from mbv3.runs.netadapt_run import adapt_stages
from mbv3.runs.on_images import compete, own_shape, photos_of
from mbv3.runs.options import SOLVE, Options
from mbv3.runs.prepare import prepare, whole_view
from mbv3.runs.result import Found
from mbv3.runs.road import check_road, initial, road_stages
from mbv3.runs.rundir import RunDir, versions
from mbv3.runs.shared import Shared
from mbv3.search import REWARDS, SAMPLERS, Trial, register_reward, register_sampler
from mbv3.space import SearchSpace, SpaceLimits, load_space, scale
from mbv3.spec import ArchSpec, dump_spec, load_spec
from mbv3.stages import (
    TRIALS,
    Adapted,
    Contender,
    Images,
    Judge,
    Shape,
    SpaceLatency,
    adapt,
    adapt_predicted,
    check_limits,
    check_range,
    contenders_at,
    default_w,
    imagenet_judge,
    peek_photos,
    pick_seed,
    pick_starts,
    search,
    space_latency,
    supernet_judge,
    training_judge,
)
from mbv3.tables import Latency, one_space, read_table

__all__ = ["check_search", "find", "find_events", "new_record", "resumed"]


FEW_STARTS = 5  # of NetAdapt, where its result is one of several networks that learn the images
PROPOSED = "the ImageNet model proposes a network, and the images decide between it and what anyone could take"


@takes(Options)
def find(
    target_ms: float | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> Found:
    """Find a network that runs in `target_ms` on the device. Shows progress on a terminal and in a notebook;
    `find_events` yields it.

    `out`: the run directory. `resume`: go on with an interrupted one, under its own options. `sampler` may be an object
    of Optuna, such as `optuna.samplers.GPSampler()`, and `reward` a function of (accuracy as a share of 1, ms).

    Raises:
        BadInput: an option, a file or a folder cannot be used.
        Unreachable: the target lies outside what the space can reach on this device.
    """
    return drain(find_events(target_ms, out, resume, **_named(options)))


def _named(options: dict[str, Any]) -> dict[str, Any]:
    """`options` with an object for a sampler and a function for a reward under names; to go on with such a run, give
    the object to `register_sampler` or `register_reward` again."""
    sampler, reward = options.get("sampler"), options.get("reward")
    if isinstance(sampler, BaseSampler):
        name = _new_name(type(sampler).__name__, SAMPLERS)
        register_sampler(name, lambda space, seed: sampler)
        options = {**options, "sampler": name}
    if callable(reward):
        name = _new_name(getattr(reward, "__name__", type(reward).__name__), REWARDS)
        register_reward(name, lambda target_ms, w: reward)
        options = {**options, "reward": name}
    return options


def _new_name(name: str, taken: Collection[str]) -> str:
    """`name`, numbered where it is taken: two functions may have one name."""
    numbered = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
    return next(candidate for candidate in numbered if candidate not in taken)


def find_events(
    target_ms: float | None = None, out: str | Path | None = None, resume: str | Path | None = None, **options: Any
) -> Generator[Event, None, Found]:
    """Find a network that runs in `target_ms` on the device; what mbv3-search runs.

    `options` are those of `Options`. `resume` goes on with an interrupted run directory under its own options; `data`
    and `test` say where its images are now, if they were moved.

    Raises:
        BadInput: an option, a file or a folder cannot be used.
        Unreachable: the target lies outside what the space can reach on this device.
    """
    if resume is not None:
        if target_ms is not None or out is not None:
            raise BadInput("--resume goes on with the run's own options; give it alone")
        return (yield from resumed(RunDir.open(Path(resume), SearchRecord), moved(options)))
    if target_ms is None:
        raise BadInput("--target-ms is missing: how many milliseconds may one image take?")
    o = Options.of({"target_ms": target_ms, **options})
    check_search(o)
    network = load_spec(o.from_) if o.from_ is not None else None
    start = check_road(o, network) if network is not None else None
    record = new_record(o)
    if network is not None and start is not None:
        record = replace(record, network=dump_spec(network), init=initial(start))
    run = RunDir.create(Path(out) if out is not None else _free_folder(o.target_ms), record)
    yield RunStarted(run.path)
    if o.data is not None and start is None:
        yield Note("search", ADVICE, warning=True)
    return (yield from guarded(run, (road_stages if start else _chain)(o, run)))


def resumed(
    run: RunDir[SearchRecord], now: Mapping[str, Any] | None = None, shared: Shared | None = None
) -> Generator[Event, None, Found]:
    """Go on with a run to its end, where it is not there. `now`: where its images are. `shared`: of the runs that it is
    one of."""
    try:
        o = Options.of({**run.record.args, **(now or {})})
    except TypeError as e:
        raise BadInput(f"{run.path / 'run.json'}: its args were edited ({e})") from None
    if run.record.status == "done":
        remove_checkpoints(run)  # it may have been killed between its last two steps
        found = Found(run.path, run.record)
        if not found.report.exists():
            yield Note("report", f"wrote {write_report(run.path)}")
        yield Done("run", f"{run.path} is finished")
        return found
    there(o.as_dict(), run.path)
    if run.record.init is not None:
        work = road_stages(o, run)
    else:
        work = _chain(o, run, shared) if run.record.network is None else adapt_stages(o, run)
    return (yield from guarded(run, work))


def check_search(o: Options) -> None:
    """Everything that can be wrong with what was asked for, before anything is made. Raises: BadInput."""
    if not o.estimate_only:
        open_runtime(o.runtime, o.threads)
    space = load_space(o.space_name)
    o.headed(scale(space, 1.0, o.pinned_resolution))
    if o.data is not None and o.init is None:
        peek_photos(Path(o.data), Path(o.test) if o.test else None)
    if o.estimate_only:
        tables = [read_table(device, o.runtime, o.threads, o.force_table)[0] for device in o.devices]
        one_space(o.devices, tables)
        for device, table in zip(o.devices, tables, strict=True):
            try:
                _ = table.cost_model  # NetAdapt's cuts will need it, long after this
            except BadInput as e:
                raise BadInput(f"{device}: too small a table to estimate cut layers from ({e})") from None


def new_record(o: Options) -> SearchRecord:
    """The record of a run that begins."""
    return SearchRecord(
        version=__version__, command=o.command(), args=o.as_dict(), target_ms=o.target_ms, versions=versions(),
        seeds={"search": o.seed}, started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), hashes={},
        status="running", exit=None, stages={}, notes=(),
    )  # fmt: skip


def _free_folder(target_ms: float) -> Path:
    base = Path("runs") / f"{target_ms:g}ms"
    if not base.exists():
        return base
    n = 2
    while base.with_name(f"{base.name}-{n}").exists():
        n += 1
    return base.with_name(f"{base.name}-{n}")


def _chain(o: Options, run: RunDir[SearchRecord], shared: Shared | None = None) -> Generator[Event, None, Found]:
    shape, photos = (yield from own_shape(o, run)) if o.data is not None else (None, None)
    space, latency = yield from prepare(o, run, shape)
    yield from _caveats(o, run, space)
    cost = space_latency(space, latency)
    run.update(range_ms=cost.range_ms())
    smallest, largest = cost.range_ms()
    limits = o.limits.on(space)
    # a limit may keep networks far below the target
    check_range(min(o.target_ms, largest) if o.limits else o.target_ms, smallest, largest, space, o.scale != "auto")
    check_limits(space, limits, cost, o.scale != "auto")
    yield Note("table", f"networks of the space take {smallest:.3g} to {largest:.3g} ms here")
    if o.data is None:
        return (yield from _predicted(o, run, space, latency, cost, limits, shared))
    if photos is None:
        photos = yield from photos_of(o, run, space.resolution)
    images = replace(photos.images, size=space.resolution)
    if o.accuracy_kind == "imagenet":
        adapted = yield from _proposed(o, run, space, latency, cost, limits, shape)
    else:
        adapted = yield from _on_images(o, run, space, latency, cost, limits, images)
    at = shape or Shape(min(space.resolution))

    def make() -> list[Contender]:
        return contenders_at(
            adapted.spec, at, latency, o.target_ms, space=space, cost=cost, limits=o.limits, seed=o.seed
        )  # fmt: skip

    return (yield from compete(o, run, adapted, replace(photos, images=images), latency, make))


def _predicted(
    o: Options, run: RunDir[SearchRecord], space: SearchSpace, latency: Latency, cost: SpaceLatency,
    limits: SpaceLimits, shared: Shared | None,
) -> Generator[Event, None, Found]:  # fmt: skip
    """Without images: the ImageNet model scores, and stands for a training."""
    judge = imagenet_judge(space)
    starts, scored = yield from _starts(o, run, space, judge, cost, limits, shared)
    with run.stage("netadapt"):
        specs = [space.spec(t.genome, f"seed_{o.target_ms:g}ms") for t in starts]
        adapted = yield from adapt_predicted(specs, latency, o.target_ms, delta=o.delta, limits=o.limits, keep=run)
    assert adapted.estimate is not None
    _keep_seed(run, space, starts[adapted.start], specs[adapted.start])
    run.update(accuracy=predicted_accuracy(adapted.estimate))
    yield from put_beside(o, run, adapted, specs[adapted.start], latency, space, judge, cost, scored)
    return (yield from deliver(o, run, adapted, None, latency))


def _proposed(
    o: Options, run: RunDir[SearchRecord], space: SearchSpace, latency: Latency, cost: SpaceLatency,
    limits: SpaceLimits, shape: Shape | None,
) -> Generator[Event, None, Adapted]:  # fmt: skip
    """With images: what the ImageNet model proposes for them."""
    run.update(accuracy=Accuracy(value=None, kind="imagenet", unit="%", note=PROPOSED))
    yield Note("search", f"{PROPOSED}; --accuracy supernet searches by shared weights that are trained on the images")
    judge = imagenet_judge(whole_view(space, shape, run))
    starts, _ = yield from _starts(o, run, space, judge, cost, limits, None)
    # of networks without their first strides the model knows nothing: NetAdapt then only cuts what is over the target
    few = starts[: FEW_STARTS if shape is None or not shape.strides else 1]
    with run.stage("netadapt"):
        specs = [space.spec(t.genome, f"seed_{o.target_ms:g}ms") for t in few]
        adapted = yield from adapt_predicted(specs, latency, o.target_ms, delta=o.delta, limits=o.limits, keep=run)
    _keep_seed(run, space, starts[adapted.start], specs[adapted.start])
    return adapted


def _on_images(
    o: Options, run: RunDir[SearchRecord], space: SearchSpace, latency: Latency, cost: SpaceLatency,
    limits: SpaceLimits, images: Images,
) -> Generator[Event, None, Adapted]:  # fmt: skip
    """What shared weights or short trainings on the images choose, cut on them to the target."""
    with run.stage("accuracy"):
        judge = yield from _judge(o, run, space, images)
    with run.stage("search"):
        trials = yield from _trials(o, run, space, judge, cost, limits)
        best = pick_seed(trials, o.target_ms, o.seed_ratio)
    first = space.spec(best.genome, f"seed_{o.target_ms:g}ms")
    _keep_seed(run, space, best, first)
    run.update(accuracy=Accuracy(value=round(best.accuracy, 3), kind=judge.kind, unit="%", note=judge.note))
    with run.stage("netadapt"):
        return (
            yield from adapt(
                first, latency, images, o.target_ms, weights=judge.weights(best.genome), steps=o.finetune_steps,
                delta=o.delta, budget=budget_of(o), seed=o.seed, keep=run,
            )
        )  # fmt: skip


def _keep_seed(run: RunDir[SearchRecord], space: SearchSpace, seed: Trial, spec: ArchSpec) -> None:
    """The network that NetAdapt starts from."""
    run.text("seed.yaml", dump_spec(space.dress(spec)))
    run.update(seed_ms=seed.latency_ms, seed_trial=seed.number)


def _starts(
    o: Options,
    run: RunDir[SearchRecord],
    space: SearchSpace,
    judge: Judge,
    cost: SpaceLatency,
    limits: SpaceLimits,
    shared: Shared | None,
) -> Generator[Event, None, tuple[list[Trial], int]]:
    """(what NetAdapt starts from where each start costs seconds, number of networks scored)."""
    with run.stage("search"):
        if o.sampler_name == SOLVE:
            found = yield from (shared or Shared((o.target_ms,))).solution(o, run, space, judge, cost, limits)
            if found.bound is not None:
                run.update(bound=Bound(found=round(found.best.accuracy, 4), most=round(found.bound, 4)))
            return [found.best, *found.starts], found.evaluations
        trials = yield from _trials(o, run, space, judge, cost, limits)
        return pick_starts(trials, o.target_ms, o.seed_ratio), len(trials)


def _trials(
    o: Options, run: RunDir[SearchRecord], space: SearchSpace, judge: Judge, cost: SpaceLatency, limits: SpaceLimits
) -> Generator[Event, None, list[Trial]]:
    tar = o.target_ms * o.seed_ratio
    assert run.record.reference_ms is not None
    large_ms = run.record.reference_ms
    w = run.value("w", lambda: default_w(o.reward, o.target_ms, large_ms) if o.w is None else o.w)
    trials = yield from search(
        space, judge, cost, tar, sampler=o.sampler_name, reward=o.reward, w=w, trials=o.trials,
        budget=budget_of(o), seed=o.seed, estimated=o.estimate_only, limits=limits, keep=run,
    )  # fmt: skip
    within = [t for t in trials if limits.hold(t.genome)]
    if trials and not within:
        raise Unreachable(
            f"none of {len(trials)} trials is within {o.limits}; give more --trials, or --sampler solve where there is "
            "no --data", *cost.range_ms(),
        )  # fmt: skip
    return within


def _caveats(o: Options, run: RunDir[SearchRecord], space: SearchSpace) -> Generator[Event, None, None]:
    if o.estimate_only:
        names = " and ".join(Path(device).name for device in o.devices)
        note = f"nothing was timed in this run: latencies are predictions from the table {names}"
        run.note(note)
        yield Note("table", note, warning=True)
    if o.segment:
        run.update(task=o.task, head=o.dense, classes=o.dense_classes, output_stride=space.output_stride)
        note = (
            f"the search ranked backbones by their predicted accuracy as classifiers; the {o.dense} head counts with "
            "its time"
        )
        run.note(note)
        yield Note("search", note, warning=True)


def _judge(o: Options, run: RunDir[SearchRecord], space: SearchSpace, images: Images) -> Generator[Event, None, Judge]:
    budget = budget_of(o)
    if o.accuracy_kind == "train":
        trials = o.trials or TRIALS["train"]
        return training_judge(space, images, trials=trials, budget=budget, seed=o.seed, keep=run)
    return (
        yield from supernet_judge(
            space, images, steps=o.supernet_steps, minutes=o.supernet_minutes, budget=budget, seed=o.seed, keep=run
        )
    )
