"""run.json as a typed value: what a search (mbv3-run/1) and a training (mbv3-train/1) say about themselves.

The one module that reads and writes run.json. Units end a name: `_ms`, `_s`. Accuracies are in percent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from mbv3.errors import BadInput, DocumentError, Fault, shown
from mbv3.files import write_atomic
from mbv3.typed_json import JsonReader, json_ready

__all__ = [
    "Accuracy",
    "Baseline",
    "Bound",
    "Compared",
    "Device",
    "DeviceTime",
    "FrontRecord",
    "Images",
    "Initial",
    "LayerTime",
    "Limit",
    "PlanValue",
    "Ranking",
    "Record",
    "Scale",
    "SearchRecord",
    "TakenFrom",
    "TrainRecord",
    "as_json",
    "hashed",
    "load",
    "load_as",
    "noted",
    "peek",
    "save",
    "timed",
]

FILE = "run.json"
NO_OBJECT = "does not hold an object"
EDITED = "the file was edited"  # the cure of every fault: nothing else writes run.json

_Scalar = None | bool | int | float | str
# what a run decided once and keeps for a resume; networks of equal time are pairs (YAML text, ms)
PlanValue = _Scalar | tuple[_Scalar | tuple[_Scalar, ...], ...]


# ---- the parts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """An accuracy in percent, with what it means. `error` is its standard error; None is: not known. `metric`: what it
    counts, by name; a comparison beside it has the same."""

    value: float | None
    error: float | None = None
    kind: str  # imagenet, supernet, train or netadapt
    unit: str
    note: str
    source: str | None = None
    recipe: str | None = None
    extrapolated: bool | None = None
    metric: str = "top-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well shared weights rank: Kendall's `tau` of their scores against trainings of `n` networks alone for `steps`
    each, and its interval of 95 %."""

    tau: float
    low: float
    high: float
    n: int
    tau_without_recalibration: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The size of the space. `resolution` is the side of a square in pixels, or HEIGHTxWIDTH."""

    space: str
    width: float
    resolution: int | str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Whose times they are: the fingerprint of the table's device."""

    cpu: str
    vector: str
    cores: int
    system: str
    kernel: str
    governor: str
    runtime: str
    runtime_version: str
    threads: int
    precision: str
    batch: int
    load_at_start: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A network beside the found one, at its own time: `ms`, and its accuracy in percent where it is known.

    `published`: top-1 of its downloadable `weights`, by their own recipe. `below`: how many points it is predicted
    below the found network, and `below_error` the standard error of that; of the best only. `spec`: the file in the run
    directory, of a network that is handed over."""

    name: str
    ms: float
    accuracy: float | None
    error: float | None = None
    published: float | None = None
    weights: str | None = None
    below: float | None = None
    below_error: float | None = None
    spec: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTime:
    """The network on one of several devices: as it was named, its table in the run directory, the predicted ms, and the
    weight of the device (None: the slowest counts)."""

    name: str
    table: str
    ms: float
    weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Predicted top-1 of the best network that was found in the space, and what no network of it within the target and
    the limits exceeds under this table and model; both in percent."""

    found: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What the network may have at most, beside the ms, and what it has: params, madds or mb."""

    name: str
    most: float
    found: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A network trained and scored under one protocol. `top1` in percent, of another task its main metric, `sigma` its
    standard error on `n` images.
    `steps` of training before that; None where all had the same."""

    name: str
    ms: float | None
    params: int
    madds: int
    top1: float
    sigma: float
    n: int
    steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """The predicted time of one row of the network. `estimated`: by the cost model, not from a row of the table."""

    path: str
    ms: float
    estimated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """How many images each set of a training has."""

    training: int
    validation: int
    test: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """The weights that a run started from."""

    file: str
    sha256: str
    network: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenFrom:
    """The run that this one goes on from, for another target. `file` of that run: the network that was taken, whose
    `sha256` it has; it was `ms` fast and answered `accuracy` percent of the held-out images. `steps` of cuts were
    behind it. `target_ms`, `delivered_ms`, `delivered_accuracy` and `total_s`: of that run, as far as it had come."""

    run: str
    file: str
    sha256: str
    steps: int
    ms: float
    accuracy: float
    target_ms: float
    delivered_ms: float | None = None
    delivered_accuracy: Accuracy | None = None
    total_s: float | None = None

    @property
    def text(self) -> str:
        """What was taken from where, for a reader."""
        what = "the fine-tuned start" if self.steps == 0 else f"the network after step {self.steps}"
        of = f"{what} of {self.run} (target {self.target_ms:g} ms)"
        return f"{of}: {self.ms:.3g} ms, {self.accuracy:.1f} % of the held-out images"


