"""run.json as a typed value: what 0.1.0 wrote is read and written alike, and what was edited is named."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mbv3.errors import BadInput, DocumentError
from mbv3.record import (
    Accuracy,
    Baseline,
    FrontRecord,
    Initial,
    Record,
    SearchRecord,
    TrainRecord,
    as_json,
    hashed,
    load,
    load_as,
    noted,
    peek,
    save,
    timed,
)

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "run-0.1.0"  # a whole run of version 0.1.0, without its weights
RESULTS = HERE.parent / "results"


def old() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((GOLDEN / "run.json").read_text("utf-8"))
    return value


def training(name: str = "train-bccd") -> dict[str, Any]:
    """run.json of a training of version 0.1.0, which results/ keeps whole."""
    value: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return {k: v for k, v in value.items() if k not in ("commit", "runs")}


def written(folder: Path, value: object) -> Path:
    (folder / "run.json").write_text(json.dumps(value))
    return folder


@pytest.fixture
def record() -> SearchRecord:
    return load_as(GOLDEN, SearchRecord)


def test_a_run_of_0_1_0_is_read_and_written_alike(record: SearchRecord, tmp_path: Path) -> None:
    assert as_json(record) == old()
    save(tmp_path, record)
    assert load(tmp_path) == record
    # the same text, key by key: numbers keep their format
    lines = (tmp_path / "run.json").read_text().splitlines()
    assert sorted(x.rstrip(",") for x in lines) == sorted(
        x.rstrip(",") for x in (GOLDEN / "run.json").read_text().splitlines()
    )


@pytest.mark.parametrize("name", ["train-bccd", "train-camvid", "train-cifar10"])
def test_a_training_of_0_1_0_is_read_and_written_alike(tmp_path: Path, name: str) -> None:
    found = load(written(tmp_path, training(name)))
    assert isinstance(found, TrainRecord)
    assert json.dumps(as_json(found)) == json.dumps(training(name))  # the order of the keys too


def test_fields(record: SearchRecord) -> None:
    assert record.accuracy is not None and record.accuracy.value == old()["accuracy"]["value"]
    assert record.accuracy.error is None and record.accuracy.extrapolated is None
    assert record.scale is not None and (record.scale.width, record.scale.resolution) == (1.0, 224)
    assert record.device is not None and record.device.load_at_start is None
    assert record.rows_ms[0].path == "stem" and record.rows_ms[0].estimated is True
    assert record.plan["trials"] == 60 and type(record.plan["trials"]) is int
    assert [r.name for r in record.references] == ["mobilenet_v3_large@1", "mobilenet_v3_small@1"]
    assert record.comparison == ()


def test_new_keys_are_left_out_until_they_are_set(record: SearchRecord, tmp_path: Path) -> None:
    assert not as_json(record).keys() & {"baselines", "init", "comparison", "error", "network", "task"}
    accuracy = Accuracy(
        value=71.2, error=0.3, kind="imagenet", unit="%", note="", source="model", recipe="short", extrapolated=False
    )
    more = replace(
        record,
        accuracy=accuracy,
        baselines=(Baseline(name="mobilenet_v2", ms=51.5, accuracy=None),),
        init=Initial(file="w.safetensors", sha256="0" * 64, network="mobilenet_v3_large"),
    )
    value = as_json(more)
    assert value["accuracy"]["extrapolated"] is False and value["accuracy"]["source"] == "model"
    assert value["baselines"] == [{"name": "mobilenet_v2", "ms": 51.5, "accuracy": None}]
    save(tmp_path, more)
    assert load(tmp_path) == more


def test_measured_is_null_beside_the_prediction(record: SearchRecord) -> None:
    assert as_json(record)["measured_ms"] is None
    early = as_json(replace(record, predicted_ms=None))
    assert not early.keys() & {"predicted_ms", "measured_ms", "measured_error_ms", "raw_reference_ms"}


def test_networks_of_equal_time_are_a_plan(record: SearchRecord, tmp_path: Path) -> None:
    rivals = (("name: found\n", 4.5), ("name: mobilenet_v2\n", None))
    more = replace(record, plan={**record.plan, "rivals": rivals, "keep_trained": True})
    save(tmp_path, more)
    assert as_json(more)["plan"]["rivals"] == [["name: found\n", 4.5], ["name: mobilenet_v2\n", None]]
    assert load_as(tmp_path, SearchRecord).plan["rivals"] == rivals


def drawn(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation."""
    inner = get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(cast(type, kind), **{f.name: drawn(hints[f.name]) for f in fields(kind)})
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of([drawn(k) for k in inner])
    if get_origin(kind) is Literal:
        return st.sampled_from(inner)
    if get_origin(kind) is Mapping:
        return st.dictionaries(st.text(max_size=3) | st.sampled_from(["n", "top1"]), drawn(inner[1]), max_size=2)
    if get_origin(kind) is tuple:
        return st.lists(drawn(inner[0]), max_size=2).map(tuple) if inner[1] is ... else st.tuples(*map(drawn, inner))
    plain: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(), int: st.integers(), float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(max_size=4), type(None): st.none(), object: st.none() | st.lists(st.integers(), max_size=2),
    }  # fmt: skip
    return plain[kind]


