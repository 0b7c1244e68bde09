"""The stages of a search, each resumable: without images by the ImageNet model, with images by trainings on them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from mbv3.errors import Unreachable
from mbv3.events import Event, Note
from mbv3.record import Accuracy, Bound, SearchRecord
from mbv3.runs.beside import put_beside
from mbv3.runs.deliver import budget_of, deliver, predicted_accuracy
from mbv3.runs.on_images import compete, own_shape, photos_of
from mbv3.runs.options import SOLVE, Options
from mbv3.runs.prepare import prepare, whole_view
from mbv3.runs.result import Found
from mbv3.runs.rundir import RunDir
from mbv3.runs.shared import Shared
from mbv3.runs.shared_search import shared_trials
from mbv3.runs.supernet import extracted
from mbv3.search import Trial
from mbv3.space import SearchSpace, SpaceLimits
from mbv3.spec import ArchSpec, dump_spec
from mbv3.stages import (
    FEWEST,
    LEAST_TAU,
    PRESETS,
    TRIALS,
    Adapted,
    Chosen,
    Contender,
    Images,
    Judge,
    Photos,
    ScratchEffort,
    Shape,
    SpaceLatency,
    SupernetJudge,
    adapt,
    adapt_predicted,
    affordable,
    check_limits,
    check_range,
    check_ranking,
    check_scratch_minutes,
    choose_seed,
    contenders_at,
    default_w,
    imagenet_judge,
    near_rows,
    near_target,
    pick_seed,
    pick_starts,
    ranking_text,
    search,
    shrink,
    steps_in_time,
    supernet_judge,
    training_judge,
    typical,
)
from mbv3.tables import Latency

__all__ = ["chain"]

FEW_STARTS = 5  # of NetAdapt, where its result is one of several networks that learn the images
PROPOSED = "the ImageNet model proposes a network, and the images decide between it and what anyone could take"


def chain(o: Options, run: RunDir[SearchRecord], shared: Shared | None = None) -> Generator[Event, None, Found]:
    """From a target to a run directory with its network. `shared`: of the runs that it is one of."""
    shape, photos = (yield from own_shape(o, run)) if o.data is not None and not o.under_head else (None, None)
    space, latency = yield from prepare(o, run, shape)
    yield from _caveats(o, run, space)
    limits = o.limits.on(space)
    targets = shared.targets_ms if shared is not None and shared.targets_ms else (o.target_ms,)
    if shared is not None and shared.table is not None and latency.device is not None:
        latency.table = shared.table
    with run.stage("rows"):
        cost = yield from near_rows(
            space, latency, targets, view=space if o.data is None or o.under_head else whole_view(space, shape, run),
            ratio=o.seed_ratio, limits=limits, seed=o.seed, keep=run, recipe=o.recipe,
        )  # fmt: skip
    if shared is not None:
        shared.table = latency.table
    run.update(range_ms=cost.range_ms())
    smallest, largest = cost.range_ms()
    # a limit may keep networks far below the target, and the largest of a space of fixed scales may be fast enough
    asked = min(o.target_ms, largest) if o.limits or space.sides else o.target_ms
    check_range(asked, smallest, largest, space, o.scale != "auto", latency.device is not None)
    check_limits(space, limits, cost, o.scale != "auto")
    yield Note("table", f"networks of the space take {smallest:.3g} to {largest:.3g} ms here")
    if o.supernet:
        return (yield from extracted(o, run, space, latency, cost, limits))
    if o.data is None:
        return (yield from _predicted(o, run, space, latency, cost, limits, shared))
    if photos is None:
        example = space.deployed((0,) * len(space.sizes)) if o.under_head else None
        photos = yield from photos_of(o, run, space.resolution, example)
        if o.under_head and o.final_epochs is None and not {"supernet_steps", "proxy_steps"} & set(run.record.plan):
            check_scratch_minutes(space.deployed(typical(space)), photos.images, budget_of(o))
    images = replace(photos.images, size=space.resolution)
    if o.accuracy_kind == "imagenet":
        adapted = yield from _proposed(o, run, space, latency, cost, limits, shape)
    else:
        chosen = yield from _on_images(o, run, space, latency, cost, limits, photos, shape)
        adapted = chosen or (yield from _proposed(_instead(o), run, space, latency, cost, limits, shape))
    at = shape or Shape(min(space.resolution))

    verdict = adapted.verdict
    known = Contender("found", "found", adapted.spec, None, adapted.ms, 0.0 if verdict is None else verdict.error_ms)

    by_hand = None if o.final_epochs is None else ScratchEffort.of(images, o.final_epochs).last

    def make() -> list[Contender]:
        return contenders_at(
            adapted.spec, at, latency, o.target_ms, space=space, cost=cost, limits=o.limits, known=known,
            seed=o.seed, learns=steps_in_time(images, budget_of(o), by_hand),
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
    if o.accuracy is None:
        yield Note("search", f"{PROPOSED}; --accuracy supernet searches by shared weights trained on the images")
    judge = imagenet_judge(space if o.under_head else whole_view(space, shape, run))
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
    limits: SpaceLimits, photos: Photos, shape: Shape | None,
) -> Generator[Event, None, Adapted | None]:  # fmt: skip
    """What shared weights or short trainings on the images choose, cut on them to the target; None where the shared
    weights do not rank."""
    images = replace(photos.images, size=space.resolution)
    with run.stage("accuracy"):
        judge = yield from _judge(o, run, space, images)
        shared = judge if isinstance(judge, SupernetJudge) and not o.under_head else None
        if shared is not None and (yield from _misleads(o, run, shared, cost, limits, images)):
            return None
    with run.stage("search"):
        trials = yield from _trials(o, run, space, judge, cost, limits, photos, shape)
        if shared is not None:
            chosen = yield from choose_seed(trials, shared, o.target_ms, o.seed_ratio)
        else:
            picked = pick_seed(trials, o.target_ms, o.seed_ratio)
            chosen = Chosen(picked, picked.accuracy, None)
    best = chosen.trial
    first = space.spec(best.genome, f"seed_{o.target_ms:g}ms")
    _keep_seed(run, space, best, first)
    error = None if chosen.error is None else round(chosen.error, 3)
    run.update(accuracy=Accuracy(value=round(chosen.top1, 3), error=error, kind=judge.kind, unit="%", note=judge.note))
    with run.stage("netadapt"):
        if o.under_head:  # joint cuts, whose head is the deployed one
            return (
                yield from shrink(
                    space.dress(first), latency, images, o.target_ms, weights=judge.weights(best.genome),
                    budget=budget_of(o), seed=o.seed, keep=run, **PRESETS[o.preset],
                )
            )  # fmt: skip
        return (
            yield from adapt(
                first, latency, images, o.target_ms, weights=judge.weights(best.genome), steps=o.finetune_steps,
                delta=o.delta, budget=budget_of(o), seed=o.seed, keep=run,
            )
        )  # fmt: skip


def _instead(o: Options) -> Options:
    """The options of a search that the ImageNet model decides, where shared weights should have."""
    more = {"trials": None, "w": None, "sampler": None, "storage": None, "workers": None, "study": None}
    return replace(o, accuracy="imagenet", **more)  # type: ignore[arg-type]


def _misleads(
    o: Options, run: RunDir[SearchRecord], judge: SupernetJudge, cost: SpaceLatency, limits: SpaceLimits, images: Images
) -> Generator[Event, None, bool]:
    """Whether the shared weights rank networks near the target too badly to choose by them, or nobody knows how well.
    Where their steps are given by hand, they are taken as they are."""
    if o.supernet_steps is not None:
        yield Note("ranking", f"how well the shared weights rank is not checked: mbv3 supernet check {run.path}")
        return False
    budget, scorer = budget_of(o), judge.scorer
    near = near_target(scorer.supernet.space, cost, o.target_ms, limits=limits, seed=o.seed)
    found = yield from check_ranking(
        scorer, [tuple(int(v) for v in g) for g in near], replace(images, held_out=scorer.held_out),
        seconds=budget.seconds("ranking") if budget.timed else None, seed=o.seed, keep=run,
    )  # fmt: skip
    if found is None:
        why = (
            f"how well the shared weights rank is not known, for the time is too short to train {FEWEST} networks "
            f"beside them (mbv3 supernet check {run.path} does it; --supernet-steps takes them as they are)"
        )
    else:
        run.update(ranking=found)
        if found.tau >= LEAST_TAU:
            return False
        why = f"{ranking_text(found)}: under {LEAST_TAU}"
    note = f"{why}, so the ImageNet model proposes the network instead"
    run.note(note)
    yield Note("ranking", note, warning=True)
    return True


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
    o: Options, run: RunDir[SearchRecord], space: SearchSpace, judge: Judge, cost: SpaceLatency, limits: SpaceLimits,
    photos: Photos | None = None, shape: Shape | None = None,
) -> Generator[Event, None, list[Trial]]:  # fmt: skip
    tar = o.target_ms * o.seed_ratio
    assert run.record.reference_ms is not None
    large_ms = run.record.reference_ms
    w = run.value("w", lambda: default_w(o.reward, o.target_ms, large_ms) if o.w is None else o.w)
    if photos is not None and (o.storage is not None or o.workers is not None):
        wanted = run.value("trials", lambda: o.trials or affordable(space, judge, budget_of(o)))
        trials = yield from shared_trials(
            o, run, space, judge, cost, photos, shape, target_ms=tar, w=w, trials=wanted
        )  # fmt: skip
    else:
        trials = yield from search(
            space, judge, cost, tar, sampler=o.sampler_name, reward=o.reward, w=w, trials=o.trials,
            budget=budget_of(o), seed=o.seed, estimated=o.estimate_only or cost.estimated, limits=limits,
            keep=run,
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
    if o.under_head:
        assert space.dense is not None
        run.update(task=o.task, head=o.dense, classes=space.dense[1], output_stride=space.output_stride)
    if o.under_head and o.accuracy_kind == "imagenet":
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