# ---- the records ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord:
    """run.json of `mbv3-search` and of `mbv3 netadapt`, as far as the run has come."""

    FORMAT: ClassVar[str] = "mbv3-run/1"

    version: str
    command: str
    args: Mapping[str, object]  # of Options, which checks them
    target_ms: float
    versions: Mapping[str, str]
    seeds: Mapping[str, int]
    started: str | None = None  # UTC
    hashes: Mapping[str, str]  # SHA-256 by file name; `table` and `data` for those
    network: str | None = None  # YAML of the network given to `mbv3 netadapt`
    init: Initial | None = None
    taken_from: TakenFrom | None = None
    status: Literal["unknown", "running", "done", "failed", "interrupted", "unreachable"]
    exit: int | None
    stages: Mapping[str, float]  # seconds by stage
    notes: tuple[str, ...]
    scale: Scale | None = None
    device: Device | None = None
    reference_ms: float | None = None
    reference: str | None = None
    task: str | None = None  # this and the next three: of a search under a head
    head: str | None = None
    classes: int | None = None
    output_stride: int | None = None
    range_ms: tuple[float, float] | None = None  # the fastest and the slowest network of the space
    plan: Mapping[str, PlanValue] = field(default_factory=dict)
    ranking: Ranking | None = None  # of the shared weights that chose the network
    seed_ms: float | None = None
    seed_trial: int | None = None
    accuracy: Accuracy | None = None
    predicted_ms: float | None = None
    # the next three: null where nothing was timed
    measured_ms: float | None = field(default=None, metadata={"beside": "predicted_ms"})
    measured_error_ms: float | None = field(default=None, metadata={"beside": "predicted_ms"})
    raw_reference_ms: float | None = field(default=None, metadata={"beside": "predicted_ms"})
    comparison: tuple[Compared, ...] = ()
    spec: str | None = None  # file name
    params: int | None = None
    madds: int | None = None
    limits: tuple[Limit, ...] = ()
    bound: Bound | None = None
    devices: tuple[DeviceTime, ...] = ()
    references: tuple[Baseline, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    netadapt_accuracy: float | None = None
    correction: float | None = None  # measured over predicted time, of the last network measured whole
    estimated_layers: int | None = None
    rows_ms: tuple[LayerTime, ...] = ()
    total_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecord:
    """run.json of `mbv3 train`, as far as the training has come. In the file, `metrics` also stand at the top level."""

    FORMAT: ClassVar[str] = "mbv3-train/1"

    command: str
    args: Mapping[str, object]  # of TrainOptions, which checks them
    hashes: Mapping[str, str]  # SHA-256 by file name
    status: Literal["unknown", "running", "done", "diverged", "interrupted", "failed"]
    exit: int | None
    stages: Mapping[str, float]  # seconds by stage
    notes: tuple[str, ...]
    data_sha256: str | None = None
    network: str | None = None
    params: int | None = None
    madds: int | None = None
    classes: tuple[str, ...] = ()
    task: str | None = None
    images: Images | None = None
    recipe: Mapping[str, object] = field(default_factory=dict)  # of Fit
    recipe_name: str | None = None
    device: str | None = None
    processes: int | None = None
    threads: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str | None = None  # UTC
    init: Initial | None = None
    teacher_sha256: str | None = None
    log: Mapping[str, int | float | None] | None = None  # the last row of log.csv
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # percent
    by_class: Mapping[str, float | None] = field(default_factory=dict)  # the first of them; None of a class in no image
    judged_on: str | None = None  # test or held-out
    n: int | None = None  # images that the metrics are of
    total_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontRecord:
    """run.json of `mbv3-search` with several targets: each has a run directory of its own inside, `folders` in their
    order. `exit` is the largest of theirs."""

    FORMAT: ClassVar[str] = "mbv3-front/1"

    version: str
    command: str
    args: Mapping[str, object]  # of Options without target_ms
    targets_ms: tuple[float, ...]
    folders: tuple[str, ...]
    versions: Mapping[str, str]
    started: str | None = None  # UTC
    status: Literal["unknown", "running", "done", "failed", "interrupted"]
    exit: int | None
    stages: Mapping[str, float]  # seconds by stage
    notes: tuple[str, ...]
    hashes: Mapping[str, str]  # SHA-256 by file name
    error: str | None = None


T = TypeVar("T")
R = TypeVar("R", SearchRecord, TrainRecord, FrontRecord)
Record = SearchRecord | TrainRecord | FrontRecord
_KINDS: dict[str, type[SearchRecord] | type[TrainRecord] | type[FrontRecord]] = {
    k.FORMAT: k for k in (SearchRecord, TrainRecord, FrontRecord)
}


# ---- changes -------------------------------------------------------------------------------------------------------


def noted(record: R, *notes: str) -> R:
    """`record` with caveats that the report shows, each once."""
    return replace(record, notes=tuple(dict.fromkeys((*record.notes, *notes))))


def timed(record: R, stage: str, seconds: float) -> R:
    """`record` with `seconds` more spent on `stage`."""
    return replace(record, stages={**record.stages, stage: round(record.stages.get(stage, 0.0) + seconds, 2)})


def hashed(record: R, **sha256: str) -> R:
    """`record` with the SHA-256 of files: `hashed(record, table=...)`, `hashed(record, **{"network.yaml": ...})`."""
    return replace(record, hashes={**record.hashes, **sha256})


# ---- writing and reading --------------------------------------------------------------------------------------------


def as_json(record: Record) -> dict[str, Any]:
    """The content of run.json."""
    value = {"format": record.FORMAT, **json_ready(record)}
    if isinstance(record, TrainRecord) and record.metrics:
        at = list(value).index("metrics")
        pairs = list(value.items())
        above = [(k, v) for k, v in value["metrics"].items() if k not in TrainRecord.__dataclass_fields__]
        value = dict([*pairs[:at], *above, *pairs[at:]])
    return value


def save(folder: Path, record: Record) -> None:
    """Write run.json. Raises: BadInput when the disk refuses."""
    write_atomic(folder / FILE, json.dumps(as_json(record), indent=1) + "\n")


def _document(folder: Path) -> tuple[type[SearchRecord] | type[TrainRecord] | type[FrontRecord], dict[str, Any]]:
    """run.json's kind and its fields. Raises: BadInput."""
    file = folder / FILE
    if not file.exists():
        raise BadInput(f"{folder}: not a run directory (it has no {FILE})")
    value, fault = _object(file)
    if fault is not None and not value and fault.rule != NO_OBJECT:
        raise BadInput(f"{file}: {fault.rule}")
    form = value.get("format")
    if not isinstance(form, str) or form not in _KINDS:
        raise BadInput(f"{file}: its format must be {' or '.join(_KINDS)}")
    kind = _KINDS[form]
    del value["format"]
    metrics = value.get("metrics")
    if kind is TrainRecord and isinstance(metrics, dict):  # what `as_json` repeats at the top level
        value = {k: v for k, v in value.items() if k not in metrics or k in TrainRecord.__dataclass_fields__}
    return kind, value


def load(folder: Path) -> Record:
    """The record of a run directory.

    Raises:
        BadInput: there is no run.json, it cannot be read, or its fields are not as this package writes them; every
            fault is listed.
    """
    return _checked(folder, *_document(folder))


def load_as(folder: Path, kind: type[R]) -> R:
    """The record of a run directory of this kind. Raises: BadInput."""
    found, value = _document(folder)
    if found is not kind:
        raise BadInput(f"{folder / FILE}: its format must be {kind.FORMAT} (got {found.FORMAT})")
    return _checked(folder, kind, value)


def _checked(folder: Path, kind: type[T], value: dict[str, Any]) -> T:
    reader = JsonReader(EDITED, strict=True)
    record = reader.whole(kind, value)
    if reader.faults:
        raise DocumentError(str(folder / FILE), reader.faults)
    return record


def peek(folder: Path) -> tuple[SearchRecord, tuple[Fault, ...]]:
    """The record of a search as far as it can be read, and what cannot; never an error.

    A field of the wrong type counts as missing. A needed field that is missing is empty: "", (), {}, "unknown", NaN.
    An entry of a list or of a mapping is left out.
    """
    reader = JsonReader(EDITED, strict=False)
    value, fault = _object(folder / FILE)
    if fault is not None:
        return JsonReader("", strict=False).whole(SearchRecord, {}), (fault,)
    if value.get("format") != SearchRecord.FORMAT:
        reader.fault("format", f"must be {SearchRecord.FORMAT}", shown(value.get("format")))
    return reader.whole(SearchRecord, value), tuple(reader.faults)


def _object(file: Path) -> tuple[dict[str, Any], Fault | None]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}, Fault(file.name, "is not in the run directory")
    except (OSError, ValueError, RecursionError) as e:
        return {}, Fault(file.name, f"cannot be read ({e})")
    return (value, None) if isinstance(value, dict) else ({}, Fault(file.name, NO_OBJECT))
