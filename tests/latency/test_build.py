"""Building a table on the fake machine, interrupted in every way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from mbv3.errors import BadInput, MissingLayerError
from mbv3.events import Event, Note, Progress, StageStart, result
from mbv3.latency import (
    BuildPlan,
    Calibration,
    Device,
    LatencyTable,
    Timed,
    build_table,
    check_table,
    fidelity,
    network_time,
    noise_warning,
    runner,
    table_path,
    weights_mb,
)  # fmt: skip
from mbv3.latency.build import _merged, work_of
from mbv3.latency.conditions import Watch, setting, undisturbed
from mbv3.latency.runner import LEAST
from mbv3.latency.sessions import Run
from mbv3.latency.timers import InProcess
from mbv3.space import SearchSpace
from mbv3.spec import ArchSpec, LayerKey, count, lower

from .fake import FINGERPRINT, A, B, C, Clock, FakeRuntime, layer_cost, network_cost, run_out


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHUNK_LAYERS", 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tables" / "table.csv"


@pytest.fixture
def partial(path: Path) -> Path:
    return path.with_name("table.csv.partial")


def build(runtime: FakeRuntime, plan: BuildPlan, path: Path) -> list[Event]:
    return list(build_table(runtime, plan, path))


def layers(runtime: FakeRuntime) -> list[LayerKey]:
    return [x for x in runtime.opened if isinstance(x, LayerKey)]


def steps(events: list[Event]) -> list[Progress]:
    return [e for e in events if isinstance(e, Progress)]


def mixed(keys: tuple[LayerKey, ...], p: int = 0) -> list[LayerKey]:
    """The order of pass p."""
    return [keys[i] for i in np.random.default_rng(p).permutation(len(keys))]


def interrupted(runtime: FakeRuntime, plan: BuildPlan, path: Path, chunks: int) -> None:
    """Build until `chunks` chunks of layers are measured, then drop the generator."""
    events = build_table(runtime, plan, path)
    for event in events:
        if isinstance(event, Progress):
            chunks -= 1
        if not chunks:
            break
    events.close()


def test_a_whole_build(runtime: FakeRuntime, plan: BuildPlan, path: Path, partial: Path) -> None:
    events, table = run_out(build_table(runtime, plan, path))
    assert isinstance(events[0], StageStart) and f"{len(plan.keys)} layers" in events[0].text
    assert table == LatencyTable.load(path) and not partial.exists()
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


def test_progress_counts_steps_up_to_all(runtime: FakeRuntime, plan: BuildPlan, path: Path) -> None:
    progress = steps(build(runtime, plan, path))
    per_pass = -(-len(plan.keys) // 10) + 1  # chunks of ten layers, then the networks
    assert [e.done for e in progress] == list(range(1, LEAST * per_pass + 1))
    assert all(e.left_s is not None and e.left_s >= 0 and e.total >= e.done for e in progress)


def test_every_pass_visits_every_layer_and_network_in_another_order(
    runtime: FakeRuntime, plan: BuildPlan, path: Path
) -> None:
    build(runtime, replace(plan, keys=plan.keys * 2), path)  # a layer named twice is measured once
    n = len(plan.keys)
    passes = [layers(runtime)[n * p : n * (p + 1)] for p in range(LEAST)]
    assert len(layers(runtime)) == n * LEAST and [mixed(plan.keys, p) for p in range(LEAST)] == passes
    names = [x for x in runtime.opened if isinstance(x, str)]
    one = [*(spec.name for _, spec in plan.calibration), "reference"]
    assert names == ["reference", *(one * LEAST)]  # the first is what stays open as the anchor


def test_passes_go_on_until_chance_is_small_or_the_time_is_used(clock: Clock, plan: BuildPlan, path: Path) -> None:
    def noisy(now: float) -> float:
        return 1.0 + crc32(str(now).encode()) / 2**32  # up to twice as slow

    def built(error: float, minutes: float) -> dict[str, Any]:
        list(build_table(FakeRuntime(clock, slowness=noisy), plan, path, error=error, minutes=minutes))
        return dict(LatencyTable.load(path).report or {})

    rough, fine, brief = built(2.0, 600), built(1.0, 600), built(0.001, 0.1)
    assert LEAST <= rough["passes"] < fine["passes"]
    assert np.hypot(rough["noise_floor"], rough["layer_noise"]) <= 2.0
    assert np.hypot(fine["noise_floor"], fine["layer_noise"]) <= 1.0
    assert 6 <= brief["seconds"] < 6 + 6 / (brief["passes"] - 1) + 1
    for bad in ({"error": 0.0}, {"error": float("nan")}, {"minutes": -1.0}, {"minutes": float("inf")}):
        with pytest.raises(BadInput, match=f"--{next(iter(bad))} must be"):
            next(build_table(FakeRuntime(clock), plan, path, **bad))


# -- interruption


KEPT = re.compile(r"[0-9]+ s of measurements from before an interruption are kept")


def kept_note(events: list[Event]) -> bool:
    return any(KEPT.fullmatch(e.text) for e in events if isinstance(e, Note) and not e.warning)


def test_an_interrupted_build_goes_on_where_it_stopped(
    clock: Clock, plan: BuildPlan, path: Path, partial: Path
) -> None:
    first = FakeRuntime(clock)
    interrupted(first, plan, path, chunks=2)
    assert not path.exists() and len(partial.read_text().splitlines()) == 1 + 2
    second = FakeRuntime(clock, slowness=lambda now: 1.4)  # the machine has got slower meanwhile
    events = build(second, plan, path)
    assert kept_note(events)
    rest = mixed(plan.keys)[20:]
    assert layers(second)[: len(rest)] == rest and len(layers(second)) == LEAST * len(plan.keys) - 20
    table = LatencyTable.load(path)
    assert tuple(table.layers) == plan.keys and table.reference_ms == pytest.approx(1.4 * network_cost(plan.reference))
    for key, timed in table.layers.items():  # all relative to the reference of the same step
        assert timed.ms == pytest.approx(1.4 * layer_cost(key), abs=1e-6)


def test_a_crash_in_the_middle_keeps_what_was_measured(
    clock: Clock, plan: BuildPlan, path: Path, partial: Path
) -> None:
    with pytest.raises(RuntimeError, match="switched off"):
        build(FakeRuntime(clock, fail_at=mixed(plan.keys)[25]), plan, path)
    assert len(partial.read_text().splitlines()) == 1 + 2
    second = FakeRuntime(clock)
    build(second, plan, path)
    assert len(layers(second)) == LEAST * len(plan.keys) - 20


def test_a_build_stopped_in_a_later_pass_repeats_nothing(clock: Clock, plan: BuildPlan, path: Path) -> None:
    per_pass = -(-len(plan.keys) // 10) + 1
    interrupted(FakeRuntime(clock), plan, path, chunks=2 * per_pass + 1)
    second = FakeRuntime(clock)
    build(second, plan, path)
    assert layers(second) == mixed(plan.keys, 2)[10:]
    table = LatencyTable.load(path)
    assert tuple(table.layers) == plan.keys and (table.report or {})["passes"] == LEAST


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
        (cut_in_the_last_line, 10),
        (cut_before_the_last_newline, 10),
        (lambda t: t + "\0\0\0\0", 20),
        (lambda t: t + "[1]\n", 20),
        (lambda t: t + "[" * 100_000 + "\n", 20),
        (lambda t: t + t.splitlines()[2] + "\n", 20),
        (edit(2, reference_ms=float("nan")), 10),
        (edit(2, reference_ms=-1.0), 10),
        (edit(2, reference_ms=None), 10),
        (edit(2, ms=[]), 10),
        (edit(2, ms=[[0, 1, 1.0, 0.0]] * 10), 10),
        (edit(2, s=float("nan")), 10),
        (edit(2, layers=list(range(-1, 9))), 10),
        (edit(2, **{"pass": 1}), 10),
        (edit(1, ms=None), 0),
        (edit(0, fingerprint={"cpu": "another"}), 0),
        (edit(0, kit="another"), 0),
        (edit(0, format="mbv3-results/1"), 0),
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
    assert len(layers(second)) == LEAST * len(plan.keys) - kept and kept_note(events) == (kept > 0)
    assert tuple(LatencyTable.load(path).layers) == plan.keys


def test_bytes_that_are_no_text_are_damage_too(clock: Clock, plan: BuildPlan, path: Path, partial: Path) -> None:
    interrupted(FakeRuntime(clock), plan, path, chunks=1)
    partial.write_bytes(partial.read_bytes() + b"\xff\xfe\x00" * 99 + b"\n")
    interrupted(FakeRuntime(clock), plan, path, chunks=2)  # the first of them is there
    assert len(partial.read_text("utf-8").splitlines()) == 1 + 2


def test_rows_of_another_device_or_plan_are_measured_again(
    clock: Clock, plan: BuildPlan, path: Path, space: SearchSpace
) -> None:
    interrupted(FakeRuntime(clock), plan, path, chunks=2)
    other = FakeRuntime(clock, fingerprint=replace(FINGERPRINT, threads=2))
    interrupted(other, plan, path, chunks=1)
    assert layers(other) == mixed(plan.keys)[:10]
    same_name = space.spec((0,) * len(space.sizes), name="reference")  # name and resolution tell nothing
    third = FakeRuntime(clock, fingerprint=replace(FINGERPRINT, threads=2))
    interrupted(third, replace(plan, reference=same_name), path, chunks=1)
    assert layers(third) == mixed(plan.keys)[:10]


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
        with pytest.raises(BadInput, match=r"table\.csv\.partial: another process is measuring into this file"):
            build(runtime, plan, path)
        assert partial.read_text() == "mine" and runtime.opened == []
        other.communicate()
    build(runtime, plan, path)
    assert LatencyTable.load(path).layers


def test_two_builds_in_one_process_exclude_each_other_too(clock: Clock, plan: BuildPlan, path: Path) -> None:
    first = build_table(FakeRuntime(clock), plan, path)
    next(first)
    with pytest.raises(BadInput, match="another process is measuring into this file"):
        next(build_table(FakeRuntime(clock), plan, path))
    assert result(first) == LatencyTable.load(path)


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


def test_a_busy_machine_is_reported(clock: Clock, plan: BuildPlan, path: Path) -> None:
    busy = FakeRuntime(clock, slowness=lambda now: 1.0 + crc32(str(now).encode()) / 2**32)
    events = build_table(busy, plan, path, error=0.01, minutes=0.05)
    warnings = [e for e in events if isinstance(e, Note) and e.warning]
    assert len(warnings) == 1
    assert re.search(r"random error makes up [0-9.]+ % of a prediction's error after [0-9.]+ minutes", warnings[0].text)
    assert (
        "more than the 0.01 % requested: " in warnings[0].text
        and "the reference network varied by " in warnings[0].text
    )


CALM = {"others": 0.02, "stolen": 0.0, "slower": 0.3}


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (CALM, "no cause can be observed from here .* give more --minutes"),
        ({**CALM, "others": 1.25}, "other programs kept 1.2 of 2 cores busy; stop them"),
        ({**CALM, "stolen": 0.4}, "the host of this virtual machine gave 0.4 of its cores to other guests"),
        (
            {**CALM, "mhz_low": 1500, "mhz_high": 3000},
            "the clock varied from 1500 to 3000 MHz; set a fixed frequency governor",
        ),
        ({**CALM, "slower": 9.0}, "the reference network became 9 % slower during the build; cool the device"),
    ],
)
def test_why_a_table_is_noisy(seen: dict[str, float], why: str) -> None:
    report = {"noise_floor": 1.2, "layer_noise": 0.9, "asked": 1.0, "drift": 2.0, "seconds": 180, "conditions": seen}
    table = LatencyTable(FINGERPRINT, {"ms": 1.0}, {}, report=report)
    [note] = noise_warning(table)
    assert note.warning and re.fullmatch(
        f"random error makes up 1.5 % of a prediction's error after 3.0 minutes, more than the 1 % requested: {why}",
        note.text,
    )
    assert not list(noise_warning(replace(table, report={**report, "noise_floor": 0.4})))


def test_the_watch_sees_what_other_programs_do() -> None:
    watch = Watch()
    time.sleep(0.3)
    idle = watch.seen()
    watch = Watch()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(1.0)
        seen = watch.seen()
        other.kill()
    if "others" not in seen:
        pytest.skip("this system does not tell")
    assert seen["others"] > 0.5 and 0 <= seen["stolen"] < 100 and idle.keys() == seen.keys()
    assert seen["others"] <= len(os.sched_getaffinity(0)) + 0.1  # of the cores that this process may use


def test_runs_are_undisturbed_as_far_as_the_user_may_ask_and_all_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def now() -> tuple[set[int], int, int]:
        return os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)

    def may(what: str) -> bool:
        return not subprocess.run([sys.executable, "-c", f"import os; os.{what}"], capture_output=True).returncode

    monkeypatch.delenv("MBV3_REALTIME", raising=False)
    before = now()
    with undisturbed():
        cores, nice, policy = now()
    assert now() == before and cores == {max(before[0])}
    assert nice == (min(before[1], -10) if may("setpriority(0, 0, -10)") else before[1]) == setting()["nice"]
    first = may("sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))")
    assert policy == (os.SCHED_FIFO | os.SCHED_RESET_ON_FORK if first else before[2])
    assert setting()["realtime"] == first
    asked = list[object]()
    with monkeypatch.context() as m:
        m.setenv("MBV3_REALTIME", "0")
        m.setattr(os, "sched_setscheduler", lambda *args: asked.append(args))
        with undisturbed():
            assert now() == (cores, nice, before[2])
    assert not asked
    with undisturbed(threads=2):
        assert os.sched_getaffinity(0) == before[0]
    with pytest.raises(RuntimeError, match="broken"), undisturbed():
        raise RuntimeError("broken")
    assert now() == before and setting()["core"] == max(before[0])


@pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() != 0, reason="only root may become another user")
def test_a_real_time_priority_ends_for_a_user_who_may_not_take_its_flag_off() -> None:
    code = "with undisturbed():\n    os.setuid(65534)\nprint(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)"
    head = "import os\nfrom mbv3.latency import undisturbed\n"
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == os.SCHED_OTHER


def test_without_policies_there_is_no_real_time_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    for name in ("sched_getscheduler", "sched_setscheduler"):
        monkeypatch.setattr(os, name, missing)
    with undisturbed():
        assert os.sched_getaffinity(0) == {max(os.sched_getaffinity(0))}


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


def test_check_only_brings_a_transferred_table_to_now(
    clock: Clock, plan: BuildPlan, path: Path, space: SearchSpace
) -> None:
    build(FakeRuntime(clock), plan, path)
    table = LatencyTable.load(path)
    moved = replace(table, about={**(table.about or {}), "transferred": {}}, calibration=Calibration(a=2.0))
    fresh = [(f"n{i}", space.spec((i % 2, 1, 0, i // 2, 1, 0, 1, 0))) for i in range(4)]
    panel = [(net, spec) for net, (_, spec) in zip(table.networks, plan.calibration, strict=True)]
    device = Device(Changed(clock), plan.reference, table.reference_ms)
    report = check_table(device, moved, fresh, panel, rounds=2)
    assert report["calibrated_on"] == 0 and report["drift"] == 10.0
    predicted = {n["network"]: n["predicted_ms"] for n in report["networks"]}
    assert predicted == pytest.approx({label: 1.1 * moved.latency_ms(spec) for label, spec in fresh})


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


def test_one_measurement_of_several_passes_by_hand() -> None:
    # runs of 1, 3 and of 2, 4, 6, 8 ms: their mean is 4, their deviation sqrt(34 / 6)
    row = _merged([(1.0, 2, 2.0, 1.0), (3.0, 4, 5.0, 5**0.5)], np.array([0.25, 0.75]), 10.0)
    assert (row.ms, row.n, row.mean) == pytest.approx((25.0, 6, 40.0)) and row.std == pytest.approx(
        10 * (34 / 6) ** 0.5
    )


def test_a_plan_without_networks_is_refused(runtime: FakeRuntime, plan: BuildPlan, path: Path) -> None:
    with pytest.raises(BadInput, match="a plan without whole networks cannot be calibrated"):
        build(runtime, replace(plan, calibration=()), path)


def test_a_longer_time_goes_on_from_what_a_shorter_one_measured(clock: Clock, plan: BuildPlan, path: Path) -> None:
    def noisy(now: float) -> float:
        return 1.0 + crc32(str(now).encode()) / 2**32

    first = build_table(FakeRuntime(clock, slowness=noisy), plan, path, error=0.001, minutes=0.02)
    for event in first:
        if isinstance(event, Progress) and event.done == event.total:
            break  # all but the end is written
    first.close()
    second = FakeRuntime(clock, slowness=noisy)
    events = list(build_table(second, plan, path, error=0.001, minutes=0.2))
    report = dict(LatencyTable.load(path).report or {})
    assert kept_note(events) and report["seconds"] >= 12
    assert len(layers(second)) < report["passes"] * len(plan.keys)


def test_an_end_is_taken_back_where_more_is_asked_for(plan: BuildPlan, tmp_path: Path, clock: Clock) -> None:
    runtime, work = FakeRuntime(clock), work_of(plan, error=1.0, minutes=0.001)
    runs = [runtime.layer(k) for k in plan.keys] + [runtime.network(s) for _, s in plan.calibration]
    runs.append(runtime.network(plan.reference))
    timer = InProcess(runs.__getitem__, len(runs) - 1)

    def journal(more: dict[str, float]) -> runner.Journal:
        return runner.Journal(tmp_path / "j", {**work, **more}, runner.header("id", FINGERPRINT), overwrite=False)

    with closing(journal({})) as j:
        list(runner.measure(work, timer, j))
        assert j.measured.ended
    whole = (tmp_path / "j").read_text()
    with closing(journal({})) as j:
        assert j.measured.ended and not list(runner.measure(work, timer, j))
    for behind in ("", "junk\n", "[1]\n[2]\n"):
        (tmp_path / "j").write_text(whole + behind)
        with closing(journal({"noise": -1.0, "seconds": 1e9})) as j:
            assert not j.measured.ended and j.measured.passes == LEAST
        assert (tmp_path / "j").read_text() == "".join(whole.splitlines(keepends=True)[:-1])


def test_what_cannot_be_taken_changes_nothing(plan: BuildPlan, tmp_path: Path, clock: Clock) -> None:
    work = work_of(plan, error=1.0, minutes=1.0)
    n = len(plan.keys)
    good = {
        "pass": 0, "layers": list(range(n)), "ms": [[1.0, 3, 1.0, 0.0]] * n, "reference_ms": 2.0, "s": 1.0,
        "timed": 0.5,
        "conditions": {"nice": 0.0},
    }  # fmt: skip
    for bad in (
        {"pass": -1}, {"pass": 1}, {"pass": True}, {"conditions": {"mhz": None}}, {"conditions": {"mhz": float("nan")}},
        {"conditions": []}, {"ms": [[1.0, 2**62, 1.0, 0.0]] * n}, {"s": float("inf")}, {"reference_ms": 0},
        {"timed": float("nan")},
    ):  # fmt: skip
        measured = runner.Measurements(work)
        with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
            measured.add({**good, **bad})
        assert (measured.layers, measured.networks, measured.references, measured.conditions) == ([], [], [], [])
        assert measured.seconds == 0.0
        measured.add(good)
        assert measured.layers[0][0] == (0.5, 3, 0.5, 0.0)
