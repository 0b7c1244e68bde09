"""The run directory: everything a run made, enough to resume and to verify it."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from mbv3.errors import BadInput
from mbv3.files import write_atomic
from mbv3.search import Trial
from mbv3.space import SearchSpace

__all__ = ["RunDir", "file_sha256", "json_ready", "versions"]

T = TypeVar("T")
FORMAT = "mbv3-run/1"
_NEEDED: dict[str, type] = {"args": dict, "status": str, "stages": dict, "notes": list, "hashes": dict}
_TRIAL_COLUMNS = ("number", "genome", "accuracy", "latency_ms", "reward", "estimated", "state", "sampler_state")
NETADAPT_COLUMNS = (
    "step", "proposal", "kind", "where", "before", "after", "latency_ms", "delta_ms", "accuracy", "delta_accuracy",
    "loss", "score", "chosen",
)  # fmt: skip


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Python and every library that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("mbv3-search", "torch", "numpy", "scipy", "onnx", "onnxruntime", "optuna", "pandas", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def json_ready(value: Any) -> Any:
    """NaN and infinity have no JSON: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(v) for v in value]
    return value


class RunDir:
    """A run's files. `record` is run.json, kept on disk after every change through `save`.

    It is the `Keep` of the run's stages. With `writes` False nothing is written: the run of a process that trains
    beside the one that writes.
    """

    def __init__(self, path: Path, record: dict[str, Any], writes: bool = True) -> None:
        self.path = path
        self.record = record
        self.writes = writes

    @classmethod
    def create(cls, path: Path, record: Mapping[str, Any], form: str = FORMAT) -> RunDir:
        """A new folder. Raises: BadInput when it exists with anything in it, or cannot be made."""
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise BadInput(
                    f"--out {path}: already exists; give another folder, or go on with that run: --resume {path}"
                )
            path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise BadInput(f"--out {path}: cannot be made ({e.strerror})") from None
        run = cls(path, {"format": form, **record, "status": "running", "exit": None, "stages": {}, "notes": []})
        run.save()
        return run

    @classmethod
    def open(cls, path: Path, form: str = FORMAT) -> RunDir:
        """An existing run. Raises: BadInput."""
        file = path / "run.json"
        try:
            record = json.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            raise BadInput(f"{path}: not a run directory (it has no run.json)") from None
        except (OSError, ValueError) as e:
            raise BadInput(f"{file}: cannot be read ({e})") from None
        if not isinstance(record, dict) or record.get("format") != form:
            raise BadInput(f"{file}: its format must be {form}")
        for name, kind in _NEEDED.items():
            if not isinstance(record.get(name), kind):
                raise BadInput(f"{file}: {name} is missing or not a {kind.__name__}; the file was edited")
        return cls(path, record)

    def lock(self) -> None:
        """Hold the run for this process until it ends. Raises: BadInput when another process works on it."""
        try:
            self._lock = (self.path / ".lock").open("a")
        except OSError as e:
            raise BadInput(f"{self.path}: cannot be written to ({e.strerror})") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise BadInput(f"{self.path}: another process is at work on this run; wait for it, or end it") from None

    def unlock(self) -> None:
        """Let other processes have the run."""
        self._lock.close()

    def save(self, **changes: Any) -> None:
        """Update run.json."""
        self.record.update(changes)
        self.write("run.json", json.dumps(json_ready(self.record), indent=1) + "\n")

    def note(self, text: str) -> None:
        """A caveat that the report shows, once."""
        if text not in self.record["notes"]:
            self.record["notes"].append(text)
            self.save()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent to the stage's timing, also when the stage fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            stages = self.record["stages"]
            stages[name] = round(stages.get(name, 0.0) + time.monotonic() - began, 2)
            self.save()

    def write(self, name: str, text: str) -> None:
        if self.writes:
            write_atomic(self.path / name, text)

    # ---- Keep ------------------------------------------------------------------------------------------------

    def value(self, name: str, decide: Callable[[], T]) -> T:
        """What was decided first, from run.json's plan."""
        plan: dict[str, T] = self.record.setdefault("plan", {})
        if name not in plan:
            plan[name] = decide()
            self.save()
        return plan[name]

    def file(self, name: str) -> Path | None:
        return self.path / name

    def rows(self, name: str) -> list[dict[str, str]]:
        """Rows of a CSV file of the run; none where there is no such file."""
        file = self.path / name
        if not file.exists():
            return []
        with file.open(encoding="utf-8", newline="") as f:
            return list(csv.DictReader(f))

    def write_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        out = io.StringIO()
        w = csv.DictWriter(out, columns, restval="", lineterminator="\n")
        w.writeheader()
        w.writerows(rows)
        self.write(name, out.getvalue())

    def text(self, name: str, content: str) -> None:
        self.write(name, content)

    # ---- trials ----------------------------------------------------------------------------------------------

    def read_trials(self, space: SearchSpace, estimated: bool) -> list[Trial]:
        """Trials of an interrupted search; a half-written last line is dropped and the file mended."""
        file = self.path / "trials.csv"
        if not file.exists():
            return []
        text = file.read_text("utf-8")
        rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))[1:]
        trials: list[Trial] = []
        for row in rows:
            try:
                number, genome, accuracy, latency, reward, _, state, extra = row
                trial = Trial(
                    int(number), space.genome(genome), float(accuracy), float(latency), float(reward), state, extra
                )
            except (ValueError, BadInput):
                break
            if trial.number != len(trials):
                break
            trials.append(trial)
        self._rewrite_trials(trials, estimated)
        return trials

    def _rewrite_trials(self, trials: Sequence[Trial], estimated: bool) -> None:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(_TRIAL_COLUMNS)
        self.write("trials.csv", out.getvalue() + self._trial_lines(trials, estimated))

    @staticmethod
    def _trial_lines(trials: Sequence[Trial], estimated: bool) -> str:
        out = io.StringIO()
        w = csv.writer(out, lineterminator="\n")
        for t in trials:
            # repr keeps every bit: a resumed study must see the rewards that the first one saw
            w.writerow([
                t.number, "-".join(map(str, t.genome)), repr(t.accuracy), repr(t.latency_ms), repr(t.reward),
                int(estimated), t.state, t.sampler_state,
            ])  # fmt: skip
        return out.getvalue()

    def append_trials(self, trials: Sequence[Trial], estimated: bool) -> None:
        """Add finished trials, on disk when this returns."""
        file = self.path / "trials.csv"
        if not file.exists():
            self._rewrite_trials([], estimated)
        try:
            with file.open("a", encoding="utf-8") as f:
                f.write(self._trial_lines(trials, estimated))
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise BadInput(f"{file}: cannot be written ({e.strerror})") from None

    # ---- netadapt --------------------------------------------------------------------------------------------

    def read_netadapt(self, upto: int) -> list[dict[str, str]]:
        """Rows of finished steps."""
        file = self.path / "netadapt.csv"
        if not file.exists():
            return []
        with file.open(encoding="utf-8", newline="") as f:
            return [row for row in csv.DictReader(f) if int(row["step"]) <= upto]

    def write_netadapt(self, rows: Sequence[Mapping[str, Any]]) -> None:
        out = io.StringIO()
        w = csv.DictWriter(out, NETADAPT_COLUMNS, lineterminator="\n")
        w.writeheader()
        w.writerows(rows)
        self.write("netadapt.csv", out.getvalue())
