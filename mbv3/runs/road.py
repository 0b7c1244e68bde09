"""`mbv3-search --init` and `mbv3 netadapt --init`: public weights and a user's photos to a network within a target."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import replace
from functools import partial

from mbv3.errors import BadInput
from mbv3.events import Event, Note, StageStart
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.record import Initial, Scale, SearchRecord
from mbv3.runs.deliver import budget_of
from mbv3.runs.delivered import delivered
from mbv3.runs.init_options import Inherited, inherited
from mbv3.runs.options import Options
from mbv3.runs.prepare import TABLE
from mbv3.runs.result import Found
from mbv3.runs.resume_from import keep_start, take_start
from mbv3.runs.road_parts import finest_photos, given_table, keep_table, learned_by, table_minutes, told_small, walked
from mbv3.runs.rundir import RunDir
from mbv3.runs.task_images import dressed, looked_at
from mbv3.spec import ArchSpec, Classify, Site, named_sites, parse_resolution, parse_spec, pixels
from mbv3.stages import (
    Outcome,
    Photos,
    Sizes,
    check_minutes,
    choose_sizes,
    sized_table,
    steady_ms,
)
from mbv3.tables import Latency, reference_of

__all__ = ["by_hand", "check_road", "initial", "road_stages"]


def check_road(o: Options, network: ArchSpec | str) -> Inherited:
    """Everything that can be wrong with the photos and the weights, before anything is made. Raises: BadInput."""
    assert o.init is not None and o.data is not None
    peek = looked_at(o)
    found = inherited(o.init, network, lambda spec: dressed(o, spec, peek), o.seed)
    by_hand(o, found.spec)
    return found


def by_hand(o: Options, spec: ArchSpec) -> Collection[Site] | None:
    """The sites that --keep and --only leave to be cut; None without either. Raises: BadInput."""
    return None if o.keep is None and o.only is None else named_sites(spec, o.keep, o.only)


def initial(found: Inherited) -> Initial:
    """Where a run's weights are from, as run.json has it."""
    return Initial(file=found.file, sha256=found.sha256, network=found.spec.name)


def road_stages(o: Options, run: RunDir[SearchRecord]) -> Generator[Event, None, Found]:
    """The stages of a run with --init, each resumable."""
    assert run.record.network is not None and o.data is not None and run.record.init is not None
    start = check_road(o, parse_spec(run.record.network, "run.json: network"))
    if start.sha256 != run.record.init.sha256:
        raise BadInput(f"--resume {run.path}: {start.file} is not the file of weights that this run began with; "
                       "restore it, or begin again with another --out")  # fmt: skip
    for note in start.notes:
        yield Note("start", note)
    take_start(run)
    side = min(looked_at(o).shape)
    if o.under_head:
        given = parse_spec(run.record.network, "run.json: network").head
        named = o.dense if isinstance(given, Classify) else None  # else it is the network's own
        run.update(task=o.task, head=named, classes=start.spec.head.classes)
    else:
        yield from told_small(run, side, min(start.spec.resolution), start.spec.name)
    sizes = yield from _chosen(o, run, start.spec, side)
    photos: Photos | None = None
    if o.under_head and "early_steps" not in run.record.plan:
        # a step of a large network may take seconds, which is told before a table is measured
        photos = yield from finest_photos(o, run, sizes)
        check_minutes(sizes, photos.images, budget_of(o))
    latency = yield from _latency(o, run, start.spec, sizes)
    photos = photos or (yield from finest_photos(o, run, sizes))
    went, whole = yield from walked(
        o, run, sizes, start.state, latency, photos, ("scale", "table", "images"), some=by_hand(o, start.spec)
    )
    run.text("seed.yaml", run.record.network)
    if not o.under_head:  # --resume-from takes class folders
        yield from keep_start(run)
    init = run.record.init
    return (
        yield from delivered(
            o, run, went, whole, photos, latency, origin=(("from", init.network), ("init_sha256", init.sha256)),
            scale=Scale(space=init.network, width=1.0, resolution=pixels(went.found.spec.resolution), why=_why(went)),
            recipe=learned_by(o, run),
        )
    )  # fmt: skip


