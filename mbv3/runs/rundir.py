"""The run directory: everything a run made, enough to resume and to verify it."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

from mbv3 import record as records
from mbv3.errors import BadInput
from mbv3.files import hold, sweep, write_atomic
from mbv3.record import FrontRecord, SearchRecord, TrainRecord

__all__ = ["RunDir", "file_sha256", "versions"]

R = TypeVar("R", SearchRecord, TrainRecord, FrontRecord)
T = TypeVar("T")


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Python and every library that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("mbv3-search", "torch", "numpy", "scipy", "onnx", "onnxruntime", "optuna", "pandas", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # onnxruntime comes in packages of several names
            found[name] = getattr(sys.modules.get(name), "__version__", "not installed as a package")
    return found


class RunDir(Generic[R]):
    """A run's files. `record` is run.json, on disk after every `update`. Stages use it as their `Keep`.

    With `writes` False nothing is written: a process of a training beside the one that writes.
    """

    def __init__(self, path: Path, record: R, writes: bool = True) -> None:
        self.path = path
        self.record: R = record
        self.writes = writes
        self.made = False  # the folder, by this process: only then it may be removed

    @classmethod
    def create(cls, path: Path, record: R) -> RunDir[R]:
        """A new folder. Raises: BadInput when it exists with anything in it, or cannot be made."""
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise BadInput(
                    f"--out {path}: already exists; give another folder, or go on with that run: --resume {path}"
                )
            if path.is_symlink() and not path.exists():
                raise BadInput(f"--out {path}: is a link to {path.readlink()}, which is not there; mount or make that "
                               "folder, or give another")  # fmt: skip
            made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise BadInput(f"--out {path}: cannot be made ({e.strerror})") from None
        run = cls(path, record)
        run.made = made
        run.update()
        return run

    @classmethod
    def open(cls, path: Path, kind: type[R]) -> RunDir[R]:
        """An existing run. Raises: BadInput."""
        return cls(path, records.load_as(path, kind))

    def lock(self) -> None:
        """Hold the run for this process until it ends. Raises: BadInput when another process works on it."""
        try:
            self._lock = (self.path / ".lock").open("a")
        except OSError as e:
            raise BadInput(f"{self.path}: cannot be written to ({e.strerror})") from None
        alone = hold(self._lock)
        if alone is False:
            self._lock.close()
            raise BadInput(f"{self.path}: another process is at work on this run; wait for it, or end it")
        if alone:
            sweep(self.path)

    def unlock(self) -> None:
        """Let other processes have the run."""
        self._lock.close()

    # ---- run.json --------------------------------------------------------------------------------------------

    def update(self, **changes: Any) -> None:
        """Change fields of the record; it is on disk when this returns."""
        self.record = replace(self.record, **changes)
        if self.writes:
            records.save(self.path, self.record)

    def note(self, text: str) -> None:
        """A caveat that the report shows, once."""
        if text not in self.record.notes:
            self.record = records.noted(self.record, text)
            self.update()

    def hash(self, **sha256: str) -> None:
        """Keep the SHA-256 of files, by name."""
        self.record = records.hashed(self.record, **sha256)
        self.update()

    def same_images(self, sha256: str, place: str) -> None:
        """Keep the SHA-256 of the images. Raises: BadInput when the run began with others."""
        if self.record.hashes.get("data", sha256) != sha256:
            raise BadInput(
                f"--resume {self.path}: the images of {place} are not those that this run began with; restore them, or "
                "begin again with another --out"
            )
        self.hash(data=sha256)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent to the stage's timing, also when the stage fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.record = records.timed(self.record, name, time.monotonic() - began)
            self.update()

    # ---- Keep ------------------------------------------------------------------------------------------------

    def value(self, name: str, decide: Callable[[], T]) -> T:
        """What `decide()` returned the first time; the plan of run.json."""
        record = self.record
        assert isinstance(record, SearchRecord)
        if name not in record.plan:
            value: Any = decide()
            self.update(plan={**self.record.plan, name: value})
        return self.record.plan[name]  # type: ignore[return-value]

    def file(self, name: str) -> Path:
        return self.path / name

    def text(self, name: str, content: str) -> None:
        if self.writes:
            write_atomic(self.path / name, content)

    def rows(self, name: str) -> list[dict[str, str]]:
        """Rows of a CSV file; a half-written last line is left out."""
        file = self.path / name
        if not file.exists():
            return []
        text = file.read_text("utf-8")
        return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))

    def write_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        self.text(name, _csv(columns, rows, header=True))

    def append_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        file = self.path / name
        if not file.exists():
            self.write_rows(name, columns, ())
        try:
            with file.open("a", encoding="utf-8", errors="backslashreplace") as f:
                f.write(_csv(columns, rows, header=False))
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            raise BadInput(f"{file}: cannot be written ({e.strerror})") from None


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, header: bool) -> str:
    out = io.StringIO()
    w = csv.DictWriter(out, columns, lineterminator="\n")
    if header:
        w.writeheader()
    w.writerows(rows)
    return out.getvalue()
