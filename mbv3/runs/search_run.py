"""`mbv3-search`: from a target in milliseconds to a network, stage by stage, every stage resumable."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from mbv3.errors import BadInput
from mbv3.events import Done, Event, Note, RunStarted
from mbv3.latency import open_runtime
from mbv3.progress import drain
from mbv3.record import SearchRecord
from mbv3.report import write_report
from mbv3.runs.chain import chain
from mbv3.runs.declare import STUDY, moved, takes, there
from mbv3.runs.deliver import guarded, remove_checkpoints
from mbv3.runs.init_options import ADVICE
from mbv3.runs.netadapt_run import adapt_stages
from mbv3.runs.options import Options
from mbv3.runs.result import Found
from mbv3.runs.resume_from import Source, check_source, open_source, same_network, taken_from, taken_options
from mbv3.runs.road import check_road, initial, road_stages
from mbv3.runs.rundir import RunDir, versions
from mbv3.runs.shared import Shared
from mbv3.runs.shared_search import check_shared
from mbv3.runs.supernet import OFA_ADVICE, check_ofa_weights, supernet_initial
from mbv3.runs.supernet_road import supernet_stages
from mbv3.runs.task_images import input_size, looked_at
from mbv3.search import REWARDS, SAMPLERS, register_reward, register_sampler
from mbv3.space import load_space, scale
from mbv3.spec import dump_spec, load_spec
from mbv3.tables import one_space, read_table
from mbv3.version import VERSION

__all__ = ["check_search", "find", "find_events", "new_record", "resumed"]


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
    and `test` say where its images are now, if they were moved, `storage` and `study` where its networks are kept.

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
    given = {"target_ms": target_ms, **options}
    source = open_source(options["resume_from"]) if options.get("resume_from") else None
    o = _from_source(source, given) if source is not None else Options.of(given)
    folder = Path(out) if out is not None else _free_folder(o.target_ms)
    check_search(o, folder.name)
    network = source.spec if source is not None else load_spec(o.from_) if o.from_ is not None else None
    if source is not None:
        check_source(o, source)
    start = check_road(o, network) if network is not None else None
    record = new_record(o)
    if network is not None and start is not None:
        record = replace(record, network=dump_spec(network), init=initial(start))
    if source is not None:
        record = replace(record, taken_from=taken_from(o, source))
    run = RunDir.create(folder, record)
    yield RunStarted(run.path)
    if o.data is not None and o.init is None:
        yield Note("search", ADVICE, warning=True)
    elif o.init is None and o.space_name.startswith("ofa-mbv3"):
        yield Note("search", OFA_ADVICE, warning=True)
    return (yield from guarded(run, road_stages(o, run) if start else _searched(o, run)))


def _from_source(source: Source, given: Mapping[str, Any]) -> Options:
    """The options of a search that goes on from a run. Raises: BadInput."""
    if not source.road:
        raise BadInput(f"--resume-from {source.path}: is of mbv3 netadapt without --init; go on with mbv3 netadapt "
                       f"--resume-from {source.path}")  # fmt: skip
    if given.get("from_") is not None:
        same_network(source, load_spec(given["from_"]))
    return taken_options(source, {k: v for k, v in given.items() if k != "from_"})


def _searched(o: Options, run: RunDir[SearchRecord], shared: Shared | None = None) -> Generator[Event, None, Found]:
    """The stages of a search over a space."""
    return supernet_stages(o, run) if o.supernet and o.data is not None else chain(o, run, shared)


def resumed(
    run: RunDir[SearchRecord], now: Mapping[str, Any] | None = None, shared: Shared | None = None
) -> Generator[Event, None, Found]:
    """Go on with a run to its end, where it is not there. `now`: where its images and its study are. `shared`: of the
    runs that it is one of."""
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
    anew = {name: value for name, value in o.as_dict().items() if name in STUDY and name in (now or {})}
    if anew:
        check_shared(o, run.path.name)
    if run.record.init is not None and run.record.network is not None:
        work = road_stages(o, run)
    else:
        work = _searched(o, run, shared) if run.record.network is None else adapt_stages(o, run)
    return (yield from guarded(run, _kept(run, anew, work)))


def _kept(run: RunDir[SearchRecord], anew: Mapping[str, Any], work: Generator[Event, None, Found]
          ) -> Generator[Event, None, Found]:  # fmt: skip
    """`work`, after the study that was given anew is among the run's options."""
    if anew:
        run.update(args={**run.record.args, **anew})
    return (yield from work)


def check_search(o: Options, folder: str | None = None) -> None:
    """Everything that can be wrong with what was asked for, before anything is made. `folder`: the name of the run's.
    Raises: BadInput."""
    if o.data is not None and o.init is None and o.accuracy_kind == "imagenet" and o.final_epochs == 0:
        raise BadInput("--final-epochs 0 trains nothing; leave --data out, or add --accuracy supernet (got 0)")
    for flag, sites in (("--keep", o.keep), ("--only", o.only)):
        if sites is not None and o.init is None:
            raise BadInput(f"{flag} {sites}: names sites of a network that is given; use it with --init, or with mbv3 "
                           "netadapt")  # fmt: skip
    check_shared(o, folder)
    if not o.estimate_only:
        open_runtime(o.runtime, o.threads)
    if o.from_ is None:
        space = load_space(o.space_name)
        if o.supernet:
            check_ofa_weights(o, space)
        peek = None if o.data is None else looked_at(o)
        if peek is not None and o.under_head:
            o.headed(scale(space, 1.0, input_size(o, peek)), peek.outputs)
        else:
            o.headed(scale(space, 1.0, o.pinned_resolution))
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
    init = supernet_initial(check_ofa_weights(o, load_space(o.space_name))) if o.supernet else None
    return SearchRecord(
        version=VERSION, command=o.command(), init=init, args=o.as_dict(), target_ms=o.target_ms, versions=versions(),
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
