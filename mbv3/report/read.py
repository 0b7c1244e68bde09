"""A run directory in memory: each part, or one sentence that says why it is not there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from mbv3.errors import BadInput, Mbv3Error
from mbv3.spec import ArchSpec, load_spec

__all__ = ["Record", "RunFiles", "Table", "number", "read_run"]

TRIALS = ("number", "genome", "accuracy", "latency_ms", "reward", "estimated", "state")
NETADAPT = (
    *("step", "proposal", "kind", "where", "before", "after", "latency_ms"),
    *("delta_ms", "accuracy", "delta_accuracy", "loss", "score", "chosen"),
)
TABLE = ("kind", "key", "ms", "predicted")
_TEXT = frozenset({"genome", "state", "kind", "where", "before", "after", "key", "estimated", "chosen", "runs"})


def number(value: object) -> float | None:
    """A finite number, or None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


@dataclass(frozen=True, slots=True)
class Record:
    """run.json, read without trust: a field of the wrong type counts as missing."""

    data: Mapping[str, Any] = field(default_factory=dict)

    def number(self, key: str) -> float | None:
        return number(self.data.get(key))

    def text(self, key: str) -> str:
        value = self.data.get(key)
        return value if isinstance(value, str) else ""

    def part(self, key: str) -> Record:
        value = self.data.get(key)
        return Record(value) if isinstance(value, dict) else Record()

    def parts(self, key: str) -> tuple[Record, ...]:
        value = self.data.get(key)
        return tuple(Record(v) for v in value if isinstance(v, dict)) if isinstance(value, list) else ()

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.data.get(key)
        return tuple(str(v) for v in value) if isinstance(value, list) else ()


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """latency-table.csv: its header comments and its rows."""

    header: Record
    rows: pd.DataFrame


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunFiles:
    """Everything the report reads. `faults` maps the name of a file to why it cannot be used."""

    path: Path
    record: Record
    trials: pd.DataFrame | None
    netadapt: pd.DataFrame | None
    table: Table | None
    spec: ArchSpec | None
    seed: ArchSpec | None
    faults: Mapping[str, str]


def _frame(text: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """The rows of a CSV text; what is not a number in a number column becomes NaN."""
    frame = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False, skipinitialspace=True)
    lacking = [c for c in columns if c not in frame.columns]
    if lacking:
        raise ValueError(f"it lacks the column{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}")
    for name in frame.columns:
        if name not in _TEXT:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame.fillna({name: "" for name in _TEXT if name in frame.columns})


def _table(text: str) -> Table:
    lines = text.splitlines(keepends=True)
    comments = [line for line in lines if line.startswith("#")]
    header: dict[str, Any] = {}
    for line in comments:
        key, colon, value = line.lstrip("# ").partition(":")
        if colon:
            try:
                header[key.strip()] = json.loads(value)
            except ValueError:
                header[key.strip()] = value.strip()
    return Table(Record(header), _frame("".join(line for line in lines if not line.startswith("#")), TABLE))


def read_run(run: Path) -> RunFiles:
    """The parts of a run directory. A part that is missing or broken is a fault, not an error.

    Raises:
        BadInput: `run` is not a folder.
    """
    if not run.is_dir():
        raise BadInput(f"{run}: no such run directory; give the folder that mbv3-search --out wrote")
    faults: dict[str, str] = {}

    def text(name: str) -> str | None:
        try:
            return (run / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            faults[name] = f"{name} is not in the run directory."
        except (OSError, UnicodeDecodeError) as e:
            faults[name] = f"{name} cannot be read ({type(e).__name__})."
        return None

    def record() -> Record:
        found = text("run.json")
        if found is None:
            return Record()
        try:
            data = json.loads(found)
        except (ValueError, RecursionError) as e:
            faults["run.json"] = f"run.json is not valid JSON ({e})."
            return Record()
        if not isinstance(data, dict):
            faults["run.json"] = "run.json does not hold an object."
            return Record()
        return Record(data)

    def frame(name: str, columns: tuple[str, ...]) -> pd.DataFrame | None:
        found = text(name)
        try:
            return None if found is None else _frame(found, columns)
        except ValueError as e:  # pandas' own errors are ValueErrors too
            faults[name] = f"{name} cannot be used: {e}."
        return None

    def table(name: str) -> Table | None:
        found = text(name)
        try:
            return None if found is None else _table(found)
        except ValueError as e:
            faults[name] = f"{name} cannot be used: {e}."
        return None

    def spec(name: str) -> ArchSpec | None:
        try:
            if not (run / name).is_file():
                faults[name] = f"{name} is not in the run directory."
                return None
            return load_spec(run / name)
        except (Mbv3Error, OSError) as e:
            faults[name] = f"{name} cannot be used: {str(e).removeprefix(f'{run}/')}"
        return None

    data = record()
    return RunFiles(
        path=run,
        record=data,
        trials=frame("trials.csv", TRIALS),
        netadapt=frame("netadapt.csv", NETADAPT),
        table=table("latency-table.csv"),
        spec=spec(_spec_name(data)),
        seed=spec("seed.yaml"),
        faults=faults,
    )


def _spec_name(record: Record) -> str:
    """The final spec's file; a name that leaves the run directory is not followed."""
    name = record.text("spec")
    inside = name.endswith((".yaml", ".yml")) and Path(name).name == name
    return name if inside else "mobilenetv3.yaml"
