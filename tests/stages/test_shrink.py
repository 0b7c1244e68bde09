"""The shrinking stage on a measured table and small trainings: within the target, resumable, under a teacher."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from mbv3.data import split
from mbv3.errors import BadInput, Unreachable
from mbv3.events import Event, Note, result, watched
from mbv3.files import write_atomic
from mbv3.latency import LatencyTable
from mbv3.netadapt import Scored, Start, menus, solve
from mbv3.nn import build
from mbv3.runs.options import PRESETS as NAMES
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, all_sites, channels, load_spec, named_sites, smallest
from mbv3.stages import PRESETS, Adapted, Images, Joint, Memory, Single, TakenUp, passed_in, shrink, taken_up
from mbv3.stages.curve import keep_passed
from mbv3.stages.engines import Worth
from mbv3.stages.shrink import _Run
from mbv3.tables import Latency, Whole
from tests.drawn import CLASSES, drawn_images

TABLE = Path(__file__).parents[1] / "golden" / "run-0.1.0" / "latency-table.csv"  # of a Pixel 1
SIDE = 32
START = ArchSpec(
    name="start",
    resolution=(SIDE, SIDE),
    stem=Conv(k=3, out=16, nl="HS", s=2),
    rows=(
        MBConv(k=3, exp=64, out=24, s=2),
        MBConv(k=3, exp=96, out=24, se=24, nl="HS", skip="identity"),
        MBConv(k=5, exp=96, out=40, nl="HS", s=2),
    ),
    tail=Conv(k=1, out=96, nl="HS"),
    head=Classify(features=64, classes=CLASSES),
)
IMAGES = Images(*split(drawn_images(160, SIDE, 0), 0.3, 48, 0), (SIDE, SIDE))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def latency() -> Latency:
    return Latency(LatencyTable.load(TABLE))


def shrunk(keep: Any = None, **options: Any) -> Generator[Event, None, Adapted]:
    lat = latency()
    target = 0.6 * lat([START])[0]
    options = {"weights": WEIGHTS, "steps": 24, "engine": Joint(rounds=3), **options}
    return shrink(START, lat, IMAGES, target, keep=keep, **options)


def trained() -> dict[str, Tensor]:
    """The start with weights that know the images."""
    lat = latency()
    wide = shrink(
        START, lat, IMAGES, 2 * lat([START])[0], weights=build(START, 0).state_dict(), steps=60, engine=Joint(rounds=1)
    )
    state = result(wide).state
    assert state is not None
    return state


WEIGHTS: dict[str, Tensor] = {}


@pytest.fixture(autouse=True, scope="module")
def weights(one_thread: Any) -> None:
    WEIGHTS.update(trained())


def test_a_trained_network_is_cut_to_the_target_and_still_knows_the_images() -> None:
    keep = Memory()
    found = result(shrunk(keep))
    target = 0.6 * latency()([START])[0]
    assert found.reached and 0.98 * target <= found.predicted_ms <= target
    assert found.verdict is None and found.predicted_ms == pytest.approx(latency()([found.spec])[0])
    net = build(found.spec)
    net.load_state_dict(found.state or {})
    assert found.accuracy > 100 / CLASSES + 25  # of 48 images: chance is 12.5 +- 4.8
    sites = all_sites(START)
    assert all(channels(found.spec, s) <= channels(START, s) for s in sites)
    steps = keep.tables["netadapt.csv"]
    assert [row["step"] for row in steps] == ["0", "1", "2", "3"] and all(row["chosen"] == "1" for row in steps)
    ms = [float(row["latency_ms"]) for row in steps]
    assert ms == sorted(ms, reverse=True) and ms[-1] == pytest.approx(found.predicted_ms, abs=1e-6)
    cuts = keep.tables["cuts.csv"]
    now = {str(s) + s.kind: channels(START, s) for s in sites}
    for row in cuts:  # every cut begins where the one before it ended
        where = row["where"] + row["kind"]
        assert int(row["before"]) == now[where] > int(row["after"])
        now[where] = int(row["after"])
    assert now == {str(s) + s.kind: channels(found.spec, s) for s in sites}


def test_weights_with_another_head_learn_a_new_one_first() -> None:
    other = replace(START, head=replace(START.head, classes=5))
    notes = []
    stage = shrunk(weights=build(other, 0).state_dict(), steps=3)
    for event in stage:
        if not isinstance(event, Note):
            notes.append(getattr(event, "text", ""))
        if "joint cuts" in notes[-1:] or len(notes) > 3:
            break
    assert any("another head: it is learned" in text for text in notes)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(BadInput, match="weights of another network"):
        result(shrunk(weights=build(load_spec("mobilenet_v3_small@0.5"), 0).state_dict()))


@dataclass
class Folder(Memory):
    """Keeps binary files too, and forgets nothing when the run is broken off."""

    root: Path = field(default_factory=Path)

    def file(self, name: str) -> Path:
        return self.root / name


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [3, 7])
def test_a_run_that_was_killed_ends_with_the_same_network_and_weights(tmp_path: Path, at: int) -> None:
    whole = result(shrunk(steps=4, engine=Joint(rounds=2)))
    keep = Folder(root=tmp_path)
    events = 0
    with pytest.raises(Killed):
        for _ in shrunk(keep, steps=4, engine=Joint(rounds=2)):
            events += 1
            if events == at:
                raise Killed
    again = result(shrunk(keep, steps=4, engine=Joint(rounds=2)))
    assert again.spec == whole.spec and again.accuracy == whole.accuracy
    assert whole.state is not None and again.state is not None
    assert all(torch.equal(whole.state[k], again.state[k]) for k in whole.state)
    assert not (tmp_path / "netadapt-training.safetensors").exists()


def test_killed_before_a_checkpoint_the_same_file_is_read(tmp_path: Path) -> None:
    keep = Folder(root=tmp_path)
    result(shrunk(keep, steps=2, engine=Joint(rounds=1)))
    found = result(shrunk(keep, steps=2, engine=Joint(rounds=1)))  # nothing is left to do
    assert found.reached
    write_atomic(tmp_path / "netadapt.safetensors", b"no checkpoint")
    with pytest.raises(BadInput, match="not a safetensors file"):
        result(shrunk(keep, steps=2, engine=Joint(rounds=1)))


def test_the_teacher_is_asked_and_stays_as_it_is() -> None:
    teacher = build(START, 0)
    teacher.load_state_dict(WEIGHTS)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    own = result(shrunk(steps=2, engine=Joint(rounds=1)))
    given = result(shrunk(steps=2, engine=Joint(rounds=1), teacher=teacher))
    other = result(shrunk(steps=2, engine=Joint(rounds=1), teacher=build(START, 5)))
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert own.state is not None and given.state is not None and other.state is not None
    # by default the uncut network is the teacher
    assert all(torch.equal(own.state[k], given.state[k]) for k in own.state)
    assert any(not torch.equal(own.state[k], other.state[k]) for k in own.state if k in other.state
               and own.state[k].shape == other.state[k].shape)  # fmt: skip


@pytest.mark.parametrize("importance", ["taylor-squared", "l2", "bn"])
def test_every_importance_leads_to_the_target(importance: str) -> None:
    found = result(shrunk(steps=2, engine=Joint(rounds=2, importance=importance)))
    assert found.reached and found.spec != START


@pytest.mark.parametrize("worth", ["losses", "scores"])
def test_every_worth_leads_to_the_target(worth: Worth) -> None:
    found = result(shrunk(steps=2, engine=Joint(rounds=1, worth=worth)))
    assert found.reached and found.spec != START


def test_a_network_within_the_target_is_only_fine_tuned() -> None:
    lat = latency()
    spec: ArchSpec = result(
        shrink(START, lat, IMAGES, 9 * lat([START])[0], weights=WEIGHTS, steps=4, engine=Joint(rounds=1))
    ).spec
    assert spec == START


@pytest.mark.parametrize(("target", "rounds"), [(2.0, 1), (0.75, 1), (0.5, 1), (0.35, 2), (0.25, 2), (0.175, 3)])
def test_a_round_is_there_for_every_halving(target: float, rounds: int) -> None:
    keep = Memory()
    lat = latency()
    result(
        shrink(
            START,
            lat,
            IMAGES,
            target * lat([START])[0],
            weights=WEIGHTS,
            steps=1,
            keep=keep,
            engine=Joint(importance="l2"),
        )
    )
    assert keep.values["netadapt_rounds"] == rounds
    assert max(int(row["step"]) for row in keep.tables["netadapt.csv"]) == rounds


def test_only_the_sites_by_hand_are_cut() -> None:
    some = named_sites(START, only="expansions,tail", keep="rows[1]")
    for engine in (Joint(rounds=3), Single(delta=0.1)):
        found = result(shrunk(steps=1, some=some, engine=engine)).spec
        cuts = {s for s in all_sites(START) if channels(found, s) != channels(START, s)}
        assert cuts and cuts <= some


def test_a_target_under_the_least_is_told_before_anything_is_trained() -> None:
    lat = latency()
    now, least = lat([START, smallest(START, all_sites(START))])
    with pytest.raises(Unreachable, match=f"takes {now:.3g} ms and, cut to 8 channels .*, still {least:.3g} ms"):
        next(shrink(START, lat, IMAGES, 0.99 * least, weights=WEIGHTS, steps=1))
    with pytest.raises(Unreachable, match="wherever it may be cut"):
        next(shrink(START, lat, IMAGES, 1.2 * least, weights=WEIGHTS, steps=1))
    with pytest.raises(Unreachable, match="wherever it may be cut"):
        next(shrink(START, lat, IMAGES, 2 * least, weights=WEIGHTS, steps=1, some=named_sites(START, only="stem")))


def test_a_round_cuts_below_a_quarter_where_the_target_asks_for_it() -> None:
    lat = latency()
    now, least = lat([START, smallest(START, all_sites(START))])
    target = least + 0.075 * (now - least)
    ones = {s: np.ones(channels(START, s)) for s in all_sites(START)}
    assert solve(START, menus(START, ones, least=0.25), lat, target).latency_ms > target
    found = result(
        shrink(START, lat, IMAGES, target, weights=WEIGHTS, steps=1, engine=Joint(rounds=1, importance="l2"))
    )
    assert found.reached and found.predicted_ms <= target


def test_the_presets_are_those_of_the_command_line_and_the_paper() -> None:
    assert tuple(PRESETS) == NAMES
    assert PRESETS["paper"] == {"engine": Single(delta=0.01, rank="loss", halve=False, mend=False), "steps": 10_000}
    for preset in PRESETS.values():  # every one is a call of the stage
        shrink(START, latency(), IMAGES, 1.0, weights={}, **preset)


# ---- the curve keeps its weights


def taken(run: Folder, target_ms: float) -> TakenUp:
    return taken_up(passed_in(run.root), target_ms, run.rows("netadapt.csv"), run.rows("cuts.csv"))


def test_networks_on_the_way_are_kept_with_weights_and_scores(tmp_path: Path) -> None:
    keep = Folder(root=tmp_path)
    found = result(shrunk(keep, steps=4, engine=Joint(rounds=2)))
    networks = passed_in(tmp_path)
    assert [p.step for p in networks] == [0, 1, 2] and networks[0].spec == START
    assert [f"{p.scored.latency_ms:.6f}" for p in networks] == [r["latency_ms"] for r in keep.rows("netadapt.csv")]
    assert [f"{p.scored.accuracy:.4f}" for p in networks] == [r["accuracy"] for r in keep.rows("netadapt.csv")]
    start, last = networks[0].start(), networks[2].start()
    assert all(torch.equal(start.state[k], WEIGHTS[k]) for k in WEIGHTS)  # it teaches: nothing is rounded
    assert found.state is not None and last.spec == networks[2].spec
    for name, value in found.state.items():
        assert last.state[name].dtype == value.dtype
        assert torch.allclose(last.state[name].double(), value.double(), rtol=1e-3, atol=1e-6), name
    half, whole = (sum(v.numel() * v.element_size() for v in s.values()) for s in (last.state, found.state))
    assert half == whole and networks[2].file.stat().st_size < 0.75 * whole  # 16 bits on the disk only


def test_weights_that_16_bits_cannot_hold_stay_as_they_are(tmp_path: Path) -> None:
    tiny = {"tiny": torch.full((4, 4), 1e-7), "large": torch.full((4, 4), 1e6), "usual": torch.randn(4, 4)}
    scored = Scored(1.0, 50.0, 1.0)
    keep_passed(Folder(root=tmp_path), Start(1, START, tiny, scored), 1.0)
    [found] = passed_in(tmp_path)
    back = found.start().state
    assert torch.equal(back["tiny"], tiny["tiny"]) and torch.equal(back["large"], tiny["large"])
    assert not torch.equal(back["usual"], tiny["usual"]) and torch.allclose(back["usual"], tiny["usual"], rtol=1e-3)


def test_another_target_begins_with_the_nearest_slower_network(tmp_path: Path) -> None:
    run, lat = Folder(root=tmp_path / "run"), latency()
    ms = lat([START])[0]
    result(shrink(START, lat, IMAGES, 0.4 * ms, weights=WEIGHTS, steps=4, engine=Joint(rounds=2), keep=run))
    networks = passed_in(run.root)
    between = networks[1].scored.latency_ms
    assert 0.4 * ms < between < ms
    before = {p: p.read_bytes() for p in run.root.rglob("*") if p.is_file()}
    for target, at in ((0.8 * ms, 0), (0.9 * between, 1), (0.3 * ms, 2)):
        other = Folder(root=tmp_path / f"{target:.3f}")
        notes = []
        stage = shrink(
            START, latency(), IMAGES, target, steps=4, engine=Joint(rounds=1), taken=taken(run, target), keep=other
        )
        found = result(watched(stage, notes.append))
        assert found.reached and found.predicted_ms <= target
        assert not any("training the seed" in getattr(e, "text", "") for e in notes)
        steps = [int(row["step"]) for row in other.rows("netadapt.csv")]
        assert steps == list(range(at + 2))  # those of the other run until there, and one of its own
        assert [p.step for p in passed_in(other.root)] == sorted({0, at, at + 1})
        sites = all_sites(START)
        assert all(channels(found.spec, s) <= channels(networks[at].spec, s) for s in sites)
    assert before == {p: p.read_bytes() for p in run.root.rglob("*") if p.is_file()}
    with pytest.raises(BadInput, match="no network on the way takes more"):
        taken(run, 1.1 * ms)
    with pytest.raises(Unreachable, match="wherever it may be cut, still"):
        far = shrink(START, latency(), IMAGES, 0.01 * ms, steps=1, taken=taken(run, 0.01 * ms), keep=Memory())
        result(far)


@pytest.mark.parametrize("engine", [Joint(rounds=1), Single(delta=0.1)])
def test_from_the_start_of_another_target_it_is_as_from_the_weights(tmp_path: Path, engine: Joint | Single) -> None:
    """The same network and the same weights, to the bit, without the start's training."""
    ms = latency()([START])[0]
    options: dict[str, Any] = {"steps": 2, "engine": engine, "weights": WEIGHTS}
    run = Folder(root=tmp_path / "run")
    result(shrink(START, latency(), IMAGES, 0.5 * ms, keep=run, **options))
    target = 0.98 * ms
    own = result(shrink(START, latency(), IMAGES, target, **options))
    other = result(shrink(START, latency(), IMAGES, target, keep=Folder(root=tmp_path / "other"),
                          taken=taken(run, target), **{**options, "weights": None}))  # fmt: skip
    assert own.spec == other.spec != START and own.accuracy == other.accuracy
    assert own.state is not None and other.state is not None
    assert all(torch.equal(own.state[k], other.state[k]) for k in own.state)


