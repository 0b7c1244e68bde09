"""`mbv3 netadapt SPEC --target-ms T`: NetAdapt on any network, named, found or hand-written."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mbv3.accuracy import imagenet
from mbv3.errors import BadInput
from mbv3.events import Event, RunStarted
from mbv3.latency import Device, LatencyTable, open_runtime
from mbv3.progress import drain
from mbv3.record import Accuracy, Scale, SearchRecord
from mbv3.record import Device as DeviceRecord
from mbv3.runs.declare import command_line, takes
from mbv3.runs.deliver import budget_of, deliver, guarded, predicted_accuracy
from mbv3.runs.on_images import compete, photos_of
from mbv3.runs.options import NETADAPT, Options
from mbv3.runs.prepare import TABLE
from mbv3.runs.result import Found
from mbv3.runs.resume_from import (
    check_source,
    keep_curve,
    open_source,
    same_network,
    take_up,
    taken_from,
    taken_options,
    within_reach,
)
from mbv3.runs.road import by_hand, check_road, initial, road_stages
from mbv3.runs.rundir import RunDir, file_sha256, versions
from mbv3.runs.task_images import dressed, looked_at
from mbv3.spec import ArchSpec, Site, all_sites, dump_spec, load_spec, named_sites, parse_spec, pixels, sites
from mbv3.stages import (
    PRESETS,
    Joint,
    Photos,
    Single,
    adapt_predicted,
    check_reach,
    fast_enough,
    network_table,
    shrink,
    uniform_at,
)
from mbv3.tables import Latency, reference_of
from mbv3.tasks import task_of
from mbv3.version import VERSION

__all__ = ["adapt", "adapt_events", "adapt_stages"]

NOTE = "NetAdapt's own accuracy after short fine-tuning"


@takes(Options, only=NETADAPT)
def adapt(spec: ArchSpec | str | None, target_ms: float, *, out: str | Path | None = None, **options: Any) -> Found:
    """Shrink `spec`, a network or the name or YAML file of one, to `target_ms` with NetAdapt; None with `resume_from`,
    which has one. Shows progress on a terminal and in a notebook; `adapt_events` yields it.

    Raises:
        BadInput: an option cannot be used.
        Unreachable: the network is already faster than the target, or no cut leads to it.
    """
    return drain(adapt_events(load_spec(spec) if isinstance(spec, str) else spec, target_ms, out, **options))


def adapt_events(
    spec: ArchSpec | None, target_ms: float, out: str | Path | None = None, **options: Any
) -> Generator[Event, None, Found]:
    """Shrink `spec` to `target_ms`. Its table holds the network's own layers, calibrated on twelve widths of it.

    Raises:
        BadInput: an option cannot be used.
        Unreachable: the network is already faster than the target, or no cut leads to it.
    """
    if isinstance(target_ms, Sequence):
        raise BadInput(
            f"--target-ms {','.join(f'{t:g}' for t in target_ms)}: a network is shrunk to one target; give one"
        )
    source = open_source(options["resume_from"]) if options.get("resume_from") else None
    if source is not None:
        same_network(source, spec)
        spec = source.spec
    if spec is None:
        raise BadInput("SPEC is missing: the network to shrink, a name or a YAML file; or --resume-from RUN")
    if options.get("data") is not None:
        options = {"task": task_of(spec).name, **options}  # what its images have is by its head
    given = {"target_ms": target_ms, **options}
    if source is not None:
        o = taken_options(source, given)
    else:
        o = Options.of({**given, **({"from_": spec.name} if options.get("init") else {})})
    open_runtime(o.runtime, o.threads)
    _engine(o)
    named_sites(spec, o.keep, o.only)  # what cannot be cut is said before anything is made
    if source is not None:
        check_source(o, source)
    start = None
    if o.init is not None:
        start = check_road(o, spec)
    else:
        some = _sites(o, spec)
        if o.data is not None:
            dressed(o, spec, looked_at(o))  # before anything is made
        else:
            imagenet(spec)  # what its cuts are judged by
        if source is not None:
            within_reach(o, source, some or (all_sites(spec) if _joint(o) else None))
    path = Path(out) if out else Path("runs") / f"netadapt-{spec.name}-{target_ms:g}ms"
    named = () if source is not None else (spec.name,)
    command = command_line("mbv3 netadapt", *named, options=o, only=("target_ms", *NETADAPT))
    record = SearchRecord(
        version=VERSION, command=command, args=o.as_dict(), target_ms=target_ms, versions=versions(),
        seeds={"search": o.seed}, started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        hashes={}, network=dump_spec(spec), init=initial(start) if start else None, status="running",
        exit=None, stages={}, notes=(),
        taken_from=taken_from(o, source) if source else None, seed_ms=source.record.seed_ms if source else None,
    )  # fmt: skip
    run = RunDir.create(path, record)
    yield RunStarted(run.path)
    return (yield from guarded(run, (road_stages if start else adapt_stages)(o, run)))


def _engine(o: Options) -> dict[str, Any]:
    """How images decide: the arguments of `shrink` by --preset, --finetune-steps, --delta and --workers.

    Raises:
        BadInput: --workers without single cuts.
    """
    chosen: dict[str, Any] = dict(PRESETS[o.preset])
    engine: Joint | Single = chosen["engine"]
    if o.delta is not None or o.finetune_steps is not None:  # only single cuts have these
        engine = engine if isinstance(engine, Single) else Single()
        engine = replace(engine, delta=engine.delta if o.delta is None else o.delta)
        chosen["steps"] = chosen.get("steps") if o.finetune_steps is None else o.finetune_steps
    if o.workers is not None:
        if isinstance(engine, Joint) or o.data is None or o.init is not None:
            raise BadInput(
                f"--workers {o.workers}: fine-tunes the proposals of single cuts; it belongs to --preset paper, "
                "--delta or --finetune-steps on --data, without --init"
            )
        engine = replace(engine, processes=o.workers, rank="loss")  # else one alone is fine-tuned
    return {**chosen, "engine": engine}


def _joint(o: Options) -> bool:
    return o.data is not None and isinstance(_engine(o)["engine"], Joint)


def _sites(o: Options, spec: ArchSpec) -> Collection[Site] | None:
    """The sites that --keep and --only leave to the cuts of this run; None without either.

    Raises:
        BadInput: the cuts are single, and none is left to them.
    """
    some = by_hand(o, spec)
    if some is None or _joint(o):
        return some
    left = frozenset(some).intersection(sites(spec))
    if not left:
        flags = (("--only", o.only), ("--keep", o.keep))
        raise BadInput(
            f"{' '.join(f'{flag} {text}' for flag, text in flags if text is not None)}: leaves nothing to single cuts, "
            "which are of expansions, bottlenecks and a dense head; the stem, the tail and the features are for joint "
            "cuts, those of --preset fast and thorough on --data"
        )
    return left


def adapt_stages(o: Options, run: RunDir[SearchRecord]) -> Generator[Event, None, Found]:
    """The stages of `adapt_events`, each resumable."""
    assert run.record.network is not None
    spec = parse_spec(run.record.network, "run.json: network")
    runtime = open_runtime(o.runtime, o.threads)
    some = _sites(o, spec)
    taken = take_up(run, o.target_ms)
    if run.record.seed_ms is None:
        # joint cuts reach further than single ones
        check_reach(spec, o.target_ms, runtime, some or (all_sites(spec) if _joint(o) else None))
    photos: Photos | None = None
    if o.data is not None:
        if o.under_head:
            spec = replace(dressed(o, spec, looked_at(o)), resolution=spec.resolution)
            run.update(task=o.task, head=o.dense, classes=spec.head.classes)
        photos = yield from photos_of(o, run, spec.resolution, spec)
    own = run.file(TABLE)
    with run.stage("table"):
        table = LatencyTable.load(own) if own.exists() else (yield from network_table(spec, runtime, own))
    latency = Latency(table, Device(runtime, reference_of(table), table.reference_ms))
    if run.record.taken_from is None:
        measured = latency.measure(spec, 4)
        assert measured is not None
        if run.record.seed_ms is None and measured.ms <= o.target_ms:
            raise fast_enough(spec, measured.ms, o.target_ms, 0.0)
        run.update(seed_ms=measured.ms)
    run.text("seed.yaml", dump_spec(spec))
    side = pixels(spec.resolution)
    run.update(
        scale=Scale(space=spec.name, width=1.0, resolution=side, why="the network's own size"),
        device=DeviceRecord(**runtime.fingerprint.as_dict()),
        reference_ms=table.reference_ms,
        reference=f"mobilenet_v3_large@1, {side} px",
        accuracy=Accuracy(value=None, kind="netadapt", unit="%", note=NOTE),
    )
    if "table" not in run.record.hashes:
        run.hash(table=file_sha256(own))
    plain = replace(spec, provenance=())
    with run.stage("netadapt"):
        if photos is None:
            adapted = yield from adapt_predicted([plain], latency, o.target_ms, delta=o.delta, keep=run, some=some)
            assert adapted.estimate is not None
            run.update(accuracy=predicted_accuracy(adapted.estimate))
        else:
            adapted = yield from shrink(
                plain, latency, photos.images, o.target_ms, budget=budget_of(o), seed=o.seed, keep=run, some=some,
                taken=taken, **_engine(o),
            )  # fmt: skip
    if photos is None:
        return (yield from deliver(o, run, adapted, None, latency))
    if not o.under_head:  # --resume-from takes class folders
        yield from keep_curve(run)
    make = partial(uniform_at, adapted.spec, plain, latency, o.target_ms, some)
    return (yield from compete(o, run, adapted, photos, latency, make))
