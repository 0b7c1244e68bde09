"""adb: devices, against a stand-in for adb and for a phone (`phone.py`) whose models LiteRT really runs."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mbv3.errors import BadInput
from mbv3.events import Note, result
from mbv3.latency import BuildPlan, LatencyTable, adb, measure_over_adb
from mbv3.latency.benchmark import Visit, read_output, row
from mbv3.latency.phone import parse_serial
from mbv3.spec import lower
from mbv3.tables import read_table

from .fake import run_out
from .phone import BENCHMARK, SERIAL, Phone, plug_in

DEVICE = f"adb:{SERIAL}"


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    phone, server = plug_in(tmp_path / "phone")
    monkeypatch.setenv("MBV3_ADB", phone.adb)
    monkeypatch.setenv("MBV3_CACHE", str(tmp_path / "cache"))
    yield phone
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def few(plan: BuildPlan) -> BuildPlan:
    """Three networks and their layers alone."""
    networks = plan.calibration[:3]
    keys = tuple(dict.fromkeys(x.key for _, spec in networks for x in lower(spec)))
    assert len(keys) >= 10
    return replace(plan, keys=keys, calibration=networks)


def measure(
    plan: BuildPlan, out: Path, device: str = DEVICE, benchmark: str | None = BENCHMARK, **more: object
) -> LatencyTable:
    how = {"runtime": "litert", "threads": 1, "minutes": 0.02, **more}
    return result(measure_over_adb(device, benchmark, plan, out=out, **how))  # type: ignore[arg-type]


def test_a_table_of_a_phone(phone: Phone, few: BuildPlan, tmp_path: Path) -> None:
    out = tmp_path / "phone.csv"
    table = measure(few, out)
    assert table.dumps() == LatencyTable.load(out).dumps()
    assert tuple(table.layers) == few.keys and len(table.networks) == 3
    assert all(t.n >= 3 * 3 * 4 for t in table.layers.values())  # passes, rounds, runs
    f = table.fingerprint
    assert (f.cpu, f.cores, f.vector, f.governor) == ("Phone 9 Pro SoC-1 (0xd44) taskset 8", 4, "asimd", "schedutil")
    assert f.system.startswith("Android ") and (f.runtime, f.threads) == ("litert", 1)
    assert f.runtime_version.startswith("benchmark_model ") and len(f.runtime_version.split()[1]) == 12
    masks = set((phone.root / "masks").read_text().split())
    assert masks == {"8"}  # the last of the two fastest cores
    assert not phone.left and not (tmp_path / "phone.csv.partial").exists()
    models = {flags["graph"] for flags in phone.ran}
    assert models == {f"{i}.tflite" for i in range(len(few.keys) + 4)}  # the reference is the last
    assert {flags["warmup_runs"] for flags in phone.ran} == {"1"}
    orders = [flags["graph"] for flags in phone.ran if flags["graph"] != f"{len(few.keys) + 3}.tflite"]
    n = len(few.keys)
    assert set(orders[:n]) == set(orders[n : 2 * n]) and orders[:n] != orders[n : 2 * n]  # another order in each round
    read, caveat = read_table(str(out), "onnxruntime", 1, force=False)
    assert read.dumps() == table.dumps() and "was measured by benchmark_model on Phone 9 Pro" in str(caveat)


def test_several_threads_have_the_fastest_cores(phone: Phone, few: BuildPlan, tmp_path: Path) -> None:
    phone.fails = lambda n: True
    with pytest.raises(BadInput, match="fails on"):
        measure(few, tmp_path / "t.csv", threads=3)
    assert set((phone.root / "masks").read_text().split()) == {"e"} and phone.ran[0]["num_threads"] == "3"
    with pytest.raises(BadInput, match=r"--threads must be from 1 to 4, the cores of adb:R58M-1:5555 \(got 5\)"):
        measure(few, tmp_path / "t.csv", threads=5)


def test_a_phone_that_keeps_its_clocks_to_itself_is_not_pinned(phone: Phone, few: BuildPlan, tmp_path: Path) -> None:
    for core in range(4):
        (phone.root / f"cpu/cpu{core}/cpufreq/cpuinfo_max_freq").unlink()
    phone.fails = lambda n: True
    events = measure_over_adb(DEVICE, BENCHMARK, few, "litert", 1, tmp_path / "t.csv")
    note = next(events)
    assert (
        isinstance(note, Note) and note.warning and "clocks of its cores cannot be read" in note.text
    )  # their parts differ
    with pytest.raises(BadInput, match="fails on"):
        list(events)
    assert not (phone.root / "masks").exists()


def test_a_pulled_cable_costs_one_step(phone: Phone, few: BuildPlan, tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    partial = tmp_path / "t.csv.partial"
    phone.fault("cut")
    with pytest.raises(
        BadInput, match=r"the connection was lost while timing: it is offline; .*measured is kept on this"
    ):
        measure(few, out)
    kept = partial.read_text()
    assert len(kept.splitlines()) == 3 and not out.exists()  # header, layers and networks of the first pass
    assert len(phone.left) == 1  # the script behind it is still there
    with pytest.raises(BadInput, match=r"it is offline; plug it in again"):
        measure(few, out)
    phone.fault("")
    with partial.open("r+") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another process is measuring into this file"):
            measure(few, out)
    with (tmp_path / "cache" / f"{DEVICE}.lock").open() as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="adb:R58M-1:5555: another process is timing on it"):
            measure(few, tmp_path / "other.csv")
    top = phone.root / "cpu/cpu3/online"
    top.write_text("0\n")  # on another core it would be another device
    with pytest.raises(BadInput, match=r"cpu3 of its 1 fastest core\(s\) switched off; keep it awake"):
        measure(few, out)
    top.unlink()
    prop = phone.root / "bin/getprop"
    other = prop.read_text()
    prop.write_text(other.replace("Phone 9", "Phone 8"))
    with pytest.raises(BadInput, match=r"t\.csv\.partial: holds results of another kit or device; move it away"):
        measure(few, out)
    assert partial.read_text() == kept
    prop.write_text(other)
    before = len(phone.ran)
    events, table = run_out(measure_over_adb(DEVICE, BENCHMARK, few, "litert", 1, out, minutes=0.02))
    assert any(isinstance(e, Note) and "before an interruption are kept" in e.text for e in events)
    assert phone.ran[before:] and dict(table.report or {})["passes"] >= 3
    first = json.loads(kept.splitlines()[1])
    assert first["timed"] <= first["s"] and not phone.left


def test_a_phone_that_says_no_more_is_given_up(
    phone: Phone, few: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb, "VISIT_S", 0.5)
    phone.fault("hung")
    with pytest.raises(BadInput, match=r"timing failed \(no output for 0\.5 s\); what was measured is kept on"):
        measure(few, tmp_path / "t.csv")
    assert not phone.left


def test_an_interrupted_push_leaves_nothing(
    phone: Phone, few: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(self: adb.Phone, *arguments: str, **more: float) -> tuple[int, str]:
        if arguments[0] == "push":
            assert phone.left
            raise KeyboardInterrupt
        return plain(self, *arguments, **more)

    plain = adb.Phone.adb
    monkeypatch.setattr(adb.Phone, "adb", pressed)
    with pytest.raises(KeyboardInterrupt):
        measure(few, tmp_path / "t.csv")
    assert not phone.left


def test_the_client_may_be_a_relative_path(
    phone: Phone, few: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tmp_path / "adb"
    client.write_text(f'#!/bin/sh\nexec {phone.adb} "$@"\n')
    client.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MBV3_ADB", "./adb")
    phone.fails = lambda n: True
    with pytest.raises(BadInput, match="fails on"):  # so the models were pushed
        measure(few, tmp_path / "t.csv")


def test_what_the_phone_lacks_is_said(
    phone: Phone, few: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(match: str, device: str = DEVICE, benchmark: str | None = BENCHMARK, **more: object) -> None:
        with pytest.raises(BadInput, match=match):
            measure(few, tmp_path / "none.csv", device, benchmark, **more)

    said(r"adb:other: there is no such device; `adb devices` lists", device="adb:other")
    said(r"has no file /data/local/tmp/nothing; push LiteRT's benchmark_model", benchmark="/data/local/tmp/nothing")
    said(r"needs --benchmark PATH, .*\(got none\)", benchmark=None)
    said(r"needs --benchmark PATH, .*on the device \(got benchmark_model\)", benchmark="benchmark_model")
    said(r"--runtime onnxruntime: .*give --runtime litert", runtime="onnxruntime")
    (phone.root / "tmp/benchmark_model").chmod(0o644)
    said(r"is not executable; run: adb shell chmod \+x /data/local/tmp/benchmark_model")
    (phone.root / "tmp/benchmark_model").chmod(0o755)
    phone.fault("unauthorized")
    said("it does not trust this computer; unlock its screen and allow USB debugging")
    phone.fault("full")
    said(r"its disk is full while pushing \d+ MB of models \(.*No space left on device\); free some of /data")
    assert not phone.left
    phone.fault("")
    phone.fails = lambda n: n == 4
    said(r"benchmark_model fails on .* \(ERROR: Op builtin_code .*; ERROR: Benchmarking failed\.\); is it a")
    assert not phone.left and len(phone.ran) == 4
    whole = (phone.root / "tmp/benchmark_model").read_text()
    for script, match in (
        ("#!/bin/sh\necho hello\n", r"prints no time for .*; is it LiteRT's benchmark_model\?"),
        ("#!/no/such/system\n", r"benchmark_model fails on .*not found"),
    ):
        (phone.root / "tmp/benchmark_model").write_text(script)
        said(match)
    (phone.root / "tmp/benchmark_model").write_text(whole)
    monkeypatch.setenv("MBV3_ADB", "no-such-adb -P 5038")
    said(r"no-such-adb: .*install adb \(Android's platform-tools\), or set MBV3_ADB")
    monkeypatch.setenv("MBV3_ADB", 'adb "x')
    said(r"MBV3_ADB=.*: is not a command line")


def test_serials() -> None:
    assert [parse_serial(f"adb:{s}") for s in ("emulator-5554", "10.0.0.2:5555")] == ["emulator-5554", "10.0.0.2:5555"]
    for bad in ("adb:", "adb:-s", "adb:a b", "adb:a;b", "usb:1", "adb:\n"):
        with pytest.raises(BadInput, match="--device must be adb:SERIAL, as `adb devices` lists it"):
            parse_serial(bad)


def test_what_benchmark_model_says() -> None:
    old = (
        "count=1 curr=3512391\nRunning benchmark for at least 50 iterations\n"
        "count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798\n"
    )
    new = (
        "INFO: count=1 curr=80 p5=80 median=80 p95=80\n"
        "INFO: count=4 first=64 curr=70 min=60 max=72 avg=66.5 std=4 p5=60 median=64 p95=72\r\n"
    )
    same = "count=3 curr=64 (all same)\n"
    printed = ((7, old), (12, new), (3, same), (4, "count=0\n"))
    text = "".join(f"\nmbv3 visit {i}\n{lines}" for i, lines in printed)
    assert read_output(text) == (
        [(7, Visit(50, 2950.34, 109.798)), (12, Visit(4, 0.0665, 0.004)), (3, Visit(3, 0.064, 0.0)), (4, None)],
        None,
    )  # fmt: skip
    for junk in ("", "count=4 avg=1", "mbv3 failed", "mbv3 visit", "error: closed"):
        assert read_output(junk) == ([], None)
    assert read_output("mbv3 visit 1\ncount=9 avg=0.0 curr=0").visits == [(1, None)]
    assert read_output("mbv3 visit 1\ncount=9 avg=nan curr=70").visits == [
        (1, None)
    ]  # one of nine runs is not the mean
    assert read_output("mbv3 visit 1\n\nmbv3 failed\n").failed == (1, "it printed nothing")
    assert read_output("mbv3 visit 1\na\nb\n\nc\nmbv3 failed\n") == ([], (1, "b; c"))


def test_visits_are_summed_up() -> None:
    rng = np.random.default_rng(0)
    runs = [rng.normal(5, 1, n) for n in (3, 8, 5)]
    ms, n, mean, std = row([Visit(len(r), float(r.mean()), float(r.std())) for r in runs])
    everything = np.concatenate(runs)
    assert n == 16 and (mean, std) == pytest.approx((everything.mean(), everything.std()))
    assert ms == pytest.approx(np.percentile([r.mean() for r in runs], 10))
