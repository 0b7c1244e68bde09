"""`mbv3-search --space ofa-mbv3 --init FILE --data DIR`: OFA's supernet and a user's photos to a network within a
target."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mbv3.data import class_parts, peek_class_folder
from mbv3.errors import Unreachable
from mbv3.events import Event, Note, StageStart
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.record import Scale, SearchRecord
from mbv3.runs.delivered import delivered
from mbv3.runs.options import Options
from mbv3.runs.prepare import TABLE
from mbv3.runs.result import Found
from mbv3.runs.road_parts import finest_photos, given_table, keep_table, learned_by, table_minutes, told_small, walked
from mbv3.runs.rundir import RunDir
from mbv3.runs.supernet import reopened
from mbv3.space import SearchSpace, load_space, scale
from mbv3.spec import ArchSpec, count, dump_spec, parse_spec, pixels
from mbv3.stages import (
    Sizes,
    Subnet,
    best_sides,
    drawn_subnet,
    quick_ms,
    settled,
    space_latency,
    subnet_contenders,
    subnets_at,
    typical,
)
from mbv3.tables import (
    Latency,
    lean_plan,
    open_table,
    reference_of,
    table_of_several,
)

__all__ = ["supernet_stages"]

ENLARGED = 1.25  # of the photos' own size: finer than that there is little to see


def supernet_stages(o: Options, run: RunDir[SearchRecord]) -> Generator[Event, None, Found]:
    """The stages of such a run, each resumable: the best networks of the supernet at several resolutions with settled
    weights take the place of cut candidates in the road from weights to a network."""
    assert o.data is not None and run.record.init is not None
    weights = yield from reopened(o, run)
    classes, _, side = peek_class_folder(class_parts(Path(o.data))["training"])
    space = scale(load_space(o.space_name), 1.0, o.asked_resolution, classes)
    sides = _sides(o, space, side)
    yield from told_small(run, side, min(sides), space.name)
    latency = yield from _latency(o, run, space, sides)
    subnets = yield from _subnets(o, run, space, sides, latency)
    natural = max(s for s in sides if s <= max(side, min(sides)))
    sizes = _sizes(space, sides, natural, subnets, latency, o.target_ms)
    photos = yield from finest_photos(o, run, sizes)
    run.text("seed.yaml", dump_spec(sizes.start))
    with run.stage("start"):
        contenders = yield from subnet_contenders(subnets, weights, photos.images, seed=o.seed, keep=run)
        start = settled(sizes.start, weights, photos.images.train, o.seed)
    went, whole = yield from walked(
        o, run, replace(sizes, cut=tuple(c.spec for c in contenders if c.own)), start, latency, photos,
        ("scale", "table", "search", "images", "start"), subnets=contenders,
    )  # fmt: skip
    found = went.found
    what = "the best of the supernet" if found.own else f"{found.called}, which was not beaten"
    init = run.record.init
    return (
        yield from delivered(
            o, run, went, whole, photos, latency,
            origin=(("space", space.name), ("from", init.network), ("init_sha256", init.sha256)),
            scale=Scale(space=space.name, width=1.0, resolution=pixels(found.spec.resolution), why=what),
            recipe=learned_by(o, run),
        )
    )  # fmt: skip


def _sides(o: Options, space: SearchSpace, photos_side: int) -> list[int]:
    """Resolutions of the supernet that the photos are worth, from small to large; the one that is asked for."""
    if o.asked_resolution is not None:
        return [min(o.asked_resolution)]
    own = sorted(space.sides) or [min(space.resolution)]
    return [s for s in own if s <= ENLARGED * photos_side] or own[:1]


def _latency(
    o: Options, run: RunDir[SearchRecord], space: SearchSpace, sides: list[int]
) -> Generator[Event, None, Latency]:
    """The latency of any network of the space at `sides`; its table is kept."""
    own = run.file(TABLE)
    with run.stage("table"):
        if o.estimate_only:
            table = yield from given_table(o, run)
            latency = Latency(table, None)
        else:
            runtime = open_runtime(o.runtime, o.threads)
            if own.exists():
                table = LatencyTable.load(own)
            else:
                table = yield from _measured(o, run, [scale(space, 1.0, s) for s in sides])
            table.require(runtime.fingerprint, str(own))
            latency = Latency(table, Device(runtime, reference_of(table), table.reference_ms))
    keep_table(run, table, Scale(space=space.name, width=1.0, resolution=max(sides), why="the supernet's"))
    return latency


def _measured(o: Options, run: RunDir[SearchRecord], spaces: list[SearchSpace]) -> Generator[Event, None, LatencyTable]:
    """One table of this CPU for all resolutions; a part of it where the minutes are few."""
    runtime = open_runtime(o.runtime, o.threads)
    middle = spaces[-1].spec(typical(spaces[-1]))
    rate = run.value("ms_per_madd", lambda: quick_ms(runtime, [middle])[0] / count(middle).madds)
    minutes = table_minutes(o)
    plan = lean_plan(table_of_several(spaces), rate, o.target_ms, minutes)
    return (yield from open_table(runtime, plan, rebuild=o.rebuild_table, minutes=minutes))


def _subnets(
    o: Options, run: RunDir[SearchRecord], space: SearchSpace, sides: list[int], latency: Latency
) -> Generator[Event, None, list[Subnet]]:
    """The networks that are worth their weights, decided once."""
    if "subnets" not in run.record.plan:
        with run.stage("search"):
            yield StageStart("search", f"networks within {o.target_ms:g} ms at {len(sides)} resolution(s)")
            chosen = best_sides(space, sides, latency, o.target_ms, o.limits)
            yield Note("search", f"most is predicted at {', '.join(map(str, chosen))} px")
            found: list[Subnet] = []
            last: Unreachable | None = None
            for s in chosen:
                at = scale(space, 1.0, s)
                try:
                    found += yield from subnets_at(at, latency, o.target_ms, limits=o.limits, seed=o.seed, keep=run)
                except Unreachable as e:  # as measured; the other resolutions may be fast enough
                    yield Note("search", str(e))
                    last = e
            if not found:
                raise last or Unreachable(
                    f"no network of space {space.name} was measured within {o.target_ms:g} ms; give a larger target",
                    *space_latency(scale(space, 1.0, chosen[0]), latency).range_ms(),
                )
            one = drawn_subnet(scale(space, 1.0, chosen[0]), latency, o.target_ms, limits=o.limits, seed=o.seed)
            found += [one] if one is not None and all(one.spec.rows != f.spec.rows for f in found) else []
        rows = [(s.name, s.kind, dump_spec(s.spec), s.ms, s.error_ms, s.predicted) for s in found]
        run.value("subnets", partial(list, rows))
    latency.correction = 1.0  # the last subnet's is not kept, and a resumed run shall choose alike
    kept: Any = run.record.plan["subnets"]
    return [Subnet(name, kind, parse_spec(text, "subnets"), *numbers) for name, kind, text, *numbers in kept]


def _sizes(
    space: SearchSpace, sides: list[int], natural: int, subnets: list[Subnet], latency: Latency, target_ms: float
) -> Sizes:
    """The largest network of the supernet, which teaches, and its resolutions within the target."""
    whole: ArchSpec = space.spec(tuple(n - 1 for n in space.sizes), f"largest of {space.name}")
    at = {s: replace(whole, resolution=(s, s)) for s in sides}
    ms = dict(zip(sides, latency.rough()(list(at.values())), strict=True))
    lower = [at[s] for s in sorted(sides, reverse=True) if ms[s] <= target_ms]
    return Sizes(at[natural], tuple(lower), tuple(s.spec for s in subnets if s.kind == "subnet"))
