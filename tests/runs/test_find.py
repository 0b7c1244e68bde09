"""`find_events` and `adapt_events` as functions: events come out, a result is returned, an interruption is kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from optuna.samplers import TPESampler

import mbv3
from mbv3.errors import BadInput
from mbv3.events import Done, Event, Note, StageStart
from mbv3.latency import BuildPlan, LatencyTable, Measured, Runtime, Timed
from mbv3.record import SearchRecord
from mbv3.runs import Found, adapt_events, find_events
from mbv3.runs.options import Options
from mbv3.runs.rundir import RunDir
from mbv3.search import REWARDS, SAMPLERS
from mbv3.stages import measure
from mbv3.stages.adapt_tune import Deployed
from mbv3.tables import Latency, Whole

from .conftest import Said, layer_ms, record
from .driven import Run


def ended(work: Generator[Event, None, Found]) -> tuple[list[Event], Found]:
    """The events of `work` and what it returns."""
    events: list[Event] = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "target_ms": 1.45, "device": str(folder / "tiny.csv"), "space": str(folder / "tiny.yaml"),
        "data": str(folder / "images"), "accuracy": "supernet", "supernet_steps": 2, "trials": 5, "finetune_steps": 0,
        "final_epochs": 1, "sampler": "random", "delta": 0.1,
    }  # fmt: skip


def test_events(folder: Path, tmp_path: Path) -> None:
    events, found = ended(find_events(out=tmp_path / "run", **arguments(folder)))
    assert all(isinstance(e, Event) for e in events)
    assert isinstance(events[-1], Done) and found.as_dict() == record(tmp_path / "run")
    assert found.record.status == "done" and found.measured_ms is None and found.report.exists()
    assert found.spec.name == "found_1.45ms" and found.weights.exists()
    assert list(found.curve.columns) == ["step", "latency_ms", "accuracy", "spec"] and len(found.curve) > 1
    cut = mbv3.load_spec(found.curve["spec"].iloc[-1])
    started = list(dict.fromkeys(e.stage for e in events if isinstance(e, StageStart)))
    assert started == ["images", "supernet", "search", "netadapt", "candidates", "training", "scoring", "measure"]
    rows = {row.name: row for row in found.record.comparison}  # trained from scratch, each for its rounds
    assert rows.keys() >= {"found", "random of the space"}
    assert all(row.n == 8 and row.ms is not None and row.ms <= 1.45 and row.steps for row in rows.values())
    assert found.baselines["name"].tolist() == list(rows) and {b.name for b in found.record.baselines} == {*rows} - {
        "found"
    }
    if next(iter(rows)) == "found":
        assert cut.rows == found.spec.rows


def test_a_sampler_may_be_an_object_and_a_reward_a_function(
    folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: (REWARDS.pop("cheap", None), SAMPLERS.pop("TPESampler", None)))

    def cheap(accuracy: float, ms: float) -> float:
        return -ms

    options = {**arguments(folder), "sampler": TPESampler(seed=3), "reward": cheap, "final_epochs": 0}
    found = mbv3.find(out=tmp_path / "run", **options)
    assert found.record.args["sampler"] == "TPESampler" and found.record.args["reward"] == "cheap"
    trials = pd.read_csv(tmp_path / "run/trials.csv")
    assert len(trials) == 5 and (trials["reward"] == -trials["latency_ms"]).all()


def test_a_dropped_generator_is_an_interruption(folder: Path, tmp_path: Path) -> None:
    events = find_events(out=tmp_path / "run", **arguments(folder))
    for event in events:
        if isinstance(event, StageStart) and event.stage == "supernet":
            break
    events.close()
    assert (record(tmp_path / "run")["status"], record(tmp_path / "run")["exit"]) == ("interrupted", 4)


def test_a_resumed_run_keeps_to_its_own_table(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_bytes((folder / "tiny.csv").read_bytes())
    events = find_events(out=tmp_path / "run", **{**arguments(folder), "device": str(table), "final_epochs": 0})
    for event in events:
        if isinstance(event, StageStart) and event.stage == "search":
            break
    events.close()
    table.unlink()
    run = RunDir.open(tmp_path / "run", SearchRecord)
    run.lock()
    begun = run.path / ".run.json.x1y2z3a4.part"  # by a process that was killed, or by the one that is at work
    begun.touch()
    with pytest.raises(BadInput, match="another process is at work on this run"):
        list(find_events(resume=run.path))
    assert begun.exists()
    run.unlock()
    assert record(run.path)["status"] == "interrupted"  # what was refused left it as it was
    _, found = ended(find_events(resume=run.path))
    assert found.record.hashes["table"] and not begun.exists()


@pytest.mark.parametrize(
    ("given", "sampler"),
    [
        ({}, "solve"),
        ({"trials": 9}, "evolution"),
        ({"w": -0.1, "reward": "tunas"}, "evolution"),
        ({"data": "d"}, "solve"),
        ({"data": "d", "accuracy": "supernet"}, "surrogate"),
        ({"data": "d", "supernet_minutes": 3.0}, "surrogate"),
        ({"sampler": "tpe"}, "tpe"),
    ],
)
def test_options_of_a_sampler_that_learns_choose_one(given: dict[str, Any], sampler: str) -> None:
    assert Options.of({"target_ms": 5.0, **given}).sampler_name == sampler


def test_options_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such option: colour; there are accuracy, "):
        next(find_events(target_ms=5, out=tmp_path / "run", colour="red"))
    with pytest.raises(BadInput, match=r"--target-ms must be a number of milliseconds above 0 to 1000000 \(got 50\)"):
        next(find_events(target_ms="50", out=tmp_path / "run"))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


# ---- NetAdapt alone


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Tables are computed, whole networks take what the table says; the tables that were built."""
    built: list[Path] = []

    def build_table(runtime: Runtime, plan: BuildPlan, path: Path, **how: float) -> Iterator[Event]:
        layers = {k: Timed(layer_ms(k), 1, layer_ms(k), 0.0) for k in plan.keys}
        reference = {
            "spec": "mobilenet_v3_large", "width": 1.0, "resolution": [32, 32], "classes": 1000, "ms": 3.0,
        }  # fmt: skip
        LatencyTable(runtime.fingerprint, reference, layers, about=dict(plan.about)).save(path)
        built.append(path)
        yield Note("table", "computed")

    def layers(self: object, keys: Any, known: object = None, **_: object) -> dict[Any, Timed]:
        return {k: Timed(layer_ms(k), 1, layer_ms(k), 0.0) for k in keys}

    def networks(self: Any, specs: Any, **_: object) -> Any:
        ms = tuple(self_ms(s) for s in specs)
        return Measured(ms, tuple((t, t) for t in ms), 3.0, 0.0)

    def self_ms(spec: Any) -> float:
        from mbv3.spec import lower

        return sum(layer_ms(x.key) for x in lower(spec))

    monkeypatch.setattr(measure, "build_table", build_table)
    monkeypatch.setattr(measure, "quick_ms", lambda _, specs: [self_ms(s) for s in specs])
    monkeypatch.setattr("mbv3.latency.Device.layers", layers)
    monkeypatch.setattr("mbv3.latency.Device.networks", networks)
    return built


