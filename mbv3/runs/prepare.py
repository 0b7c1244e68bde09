"""The scale and the table of a search: measured on this CPU, or given as a file or a device's name."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mbv3.data import class_parts, peek_class_folder
from mbv3.errors import BadInput
from mbv3.events import Event, Note, StageStart
from mbv3.latency import Device, LatencyTable, Runtime, open_runtime
from mbv3.record import Device as DeviceRecord
from mbv3.record import Scale, SearchRecord
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir, file_sha256
from mbv3.runs.task_images import input_size, looked_at
from mbv3.space import SearchSpace, layer_keys, parse_scale, parse_space, scale, space_text
from mbv3.spec import count, parse_resolution, pixels
from mbv3.stages import Shape, choose_scale, choose_scale_by_accuracy, fewer_strides, quick_ms, typical
from mbv3.tables import (
    TABLE_MINUTES,
    Latency,
    SeveralLatency,
    lean_plan,
    minutes_of,
    one_space,
    open_table,
    part_note,
    read_table,
    reference_of,
    table_of_several,
    table_plan,
)

__all__ = ["TABLE", "kept_space", "prepare", "prepare_several", "table_name", "whole_view"]

Judged = Callable[[SearchSpace], SearchSpace]

TABLE, SPACE = "latency-table.csv", "space.yaml"
TABLE_SHARE, LEAST_TABLE = 0.08, 0.3  # of the minutes of a run with images, and minutes


def table_name(i: int) -> str:
    """The file of the table of device `i` of several, the first 0."""
    return TABLE if i == 0 else f"latency-table-{i + 1}.csv"


@dataclass(frozen=True)
class _Base:
    """What is known of the space before its scale: the space under its head and with the strides of `shape`, the
    classes of the images (None: the space's own), and the most pixels that make sense for them. `pinned`: the size of
    the input, where images with masks or boxes give it."""

    space: SearchSpace
    classes: int | None
    most_pixels: int | None
    shape: Shape | None = None
    pinned: tuple[int, int] | None = None

    @property
    def resolution(self) -> tuple[int, int] | None:
        if self.pinned is not None:
            return self.pinned
        return None if self.shape is None else (self.shape.side, self.shape.side)


def _own_space(o: Options, run: RunDir[SearchRecord]) -> Generator[Event, None, SearchSpace]:
    """The space as the run began with it: in an edited one its genomes would be other networks."""
    own = run.file(SPACE)
    if not own.exists():
        text, source = space_text(o.space_name)
        run.text(SPACE, text)
        return parse_space(text, source)
    kept = own.read_text("utf-8")
    try:
        same = space_text(o.space_name)[0] == kept
    except BadInput:
        same = False  # the file is gone
    if not same:
        note = f"the space {o.space_name} is not as it was when this run began; the run goes on with its copy, {own}"
        run.note(note)
        yield Note("table", note, warning=True)
    return parse_space(kept, str(own))


def _base(o: Options, whole: SearchSpace, shape: Shape | None = None) -> _Base:
    if o.data is not None and o.under_head:
        peek = looked_at(o)
        size = input_size(o, peek)
        return _Base(o.headed(scale(whole, 1.0, size), peek.outputs), None, None, pinned=size)
    space = o.headed(scale(whole, 1.0, o.pinned_resolution))
    if o.data is None:
        return _Base(space, None, None)
    classes, _, side = peek_class_folder(class_parts(Path(o.data))["training"])
    if shape is not None:
        space = scale(fewer_strides(space, shape.strides), 1.0, shape.side)
    # finer than twice the pictures there is nothing to see
    return _Base(space, classes, max(32, min(1024, -(-2 * side // 32) * 32)), shape)


def whole_view(space: SearchSpace, shape: Shape | None, run: RunDir[SearchRecord]) -> SearchSpace:
    """`space` as the evidence of ImageNet knows it: with all its strides, at the view of `shape`, and its own classes.
    Its genomes are the same."""
    own = parse_space(run.file(SPACE).read_text("utf-8"), str(run.file(SPACE)))
    return scale(own, space.width, space.resolution if shape is None else shape.view)


def kept_space(o: Options, run: RunDir[SearchRecord], shape: Shape | None) -> Generator[Event, None, SearchSpace]:
    """The scaled space of a run that decided its scale."""
    base, known = _base(o, (yield from _own_space(o, run)), shape), run.record.scale
    assert known is not None
    return scale(base.space, known.width, parse_resolution(str(known.resolution)), base.classes)


def prepare(
    o: Options, run: RunDir[SearchRecord], shape: Shape | None = None
) -> Generator[Event, None, tuple[SearchSpace, Latency]]:
    """The scaled space and the latency of its networks; both are kept in the run directory. `shape`: of the images, by
    which the input and the first strides are decided."""
    base = _base(o, (yield from _own_space(o, run)), shape)
    if o.estimate_only:
        with run.stage("table"):
            return (yield from _given(o, run, base))
    space, table, device = yield from _measured(o, run, base)
    return space, Latency(table, device, space.dress)


def _given(o: Options, run: RunDir[SearchRecord], base: _Base) -> Generator[Event, None, tuple[SearchSpace, Latency]]:
    """The table of another device, or of several."""
    tables = []
    for i, device in enumerate(o.devices):
        own = run.file(table_name(i))
        # a resumed run keeps to its copy: the file may have changed, moved, or be named from another folder
        source = str(own) if own.exists() else device
        table, caveat = read_table(source, o.runtime, o.threads, o.force_table)
        if caveat and source == device:
            run.note(caveat)
            yield Note("table", caveat, warning=True)
        tables.append(table)
    one_space(o.devices, tables)
    several = len(tables) > 1
    latency = (
        SeveralLatency(tables, o.weights, base.space.dress) if several else Latency(tables[0], None, base.space.dress)
    )
    leading = next((t for t in tables if t.model is None), tables[0])  # a profile takes any scale
    space, why = _scale_of_table(o, base, leading, latency, _judged(o, base, run))
    for i, (device, table) in enumerate(zip(o.devices, tables, strict=True)):
        missing = sum(k not in table.layers for k in layer_keys(space))
        if missing and table.model is None:
            note = (
                f"{missing} layers of the space are not in the table{f' {device}' if several else ''} and are estimated"
            )
            run.note(note)
            yield Note("table", note, warning=True)
        own, name = run.file(table_name(i)), f"table_{i + 1}" if i else "table"
        if not own.exists():
            table.save(own)
        if name not in run.record.hashes:
            run.hash(**{name: file_sha256(own if table.model is not None else Path(device))})
    _keep_scale(run, space, why, tables[0])
    run.update(device=DeviceRecord(**tables[0].fingerprint.as_dict()))
    latency.dress = space.dress
    return space, latency


def _of_classes(base: _Base) -> SearchSpace:
    """The space before its scale, for the classes of the images."""
    return scale(base.space, 1.0, None, base.classes)


def _scale_of_table(
    o: Options, base: _Base, table: LatencyTable, latency: Latency, judged: Judged
) -> tuple[SearchSpace, str]:
    """The scaled space and the reason: chosen for the target where any layer can be predicted, else the table's."""
    fixed = parse_scale(o.scale)
    width = fixed[0] if fixed else None
    if table.model is not None and o.accuracy_kind == "imagenet" and width is None:
        choice = choose_scale_by_accuracy(
            latency, _of_classes(base), o.target_ms, resolution=base.resolution or o.pinned_resolution, exact=latency,
            limits=o.limits, judged=judged, recipe=o.recipe,
        )  # fmt: skip
        return choice.space, choice.why
    if table.model is not None:
        choice = choose_scale(
            latency, base.space, o.target_ms, width=width, resolution=base.resolution or o.pinned_resolution,
            seed_ratio=o.seed_ratio, classes=base.classes, most_pixels=base.most_pixels,
        )  # fmt: skip
        return choice.space, choice.why
    resolution = base.pinned or o.asked_resolution
    if width is None:  # an older table records the side of a square
        about = dict(table.about or {})
        width = float(about.get("width", 1))
        resolution = resolution or parse_resolution(str(about.get("resolution", 224)))
    space = scale(base.space, width, resolution, base.classes)
    return (
        space,
        f"width {width:g} at {pixels(space.resolution)} px, {'as asked' if fixed else 'the scale of the table'}",
    )


def _measured(
    o: Options, run: RunDir[SearchRecord], base: _Base
) -> Generator[Event, None, tuple[SearchSpace, LatencyTable, Device]]:
    """This CPU's table at the scale that suits the target."""
    runtime = open_runtime(o.runtime, o.threads)
    known = run.record.scale
    with run.stage("scale"):
        if known is None:
            yield StageStart("scale", f"timing networks of space {base.space.name} on {runtime.fingerprint.cpu}")
            space, why = _scale_here(o, base, runtime, _judged(o, base, run))
            yield Note("scale", why)
            run.update(
                scale=_scale(space, why),
                device=DeviceRecord(**runtime.fingerprint.as_dict(), load_at_start=os.getloadavg()[0]),
            )
        else:
            why = known.why
            space = scale(base.space, known.width, parse_resolution(str(known.resolution)), base.classes)
    own = run.file(TABLE)
    with run.stage("table"):
        if own.exists():
            table = LatencyTable.load(own)
        else:
            rate = run.value("ms_per_madd", lambda: _ms_per_madd(space, runtime))
            minutes = TABLE_MINUTES if o.data is None else min(TABLE_MINUTES, max(LEAST_TABLE, TABLE_SHARE * o.minutes))
            plan = lean_plan(table_plan(space), rate, o.target_ms, minutes)
            limit = minutes_of(plan, minutes)
            table = yield from open_table(runtime, plan, rebuild=o.rebuild_table, minutes=limit)
        table.require(runtime.fingerprint, str(own))
        table.save(own)
        if "table" not in run.record.hashes:
            run.hash(table=file_sha256(own))
        _keep_scale(run, space, why, table)
        if note := part_note(table):
            run.note(note)
            yield Note("table", note)
        report = table.report or {}
        if report:
            yield Note(
                "table",
                f"the table predicts whole networks to {report.get('rmspe')} % RMSPE, {report.get('within_5')} % "
                f"within 5 % (noise floor {report.get('noise_floor')} %)",
            )
    return space, table, Device(runtime, reference_of(table), table.reference_ms)


def _ms_per_madd(space: SearchSpace, runtime: Runtime) -> float:
    """What a typical network of the space takes here."""
    spec = space.deployed(typical(space))
    return quick_ms(runtime, [spec])[0] / count(spec).madds


def _judged(o: Options, base: _Base, run: RunDir[SearchRecord]) -> Judged:
    """A scaled space as the ImageNet model is asked about it."""
    return (lambda s: s) if o.data is None or o.under_head else (lambda s: whole_view(s, base.shape, run))


def _scale_here(o: Options, base: _Base, runtime: Runtime, judged: Judged) -> tuple[SearchSpace, str]:
    """The scaled space for this CPU and the reason, from a few timed networks."""
    times, width = partial(quick_ms, runtime), (parse_scale(o.scale) or (None,))[0]
    if o.accuracy_kind == "imagenet" and width is None:
        choice = choose_scale_by_accuracy(
            times, _of_classes(base), o.target_ms, resolution=base.resolution or o.pinned_resolution, limits=o.limits,
            judged=judged, recipe=o.recipe,
        )  # fmt: skip
    else:
        choice = choose_scale(
            times, base.space, o.target_ms, width=width, resolution=base.resolution or o.pinned_resolution,
            seed_ratio=o.seed_ratio, classes=base.classes, most_pixels=base.most_pixels,
        )  # fmt: skip
    return choice.space, choice.why


def prepare_several(each: Sequence[Options], runs: Sequence[RunDir[SearchRecord]]) -> Generator[Event, None, None]:
    """Scales and one table of this CPU for runs of several targets, put into their run directories; what is there
    already stays."""
    if all(run.file(TABLE).exists() for run in runs):
        return
    runtime = open_runtime(each[0].runtime, each[0].threads)
    spaces = []
    for o, run in zip(each, runs, strict=True):
        base, known = _base(o, (yield from _own_space(o, run))), run.record.scale
        if known is None:
            yield StageStart("scale", f"a scale for {o.target_ms:g} ms on {runtime.fingerprint.cpu}")
            space, why = _scale_here(o, base, runtime, _judged(o, base, run))
            yield Note("scale", why)
            about = DeviceRecord(**runtime.fingerprint.as_dict(), load_at_start=os.getloadavg()[0])
            run.update(scale=_scale(space, why), device=about)
        else:
            space = scale(base.space, known.width, parse_resolution(str(known.resolution)), base.classes)
        spaces.append(space)
    rate = runs[-1].value("ms_per_madd", lambda: _ms_per_madd(spaces[-1], runtime))
    plan = lean_plan(table_of_several(spaces), rate, max(o.target_ms for o in each), TABLE_MINUTES)
    minutes = minutes_of(plan, TABLE_MINUTES)
    table = yield from open_table(runtime, plan, rebuild=each[0].rebuild_table, minutes=minutes)
    for run in runs:
        if not run.file(TABLE).exists():
            table.save(run.file(TABLE))


def _scale(space: SearchSpace, why: str) -> Scale:
    return Scale(space=space.name, width=space.width, resolution=pixels(space.resolution), why=why)


def _keep_scale(run: RunDir[SearchRecord], space: SearchSpace, why: str, table: LatencyTable) -> None:
    ref = table.reference
    run.update(
        scale=_scale(space, why),
        reference_ms=table.reference_ms,
        reference=f"{ref['spec']}@{ref['width']:g}, {pixels(reference_of(table).resolution)} px",
    )