def test_joint_cuts_go_on_from_single_ones(tmp_path: Path) -> None:
    """Proposals that were not fine-tuned have no accuracy."""
    ms, run, other = latency()([START])[0], Folder(root=tmp_path / "run"), Folder(root=tmp_path / "other")
    result(shrink(START, latency(), IMAGES, 0.8 * ms, keep=run, steps=1, engine=Single(delta=0.1), weights=WEIGHTS))
    target = 0.6 * ms
    found = result(shrink(START, latency(), IMAGES, target, keep=other, taken=taken(run, target), steps=1,
                          engine=Joint(rounds=1)))  # fmt: skip
    assert found.reached and other.rows("netadapt.csv")[-1]["kind"] == "joint"


def test_single_cuts_go_on_from_a_step_in_between(tmp_path: Path) -> None:
    ms = latency()([START])[0]
    options: dict[str, Any] = {"steps": 1, "engine": Single(delta=0.1), "weights": WEIGHTS}
    run = Folder(root=tmp_path / "run")
    result(shrink(START, latency(), IMAGES, 0.5 * ms, keep=run, **options))
    networks = passed_in(run.root)
    assert len(networks) == 1 + int(run.rows("netadapt.csv")[-1]["step"]) > 3
    target = networks[2].scored.latency_ms - 0.02 * ms
    other = Folder(root=tmp_path / "other")
    found = result(shrink(START, latency(), IMAGES, target, keep=other, taken=taken(run, target), **options))
    assert found.reached
    mine, theirs = ([r for r in keep.rows("netadapt.csv") if int(r["step"]) <= 2] for keep in (other, run))
    assert mine == theirs and int(other.rows("netadapt.csv")[-1]["step"]) >= 3