@pytest.mark.parametrize("kind", [SearchRecord, TrainRecord, FrontRecord])
@given(data=st.data())
@settings(
    max_examples=20,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_record_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, kind: type[Record], data: st.DataObject
) -> None:
    record = data.draw(drawn(kind))
    folder = tmp_path_factory.mktemp("run")
    save(folder, record)
    assert load(folder) == record


def test_changes_leave_the_record_as_it_was(record: SearchRecord) -> None:
    before = as_json(record)
    assert noted(record, "a", "a", record.notes[0]).notes == (*record.notes, "a")
    assert timed(record, "table", 1.004).stages["table"] == round(record.stages["table"] + 1.004, 2)
    assert timed(record, "new", 2.0).stages["new"] == 2.0
    assert hashed(record, **{"network.yaml": "ff"}).hashes == {**record.hashes, "network.yaml": "ff"}
    assert as_json(record) == before


def test_what_is_no_finite_number_becomes_null(record: SearchRecord) -> None:
    assert record.accuracy is not None
    unscored = replace(record, accuracy=replace(record.accuracy, value=math.nan))
    assert as_json(unscored)["accuracy"]["value"] is None


# ---- what was edited


def changed(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value.update(changes)


def rows(value: dict[str, Any]) -> None:
    value["rows_ms"][3]["ms"] = "slow"


def extra(value: dict[str, Any]) -> None:
    value["scale"]["depth"] = 2


def lacking(value: dict[str, Any]) -> None:
    del value["args"]
    del value["device"]["cores"]


EDITS = [
    (changed(madds="many"), "madds: must be a whole number or null (got 'many'); the file was edited"),
    (changed(target_ms=True), "target_ms: must be a finite number (got True)"),
    (changed(target_ms=math.inf), "target_ms: must be a finite number (got inf)"),
    (changed(target_ms=10**400), "target_ms: must be a finite number (got 1000"),
    (changed(params=1.0), "params: must be a whole number or null (got 1.0)"),
    (changed(status="odd"), "status: must be one of running, done, failed, interrupted, unreachable (got 'odd')"),
    (changed(notes="none"), "notes: must be a list (got 'none')"),
    (changed(notes=[1]), "notes[0]: must be text (got 1)"),
    (changed(range_ms=[1.0]), "range_ms: must have 2 entries (got [1.0])"),
    (changed(hashes={"table": None}), "hashes.table: must be text (got None)"),
    (changed(accuracy=[]), "accuracy: must be an object or null (got [])"),
    (changed(plan={"trials": {}}), "plan.trials: must be "),
    (changed(wings=2), "wings: no such key"),
    (rows, "rows_ms[3].ms: must be a finite number (got 'slow')"),
    (extra, "scale.depth: no such key"),
    (lacking, "args: is missing; the file was edited"),
    (lacking, "device.cores: is missing"),
]


@pytest.mark.parametrize(("edit", "fault"), EDITS, ids=[words.partition(" (")[0] for _, words in EDITS])
def test_an_edited_file_is_refused(tmp_path: Path, edit: Callable[[dict[str, Any]], None], fault: str) -> None:
    value = old()
    edit(value)
    with pytest.raises(DocumentError, match=r"run\.json: \d+ fault") as caught:
        load(written(tmp_path, value))
    assert fault in str(caught.value)
    record, faults = peek(tmp_path)  # the same faults, but for keys that it does not know; and no error
    named = {str(f) for f in faults}
    assert named == {str(f) for f in caught.value.faults if f.rule != "no such key"}
    assert record.command == old()["command"]


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    value = old()
    for edit, _ in EDITS[-5:-1]:
        edit(value)
    with pytest.raises(DocumentError, match="5 faults"):
        load(written(tmp_path, value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ('{"format": "mbv3-ru', "cannot be read"),
        ("[1]", "its format must be mbv3-run/1 or mbv3-train/1"),
        ('{"format": ["mbv3-run/1"]}', "its format must be mbv3-run/1 or mbv3-train/1"),
        ('{"format": "mbv3-run/1"}', "args: is missing"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BadInput, match=words):
        load(tmp_path)
    record, faults = peek(tmp_path)
    assert faults and record.status == "unknown" and math.isnan(record.target_ms)


def test_a_folder_without_a_record(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"not a run directory \(it has no run.json\)"):
        load(tmp_path)
    assert [str(f) for f in peek(tmp_path)[1]] == ["run.json: is not in the run directory"]


def test_the_other_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"its format must be mbv3-train/1 \(got mbv3-run/1\)"):
        load_as(GOLDEN, TrainRecord)
    written(tmp_path, training())
    with pytest.raises(BadInput, match=r"its format must be mbv3-run/1 \(got mbv3-train/1\)"):
        load_as(tmp_path, SearchRecord)
    assert "format: must be mbv3-run/1 (got 'mbv3-train/1')" in str(peek(tmp_path)[1][0])


def test_peek_keeps_what_is_sound(tmp_path: Path) -> None:
    value = old()
    value.update(stages={"table": 1.5, "search": "long"}, seed_ms="slow", scale={"width": 1.0})
    rows(value)
    record, faults = peek(written(tmp_path, value))
    assert record.stages == {"table": 1.5} and record.seed_ms is None and record.scale is None
    assert len(record.rows_ms) == len(value["rows_ms"]) - 1
    assert {f.path for f in faults} == {
        "stages.search", "seed_ms", "scale.space", "scale.resolution", "scale.why", "rows_ms[3].ms",
    }  # fmt: skip