# ---- sizes and latency ---------------------------------------------------------------------------------------------


def _chosen(o: Options, run: RunDir[SearchRecord], spec: ArchSpec, side: int) -> Generator[Event, None, Sizes]:
    """The resolutions that are worth a look, decided once."""
    pinned = parse_resolution(o.resolution) if o.resolution else None

    def choose(latency_ms: Callable[[Sequence[ArchSpec]], Sequence[float]]) -> Sizes:
        return choose_sizes(spec, o.target_ms, side, latency_ms, pinned=pinned, dense=o.under_head)

    if o.estimate_only:
        latency = Latency((yield from given_table(o, run)), None)
        with run.stage("scale"):
            return _sizes(run, spec, lambda: choose(latency))
    runtime = open_runtime(o.runtime, o.threads)
    with run.stage("scale"):
        yield StageStart("scale", f"timing {spec.name} at several resolutions on {runtime.fingerprint.cpu}")
        return _sizes(run, spec, lambda: choose(partial(steady_ms, runtime)))


def _latency(o: Options, run: RunDir[SearchRecord], spec: ArchSpec, sizes: Sizes) -> Generator[Event, None, Latency]:
    """The latency of anything at the resolutions; its table is kept."""
    own = run.file(TABLE)
    if o.estimate_only:
        table = yield from given_table(o, run)
        latency = Latency(table, None)
    else:
        runtime = open_runtime(o.runtime, o.threads)
        with run.stage("table"):
            table = LatencyTable.load(own) if own.exists() else (
                yield from sized_table(sizes, runtime, own, table_minutes(o))
            )  # fmt: skip
            table.require(runtime.fingerprint, str(own))
        latency = Latency(table, Device(runtime, reference_of(table), table.reference_ms))
    cut = ", ".join(str(pixels(s.resolution)) for s in sizes.cut)
    why = f"fine-tuned at {pixels(sizes.start.resolution)} px" + (f", cut at {cut} px" if cut else ", not cut")
    keep_table(run, table, Scale(space=spec.name, width=1.0, resolution=pixels(sizes.start.resolution), why=why))
    ms = latency([sizes.start])[0]
    meets = "" if ms > o.target_ms else f", within the target of {o.target_ms:g} ms: the resolution may rise instead"
    yield Note("scale", f"{spec.name}: {why}; uncut it takes {ms:.3g} ms at {pixels(sizes.start.resolution)} px{meets}")
    run.update(seed_ms=round(ms, 4))
    return latency


def _sizes(run: RunDir[SearchRecord], spec: ArchSpec, choose: partial[Sizes] | object) -> Sizes:
    """The sizes that were chosen the first time."""

    def decide() -> tuple[tuple[str, ...], ...]:
        assert callable(choose)
        found: Sizes = choose()
        return tuple(tuple(_text(s) for s in group) for group in ((found.start,), found.lower, found.cut))

    (first,), lower, cut = run.value("sizes", decide)
    at = partial(_at, spec)
    return Sizes(at(first), tuple(map(at, lower)), tuple(map(at, cut)))


def _text(spec: ArchSpec) -> str:
    h, w = spec.resolution
    return f"{h}x{w}"


def _at(spec: ArchSpec, size: str) -> ArchSpec:
    return replace(spec, resolution=parse_resolution(size))


def _why(went: Outcome) -> str:
    at = f"{pixels(went.found.spec.resolution)} px"
    return {
        "cut": f"cut at {at}", "lower": f"uncut at {at}, which was not beaten",
        "l1": f"slimmed alike at {at}, which was not beaten",
    }[went.found.kind]  # fmt: skip
