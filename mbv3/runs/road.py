"""`mbv3-search --init` and `mbv3 netadapt --init`: public weights and a user's photos to a network within a target."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mbv3.data import class_parts, peek_class_folder
from mbv3.errors import BadInput, Mbv3Error
from mbv3.events import Done, Event, Note, StageStart
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.record import Accuracy, Baseline, Compared, Initial, LayerTime, Scale, SearchRecord
from mbv3.record import Device as DeviceRecord
from mbv3.report import write_report
from mbv3.runs.deliver import SPEC, WEIGHTS, remove_checkpoints, write_weights
from mbv3.runs.init_options import Inherited, inherited
from mbv3.runs.options import Options
from mbv3.runs.prepare import TABLE
from mbv3.runs.result import Found, times_text
from mbv3.runs.rundir import RunDir, file_sha256
from mbv3.spec import ArchSpec, count, dump_spec, parse_resolution, parse_spec, pixels
from mbv3.stages import (
    Alike,
    Budget,
    Effort,
    Photos,
    Road,
    Sizes,
    choose_sizes,
    peek_photos,
    read_photos,
    road,
    sized_table,
    steady_ms,
    steps_of,
)
from mbv3.tables import REFERENCE, VERDICT_PARTS, Latency, Whole, read_table, reference_of

__all__ = ["check_road", "initial", "road_stages"]

TABLE_SHARE, LEAST_TABLE_MINUTES, MOST_TABLE_MINUTES = 0.08, 0.3, 2.0  # of the minutes of a run


def check_road(o: Options, network: ArchSpec | str) -> Inherited:
    """Everything that can be wrong with the photos and the weights, before anything is made. Raises: BadInput."""
    assert o.init is not None and o.data is not None
    classes = peek_photos(Path(o.data), Path(o.test) if o.test else None)
    return inherited(o.init, network, classes, o.seed)


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
    side = peek_class_folder(class_parts(Path(o.data))["training"])[2]
    if side < min(start.spec.resolution):
        note = f"the photos are smaller ({side} px) than the {min(start.spec.resolution)} px of {start.spec.name}"
        run.note(note)
        yield Note("images", note)
    sizes, latency = yield from _prepared(o, run, start.spec, side)
    with run.stage("images"):
        finest = max((s.resolution for s in sizes.all), key=lambda r: r[0] * r[1])
        photos = yield from read_photos(
            Path(o.data), finest, test=Path(o.test) if o.test else None, seed=o.seed, keep=run
        )  # fmt: skip
        _same_photos(o, run, photos)
    # the table of another device gives the same network on every machine, unless the minutes are asked for
    timed = not o.estimate_only or o.budget_minutes is not None
    spent = sum(run.record.stages.get(name, 0.0) for name in ("scale", "table", "images")) / 60
    trained = run.record.stages.get("training", 0.0) / 60  # by a run that was interrupted
    minutes = max(max(0.5 * o.minutes, o.minutes - spent) - trained, 0.1 * o.minutes)
    with run.stage("training"):
        went = yield from road(
            sizes, start.state, latency, photos.images, photos.report, o.target_ms,
            budget=Budget(minutes, timed=timed), seed=o.seed, keep=run,
            effort=None if o.final_epochs is None else Effort.of(steps_of(photos.images.train, o.final_epochs)),
        )  # fmt: skip
    with run.stage("measure"):
        yield StageStart("measure", "the delivered network, whole")
        whole = latency.measure(went.found.spec, VERDICT_PARTS)
    return (yield from _delivered(o, run, went, whole, photos, latency))


# ---- sizes and latency ---------------------------------------------------------------------------------------------


def _prepared(
    o: Options, run: RunDir[SearchRecord], spec: ArchSpec, side: int
) -> Generator[Event, None, tuple[Sizes, Latency]]:
    """The resolutions that are worth a look, and the latency of anything at them; both are kept."""
    own = run.file(TABLE)
    pinned = parse_resolution(o.resolution) if o.resolution else None
    if o.estimate_only:
        table, caveat = read_table(str(own) if own.exists() else o.device, o.runtime, o.threads, o.force_table)
        if caveat and not own.exists():
            run.note(caveat)
            yield Note("table", caveat, warning=True)
        latency = Latency(table, None)
        with run.stage("scale"):
            sizes = _sizes(run, spec, lambda: choose_sizes(spec, o.target_ms, side, latency, pinned=pinned))
    else:
        runtime = open_runtime(o.runtime, o.threads)
        with run.stage("scale"):
            yield StageStart("scale", f"timing {spec.name} at several resolutions on {runtime.fingerprint.cpu}")
            timed = partial(steady_ms, runtime)
            sizes = _sizes(run, spec, lambda: choose_sizes(spec, o.target_ms, side, timed, pinned=pinned))
        with run.stage("table"):
            minutes = float(np.clip(TABLE_SHARE * o.minutes, LEAST_TABLE_MINUTES, MOST_TABLE_MINUTES))
            table = LatencyTable.load(own) if own.exists() else (yield from sized_table(sizes, runtime, own, minutes))
            table.require(runtime.fingerprint, str(own))
        latency = Latency(table, Device(runtime, reference_of(table), table.reference_ms))
    if not own.exists():
        table.save(own)
    if "table" not in run.record.hashes:
        run.hash(table=file_sha256(own))
    cut = ", ".join(str(pixels(s.resolution)) for s in sizes.cut)
    why = f"fine-tuned at {pixels(sizes.start.resolution)} px" + (f", cut at {cut} px" if cut else ", not cut")
    yield Note("scale", f"{spec.name}: {why}")
    run.update(
        scale=Scale(space=spec.name, width=1.0, resolution=pixels(sizes.start.resolution), why=why),
        device=DeviceRecord(**table.fingerprint.as_dict()),
        reference_ms=table.reference_ms,
        reference=f"{REFERENCE}@1, {pixels(reference_of(table).resolution)} px",
        seed_ms=round(latency([sizes.start])[0], 4),
    )
    return sizes, latency


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


def _same_photos(o: Options, run: RunDir[SearchRecord], photos: Photos) -> None:
    """Raises: BadInput: a resumed run finds other images."""
    if run.record.hashes.get("data", photos.sha256) != photos.sha256:
        raise BadInput(f"--resume {run.path}: the images of {o.data} are not those that this run began with; restore "
                       "them, or begin again with another --out")  # fmt: skip
    run.hash(data=photos.sha256)


# ---- what is left --------------------------------------------------------------------------------------------------


def _delivered(
    o: Options, run: RunDir[SearchRecord], went: Road, whole: Whole | None, photos: Photos, latency: Latency
) -> Generator[Event, None, Found]:
    """Files, run.json and the report."""
    r, ms = run.record, whole.ms if whole is not None else went.found.ms
    assert r.device is not None and r.init is not None
    if went.doubt:
        run.note(went.doubt)
    provenance = (
        ("tool", f"mbv3-search {r.version}"), ("target_ms", o.target_ms), ("device", r.device.cpu),
        ("runtime", f"{r.device.runtime} {r.device.runtime_version}"), ("precision", r.device.precision),
        ("threads", r.device.threads), ("from", r.init.network), ("init_sha256", r.init.sha256), ("seed", o.seed),
        ("table_sha256", r.hashes["table"]), ("weights", "user's images"),
    )  # fmt: skip
    spec = replace(went.found.spec, name=f"found_{o.target_ms:g}ms", provenance=provenance)
    run.text(SPEC, dump_spec(spec))
    run.text("seed.yaml", r.network or "")
    latency.table.save(run.file(TABLE))
    write_weights(run, spec, went.tuned.state, photos.images)
    run.hash(**{name: file_sha256(run.file(name)) for name in (SPEC, WEIGHTS)})
    predicted, counts = latency.table.predict(spec, estimate=True), count(spec)
    within = whole is None or whole.ms - 2 * whole.error_ms <= o.target_ms
    run.update(
        status="done" if within else "failed", exit=0 if within else 1, spec=SPEC, params=counts.params,
        madds=counts.madds, predicted_ms=predicted.ms, measured_ms=whole and whole.ms,
        measured_error_ms=whole and whole.error_ms, raw_reference_ms=whole and whole.raw_reference_ms,
        correction=ms / predicted.ms, estimated_layers=predicted.estimated,
        scale=Scale(space=r.init.network, width=1.0, resolution=pixels(spec.resolution), why=_why(went)),
        accuracy=_accuracy(went, photos), comparison=tuple(_row(x) for x in went.alike),
        baselines=tuple(
            Baseline(name=_name(x), ms=round(x.contender.ms, 4), accuracy=round(x.reported.top1, 3),
                     error=round(x.reported.error, 3))
            for x in went.alike if x.contender.kind != "cut"
        ),
        rows_ms=tuple(LayerTime(path=p, ms=round(t, 5), estimated=e) for p, t, e in predicted.rows),
        total_s=round(sum(r.stages.values()), 1),
    )  # fmt: skip
    if went.found.kind == "cut":
        _keep_trace(run, run.path / went.found.name)
    if within:
        remove_checkpoints(run)
    yield Note("report", f"wrote {write_report(run.path)}")
    if not within:
        raise Mbv3Error(f"measured again it takes {ms:.3g} ms, over the target of {o.target_ms:g} ms; the network is "
                        f"{run.file(SPEC)}. Go on with a smaller --target-ms")  # fmt: skip
    yield Done("run", _verdict(run, spec))
    return Found(run.path, run.record)


def _keep_trace(run: RunDir[SearchRecord], cut: Path) -> None:
    """The cuts of the delivered network, where every run has them."""
    for file in [*cut.glob("*.csv"), *cut.glob("curve/*.yaml")]:
        run.text(str(file.relative_to(cut)), file.read_text("utf-8"))


def _name(x: Alike) -> str:
    """What a compared network is."""
    at = f"@{pixels(x.contender.spec.resolution)}px"
    return {"cut": "found", "lower": f"{x.contender.spec.name} uncut{at}", "l1": f"uniform L1 slimming{at}"}[
        x.contender.kind
    ]


def _why(went: Road) -> str:
    at = f"{pixels(went.found.spec.resolution)} px"
    return {
        "cut": f"cut at {at}", "lower": f"uncut at {at}, which was not beaten",
        "l1": f"slimmed alike at {at}, which was not beaten",
    }[went.found.kind]  # fmt: skip


def _row(x: Alike) -> Compared:
    counts, c = count(x.contender.spec), x.contender
    return Compared(
        name=_name(x), ms=round(c.ms, 4), params=counts.params, madds=counts.madds, top1=round(x.reported.top1, 2),
        sigma=round(x.reported.error, 2), n=len(x.reported.right),
    )  # fmt: skip


def _accuracy(went: Road, photos: Photos) -> Accuracy:
    n, steps = len(photos.report), sum({id(t): t.steps for t in (went.alike[0].tuned, went.tuned)}.values())
    return Accuracy(
        value=round(went.reported.top1, 3), error=round(went.reported.error, 3), kind="report", unit="%",
        note=f"top-1 of the delivered weights on {n} {photos.reported} images, answered once; the networks above "
        f"learned {went.alike[0].tuned.steps} steps alike, the delivered one {steps}",
        source="full training", recipe="finetune, distilled",
    )  # fmt: skip


def _verdict(run: RunDir[SearchRecord], spec: ArchSpec) -> str:
    r = run.record
    assert r.accuracy is not None and r.params is not None
    times = times_text(r)
    time = times["predicted"] + " predicted, not measured" if r.measured_ms is None else times["measured"]
    return (
        f"{time}, target {r.target_ms:g} ms; {r.accuracy.value:.1f} +- {r.accuracy.error:.1f} % top-1; "
        f"{r.params / 1e6:.2f} M parameters at {pixels(spec.resolution)} px; {run.file(SPEC)}"
    )
