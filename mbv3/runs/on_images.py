"""A search on a user's images without weights: the shape of the input, and the comparison that decides what is
delivered."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mbv3.data import class_parts, peek_class_folder
from mbv3.events import Event, Note, StageStart
from mbv3.latency import open_runtime
from mbv3.record import SearchRecord
from mbv3.runs.deliver import budget_of, deliver
from mbv3.runs.delivered import delivered
from mbv3.runs.options import Options
from mbv3.runs.prepare import TABLE
from mbv3.runs.result import Found
from mbv3.runs.road_parts import measured_whole
from mbv3.runs.rundir import RunDir
from mbv3.runs.task_images import read_images
from mbv3.spec import ArchSpec, dump_spec, parse_spec, pixels
from mbv3.stages import (
    SHARES,
    Adapted,
    Contender,
    Photos,
    ScratchEffort,
    Shape,
    choose_shape,
    contest,
    likely_shapes,
    natural,
    probe,
    quick_ms,
    shapes_of,
)
from mbv3.tables import Latency, read_table
from mbv3.tasks import TASKS

__all__ = ["compete", "own_shape", "photos_of", "spent_s"]


def spent_s(run: RunDir[SearchRecord]) -> float:
    """Seconds that the stages of a run took so far."""
    return sum(run.record.stages.values())


def photos_of(
    o: Options, run: RunDir[SearchRecord], size: tuple[int, int], spec: ArchSpec | None = None
) -> Generator[Event, None, Photos]:
    """The images in three sets at `size`, or photos at their own where that is smaller. `spec`: a network for them,
    under the head of --task."""
    assert o.data is not None
    with run.stage("images"):
        yield StageStart("images", f"reading {o.data}")
        photos = yield from read_images(o, run, spec, size)
        run.update(args=o.as_dict())  # where the images are now
    return photos


def own_shape(o: Options, run: RunDir[SearchRecord]) -> Generator[Event, None, tuple[Shape | None, Photos | None]]:
    """The shape of the input for the images, and these; no shape where the sizes are given, by an option or by a table
    of one scale."""
    assert o.data is not None
    latency: Callable[..., Sequence[float]]
    if o.scale != "auto":
        return None, None
    if o.estimate_only:
        own = run.file(TABLE)
        table, _ = read_table(str(own) if own.exists() else o.device, o.runtime, o.threads, o.force_table)
        if table.model is None:
            return None, None
        latency = Latency(table, None)
    else:
        latency = partial(quick_ms, open_runtime(o.runtime, o.threads))
    classes, _, side = peek_class_folder(class_parts(Path(o.data))["training"])
    first, shapes = natural(side), shapes_of(side)
    if o.resolution is not None:
        h, w = o.pinned_resolution or (side, side)
        if h != w:
            return None, None
        first = Shape(h, natural(h).strides)
        shapes = tuple(Shape(h, n) for n in range(4) if 32 << 1 <= h << n <= 320)

    def decide() -> tuple[tuple[int, int, str, float], ...]:
        likely = likely_shapes(latency, first, shapes, o.target_ms, classes)
        return tuple((s.side, s.strides, dump_spec(c.spec), c.ms) for s, c in likely)

    with run.stage("shapes"):
        kept = run.value("shapes", decide)
    if not kept:  # the target is far from what networks for such images take; the scale will say so
        return None, None
    likely = [(s := Shape(side, n), probe(s, parse_spec(text, "shapes"), ms)) for side, n, text, ms in kept]
    finest = max(s.side for s, _ in likely)
    photos = yield from photos_of(o, run, (finest, finest))
    with run.stage("shapes"):
        steps = None if o.final_epochs is None else ScratchEffort.of(photos.images, o.final_epochs).first
        shape = yield from choose_shape(
            likely, photos.images, steps=steps, budget=budget_of(o), seed=o.seed, keep=run
        )  # fmt: skip
    return shape, photos


def compete(
    o: Options,
    run: RunDir[SearchRecord],
    adapted: Adapted,
    photos: Photos,
    latency: Latency,
    make: Callable[[], Sequence[Contender]],
) -> Generator[Event, None, Found]:
    """What the search left against what anyone could take, and the run directory with the winner. `make`: the networks
    that compete, in any order."""
    if not adapted.reached or o.final_epochs == 0:
        return (yield from deliver(o, run, adapted, photos.images if adapted.state else None, latency))
    before, budget = spent_s(run), budget_of(o)
    if budget.timed:
        least = 60 * o.minutes * (SHARES["contenders"].share + SHARES["training"].share)
        left = max(60 * o.minutes - before, least)
        text = f"about {left / 60:.0f} min left: {min(budget.seconds('contenders'), left) / 60:.1f} min for rounds that"
        yield Note("candidates", f"{text} drop networks, the rest for the one that is delivered")
    with run.stage("training"):
        went = yield from contest(
            make, photos.images, photos.report, budget=budget, spent_s=before, inherited=adapted.state, seed=o.seed,
            keep=run,
            effort=None if o.final_epochs is None else ScratchEffort.of(photos.images, o.final_epochs),
        )  # fmt: skip
    whole = yield from measured_whole(run, went, latency, o.target_ms)
    r, spec = run.record, went.found.spec
    assert r.scale is not None
    named = {"found": "the found network", "l1": "uniform slimming", "random": "random"}
    why = named.get(went.found.kind, spec.name)
    beaten = "" if went.found.own else ", which was not beaten"
    return (
        yield from delivered(
            o, run, went, whole, photos, latency,
            origin=(("space", r.scale.space), ("network", why), ("sampler", o.sampler_name)),
            scale=replace(r.scale, resolution=pixels(spec.resolution), why=f"{r.scale.why}; delivered: {why}{beaten}"),
            recipe=TASKS[o.task].recipe if went.steps else "NetAdapt's fine-tuning",
        )
    )  # fmt: skip
