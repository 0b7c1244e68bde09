"""The real runtimes: their contract, one tiny table from beginning to end. Nothing asserts on a time."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from mbv3.errors import BadInput
from mbv3.events import result
from mbv3.latency import (
    RUNTIMES,
    BuildPlan,
    Device,
    Here,
    LatencyTable,
    build_table,
    check_table,
    kit_files,
    open_runtime,
    register_runtime,
    runtime,
    runtime_names,
    this_cpu,
)
from mbv3.space import SearchSpace
from mbv3.spec import lower
from mbv3.tables import predict, read_table

from .fake import FINGERPRINT, Clock, FakeRuntime, network_cost


@pytest.mark.parametrize("name", RUNTIMES)
class TestRuntime:
    """What every runtime must do."""

    def test_a_tiny_table_is_built_used_and_checked(
        self, name: str, plan: BuildPlan, space: SearchSpace, tmp_path: Path
    ) -> None:
        runtime = open_runtime(name, 1)
        path = tmp_path / "t.csv"
        table = result(build_table(runtime, plan, path, minutes=0.02))
        assert table == LatencyTable.load(path)
        table.require(runtime.fingerprint, str(path))
        assert tuple(table.layers) == plan.keys
        assert all(t.ms > 0 and t.n >= 3 * 3 * 2 and t.std >= 0 for t in table.layers.values())
        assert table.reference_ms > 0 and len(table.networks) == 8
        assert table.report is not None and table.report["n"] == 8 and table.report["noise_floor"] >= 0
        spec = space.spec(tuple(space.sample(np.random.default_rng(9), 1)[0]))
        assert np.isfinite(table.latency_ms(spec))
        device = Device(runtime, plan.reference, table.reference_ms)
        report = check_table(device, table, [("one", spec), ("two", plan.reference)], rounds=2, minutes=0.02)
        assert report["n"] == report["as_built"]["n"] == 2
        assert report["worst"]["network"] in {"one", "two"} and report["worst"]["measured_ms"] > 0
        assert np.isfinite([report["rmspe"], report["noise_floor"], report["reference_drift"]]).all()
        panel = list(zip(table.networks, [s for _, s in plan.calibration], strict=True))
        again = check_table(device, table, [("one", spec), ("two", plan.reference)], panel, rounds=2, minutes=0.02)
        assert (report["calibrated_on"], again["calibrated_on"]) == (0, 8) and np.isfinite(again["drift"])

    def test_layers_and_networks_open_and_run(self, name: str, plan: BuildPlan) -> None:
        runtime = open_runtime(name, 1)
        for key in [x.key for x in lower(plan.reference)]:
            runtime.layer(key)()
        run = runtime.network(plan.reference)
        run()
        run()

    def test_the_fingerprint_names_device_and_runtime(self, name: str) -> None:
        runtime, _, precision = name.partition("-")
        here = Here(name, threads=2).fingerprint
        package = {"litert": "ai-edge-litert"}.get(runtime, runtime)
        assert here == this_cpu(runtime, version(package), 2, precision or "fp32")
        assert here.cpu and here.system and here.kernel and here.cores >= 1 and here.governor
        assert (here.threads, here.precision, here.batch) == (2, precision or "fp32", 1)
        assert here.id == Here(name, threads=2).fingerprint.id != Here(name, threads=1).fingerprint.id


def test_what_cannot_be_opened() -> None:
    cores = os.cpu_count() or 1
    for threads in (0, -1, cores + 1):
        with pytest.raises(BadInput, match=rf"--threads must be from 1 to {cores}, .* \(got {threads}\)"):
            open_runtime("onnxruntime", threads)
    with pytest.raises(BadInput, match=r"--runtime must be .* \(got 'tensorrt'\)"):
        open_runtime("tensorrt", 1)
    with pytest.raises(BadInput, match=r"--runtime litert-int8: .* measure int8 with --runtime onnxruntime-int8"):
        open_runtime("litert-int8", 1)


def test_runtimes_tell_their_tables_apart() -> None:
    onnx, int8, lite = (Here(name).fingerprint for name in ("onnxruntime", "onnxruntime-int8", "litert"))
    assert [f for f, _, _ in onnx.differences(lite)] == ["runtime", "runtime_version"]
    assert [f for f, _, _ in onnx.differences(int8)] == ["precision"]


def test_litert_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbv3.latency.runtime.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"LiteRT is not installed; pip install 'mbv3-search\[litert\]'"):
        open_runtime("litert", 1)


def test_a_runtime_registered_from_outside_builds_checks_and_predicts(
    clock: Clock, plan: BuildPlan, space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_registered", {})
    threads: list[int] = []

    def opener(n: int) -> FakeRuntime:
        threads.append(n)
        return FakeRuntime(clock)

    register_runtime("fake", opener)
    assert runtime_names() == (*RUNTIMES, "fake")
    fake = open_runtime("fake", 1)
    assert threads == [1] and fake.fingerprint == FINGERPRINT
    table = result(build_table(fake, plan, tmp_path / "t.csv"))
    assert table.reference_ms == pytest.approx(network_cost(plan.reference))
    read, caveat = read_table(str(tmp_path / "t.csv"), "fake", 1, force=False)
    assert read == table and caveat is None
    spec = space.spec(tuple(0 for _ in space.sizes))
    bare = replace(table, layers={k: t for k, t in table.layers.items() if k.row != spec.rows[0]})
    assert predict(spec, bare).estimated == 1
    measured = predict(spec, bare, fake)
    assert measured.estimated == 0 and measured.ms == pytest.approx(network_cost(spec), rel=1e-3)

    with pytest.raises(BadInput, match=r"'fake': the name must be new, beside onnxruntime, .*litert, fake"):
        register_runtime("fake", opener)
    with pytest.raises(BadInput, match=r"--runtime must be one of .*, fake \(got 'other'\)"):
        open_runtime("other", 1)
    with pytest.raises(
        BadInput, match=r"--runtime fake: a registered runtime exists in this process only; .* use one of"
    ):
        kit_files(plan, "fake", 1)
