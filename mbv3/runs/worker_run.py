"""`mbv3 worker STORAGE`: score networks of a search that runs on this machine or on another."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mbv3.errors import BadInput, plain
from mbv3.events import Done, Event, StageStart
from mbv3.progress import drain
from mbv3.runs.declare import always, check, from_args, option, takes
from mbv3.runs.rundir import file_sha256
from mbv3.search import Offered, offered, open_storage, storage_name
from mbv3.stages import (
    Budget,
    Images,
    Job,
    Judge,
    Memory,
    Study,
    read_photos,
    search_shared,
    supernet_judge,
    training_judge,
)
from mbv3.version import VERSION

__all__ = ["WorkerOptions", "work", "work_events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The options of `mbv3 worker`. None: as the search has it."""

    study: str | None = option(None, "study of the storage (default: the one whose search is not finished)",
                               metavar="NAME")  # fmt: skip
    data: str | None = option(None, "where the search's images are on this machine", metavar="DIR", is_path=always)
    test: str | None = option(None, "where its images to report on are, if it has such", metavar="DIR", is_path=always)
    run: str | None = option(None, "where the search's run directory is on this machine, or a folder with its "
                             "supernet.safetensors", metavar="DIR", is_path=always)  # fmt: skip

    def __post_init__(self) -> None:
        check(self)


@takes(WorkerOptions)
def work(storage: str, **options: str | None) -> int:
    """Score networks of a search until it is finished; returns how many networks it has. Shows progress on a terminal
    and in a notebook; `work_events` yields it.

    Raises:
        BadInput: the storage, its study or the images cannot be used.
    """
    return drain(work_events(storage, **options))


def work_events(storage: str, **options: str | None) -> Generator[Event, None, int]:
    """Likewise; what `mbv3 worker` runs."""
    o = from_args(WorkerOptions, options)
    chosen = _chosen(storage, o.study)
    job = Job.parse(chosen.job, f"--storage {storage_name(storage)}, study {plain(chosen.name)}")
    if job.version != VERSION:
        raise BadInput(f"study {plain(chosen.name)} is of mbv3-search {job.version}, and this worker is {VERSION}; "
                       f"install that version here: pip install mbv3-search=={job.version}")  # fmt: skip
    if chosen.finished:
        raise BadInput(f"study {plain(chosen.name)} is finished: it has its {chosen.ended} networks, and nothing is "
                       "left for a worker")  # fmt: skip
    with _files(job, Path(o.run or job.folder)) as keep:
        judge = yield from _judge(job, o, keep)
        # processes that begin together shall draw different networks
        study = Study(storage, chosen.name, place=1 + os.getpid() % 997)
        trials = yield from search_shared(job, judge, study)
    yield Done("worker", f"study {chosen.name} is finished: {len(trials)} networks")
    return len(trials)


def _chosen(storage: str, name: str | None) -> Offered:
    """The study to work on. Raises: BadInput."""
    where = f"--storage {storage_name(storage)}"
    every = {s.name: s for s in offered(open_storage(storage, make=False))}
    if not every:
        raise BadInput(f"{where}: holds no search yet; begin one with mbv3-search --storage, which writes its study "
                       "when its table and its weights are made")  # fmt: skip
    if name is not None:
        if name not in every:
            raise BadInput(f"{where}: has no study {plain(name)} (--study); there are {', '.join(map(plain, every))}")
        return every[name]
    left = [s for s in every.values() if not s.finished]
    if len(left) > 1:
        raise BadInput(f"{where}: several searches run; say which with --study {'|'.join(plain(s.name) for s in left)}")
    return left[0] if left else list(every.values())[-1]


class _Files(Memory):
    """What a run decided, and its files as far as a worker reads them; what a worker writes goes into `own`."""

    def __init__(self, job: Job, run: Path, own: Path) -> None:
        super().__init__(values=dict(job.plan))
        self._run, self._own = run, own

    def file(self, name: str) -> Path | None:
        for part in (name, str(Path(name).with_suffix(".json"))):
            there, here = self._run / part, self._own / part
            if there.exists() and not here.exists():
                here.symlink_to(there.absolute())
        return self._own / name


@contextmanager
def _files(job: Job, run: Path) -> Iterator[_Files]:
    """Raises: BadInput: a file that the worker needs is missing, or is another one."""
    for name, digest in job.files.items():
        file = run / name
        if not file.exists():
            raise BadInput(f"{file}: the shared weights of the search are not there; mount its run directory or copy "
                           f"the file from {job.folder}, and say where: --run DIR")  # fmt: skip
        if file_sha256(file) != digest:
            raise BadInput(f"{file}: is not the {name} that the search scores with; copy it again from {job.folder}")
    with TemporaryDirectory(prefix="mbv3-worker-") as own:
        yield _Files(job, run, Path(own))


def _judge(job: Job, o: WorkerOptions, keep: _Files) -> Generator[Event, None, Judge]:
    """What scores a network as the search does. Raises: BadInput: other images."""
    data, test = Path(o.data or job.data), o.test or (None if o.data else job.test)
    if not data.is_dir():
        raise BadInput(f"--data {data}: the search's images are not there on this machine; say where they are")
    yield StageStart("images", f"reading {data}")
    photos = yield from read_photos(data, job.size, test=Path(test) if test else None, seed=job.seed, keep=keep)
    if photos.sha256 != job.images:
        raise BadInput(f"--data {data}: these are not the images of the search (SHA-256 {photos.sha256[:12]}, those "
                       f"have {job.images[:12]}); copy them as they are"
                       + ("" if test else ", and give --test if the search has it" if job.test else ""))  # fmt: skip
    space = job.space.space()
    images = Images(photos.images.train, photos.images.held_out, space.resolution)
    budget = Budget(job.minutes, timed=job.timed)
    if job.kind == "train":
        return training_judge(space, images, trials=job.trials, budget=budget, seed=job.seed, keep=keep)
    return (yield from supernet_judge(space, images, budget=budget, seed=job.seed, keep=keep))
