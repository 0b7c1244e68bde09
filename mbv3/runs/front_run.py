"""`mbv3-search --target-ms 10,20,50`: a run directory a target, one table, and the front of accuracy over ms."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3.errors import BadInput, Mbv3Error, Unreachable
from mbv3.events import Done, Event, Note, RunStarted
from mbv3.progress import drain
from mbv3.record import FrontRecord, SearchRecord
from mbv3.report import write_front
from mbv3.runs.declare import takes
from mbv3.runs.lists import check_targets
from mbv3.runs.options import Options
from mbv3.runs.prepare import prepare_several, table_name
from mbv3.runs.result import Found
from mbv3.runs.rundir import RunDir, versions
from mbv3.runs.search_run import check_search, new_record, resumed
from mbv3.runs.shared import Shared
from mbv3.tables import read_table

if TYPE_CHECKING:
    import pandas as pd
from mbv3.version import VERSION

__all__ = ["FRONT", "Front", "find_front", "front_events", "is_front"]

FRONT = "front.csv"
COLUMNS = ("target_ms", "status", "ms", "measured_ms", "measured_error_ms", "predicted_ms", "accuracy", "error",
           "params", "madds", "best_beside", "best_beside_accuracy", "folder")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Front:
    """The result of `mbv3.find_front`: the run directory `folder`, its record, and what was found for each target."""

    folder: Path
    record: FrontRecord
    found: tuple[Found, ...]

    @property
    def report(self) -> Path:
        """The front as one HTML page."""
        return self.folder / "report.html"

    @property
    def table(self) -> pd.DataFrame:
        """front.csv: a row a target."""
        import pandas as pd

        return pd.read_csv(self.folder / FRONT)

    def as_dicts(self) -> list[dict[str, Any]]:
        """run.json of every target, in order."""
        return [found.as_dict() for found in self.found]


@takes(Options)
def find_front(
    target_ms: Sequence[float], *, out: str | Path | None = None, resume: str | Path | None = None, **options: Any
) -> Front:
    """Find a network for each of several rising targets in ms, on one table. Shows progress on a terminal and in a
    notebook; `front_events` yields it.

    `out`: the run directory. `resume`: go on with an interrupted one, under its own options.

    Raises:
        BadInput: an option or a file cannot be used, or targets do not rise.
    """
    return drain(front_events(target_ms, out, resume, **options))


def is_front(path: Path) -> bool:
    """Whether a run directory is one of several targets."""
    try:
        text = (path / "run.json").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return f'"{FrontRecord.FORMAT}"' in text[:200]


def front_events(
    target_ms: Sequence[float] = (), out: str | Path | None = None, resume: str | Path | None = None, **options: Any
) -> Generator[Event, None, Front]:
    """Find a network for each target; what mbv3-search runs. A target out of reach does not end the others.

    Raises:
        BadInput: an option or a file cannot be used, or targets do not rise.
    """
    if resume is not None:
        if options:
            raise BadInput(f"--resume {resume}: a run of several targets goes on under its own options; leave out "
                           f"{', '.join('--' + name.replace('_', '-') for name in options)}")  # fmt: skip
        run = RunDir.open(Path(resume), FrontRecord)
        each = _options(run.record.targets_ms, dict(run.record.args))
    else:
        several = tuple(float(t) for t in target_ms)
        check_targets(several)
        each = _options(several, options)
        check_search(each[0])
        folders = tuple(f"{t:.12g}ms" for t in several)
        record = FrontRecord(
            version=VERSION, command=_command(each), args=_args(each[0]), targets_ms=several, folders=folders,
            versions=versions(), started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), status="running",
            exit=None, stages={}, notes=(), hashes={},
        )  # fmt: skip
        run = RunDir.create(Path(out) if out is not None else _free_folder(several), record)
    yield RunStarted(run.path)
    run.lock()
    try:
        run.update(status="running", exit=None, error=None)
        return (yield from _front(each, run))
    except (KeyboardInterrupt, GeneratorExit):
        run.update(status="interrupted", exit=4)
        raise
    except Exception as e:
        code = e.exit_code if isinstance(e, Mbv3Error) else 1
        run.update(status="failed", exit=code, error=str(e))
        raise
    finally:
        run.unlock()


def _options(targets: Sequence[float], options: dict[str, Any]) -> list[Options]:
    each = [Options.of({**options, "target_ms": t}) for t in targets]
    if not each:
        raise BadInput("--target-ms is missing: how many milliseconds may one image take?")
    if each[0].resume_from is not None:
        raise BadInput(f"--resume-from {each[0].resume_from}: one target goes on from a run; give one --target-ms")
    if each[0].data is not None:
        raise BadInput(f"several targets are searched for without --data; leave it out (got {each[0].data})")
    return each


def _args(o: Options) -> dict[str, Any]:
    return {name: value for name, value in o.as_dict().items() if name != "target_ms"}


def _command(each: Sequence[Options]) -> str:
    first = f"--target-ms {each[0].target_ms:g}"
    return each[0].command().replace(first, f"--target-ms {','.join(f'{o.target_ms:g}' for o in each)}", 1)


def _free_folder(targets: Sequence[float]) -> Path:
    base = Path("runs") / f"{'-'.join(f'{t:g}' for t in targets)}ms"
    n, path = 1, base
    while path.exists():
        n += 1
        path = base.with_name(f"{base.name}-{n}")
    return path


def _front(each: Sequence[Options], run: RunDir[FrontRecord]) -> Generator[Event, None, Front]:
    runs = [_inside(run, folder, o) for folder, o in zip(run.record.folders, each, strict=True)]
    first = each[0]
    if not first.estimate_only:
        with run.stage("table"):
            yield from prepare_several(each, runs)
    own_scales = first.scale == "auto" and _any_scale(first, runs[0])
    shared = Shared([] if own_scales else run.record.targets_ms)
    worst = 0
    for one in runs:
        with run.stage(one.path.name):
            try:
                yield from resumed(one, shared=shared)
            except Unreachable as e:
                worst = max(worst, e.exit_code)
                yield Note("front", f"{one.record.target_ms:g} ms: {e}", warning=True)
    found = tuple(Found(one.path, RunDir.open(one.path, SearchRecord).record) for one in runs)
    run.write_rows(FRONT, COLUMNS, [_row(f) for f in found])
    run.update(status="done", exit=worst)
    yield Note("front", f"wrote {write_front(run.path)}")
    yield Done("front", f"{sum(f.record.status == 'done' for f in found)} of {len(found)} targets; {run.file(FRONT)}")
    return Front(run.path, run.record, found)


def _any_scale(o: Options, run: RunDir[SearchRecord]) -> bool:
    """Whether each target has a scale of its own: a table of one scale has the same for all. `run`: one of the runs,
    whose copies of the tables count once they are there."""
    if not o.estimate_only:
        return True
    copies = [run.file(table_name(i)) for i in range(len(o.devices))]
    sources = [str(copy) if copy.exists() else device for copy, device in zip(copies, o.devices, strict=True)]
    return all(read_table(s, o.runtime, o.threads, o.force_table)[0].model is not None for s in sources)


def _inside(run: RunDir[FrontRecord], folder: str, o: Options) -> RunDir[SearchRecord]:
    """The run directory of one target, made where it is not there yet."""
    path = run.path / folder
    if (path / "run.json").exists():
        return RunDir.open(path, SearchRecord)
    return RunDir.create(path, replace(new_record(o), started=run.record.started))


def _row(found: Found) -> dict[str, object]:
    r, a = found.record, found.record.accuracy
    best = max(r.baselines, key=lambda b: b.accuracy or 0.0, default=None)
    ms = r.predicted_ms if r.measured_ms is None else r.measured_ms
    return {
        "target_ms": f"{r.target_ms:g}", "status": r.status, "ms": _text(ms), "measured_ms": _text(r.measured_ms),
        "measured_error_ms": _text(r.measured_error_ms), "predicted_ms": _text(r.predicted_ms),
        "accuracy": _text(None if a is None else a.value), "error": _text(None if a is None else a.error),
        "params": _text(r.params),
        "madds": _text(r.madds), "best_beside": best.name if best is not None else "",
        "best_beside_accuracy": _text(None if best is None else best.accuracy), "folder": found.folder.name,
    }  # fmt: skip


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"
