"""What the roads have in common: their table, their photos, and the walk to the network that is delivered."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence

import numpy as np
from torch import Tensor

from mbv3.events import Event, Note, StageStart
from mbv3.latency import LatencyTable
from mbv3.record import Device as DeviceRecord
from mbv3.record import Scale, SearchRecord
from mbv3.runs.options import Options
from mbv3.runs.prepare import TABLE
from mbv3.runs.rundir import RunDir, file_sha256
from mbv3.runs.task_images import read_images
from mbv3.spec import Site, pixels
from mbv3.stages import Budget, Contender, Effort, Outcome, Photos, Sizes, road, steps_of
from mbv3.tables import REFERENCE, Latency, Whole, read_table, reference_of
from mbv3.tasks import TASKS

__all__ = [
    "finest_photos", "given_table", "keep_table", "learned_by", "measured_whole", "table_minutes", "told_small",
    "walked",
]  # fmt: skip

TABLE_SHARE, LEAST_TABLE_MINUTES, MOST_TABLE_MINUTES = 0.08, 0.3, 2.0  # of the minutes of a run


def learned_by(o: Options, run: RunDir[SearchRecord]) -> str:
    """How the delivered weights of a road were trained."""
    name = TASKS[o.task].finetune
    return name if o.under_head else f"{run.record.plan.get('finetune', name)}, distilled"


def table_minutes(o: Options) -> float:
    """Minutes for the table of a run with images."""
    return float(np.clip(TABLE_SHARE * o.minutes, LEAST_TABLE_MINUTES, MOST_TABLE_MINUTES))


def told_small(run: RunDir[SearchRecord], side: int, least: int, name: str) -> Generator[Event, None, None]:
    """A note where the photos are smaller than the `least` pixels of the network or space `name`."""
    if side < least:
        note = f"the photos are smaller ({side} px) than the {least} px of {name}"
        run.note(note)
        yield Note("images", note)


def given_table(o: Options, run: RunDir[SearchRecord]) -> Generator[Event, None, LatencyTable]:
    """The table of --device, or the run's copy of it."""
    own = run.file(TABLE)
    table, caveat = read_table(str(own) if own.exists() else o.device, o.runtime, o.threads, o.force_table)
    if caveat and not own.exists():
        run.note(caveat)
        yield Note("table", caveat, warning=True)
    return table


def keep_table(run: RunDir[SearchRecord], table: LatencyTable, scale: Scale) -> None:
    """The table in the run directory, and in run.json what it is of."""
    own = run.file(TABLE)
    if not own.exists():
        table.save(own)
    if "table" not in run.record.hashes:
        run.hash(table=file_sha256(own))
    run.update(
        scale=scale,
        device=DeviceRecord(**table.fingerprint.as_dict()),
        reference_ms=table.reference_ms,
        reference=f"{REFERENCE}@1, {pixels(reference_of(table).resolution)} px",
    )


def finest_photos(o: Options, run: RunDir[SearchRecord], sizes: Sizes) -> Generator[Event, None, Photos]:
    """The photos at the finest of the sizes."""
    with run.stage("images"):
        finest = max((s.resolution for s in sizes.all), key=lambda r: r[0] * r[1])
        return (yield from read_images(o, run, sizes.start, finest))


def measured_whole(
    run: RunDir[SearchRecord], went: Outcome, latency: Latency, target_ms: float
) -> Generator[Event, None, Whole | None]:
    """The network that is delivered, measured whole; None without a device."""
    with run.stage("measure"):
        yield StageStart("measure", "the delivered network, whole")
        return latency.verdict(went.found.spec, target_ms)


def walked(
    o: Options, run: RunDir[SearchRecord], sizes: Sizes, start: Mapping[str, Tensor], latency: Latency, photos: Photos,
    before: Sequence[str], *, some: Collection[Site] | None = None, subnets: Sequence[Contender] = (),
) -> Generator[Event, None, tuple[Outcome, Whole | None]]:  # fmt: skip
    """The road in the minutes that the stages `before` left, at least half of all, and its network measured whole."""
    spent = sum(run.record.stages.get(name, 0.0) for name in before) / 60
    trained = run.record.stages.get("training", 0.0) / 60  # by a run that was interrupted
    minutes = max(max(0.5 * o.minutes, o.minutes - spent) - trained, 0.1 * o.minutes)
    with run.stage("training"):
        went = yield from road(
            sizes, start, latency, photos.images, photos.report, o.target_ms,
            budget=Budget(minutes, timed=o.timed), seed=o.seed, keep=run,
            effort=None if o.final_epochs is None else Effort.of(steps_of(photos.images, o.final_epochs)),
            some=some, subnets=subnets,
        )  # fmt: skip
    return went, (yield from measured_whole(run, went, latency, o.target_ms))
