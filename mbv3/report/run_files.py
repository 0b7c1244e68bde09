"""A run directory in memory: each part, or one sentence that says why it is not there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pandas as pd

from mbv3.errors import BadInput, Fault, Mbv3Error
from mbv3.record import SearchRecord, peek
from mbv3.spec import ArchSpec, load_spec
from mbv3.typed_json import JsonReader

__all__ = ["Errors", "RunFiles", "Table", "TrustReport", "number", "read_run"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How far one way to predict is off, in percent of the measured time. Lower rmspe is better."""

    n: int | None = None
    rmspe: float | None = None
    bias: float | None = None
    within_5: float | None = None
    within_10: float | None = None
    spearman: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustReport(Errors):
    """What a table's header says about its predictions of whole networks."""

    how: str = ""  # which networks the figures are of
    noise_floor: float | None = None  # percent
    baselines: Mapping[str, Errors] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """latency-table.csv: the trust report of its header, and its rows."""

    trust: TrustReport
    rows: pd.DataFrame


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunFiles:
    """Everything the report reads. `faults` maps the name of a file to why it cannot be used; `record_faults` are the
    fields of run.json that cannot."""

    path: Path
    record: SearchRecord
    record_faults: tuple[Fault, ...]
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
    """A field of the header that is not as it should be counts as missing."""
    lines = text.splitlines(keepends=True)
    trust: object = None
    for line in lines:
        key, colon, value = line.lstrip("# ").partition(":")
        if line.startswith("#") and colon and key.strip() == "report":
            try:
                trust = json.loads(value)
            except (ValueError, RecursionError):
                trust = None
    reader = JsonReader("", strict=False)
    return Table(
        reader.whole(TrustReport, trust if isinstance(trust, dict) else {}),
        _frame("".join(line for line in lines if not line.startswith("#")), TABLE),
    )


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

    record, record_faults = peek(run)
    if record_faults and record_faults[0].path == "run.json":  # the file as a whole
        faults["run.json"] = f"run.json {record_faults[0].rule}."
        record_faults = ()
    return RunFiles(
        path=run,
        record=record,
        record_faults=record_faults,
        trials=frame("trials.csv", TRIALS),
        netadapt=frame("netadapt.csv", NETADAPT),
        table=table("latency-table.csv"),
        spec=spec(_spec_name(record)),
        seed=spec("seed.yaml"),
        faults=faults,
    )


def _spec_name(record: SearchRecord) -> str:
    """The final spec's file; a name that leaves the run directory is not followed."""
    name = record.spec or ""
    inside = name.endswith((".yaml", ".yml")) and Path(name).name == name
    return name if inside else "mobilenetv3.yaml"
