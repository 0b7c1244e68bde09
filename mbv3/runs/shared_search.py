"""`--storage` and `--workers`: the study that a run shares, and the processes that it starts beside itself."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mbv3.errors import BadInput
from mbv3.events import Event, Note, Progress
from mbv3.record import SearchRecord
from mbv3.runs.options import Options
from mbv3.runs.prepare import SPACE
from mbv3.runs.rundir import RunDir, file_sha256
from mbv3.search import OWN_REWARDS, OWN_SAMPLERS, Trial, check_study, open_storage, storage_name
from mbv3.space import SearchSpace
from mbv3.stages import Job, Judge, Photos, ScaledSpace, Shape, SpaceLatency, Study, search_shared
from mbv3.version import VERSION

__all__ = ["check_shared", "shared_trials"]

JOURNAL, LOG = "study.log", "workers.log"
WEIGHTS = "supernet.safetensors"  # of a judge with shared weights
_END_S = 20.0  # for workers to end by themselves


def check_shared(o: Options, folder: str | None = None) -> None:
    """`folder`: the name of the run's. Raises: BadInput: workers for a score that costs nothing, or that cannot make
    what proposes and rewards, a storage that cannot be reached, or one whose study is of another search."""
    if o.storage is None and o.workers is None:
        if o.study is not None:
            raise BadInput(f"--study {o.study}: names a study of a storage; give it with --storage")
        return
    flag = f"--workers {o.workers}" if o.workers is not None else "--storage"
    if o.init is not None:
        raise BadInput(f"{flag}: with --init no search scores networks; leave it out")
    if o.under_head:
        raise BadInput(f"{flag}: workers read photos with a class each, no images of --task {o.task}; leave it out")
    if o.accuracy_kind == "imagenet":
        raise BadInput(
            f"{flag}: the ImageNet model scores thousands of networks a second, so workers make no sense; they are for "
            "--accuracy train or supernet"
        )
    for what, value, own in (("sampler", o.sampler_name, OWN_SAMPLERS), ("reward", o.reward, OWN_REWARDS)):
        if value not in own:
            raise BadInput(f"{flag}: workers are processes of their own, which do not know the {what} {value} of this "
                           f"one; take one of {', '.join(own)}, or mbv3.search.SharedSearch in a script that all "
                           "start")  # fmt: skip
    if o.storage is not None:
        storage, name = open_storage(o.storage), o.study or folder
        if name is not None:
            check_study(storage, name, _known(o), f"--storage {storage_name(o.storage)}")


def _known(o: Options) -> dict[str, Any]:
    """What must be equal for all who work on a study, as far as it is known before the table and the weights."""
    known = {
        "sampler": o.sampler_name, "seed": o.seed, "trials": o.trials, "version": VERSION, "accuracy": o.accuracy_kind,
        "target_ms": o.target_ms * o.seed_ratio, "reward": o.reward, "w": o.w, "limits": str(o.limits),
    }  # fmt: skip
    return {key: value for key, value in known.items() if value is not None}


def shared_trials(
    o: Options, run: RunDir[SearchRecord], space: SearchSpace, judge: Judge, cost: SpaceLatency, photos: Photos,
    shape: Shape | None, *, target_ms: float, w: float, trials: int,
) -> Generator[Event, None, list[Trial]]:  # fmt: skip
    """All trials of the search of `o`, scored here and by whoever works on its study."""
    assert o.data is not None
    name, storage = o.study or run.path.name, o.storage or str(run.file(JOURNAL))
    weights = {WEIGHTS: file_sha256(run.file(WEIGHTS))} if judge.kind == "supernet" else {}
    scaled = ScaledSpace(
        text=run.file(SPACE).read_text("utf-8"), strides=0 if shape is None else shape.strides, width=space.width,
        resolution=space.resolution, classes=space.head.classes,
    )  # fmt: skip
    if type(cost) is not SpaceLatency:
        raise BadInput("--workers: the worst of several devices is not shared with workers; give one --device")
    latency = SpaceLatency(cost.additive, cost.constant_ms, o.estimate_only or cost.estimated)
    job = Job(
        version=VERSION, space=scaled, latency=latency, kind=judge.kind, data=o.data, test=o.test,
        size=photos.images.size, images=photos.sha256, plan={k: run.record.plan[k] for k in _decided(judge.kind)},
        minutes=o.minutes, timed=o.timed, folder=str(run.path.resolve()), files=weights, target_ms=target_ms,
        sampler=o.sampler_name, reward=o.reward, w=w, trials=trials, seed=o.seed, limits=o.limits,
    )  # fmt: skip
    run.update(plan={**run.record.plan, "study": name})  # --resume may give another
    others = (o.workers or 1) - 1
    if o.storage is not None:
        yield Note("search", f"networks are scored by all who run: mbv3 worker {o.storage} --study {name}")
    started: dict[str, subprocess.Popen[bytes]] = {}

    def gone(worker: str) -> bool:
        return any(worker.startswith(name) and p.poll() is not None for name, p in started.items())

    search = search_shared(job, judge, Study(storage, name, gone=gone), keep=run)
    yield next(search)  # workers read the study, which holds the job now
    with _beside(o, others, storage, name, run.path, started):
        return (yield from _watched(search, started, run.file(LOG)))


def _watched(
    search: Generator[Event, None, list[Trial]], started: Mapping[str, subprocess.Popen[bytes]], log: Path
) -> Generator[Event, None, list[Trial]]:
    """`search`, with a warning for each worker that ends with an error before it does."""
    dead: set[str] = set()
    while True:
        try:
            event = next(search)
        except StopIteration as e:
            trials: list[Trial] = e.value
            return trials
        yield event
        if isinstance(event, Progress) and event.done < event.total:  # a late worker finds nothing left in the end
            for name, p in started.items():
                if p.poll() and name not in dead:
                    dead.add(name)
                    yield Note("search", f"a worker ended with exit code {p.returncode}; {log} says why, and the "
                               "search goes on without it", warning=True)  # fmt: skip


def _decided(kind: str) -> tuple[str, ...]:
    """What of a run's plan the judge of a worker reads."""
    return ("supernet_steps",) if kind == "supernet" else ("proxy_steps",)


@contextmanager
def _beside(
    o: Options, count: int, storage: str, study: str, folder: Path, started: dict[str, subprocess.Popen[bytes]]
) -> Iterator[None]:
    """`count` workers in processes of their own, put into `started`, which say what they do in workers.log."""
    if not count:
        yield
        return
    cores = max(1, len(os.sched_getaffinity(0)) // (count + 1))
    threads = torch.get_num_threads()
    command = [sys.executable, "-m", "mbv3", "worker", storage, "--study", study, "--run", str(folder)]
    command += [part for flag, at in (("--data", o.data), ("--test", o.test)) if at for part in (flag, at)]
    with (folder / LOG).open("ab") as log:
        for _ in range(count):
            p = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": str(min(cores, threads))},
            )  # fmt: skip
            started[f"{platform.node() or 'host'}-{p.pid}-"] = p

    torch.set_num_threads(min(cores, threads))
    ended = False
    try:
        yield
        ended = True
    finally:
        torch.set_num_threads(threads)
        for p in started.values():
            try:
                if not ended:
                    p.terminate()
                p.wait(_END_S)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
