"""The real runtimes: their contract, one tiny table from beginning to end. Nothing asserts on a time."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
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
    conditions,
    kit_files,
    open_runtime,
    register_runtime,
    runtime,
    runtime_names,
    sessions,
    this_cpu,
)
from mbv3.latency.sessions import KINDS
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
    cores = len(os.sched_getaffinity(0))
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
    monkeypatch.setattr(sessions, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"ai-edge-litert is not installed; .*pip install 'mbv3-search\[litert\]'"):
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


def module(monkeypatch: pytest.MonkeyPatch, name: str, **holds: object) -> None:
    made = ModuleType(name)
    made.__dict__.update(holds, __spec__=ModuleSpec(name, None))
    monkeypatch.setitem(sys.modules, name, made)


class Broken:
    def __init__(self, *_: object, **__: object) -> None:
        raise NameError("name '_interpreter_wrapper' is not defined")


def test_a_runtime_that_is_installed_and_does_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as m:
        module(m, "ai_edge_litert.interpreter", Interpreter=Broken)
        with pytest.raises(BadInput, match=r"--runtime litert: ai-edge-litert is installed but does not work here "
                           r"\(name '_interpreter_wrapper' is not defined\); install a build"):  # fmt: skip
            open_runtime("litert", 1)
    (tmp_path / "torn_runtime").mkdir()
    text = "raise ImportError('libstdc++.so.6: version `GLIBCXX_3.4.30\\' not found\\n(required by x)')"
    (tmp_path / "torn_runtime/__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(sessions.RuntimeFault, match=r"torn_runtime is installed but cannot be loaded \(libstdc.*GLIBCXX"
                       r"_3.4.30' not found \(required by x\)\); install a build of torn"):  # fmt: skip
        sessions.loaded(("torn_runtime",), "torn")


def test_a_runtime_is_found_by_its_module_whatever_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_package(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(sessions, "version", no_package)  # onnxruntime-gpu, -openvino, a build of one's own
    assert KINDS["onnxruntime"].version() == onnxruntime.__version__
    module(monkeypatch, "some_runtime")
    assert KINDS["litert"]._replace(modules=("not_there", "some_runtime")).version() == "unknown"
    module(monkeypatch, "tflite_runtime", __version__="2.14.0")
    assert KINDS["litert"]._replace(modules=("not_there", "tflite_runtime")).version() == "2.14.0"


def test_threads_are_held_against_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("runtime", "conditions"):
        assert hasattr(import_module(f"mbv3.latency.{name}"), "cores_to_use")
    monkeypatch.setattr(conditions, "allowed_cores", lambda: (5,))
    monkeypatch.setattr(conditions, "cpu_quota", lambda: None)
    with pytest.raises(BadInput, match=r"from 1 to 1, the cores that this process may use \(got 2\)"):
        open_runtime("onnxruntime", 2)
    monkeypatch.setattr(conditions, "allowed_cores", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(conditions, "cpu_quota", lambda: 1.5)
    with pytest.raises(BadInput, match=r"from 1 to 1, as its control group gives this process the time of 1.5 cores"):
        open_runtime("onnxruntime", 2)
    monkeypatch.setattr(conditions, "cpu_quota", lambda: 0.5)
    assert conditions.cores_to_use()[0] == 1
