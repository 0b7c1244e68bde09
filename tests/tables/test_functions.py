"""What `mbv3 latency` calls: the space of a table, choosing one, predicting, measuring, transferring, listing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mbv3.errors import BadInput, ForeignTable
from mbv3.events import Note, result
from mbv3.latency import Fingerprint, LatencyTable, MeasuredNetworks, register_runtime, runtime
from mbv3.latency.sessions import Run
from mbv3.space import SearchSpace, layer_keys, scale
from mbv3.spec import ArchSpec, LayerKey
from mbv3.tables import (
    Latency,
    calibration_network,
    choose_table,
    known_devices,
    measure_list,
    measure_network,
    predict,
    scaled_space,
    space_id,
    space_of,
    transfer_list,
    write_space_kit,
)

from .conftest import FINGERPRINT, layer_ms, network_ms

Computed = Callable[..., LatencyTable]


@dataclass(frozen=True)
class Computer:
    """A runtime that does nothing, quickly: times are those of empty functions."""

    fingerprint: Fingerprint = FINGERPRINT

    def layer(self, key: LayerKey) -> Run:
        return lambda: None

    def network(self, spec: ArchSpec) -> Run:
        return lambda: None


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch) -> Computer:
    """`--runtime computed` in this test."""
    monkeypatch.setattr(runtime, "_registered", {})
    register_runtime("computed", lambda threads: Computer())
    return Computer()


def test_a_table_finds_its_space(space: SearchSpace, space_file: Path, computed_table: Computed) -> None:
    half = scale(space, 0.5, 64)
    assert space_of(computed_table(half), str(space_file)) == replace(half, source=space.source)
    with pytest.raises(BadInput, match=r"'tiny' is neither .*; give --space FILE, or run this where"):
        space_of(computed_table(half))
    foreign = replace(computed_table(half), about={**(computed_table(half).about or {}), "space_id": "0" * 64})
    with pytest.raises(BadInput, match="built for another space with the name 'tiny'; build a table of this one"):
        space_of(foreign, str(space_file))


def test_a_space_at_a_scale(space_file: Path) -> None:
    space = scaled_space(str(space_file), "0.5x64")
    assert (space.width, space.resolution) == (0.5, (64, 64))
    with pytest.raises(BadInput, match="--scale auto needs a target; give 1 or WIDTHxRESOLUTION here"):
        scaled_space(str(space_file), "auto")


def test_a_file_is_chosen_with_its_caveat(
    space: SearchSpace, computed_table: Computed, computer: Computer, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    computed_table(space).save(path)
    opened = result(choose_table(str(path), "computed"))
    assert opened.table == LatencyTable.load(path) and opened.caveat is None and opened.runtime is None
    computed_table(space, replace(FINGERPRINT, cpu="Another")).save(path)
    with pytest.raises(ForeignTable, match=r"cpu: table 'Another', here 'Computed 1'"):
        result(choose_table(str(path), "computed"))
    task = choose_table(str(path), "computed", force=True)
    note = next(task)
    assert isinstance(note, Note) and note.warning and note.text == result(task).caveat
    assert "forced: the latency table" in note.text and "(cpu differ)" in note.text


def test_the_table_of_this_machine_is_measured_once(
    space_file: Path, computer: Computer, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def build_table(runtime: Computer, plan: object, path: Path, **_: float) -> object:
        made.append(path)
        keys = layer_keys(scaled_space(str(space_file)))
        table = LatencyTable(FINGERPRINT, {"ms": 1.0}, {k: _timed(layer_ms(k)) for k in keys}, about={"date": "today"})
        table.save(path)
        yield Note("table", "computed")
        return LatencyTable.load(path)

    monkeypatch.setattr("mbv3.tables.open.build_table", build_table)
    first = result(choose_table(None, "computed", space=str(space_file)))
    assert first.runtime == computer and made[0].parent == own_cache / "tables"
    task = choose_table(None, "computed", space=str(space_file))
    note = next(task)
    assert isinstance(note, Note) and "using the latency table of today in" in note.text
    assert result(task).table.layers == first.table.layers and len(made) == 1
    assert result(choose_table(None, "computed", space=str(space_file), rebuild=True)) and len(made) == 2


def _timed(ms: float) -> object:
    from mbv3.latency import Timed

    return Timed(ms, 3, ms, 0.0)


def test_a_prediction_and_its_estimates(space: SearchSpace, computed_table: Computed) -> None:
    table = computed_table(space)
    spec = space.deployed(tuple(0 for _ in space.sizes))
    p = predict(spec, table)
    assert p.ms == pytest.approx(network_ms(spec), rel=1e-3) and p.estimated == 0 and p.table is table
    odd = replace(spec, rows=(replace(spec.rows[0], k=7), *spec.rows[1:]))
    assert predict(odd, table).estimated == 1


def test_an_error_grows_with_what_is_estimated(space: SearchSpace, computed_table: Computed) -> None:
    table = computed_table(space)
    spec = space.deployed(tuple(0 for _ in space.sizes))
    odd = replace(spec, rows=(replace(spec.rows[0], k=7), *spec.rows[1:]))
    swish = replace(spec, rows=tuple(replace(row, nl="SILU") for row in spec.rows))
    latency = Latency(table)
    (known, none), (more, some), (most, nearly_all) = (latency.error_ms(s) for s in (spec, odd, swish))
    assert none == 0 < some < nearly_all < 1
    p = table.predict(odd, estimate=True)
    assert some == pytest.approx(sum(ms for _, ms, estimated in p.rows if estimated) / p.ms)
    error, ms = float(dict(table.report or {}).get("rmspe", 0.0)), latency([odd])[0]
    assert more == pytest.approx(ms / 100 * math.hypot((1 - some) * error, some * table.cost_model.error))
    assert most / latency([swish])[0] > more / ms > known / latency([spec])[0] == pytest.approx(error / 100)
    latency.correct(odd, 2 * ms)
    assert latency.error_ms(odd) == (pytest.approx(2 * more), some)


def test_a_network_is_measured_beside_the_reference(computer: Computer, space: SearchSpace) -> None:
    m = measure_network(space.deployed(tuple(0 for _ in space.sizes)), computer)
    assert m.ms == m.ratio * m.reference_ms > 0 and m.error_ms >= 0
    assert m.reference.name == "mobilenet_v3_large@1" and m.reference.resolution == (224, 224)


def test_a_measured_list_is_transferred(space: SearchSpace, computed_table: Computed, computer: Computer) -> None:
    table = computed_table(space)
    found = measure_list(table, space, computer, 12, minutes=1e-3)
    labels = [label for label, _ in found.networks.times]
    assert len(labels) == 12 and found.networks.space_id == space_id(space)
    assert found.networks.fingerprint == FINGERPRINT and found.noise_floor >= 0
    twice = tuple((label, 2 * network_ms(calibration_network(space, label))) for label in labels)
    moved = transfer_list(table, space, replace(found.networks, times=twice))
    key = layer_keys(space)[5]
    assert moved.layers[key].ms == pytest.approx(2 * table.layers[key].ms, rel=0.05)
    other = replace(found.networks, space_id="another")
    with pytest.raises(BadInput, match=r"n\.csv: its networks are of another space or scale .*measure --like"):
        transfer_list(table, space, other, source="n.csv")
    with pytest.raises(BadInput, match=r"--name 'X': n\.csv says itself what device it was measured on"):
        transfer_list(table, space, found.networks, device="X", source="n.csv")
    by_hand = MeasuredNetworks(twice)
    assert transfer_list(table, space, by_hand, device="X").fingerprint.cpu == "X"
    for n in (3, 1001):
        with pytest.raises(BadInput, match=rf"--networks must be from 4 to 1000 \(got {n}\)"):
            measure_list(table, space, computer, n)


def test_known_devices() -> None:
    known = known_devices()
    assert [p.name for p in known.profiles] == ["pixel-1", "note-10"]
    assert known.here.runtime == "onnxruntime" and all(p.blocks["rmspe"] > 0 and p.sources for p in known.profiles)


def test_the_kit_of_a_space(space: SearchSpace, tmp_path: Path) -> None:
    kit = write_space_kit(space, tmp_path / "kit.zip", minutes=0.02)
    assert kit.path.exists() and kit.layers > len(layer_keys(space)) and kit.networks == 60
    assert kit.size_bytes > kit.path.stat().st_size > 0