def test_netadapt_is_resumable(
    whole: Run, folder: Path, tmp_path: Path, computed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mbv3-search --resume` goes on with what `mbv3 netadapt` began."""
    spec = mbv3.load_spec(whole.path / "seed.yaml")
    options = {"data": str(folder / "images"), "finetune_steps": 0, "delta": 0.05, "final_epochs": 1}
    out = tmp_path / "run"
    measure, calls = Latency.measure, 0

    def once(self: Latency, *a: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return measure(self, *a)

    with monkeypatch.context() as m:
        m.setattr(Latency, "measure", once)
        with pytest.raises(KeyboardInterrupt):
            list(adapt_events(spec, 1.35, str(out), **options))
    assert (record(out)["status"], record(out)["exit"]) == ("interrupted", 4)

    _, found = ended(find_events(resume=out))
    assert found.record.status == "done" and found.measured_ms is not None and found.measured_ms <= 1.35
    assert computed == [out / "latency-table.csv"]  # built once
    assert mbv3.load_spec(out / "mobilenetv3.yaml").rows != spec.rows


def test_a_verdict_that_chance_could_overturn_is_not_taken(
    whole: Run, folder: Path, tmp_path: Path, computed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two standard errors above the measured time must lie within the target; else NetAdapt takes one more step."""
    spec, target = mbv3.load_spec(whole.path / "seed.yaml"), 1.3
    measure, verdicts = Latency.verdict, 0

    def unsure(self: Latency, spec: mbv3.ArchSpec, target_ms: float) -> Whole | None:
        nonlocal verdicts
        exact = measure(self, spec, target_ms)
        assert exact is not None
        verdicts += 1
        if verdicts <= 2:
            return replace(exact, ms=0.97 * target, error_ms=0.016 * target)
        return exact

    monkeypatch.setattr(Latency, "verdict", unsure)
    options = {"data": str(folder / "images"), "finetune_steps": 0, "delta": 0.05, "final_epochs": 1}
    events, found = ended(adapt_events(spec, target, str(tmp_path / "run"), **options))
    ends = [i for i, e in enumerate(events) if isinstance(e, Note) and "not surely within 1.3:" in e.text]
    steps = [i for i, e in enumerate(events) if isinstance(e, Note) and e.text.startswith("step ")]
    assert len(ends) == 2 and verdicts == 4  # the last is of what is delivered
    on_the_way = [e.text for e in events if isinstance(e, Note) and e.text.startswith("measured whole it takes")]
    assert len(on_the_way) > len(ends)  # every few percent, not only at the end
    assert any(ends[0] < i < ends[1] for i in steps) and any(i > ends[1] for i in steps)
    assert found.measured_ms is not None and found.measured_ms <= target and found.error_ms == 0


def test_netadapt_of_a_network_that_is_fast_enough(
    mbv3: Callable[..., Said], whole: Run, folder: Path, tmp_path: Path, computed: list[Path]
) -> None:
    out = tmp_path / "run"
    given = ("--target-ms", "50", "--data", folder / "images", "--out", out)
    code, said, err = mbv3("netadapt", whole.path / "seed.yaml", *given)
    assert code == 3 and said == "" and "under the target of 50 ms; NetAdapt only shrinks" in err
    assert record(out)["status"] == "unreachable" and not (out / "netadapt.csv").exists()

    given = ("--target-ms", "0.01", "--data", folder / "images", "--out", tmp_path / "low")
    code, said, err = mbv3("netadapt", whole.path / "seed.yaml", *given)
    assert code == 3 and said == "" and "cut to 8 channels everywhere, still" in err
    assert record(tmp_path / "low")["status"] == "unreachable" and computed == []  # before its table is built


def test_the_deployed_network_has_its_own_classes(whole: Run) -> None:
    """Trained on images of other classes it keeps its weights, but for a classifier that is left as initialised."""
    spec = mbv3.load_spec(whole.path / "seed.yaml")  # of two classes
    state = mbv3.build(spec, 1).state_dict()
    for classes in (2, 7):
        deployed = Deployed(SimpleNamespace(dress=lambda s: s), classes)  # type: ignore[arg-type]
        assert deployed.spec(spec).head.classes == classes
        left = deployed.state(spec, state, 3)
        fresh = mbv3.build(deployed.spec(spec), 3).state_dict()
        own = [k for k in left if left[k] is not state[k]]
        assert len(own) == (0 if classes == 2 else 2) and all(torch.equal(left[k], fresh[k]) for k in own)
