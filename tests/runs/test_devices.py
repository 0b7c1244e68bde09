"""`--device A.csv,B.csv`: the slowest counts, or a weighted mean; tables of different spaces; what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mbv3.latency import LatencyTable, Timed
from mbv3.runs import find_events
from mbv3.space import load_space, scale
from mbv3.spec import load_spec
from mbv3.tables import SeveralLatency

from .conftest import Said, computed_table, record

TARGET = 2.2  # ms


@pytest.fixture(scope="module")
def tables(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """tiny.csv and a device on which squeeze-and-excitation and large kernels are dear and the rest is cheap."""
    where = tmp_path_factory.mktemp("tables")
    first = LatencyTable.load(folder / "tiny.csv")

    def other(key: object, t: Timed) -> Timed:
        row = key.row  # type: ignore[attr-defined]
        factor = 0.8 + 1.5 * bool(getattr(row, "se", 0)) + 0.9 * (getattr(row, "k", 1) == 5)
        return replace(t, ms=round(factor * t.ms, 6), mean=round(factor * t.mean, 6))

    second = replace(first, layers={k: other(k, t) for k, t in first.layers.items()})
    first.save(where / "a.csv")
    second.save(where / "b.csv")
    return where / "a.csv", where / "b.csv"


def given(folder: Path, tables: tuple[Path, ...], out: Path, *more: object) -> tuple[object, ...]:
    device = ",".join(map(str, tables))
    return (
        "--target-ms",
        TARGET,
        "--device",
        device,
        "--space",
        folder / "tiny.yaml",
        "--delta",
        0.1,
        "--out",
        out,
        *more,
    )


def test_the_slowest_device_counts(
    search: Callable[..., Said], mbv3: Callable[..., Said], folder: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    code, said, err = search(*given(folder, tables, tmp_path / "run", "--json"))
    assert code == 0, err
    r = json.loads(said)
    spec = load_spec(tmp_path / "run" / "mobilenetv3.yaml")
    each = [LatencyTable.load(t).latency_ms(spec, estimate=True) for t in tables]
    assert [d["name"] for d in r["devices"]] == [str(t) for t in tables]
    assert [d["ms"] for d in r["devices"]] == pytest.approx(each, abs=1e-4)
    assert all("weight" not in d for d in r["devices"])
    assert r["predicted_ms"] == pytest.approx(max(each)) and max(each) <= TARGET and r["measured_ms"] is None
    assert (tmp_path / "run" / "latency-table-2.csv").exists() and set(r["hashes"]) >= {"table", "table_2"}
    code, said, err = mbv3("verify", tmp_path / "run")
    assert code == 0, said + err
    assert f"predicted ms on {tables[1]}" in said


def test_weights_make_a_mean(
    search: Callable[..., Said], folder: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    code, said, err = search(*given(folder, tables, tmp_path / "run", "--device-weights", "3,1", "--json"))
    assert code == 0, err
    r = json.loads(said)
    a, b = (d["ms"] for d in r["devices"])
    assert [d["weight"] for d in r["devices"]] == [0.75, 0.25]
    assert r["predicted_ms"] == pytest.approx(0.75 * a + 0.25 * b, abs=1e-3) and r["predicted_ms"] <= TARGET
    assert "--device-weights 3,1" in r["command"]


def test_a_resumed_run_keeps_to_its_tables(folder: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    mine = [tmp_path / t.name for t in tables]
    for own, table in zip(mine, tables, strict=True):
        own.write_bytes(table.read_bytes())
    device = ",".join(map(str, mine))
    events = find_events(TARGET, tmp_path / "run", device=device, space=str(folder / "tiny.yaml"), delta=0.1)
    for event in events:
        if getattr(event, "stage", "") == "netadapt":
            break
    events.close()
    for own in mine:
        own.unlink()
    for _ in find_events(resume=tmp_path / "run"):
        pass
    r = record(tmp_path / "run")
    assert r["status"] == "done" and len(r["devices"]) == 2  # type: ignore[arg-type]


def test_tables_of_different_spaces_are_refused(
    search: Callable[..., Said], folder: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    computed_table(scale(load_space(folder / "tiny.yaml"), 0.5, 32)).save(tmp_path / "wide.csv")
    code, said, err = search(*given(folder, (tables[0], tmp_path / "wide.csv"), tmp_path / "run"))
    assert code == 2 and said == "" and "the tables hold different spaces: width is 1.0 in" in err
    assert "and 0.5 in" in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "more", "words"),
    [
        ("pixel-1,note-10", ("--device-weights", "1"), "--device-weights needs one for each device"),
        ("pixel-1", ("--device-weights", "1,2"), "--device-weights belongs to several tables"),
        ("pixel-1,note-10", ("--device-weights", "1,-2"), "--device-weights must be numbers above 0"),
        ("pixel-1,note-10", ("--device-weights", "1,x"), "--device-weights must be numbers above 0"),
        ("pixel-1,this-cpu", (), "several devices are tables as files, or names of phones (got 'this-cpu' among"),
        ("pixel-1,", (), "several devices are tables as files"),
        ("pixel-1,pixel-1", (), "pixel-1 is named twice"),
        ("pixel-1,note-10", ("--data", "x"), "several devices are searched for without --data"),
        ("pixel-1,moon.csv", (), "moon.csv: no such latency table"),
    ],
)
def test_devices_that_cannot_be_are_refused(
    search: Callable[..., Said], tmp_path: Path, device: str, more: tuple[str, ...], words: str
) -> None:
    code, said, err = search("--target-ms", 50, "--device", device, *more, "--out", tmp_path / "run")
    assert code == 2 and said == "" and words in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_several_latencies_are_those_of_each(tables: tuple[Path, Path]) -> None:
    loaded = [LatencyTable.load(t) for t in tables]
    specs = [load_spec("mobilenet_v3_small"), load_spec("mobilenet_v3_large@0.35")]
    each = [[t.latency_ms(s, estimate=True) for t in loaded] for s in specs]
    assert SeveralLatency(loaded)(specs) == pytest.approx([max(ms) for ms in each])
    mean = SeveralLatency(loaded, (1.0, 3.0))
    mean.correction = 2.0
    assert mean(specs) == pytest.approx([2 * (0.25 * a + 0.75 * b) for a, b in each])
    assert mean.rough()(specs) == mean(specs) and mean.rough(1.0)(specs) == pytest.approx([m / 2 for m in mean(specs)])
