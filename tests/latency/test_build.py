"""Building a table on the fake machine, interrupted in every way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mbv3.errors import BadInput, MissingLayerError
from mbv3.events import Done, Event, Note, Progress, StageStart
from mbv3.latency import (
    BuildPlan,
    Device,
    LatencyTable,
    Timed,
    build_table,
    check_table,
    fidelity,
    network_time,
    table_path,
    weights_mb,
)  # fmt: skip
from mbv3.latency import device as device_module
from mbv3.latency.build import PASSES, mixed
from mbv3.latency.sessions import Run
from mbv3.space import SearchSpace
from mbv3.spec import ArchSpec, LayerKey, count, lower

from .fake import FINGERPRINT, A, B, C, Clock, FakeRuntime, layer_cost, network_cost


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_CHUNK_LAYERS", 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tables" / "table.csv"


@pytest.fixture
def partial(path: Path) -> Path:
    return path.with_name("table.csv.partial")


def build(runtime: FakeRuntime, plan: BuildPlan, path: Path) -> list[Event]:
    return list(build_table(runtime, plan, path, rounds=3))


def layers(runtime: FakeRuntime) -> list[LayerKey]:
    return [x for x in runtime.opened if isinstance(x, LayerKey)]


def interrupted(runtime: FakeRuntime, plan: BuildPlan, path: Path, chunks: int) -> None:
    """Build until `chunks` chunks of layers are measured, then drop the generator."""
    events = build_table(runtime, plan, path, rounds=3)
    for event in events:
        if isinstance(event, Progress):
            chunks -= 1
        if not chunks:
            break
    events.close()  # type: ignore[attr-defined]


def test_a_whole_build(runtime: FakeRuntime, plan: BuildPlan, path: Path, partial: Path) -> None:
    events = build(runtime, plan, path)
    assert isinstance(events[0], StageStart) and f"{len(plan.keys)} layers" in events[0].text
    done = events[-1]
    assert isinstance(done, Done)
    table = LatencyTable.load(done.data["path"])
    assert Path(done.data["path"]) == path and not partial.exists()
    assert list(path.parent.iterdir()) == [path]
    assert table.fingerprint == FINGERPRINT
    assert tuple(table.layers) == plan.keys
    for key, timed in table.layers.items():
        assert timed.ms == pytest.approx(layer_cost(key), abs=1e-6)
    c = table.calibration
    assert (c.a, c.b, c.c) == pytest.approx((A, B, C), abs=1e-3)
    assert [n.label for n in table.networks] == [label for label, _ in plan.calibration]
    assert table.report is not None
    assert (table.report["n"], table.report["within_5"], table.report["noise_floor"]) == (8, 100.0, 0.0)
    assert table.report["baselines"]["plain_sum"]["bias"] < -4
    assert table.about is not None and table.about["space"] == "tiny" and len(table.about["date"]) == 10
    assert table.reference_ms == pytest.approx(network_cost(plan.reference))
    assert table.reference == {
        "spec": "reference",
        "width": 1.0,
        "resolution": [32, 32],
        "classes": 4,
        "ms": table.reference_ms,
    }
    for _, spec in plan.calibration:
        assert table.latency_ms(spec) == pytest.approx(network_cost(spec), rel=1e-3)


def test_progress_counts_layers_up_to_all(runtime: FakeRuntime, plan: BuildPlan, path: Path) -> None:
    steps = [e for e in build(runtime, plan, path) if isinstance(e, Progress) and e.text == "layers"]
    assert [e.done for e in steps[:3]] == [10, 20, 30]
    assert steps[-1].done == steps[-1].total == len(plan.keys) and steps[-1].left_s == 0
    assert all(e.left_s is not None and e.left_s >= 0 for e in steps)


def test_a_layer_named_twice_is_measured_once(runtime: FakeRuntime, plan: BuildPlan, path: Path) -> None:
    build(runtime, replace(plan, keys=plan.keys * 2), path)
    assert sorted(map(str, layers(runtime))) == sorted(map(str, plan.keys * PASSES))


# -- interruption


def test_an_interrupted_build_goes_on_where_it_stopped(
    clock: Clock, plan: BuildPlan, path: Path, partial: Path
) -> None:
    first = FakeRuntime(clock)
    interrupted(first, plan, path, chunks=2)
    assert not path.exists() and len(partial.read_text().splitlines()) == 1 + 20
    second = FakeRuntime(clock, slowness=lambda now: 1.4)  # the machine has got slower meanwhile
    events = build(second, plan, path)
    notes = [e.text for e in events if isinstance(e, Note)]
    assert notes == ["20 layers were measured before an interruption and are kept"]
    assert set(layers(second)) == set(mixed(plan.keys)[20:]) and len(layers(second)) == PASSES * (len(plan.keys) - 20)
    steps = [e.done for e in events if isinstance(e, Progress) and e.text == "layers"]
    assert steps[0] == 30 and steps[-1] == len(plan.keys)
    table = LatencyTable.load(path)
    assert tuple(table.layers) == plan.keys
    for key, timed in table.layers.items():  # all told against the reference of the first run
        assert timed.ms == pytest.approx(layer_cost(key), abs=1e-6)


def test_a_crash_in_the_middle_keeps_what_was_measured(
    clock: Clock, plan: BuildPlan, path: Path, partial: Path
) -> None:
    with pytest.raises(RuntimeError, match="switched off"):
        build(FakeRuntime(clock, fail_at=mixed(plan.keys)[25]), plan, path)
    assert len(partial.read_text().splitlines()) == 1 + 20
    second = FakeRuntime(clock)
    build(second, plan, path)
    assert set(layers(second)) == set(mixed(plan.keys)[20:])


def test_a_build_stopped_after_its_layers_measures_no_layer_again(clock: Clock, plan: BuildPlan, path: Path) -> None:
    interrupted(FakeRuntime(clock), plan, path, chunks=-(-len(plan.keys) // 10) + 1)
    second = FakeRuntime(clock)
    build(second, plan, path)
    assert layers(second) == [] and tuple(LatencyTable.load(path).layers) == plan.keys


def cut_in_the_last_line(text: str) -> str:
    return text[:-9]


def cut_before_the_last_newline(text: str) -> str:
    return text[:-1]


def edit(i: int, **values: Any) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.splitlines()
        lines[i] = json.dumps(json.loads(lines[i]) | values)
        return "\n".join(lines) + "\n"

    return change


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (cut_in_the_last_line, 19),
        (cut_before_the_last_newline, 19),
        (lambda t: t + "\0\0\0\0", 20),
        (lambda t: t + "[1]\n", 20),
        (lambda t: t + "[" * 100_000 + "\n", 20),
        (edit(11, ms=float("nan")), 10),
        (edit(11, ms=-1.0), 10),
        (edit(11, ms=0), 10),
        (edit(11, ms=None), 10),
        (edit(11, n=float("inf")), 10),
        (edit(11, std=float("nan")), 10),
        (edit(11, key="conv_h1"), 10),
        (edit(0, reference_ms=float("nan")), 0),
        (edit(0, reference_ms=-3), 0),
        (edit(0, fingerprint="0" * 12), 0),
        (edit(0, reference="another"), 0),
        (lambda t: t.partition("\n")[2], 0),
        (lambda t: "", 0),
        (lambda t: "not\nour\nfile\n", 0),
    ],
)
def test_a_damaged_partial_file_loses_only_what_is_behind_the_damage(
    damage: Callable[[str], str], kept: int, clock: Clock, plan: BuildPlan, path: Path, partial: Path
) -> None:
    interrupted(FakeRuntime(clock), plan, path, chunks=2)
    partial.write_text(damage(partial.read_text()))
    second = FakeRuntime(clock)
    events = build(second, plan, path)
    assert set(layers(second)) == set(mixed(plan.keys)[kept:])
    notes = [e.text for e in events if isinstance(e, Note)]
    assert notes == ([f"{kept} layers were measured before an interruption and are kept"] if kept else [])
    assert tuple(LatencyTable.load(path).layers) == plan.keys


def test_bytes_that_are_no_text_are_damage_too(clock: Clock, plan: BuildPlan, path: Path, partial: Path) -> None:
    interrupted(FakeRuntime(clock), plan, path, chunks=1)
    partial.write_bytes(partial.read_bytes() + b"\xff\xfe\x00" * 99 + b"\n")
    interrupted(FakeRuntime(clock), plan, path, chunks=1)
    assert len(partial.read_text("utf-8").splitlines()) == 1 + 20
    second = FakeRuntime(clock)
    build(second, plan, path)
    assert set(layers(second)) == set(mixed(plan.keys)[20:])


def test_rows_of_another_device_or_reference_are_measured_again(
    clock: Clock, plan: BuildPlan, path: Path, space: SearchSpace
) -> None:
    interrupted(FakeRuntime(clock), plan, path, chunks=2)
    other = FakeRuntime(clock, fingerprint=replace(FINGERPRINT, threads=2))
    interrupted(other, plan, path, chunks=1)
    assert set(layers(other)) == set(mixed(plan.keys)[:10])
    same_name = space.spec((0,) * len(space.sizes), name="reference")  # name and resolution tell nothing
    third = FakeRuntime(clock, fingerprint=replace(FINGERPRINT, threads=2))
    interrupted(third, replace(plan, reference=same_name), path, chunks=1)
    assert set(layers(third)) == set(mixed(plan.keys)[:10])


# -- refused


def test_another_process_builds_the_same_table(
    runtime: FakeRuntime, plan: BuildPlan, path: Path, partial: Path
) -> None:
    path.parent.mkdir()
    script = (
        "import fcntl, sys\n"
        "f = open(sys.argv[1], 'a')\n"
        "fcntl.flock(f, fcntl.LOCK_EX)\n"
        "f.write('mine'); f.flush()\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(partial)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(BadInput, match=r"table\.csv\.partial: another process is building this table"):
            build(runtime, plan, path)
        assert partial.read_text() == "mine" and runtime.opened == []
        other.communicate()
    build(runtime, plan, path)
    assert LatencyTable.load(path).layers


def test_two_builds_in_one_process_exclude_each_other_too(clock: Clock, plan: BuildPlan, path: Path) -> None:
    first = build_table(FakeRuntime(clock), plan, path, rounds=3)
    next(first)
    with pytest.raises(BadInput, match="another process is building this table"):
        next(build_table(FakeRuntime(clock), plan, path, rounds=3))
    assert isinstance(list(first)[-1], Done)


def test_a_place_that_cannot_be_written(runtime: FakeRuntime, plan: BuildPlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot be written \((File exists|Not a directory)\)"):
        build(runtime, plan, tmp_path / "file" / "t.csv")


def test_a_plan_without_layers_of_its_networks_is_refused_before_anything_is_timed(
    runtime: FakeRuntime, plan: BuildPlan, path: Path
) -> None:
    used = list(dict.fromkeys(x.key for _, s in plan.calibration for x in lower(s)))[:5]
    keys = tuple(k for k in plan.keys if k not in used)
    with pytest.raises(MissingLayerError, match=r"^5 layer\(s\) not in the latency table: ") as e:
        build(runtime, replace(plan, keys=keys), path)
    assert e.value.missing == tuple(map(str, used))
    assert runtime.opened == [] and not path.parent.exists()


# -- noise, checks, names


def test_a_busy_machine_is_told(clock: Clock, plan: BuildPlan, path: Path) -> None:
    busy = FakeRuntime(clock, slowness=lambda now: 1.0 + (int(now * 30) % 2))
    warnings = [e for e in build(busy, plan, path) if isinstance(e, Note) and e.warning]
    assert len(warnings) == 1 and "the reference network varied by " in warnings[0].text


def test_check_predicts_and_measures_what_the_table_has_not_seen(
    runtime: FakeRuntime, plan: BuildPlan, path: Path, space: SearchSpace
) -> None:
    build(runtime, plan, path)
    table = LatencyTable.load(path)
    fresh = [(f"n{i}", space.spec((i % 2, 1, 0, i // 2, 1, 0, 1, 0))) for i in range(4)]
    device = Device(runtime, plan.reference, table.reference_ms)
    report = check_table(device, table, fresh, rounds=2)
    assert set(report) >= {
        "n",
        "rmspe",
        "bias",
        "within_5",
        "within_10",
        "spearman",
        "noise_floor",
        "calibrated_on",
        "as_built",
        "drift",
        "reference_drift",
        "worst",
        "baselines",
    }
    assert set(report["baselines"]) == {"plain_sum", "madds"}
    assert report["n"] == 4 and report["rmspe"] < 0.5 and report["within_5"] == 100.0
    predicted, costs = [table.latency_ms(s) for _, s in fresh], [network_cost(s) for _, s in fresh]
    expected = fidelity(predicted, costs)
    assert {k: report[k] for k in expected} == report["as_built"] == pytest.approx(expected, abs=1e-3)
    i = ["n0", "n1", "n2", "n3"].index(report["worst"]["network"])
    assert report["worst"]["measured_ms"] == pytest.approx(costs[i])
    assert report["worst"]["predicted_ms"] == pytest.approx(predicted[i])
    assert (report["calibrated_on"], report["drift"], report["reference_drift"]) == (0, 0.0, 0.0)
    assert report["baselines"]["plain_sum"]["bias"] < report["bias"]


class Changed(FakeRuntime):
    """All but the reference takes a tenth longer than it did."""

    def network(self, spec: ArchSpec) -> Run:
        self.opened.append(spec.name)
        return self._run(network_cost(spec) * (1.0 if spec.name == "reference" else 1.1))


@pytest.mark.parametrize(("n", "calibrated_on"), [(8, 8), (7, 0), (0, 0)])
def test_check_calibrates_anew_on_a_panel_of_at_least_eight(
    n: int, calibrated_on: int, clock: Clock, plan: BuildPlan, path: Path, space: SearchSpace
) -> None:
    build(FakeRuntime(clock), plan, path)
    table = LatencyTable.load(path)
    fresh = [(f"n{i}", space.spec((i % 2, 1, 0, i // 2, 1, 0, 1, 0))) for i in range(4)]
    panel = [(net, spec) for net, (_, spec) in zip(table.networks, plan.calibration, strict=True)][:n]
    device = Device(Changed(clock, slowness=lambda now: 1.25), plan.reference, table.reference_ms)
    report = check_table(device, table, fresh, panel, rounds=2)
    assert report["n"] == 4  # the panel is none of those judged
    assert report["calibrated_on"] == calibrated_on
    assert report["drift"] == (10.0 if n else 0.0) and report["reference_drift"] == 25.0
    assert report["as_built"]["bias"] == pytest.approx(100 * (1 / 1.1 - 1), abs=0.1)
    if calibrated_on:
        assert report["rmspe"] < 0.1 and abs(report["bias"]) < 0.1
    else:
        assert report["bias"] == report["as_built"]["bias"]


def test_network_time_by_hand_and_all_that_is_missing(plan: BuildPlan) -> None:
    label, spec = plan.calibration[0]
    keys = [x.key for x in lower(spec)]
    rows = {k: Timed(layer_cost(k), 1, 1.0, 0.0) for k in keys}
    table = LatencyTable(FINGERPRINT, {"ms": 1.0}, rows)
    net = network_time(label, spec, table, 7.0)
    assert (net.label, net.ms, net.madds) == (label, 7.0, count(spec).madds)
    assert net.hot_ms == pytest.approx(sum(map(layer_cost, keys)))
    assert net.mb == pytest.approx(sum(map(weights_mb, keys))) == pytest.approx(count(spec).params * 4e-6)
    bare = LatencyTable(FINGERPRINT, {"ms": 1.0}, {keys[0]: rows[keys[0]]})
    with pytest.raises(MissingLayerError, match="not in the latency table") as e:
        network_time(label, spec, bare, 7.0)
    assert e.value.missing == tuple(str(k) for k in dict.fromkeys(keys[1:]))


def test_the_name_of_a_table_tells_device_space_and_scale(plan: BuildPlan, tmp_path: Path) -> None:
    path = table_path(tmp_path, FINGERPRINT, plan.about)
    assert path == tmp_path / "tables" / f"{FINGERPRINT.id}-tiny-01234567-w1-r32.csv"
    others = [
        table_path(tmp_path, replace(FINGERPRINT, threads=2), plan.about),
        table_path(tmp_path, FINGERPRINT, {**plan.about, "width": 0.75}),
        table_path(tmp_path, FINGERPRINT, {**plan.about, "resolution": 64}),
        table_path(tmp_path, FINGERPRINT, {**plan.about, "space_id": "f" * 8}),
    ]
    assert len({path, *others}) == 5