@pytest.mark.parametrize("at", [2, 4])
def test_taken_up_and_killed_it_ends_with_the_same_weights(tmp_path: Path, at: int) -> None:
    run, ms = Folder(root=tmp_path / "run"), latency()([START])[0]
    result(shrink(START, latency(), IMAGES, 0.6 * ms, weights=WEIGHTS, steps=2, engine=Joint(rounds=1), keep=run))
    target = 0.3 * ms

    def stage(keep: Any) -> Generator[Event, None, Adapted]:
        return shrink(
            START, latency(), IMAGES, target, steps=4, engine=Joint(rounds=2), taken=taken(run, target), keep=keep
        )

    whole = result(stage(Folder(root=tmp_path / "whole")))
    keep, events = Folder(root=tmp_path / "killed"), 0
    with pytest.raises(Killed):
        for _ in stage(keep):
            events += 1
            if events == at:
                raise Killed
    again = result(stage(keep))
    assert again.spec == whole.spec and again.state is not None and whole.state is not None
    assert all(torch.equal(whole.state[k], again.state[k]) for k in whole.state)
    assert [r["step"] for r in keep.rows("netadapt.csv")] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("measured", "seconds", "asked", "kept"),
    [
        ([0.80, 0.85, 0.90, 0.92, 0.93, 0.94], math.inf, 6, 0.94),  # channels come back as long as tries are left
        ([0.80, 0.85, 0.90, 0.92, 0.93, 0.94], 0.0, 1, 0.80),  # the time is over: the first that is within
        ([1.20, 1.10, 0.70, 0.92], 0.0, 3, 0.70),
        ([1.20, 0.97], math.inf, 2, 0.97),  # near enough
    ],
)
def test_measurements_end_with_their_time(
    measured: list[float], seconds: float, asked: int, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a candidate that may be dropped; but it has to be within the target of 1 ms."""
    left = iter(measured)
    names = iter(range(100))
    tried: list[float] = []

    def verdict(spec: Any, target_ms: float) -> Whole:
        tried.append(next(left))
        return Whole(tried[-1], 0.01, 1.0)

    run = object.__new__(_Run)
    run.target_ms, run.measured_s = 1.0, seconds
    run.deployed = cast(Any, SimpleNamespace(verdict=verdict, spec=lambda spec: spec))
    run.latency = cast(Any, SimpleNamespace(correct=lambda spec, ms: None))
    monkeypatch.setattr(_Run, "_solved", lambda *_: SimpleNamespace(spec=next(names)))
    choice, whole = result(run._fitted(cast(Any, None), [], cast(Any, SimpleNamespace(spec="first"))))
    assert (len(tried), whole.ms) == (asked, kept) and choice is not None
