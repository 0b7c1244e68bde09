"""What a comparison on a user's images leaves: files, run.json and the report."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from mbv3.errors import Mbv3Error
from mbv3.events import Done, Event, Note
from mbv3.record import Accuracy, Baseline, Compared, LayerTime, Limit, Scale, SearchRecord
from mbv3.report import write_report
from mbv3.runs.deliver import SPEC, WEIGHTS, remove_checkpoints, write_weights
from mbv3.runs.options import Options
from mbv3.runs.prepare import TABLE
from mbv3.runs.result import Found, times_text
from mbv3.runs.rundir import RunDir, file_sha256
from mbv3.spec import ArchSpec, count, dump_spec, pixels
from mbv3.stages import Alike, Outcome, Photos
from mbv3.tables import Latency, Whole

__all__ = ["delivered"]


def delivered(
    o: Options,
    run: RunDir[SearchRecord],
    went: Outcome,
    whole: Whole | None,
    photos: Photos,
    latency: Latency,
    *,
    origin: tuple[tuple[str, str], ...],
    scale: Scale,
    recipe: str,
) -> Generator[Event, None, Found]:
    """Files, run.json and the report. `origin`: what the provenance says of where the network came from. `recipe`: how
    its weights were trained."""
    r, ms = run.record, whole.ms if whole is not None else went.found.ms
    assert r.device is not None
    if went.doubt:
        run.note(went.doubt)
    provenance: tuple[tuple[str, str | int | float], ...] = (
        ("tool", f"mbv3-search {r.version}"), ("target_ms", o.target_ms), ("device", r.device.cpu),
        ("runtime", f"{r.device.runtime} {r.device.runtime_version}"), ("precision", r.device.precision),
        ("threads", r.device.threads), *origin, ("seed", o.seed), ("table_sha256", r.hashes["table"]),
        ("weights", "user's images"),
    )  # fmt: skip
    spec = replace(went.found.spec, name=f"found_{o.target_ms:g}ms", provenance=provenance)
    run.text(SPEC, dump_spec(spec))
    latency.table.save(run.file(TABLE))
    write_weights(run, spec, went.tuned.state, photos.images)
    run.hash(**{name: file_sha256(run.file(name)) for name in (SPEC, WEIGHTS)})
    predicted, counts, has = latency.table.predict(spec, estimate=True), count(spec), o.limits.of(spec)
    within = whole is None or whole.ms - 2 * whole.error_ms <= o.target_ms
    run.update(
        status="done" if within else "failed", exit=0 if within else 1, spec=SPEC, params=counts.params,
        madds=counts.madds, predicted_ms=predicted.ms, measured_ms=whole and whole.ms,
        measured_error_ms=whole and whole.error_ms, raw_reference_ms=whole and whole.raw_reference_ms,
        correction=ms / predicted.ms, estimated_layers=predicted.estimated,
        scale=scale, accuracy=_accuracy(went, photos, recipe),
        limits=tuple(Limit(name=name, most=most, found=round(has[name], 6)) for name, most in o.limits),
        comparison=tuple(_row(x) for x in went.alike),
        baselines=tuple(
            Baseline(name=_name(x), ms=round(x.contender.ms, 4), accuracy=round(x.reported.score, 3),
                     error=round(x.reported.error, 3))
            for x in went.alike if not x.contender.own
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
    c = x.contender
    at = f"@{pixels(c.spec.resolution)}px"
    return {
        "cut": "found", "found": "found", "subnet": "found", "lower": f"{c.spec.name} uncut{at}",
        "l1": f"uniform L1 slimming{at}",
        "plain": c.spec.name, "family": c.spec.name, "random": "random of the space",
    }[c.kind]  # fmt: skip


def _row(x: Alike) -> Compared:
    counts, c = count(x.contender.spec), x.contender
    return Compared(
        name=_name(x), ms=round(c.ms, 4), params=counts.params, madds=counts.madds, top1=round(x.reported.score, 2),
        sigma=round(x.reported.error, 2), n=len(x.reported), steps=x.tuned.steps,
    )  # fmt: skip


def _accuracy(went: Outcome, photos: Photos, recipe: str) -> Accuracy:
    n = len(photos.report)
    beside = f"; the networks above learned {went.alike[0].tuned.steps} steps alike" if went.alike else ""
    metric = photos.images.work.metric
    return Accuracy(
        value=round(went.reported.score, 3), error=round(went.reported.error, 3), kind="report", unit="%",
        metric=metric, note=f"{metric} of the delivered weights on {n} {photos.reported} images, answered "
        f"once{beside}, the delivered one {went.steps}", source="full training", recipe=recipe,
    )  # fmt: skip


def _verdict(run: RunDir[SearchRecord], spec: ArchSpec) -> str:
    r = run.record
    assert r.accuracy is not None and r.params is not None
    times = times_text(r)
    time = times["predicted"] + " predicted, not measured" if r.measured_ms is None else times["measured"]
    return (
        f"{time}, target {r.target_ms:g} ms; {r.accuracy.value:.1f} +- {r.accuracy.error:.1f} % {r.accuracy.metric}; "
        f"{r.params / 1e6:.2f} M parameters at {pixels(spec.resolution)} px; {run.file(SPEC)}"
    )
