"""Images without weights: shapes, contenders at equal ms, the rule that drops half, the shares of the time."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mbv3.events import Event, Note, result
from mbv3.nn import build
from mbv3.space import load_space, scale
from mbv3.spec import ArchSpec, Classify, Conv, load_spec, scale_spec
from mbv3.stages import SHARES, Budget, Contender, Images, Memory, Shape, contenders_at, contest, shapes_of, uniform_at
from mbv3.stages.contest import ScratchEffort
from mbv3.stages.halving import LEAST, Halving, steps_in_time, trainings
from mbv3.stages.plain import PLAIN
from mbv3.stages.rounds import better_half, decided, lead
from mbv3.stages.shapes import fewer_strides, likely_shapes, natural, shaped_as
from mbv3.stages.tune import Tuned, scratch_fit, scratch_unit
from mbv3.tasks import TASKS, smallest_map
from mbv3.training import ClassAnswers

from .test_road import Madds, bright, kept


class Rough(Madds):
    def rough(self, correction: float | None = None) -> Rough:
        return self


@pytest.fixture
def images() -> Images:
    return Images(bright(64, 0), bright(40, 1), (32, 32))


# ---- shapes --------------------------------------------------------------------------------------------------------


def test_small_images_lose_strides_and_large_ones_keep_them() -> None:
    small = {s.view: s for s in shapes_of(32)}
    assert small[64] == Shape(32, 1) and small[128] == Shape(32, 2) and small[96] == Shape(48, 1)
    assert all(s.side <= 48 for s in small.values())
    assert all(s.strides == 0 for s in shapes_of(300)) and max(s.side for s in shapes_of(300)) == 320


def test_a_view_has_the_maps_of_the_whole_network() -> None:
    spec = load_spec("mobilenet_v3_small")
    for shape in shapes_of(32):
        assert smallest_map(shaped_as(spec, shape, 10)) == smallest_map(replace(spec, resolution=(shape.view,) * 2))


def test_a_space_loses_the_strides_that_its_networks_lose() -> None:
    space = load_space("mobilenetv3")
    genome = space.genome("-".join("0" * len(space.sizes)))
    fewer = scale(fewer_strides(space, 2), 1.0, 32)
    assert fewer.spec(genome).rows == shaped_as(space.spec(genome), Shape(32, 2), 1000).rows
    assert fewer.spec(genome).stem.s == 1 and fewer.sizes == space.sizes


@pytest.mark.parametrize(
    ("side", "shape"), [(28, (24, 2)), (32, (32, 2)), (64, (64, 1)), (128, (128, 0)), (500, (224, 0))]
)
def test_what_anyone_would_take(side: int, shape: tuple[int, int]) -> None:
    assert natural(side) == Shape(*shape)


def test_likely_shapes_are_near_the_target() -> None:
    likely = likely_shapes(Rough(), natural(32), shapes_of(32), 5.0, 10, most=3)
    assert len(likely) == 3 and len({s for s, _ in likely}) == 3 and likely[0][0] == natural(32)
    for shape, c in likely:
        assert c.spec.resolution == (shape.side, shape.side) and c.spec.head.classes == 10
        assert c.ms == Rough()([c.spec])[0] and 2.5 <= c.ms <= 5.0
    assert likely_shapes(Rough(), natural(32), shapes_of(32), 1e-4, 10) == []


# ---- contenders ----------------------------------------------------------------------------------------------------


def test_contenders_take_the_same_ms() -> None:
    space = scale(load_space("mobilenetv3"), 0.5, 64, classes=10)
    found = space.spec(space.genome("-".join("0" * len(space.sizes))), "mine")
    latency = Rough()
    target = latency([found])[0] * 1.02

    class Cost:
        def many(self, genomes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return np.array(latency([space.spec(tuple(g)) for g in genomes.tolist()]))

    def made(seed: int) -> list[Contender]:
        return contenders_at(found, Shape(64), latency, target, space=space, cost=Cost(), seed=seed)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as m:
        m.setattr(import_module("mbv3.stages.contest"), "DRAWN", 60)
        several, again = made(0), made(0)
    assert [c.spec for c in several] == [c.spec for c in again]
    by_name = {c.name: c for c in several}
    assert list(by_name)[:4] == ["mobilenet_v3_small", "found", "mobilenet_v3_large", "mobilenet_v2"]
    for c in several:
        assert c.ms == latency([c.spec])[0] <= target and c.spec.head.classes == 10
        assert c.kind == "random" or c.ms >= 0.9 * target, c.name
    one = uniform_at(replace(found, name="cut"), replace(found, name="whole"), latency, 0.5 * target)
    assert one[-1].kind == "l1" and one[-1].ms <= 0.5 * target


class Timed(Rough):
    """A device on which full convolutions take `factor` of what is predicted."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.asked: list[str] = []

    @property
    def device(self) -> Timed:  # type: ignore[override]
        return self

    def networks(self, specs: Sequence[ArchSpec], *, parts: int, max_s: float) -> SimpleNamespace:
        self.asked += [s.name for s in specs]
        return SimpleNamespace(ms=[t * (self.factor if isinstance(s.rows[0], Conv) else 1.0)
                                   for s, t in zip(specs, self(specs), strict=True)])  # fmt: skip


@pytest.mark.parametrize("factor", [0.4, 1.0, 1.8])
def test_widths_follow_what_networks_take(factor: float) -> None:
    """Whether the estimate of a layer that no table holds is too high or too low."""
    latency, found = Timed(factor), shaped_as(load_spec("mobilenet_v3_small"), Shape(32, 2), 10)
    made = contenders_at(found, Shape(32, 2), latency, 20.0)  # type: ignore[arg-type]
    for c in made:
        if c.name in PLAIN:
            assert c.ms == pytest.approx(factor * latency([c.spec])[0]) and 0.7 * 20.0 <= c.ms <= 20.0, c.name
    assert [c.name for c in made][:3] == ["mobilenet_v3_small", next(iter(PLAIN)), "found"]
    assert all(c.own == (c.name in PLAIN or c.name == "found") for c in made)


def test_a_short_time_takes_narrower_plain_networks() -> None:
    """A step of a network takes as long as its multiply-adds say."""
    found = shaped_as(load_spec("mobilenet_v3_small"), Shape(32, 2), 10)

    def made(steps: float) -> dict[str, Contender]:
        latency = Timed(1.0)
        several = contenders_at(found, Shape(32, 2), latency, 20.0, learns=lambda spec: steps * 20 / latency([spec])[0])  # type: ignore[arg-type]
        return {c.name: c for c in several}

    wide, narrow, least = made(1100.0), made(500.0), made(1.0)
    for name in PLAIN:
        assert wide[name].ms >= 0.7 * 20.0 and 0.35 * 20.0 <= narrow[name].ms <= 0.7 * 20.0
        assert 0.15 * 20.0 <= least[name].ms < narrow[name].ms  # half as wide at least
        assert narrow[name].ms == Rough()([narrow[name].spec])[0] and narrow[name].spec.resolution == (32, 32)
    assert wide["mobilenet_v3_small"].spec == least["mobilenet_v3_small"].spec  # what is to be beaten stays


def test_nothing_plain_competes_under_a_dense_head() -> None:
    class Dressed(Rough):
        def dress(self, spec: ArchSpec) -> ArchSpec:
            return TASKS["segment"].headed(spec, None, None) if isinstance(spec.head, Classify) else spec

    found = shaped_as(load_spec("mobilenet_v3_small"), Shape(64), 10)
    made = contenders_at(found, Shape(64), Dressed(), 50.0)  # type: ignore[arg-type]
    assert len(made) > 2 and not any(c.kind == "plain" for c in made)


# ---- the networks of full convolutions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_network_halves_its_maps_as_mobilenet_v3_does(name: str) -> None:
    spec, small = PLAIN[name], load_spec("mobilenet_v3_small")
    assert spec.stride == small.stride == 32 and smallest_map(spec) == smallest_map(small)
    layers = int(name.rpartition("_")[2])
    assert sum(r.skip == "identity" for r in spec.rows) == 3 * layers
    for shape in (Shape(32, 2), Shape(64, 1), Shape(128)):
        net = build(shaped_as(scale_spec(spec, 0.5), shape, 7)).eval()
        assert net(torch.zeros(2, 3, shape.side, shape.side)).shape == (2, 7)


# ---- the rule ------------------------------------------------------------------------------------------------------

N = 400


def answered(name: str, kind: str, loss: float, wiggle: float = 0.0) -> tuple[Contender, Tuned]:
    """A network of this mean loss; `wiggle`: how far it differs from the others image by image."""
    spec = replace(load_spec("mobilenet_v3_small"), name=name)
    each = np.random.default_rng(0).normal(0, 0.1, N) + loss + wiggle * (-1) ** np.arange(N)
    right = np.arange(N) < N * math.exp(-loss)
    c = Contender(name, kind, spec, None, 1.0, 0.0)  # type: ignore[arg-type]
    return c, Tuned(spec, {}, 5, ClassAnswers(each - each.mean() + loss, right))


def test_half_stays() -> None:
    five = [answered("a", "found", 1.0), answered("b", "family", 0.5), answered("c", "family", 0.7),
            answered("d", "family", 2.0), answered("e", "random", 1.5)]  # fmt: skip
    assert [c.name for c in better_half(five)] == ["b", "c"]
    assert [trainings(n) for n in (1, 2, 3, 5)] == [0, 2 + 4, 3 + 4, 5 + 6]


def rounds_with(
    mine: Sequence[float], other: Sequence[float], wiggle: float = 0.0
) -> list[list[tuple[Contender, Tuned]]]:
    """Rounds in which these are the losses; a round less of ours where it was dropped."""
    each = [[answered("other", "family", loss)] for loss in other]
    for i, loss in enumerate(mine):
        each[i].append(answered("mine", "found", loss, wiggle))
    return each


@pytest.mark.parametrize(
    ("mine", "other", "winner", "said"),
    [
        ((1.0, 0.5), (1.1, 0.8), "mine", ""),
        ((1.0, 0.8), (0.9, 0.5), "other", "does not beat other at 224 px, 1.000 ms beyond the error: trained alike"),
        ((1.0, 0.4), (0.8, 0.5), "mine", ""),  # it was behind, and is ahead
        ((0.8, 0.45), (1.0, 0.5), "other", "beyond the error, and the trend is against it"),  # its lead melts away
        ((2.0,), (0.6, 0.3), "other", "loss by +1.400"),  # it was dropped early
    ],
)
def test_a_baseline_is_delivered_unless_a_lead_holds(
    mine: tuple[float, ...], other: tuple[float, ...], winner: str, said: str
) -> None:
    rounds = rounds_with(mine, other)
    (best, _), doubt = decided(rounds, rounds[0][0][0], "top-1", 50.0)
    assert best.name == winner and said in doubt and bool(doubt) == (winner == "other")


def test_a_lead_within_the_error_is_none() -> None:
    rounds = rounds_with((0.9, 0.49), (0.9, 0.5), wiggle=0.5)
    assert decided(rounds, rounds[0][0][0], "top-1", 50.0)[0][0].name == "other"
    found = lead(rounds, rounds[0][1][0], rounds[0][0][0], 50.0)
    assert found.now == pytest.approx(0.01) and found.error == pytest.approx(0.025, rel=0.1)
    further = math.log(50 / 3) / math.log(3)
    assert found.later == pytest.approx(0.5 * (0.5 / 0.9) ** further - 0.49 * (0.49 / 0.9) ** further)


def test_a_lead_may_shrink_and_stay() -> None:
    """As seen on CIFAR-10: one network had learned next to nothing after the first round."""
    rounds = rounds_with((1.68, 1.51), (2.19, 1.84))
    (best, _), doubt = decided(rounds, rounds[0][0][0], "top-1", 30.0)
    assert best.name == "mine" and doubt == ""
    strides = rounds_with((1.80, 1.60), (1.99, 1.67))  # one removed stride against two
    assert decided(strides, strides[0][0][0], "top-1", 40.0)[0][0].name == "other"


# ---- the contest ---------------------------------------------------------------------------------------------------


def planted(monkeypatch: pytest.MonkeyPatch, losses: dict[str, float]) -> list[tuple[str, int]]:
    """Trainings answer at once with these losses; (name, steps of the usual 64 images) of each."""
    seen: list[tuple[str, int]] = []

    def trained(
        name: str, spec: ArchSpec, state: Any, images: Images, recipe: Any, **_: Any
    ) -> Generator[Event, None, Tuned]:
        yield Note("training", name)
        seen.append((name, round(recipe.steps * recipe.batch / 64)))
        loss = losses[name.rpartition("-")[0]]
        right = np.arange(len(images.held_out)) < len(images.held_out) * math.exp(-loss)
        return Tuned(spec, {"w": torch.zeros(1)}, recipe.steps, ClassAnswers(np.full(len(right), loss), right))

    monkeypatch.setattr(import_module("mbv3.stages.halving"), "trained", trained)
    monkeypatch.setattr(
        import_module("mbv3.stages.contest"),
        "reported",
        lambda t, data, work: ClassAnswers(np.zeros(len(data)), np.ones(len(data), bool)),
    )
    monkeypatch.setattr(
        import_module("mbv3.stages.tune"), "seconds_of_step", lambda spec, data, recipe: recipe.batch / 1280
    )
    monkeypatch.setattr(Halving, "answer_seconds", lambda self, spec: 0.0)
    return seen


def five(spec: ArchSpec) -> Sequence[Contender]:
    kinds = {"found": "found", "small": "family", "large": "family", "v2": "family", "random": "random"}
    return [Contender(name, kind, replace(spec, name=name), None, 1.0, 0.0) for name, kind in kinds.items()]  # type: ignore[arg-type]


def test_a_better_baseline_wins_and_the_output_says_so(
    tiny_spec: ArchSpec, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {"found": 0.9, "small": 0.5, "large": 1.5, "v2": 0.7, "random": 2.0}
    seen = planted(monkeypatch, losses)
    keep = Memory()
    events = list[Event]()
    work = contest(lambda: five(tiny_spec), images, bright(30, 2), effort=ScratchEffort(3, 60), keep=keep)
    went = result(watch(work, events))
    assert went.found.name == "small" and "the found network" in went.doubt
    assert any(isinstance(e, Note) and e.text == went.doubt and e.warning for e in events)
    first = [(f"{n}-1", 3) for n in ("small", "found", "large", "v2", "random")]  # what is to be beaten first
    assert seen == [*first, ("small-2", 6), ("v2-2", 6), ("small-last", 60)]
    assert went.steps == 3 + 6 + 60
    assert [(a.contender.name, a.tuned.steps) for a in went.alike] == [
        ("small", 6), ("v2", 6), ("found", 3), ("large", 3), ("random", 3),
    ]  # fmt: skip
    rows = [(r["round"], r["network"], r["stays"]) for r in keep.rows("candidates.csv")]
    assert ("1", "large", "0") in rows and ("1", "small", "1") in rows and rows[-1] == ("last", "small", "1")


def watch(work: Generator[Event, None, Any], seen: list[Event]) -> Generator[Event, None, Any]:
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value
        seen.append(event)
        yield event


def test_the_found_network_wins_where_it_is_better(
    tiny_spec: ArchSpec, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, {"found": 0.3, "small": 0.5, "large": 1.5, "v2": 0.7, "random": 2.0})
    went = result(contest(lambda: five(tiny_spec), images, bright(30, 2), effort=ScratchEffort(3, 60)))
    assert went.found.own and went.doubt == "" and went.alike[0].contender is went.found


def test_networks_have_the_same_seconds_and_the_last_has_most(
    tiny_spec: ArchSpec, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of a second a step, but half of that for `v2`, of ten minutes of which 100 seconds are gone."""
    seen = planted(monkeypatch, {"found": 0.9, "small": 0.5, "large": 1.5, "v2": 0.7, "random": 2.0})
    monkeypatch.setattr(
        import_module("mbv3.stages.tune"), "seconds_of_step",
        lambda spec, data, recipe: (0.05 if spec.name == "v2" else 0.1) * recipe.batch / 64,
    )  # fmt: skip
    monkeypatch.setattr(import_module("mbv3.stages.halving"), "MOST_EPOCHS", 10_000)
    result(contest(lambda: five(tiny_spec), images, bright(30, 2), budget=Budget(10.0), spent_s=100.0))
    steps = dict(seen)
    unit = 600 * SHARES["contenders"].share / trainings(5)
    assert steps["small-1"] == steps["found-1"] == round(unit / 0.1) and steps["v2-1"] == round(unit / 0.05)
    assert steps["small-2"] == 2 * steps["small-1"]
    assert 0.97 * 5000 <= steps["small-last"] <= 5000  # 500 seconds, less the scores
    result(contest(lambda: five(tiny_spec), images, bright(30, 2), budget=Budget(10.0), spent_s=900.0))
    assert dict(seen)["small-last"] == 3000  # half of the budget in any case
    monkeypatch.setattr(import_module("mbv3.stages.halving"), "MOST_EPOCHS", 100)
    result(contest(lambda: five(tiny_spec), images, bright(30, 2), budget=Budget(10.0)))
    assert dict(seen)["small-last"] == 100


def test_scores_take_their_part_of_the_time(
    tiny_spec: ArchSpec, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer to an image takes a hundredth of a second, a step of 64 images a twentieth; 64 images settle batch
    norms and 40 choose, so a training's score takes 1.04 s."""
    seen = planted(monkeypatch, {"found": 0.9, "small": 0.5, "large": 1.5, "v2": 0.7, "random": 2.0})
    monkeypatch.setattr(Halving, "answer_seconds", lambda self, spec: 0.01)
    monkeypatch.setattr(import_module("mbv3.stages.halving"), "MOST_EPOCHS", 20_000)
    result(contest(lambda: five(tiny_spec), images, bright(30, 2), budget=Budget(10.0)))
    rounds = [steps for name, steps in seen if not name.endswith("last")]
    assert len(rounds) == 5 + 2  # of the second those of lower loss, one of which has to be beaten
    unit = (60 - (5 + 3) * 1.04) / trainings(5)  # for which one more has its place
    assert all(steps in (round(unit / 0.05), 2 * round(unit / 0.05)) for steps in rounds)
    answers = 30 + 40 + 5 * 30  # at the end
    assert 0.99 * 20 * (600 - 0.01 * answers) <= dict(seen)["small-last"] <= 20 * (600 - 0.01 * answers)


def test_too_short_a_time_delivers_what_needs_no_proof(
    tiny_spec: ArchSpec, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = planted(monkeypatch, {"found": 0.1, "small": 0.5, "large": 1.5, "v2": 0.7, "random": 2.0})
    went = result(contest(lambda: five(tiny_spec), images, bright(30, 2), budget=Budget(0.1)))
    assert (
        went.found.name == "small" and "too short to compare" in went.doubt and [n for n, _ in seen] == ["small-last"]
    )
    enough = float(went.doubt.partition("--budget-minutes ")[2].partition(" ")[0])
    seen.clear()
    two = result(contest(lambda: five(tiny_spec), images, bright(30, 2), budget=Budget(1.05 * enough)))
    assert [n for n, _ in seen][:4] == ["small-1", "found-1", "small-2", "found-2"] and "too short" not in two.doubt
    assert seen[0][1] == seen[1][1] == LEAST // 2  # the rounds are stretched
    halving = Halving(images, "c.csv", Budget(1.05 * enough), "contenders", None, 0, Memory(), "candidates", 2.5)
    by_shares = halving.horizon(2)
    result(halving.run(five(tiny_spec)))
    assert by_shares / 2.5 <= halving.horizon(2) < by_shares / 1.5  # what is delivered learns fewer times their steps
    seen.clear()
    result(contest(lambda: five(tiny_spec), images, bright(30, 2), budget=Budget(0.55)))
    assert [n for n, _ in seen] == [
        "small-1",
        "found-1",
        "small-2",
        "found-2",
        "found-last",
    ]  # the first ones matter most


def test_the_delivered_network_has_half_of_the_time() -> None:
    share = {name: s.share for name, s in SHARES.items()}
    search = share["supernet"] + share["search"] + share["start"] + share["netadapt"]
    assert search <= 1 / 3 and share["candidates"] + share["start"] + share["netadapt"] <= 1 / 3
    assert share["shapes"] + share["contenders"] == pytest.approx(0.15)
    assert share["training"] >= 0.5 and search + share["shapes"] + share["contenders"] + share["training"] <= 1


def test_what_was_trained_is_not_trained_again(
    tiny_spec: ArchSpec, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(tiny_spec, resolution=(32, 32), head=replace(tiny_spec.head, classes=2))
    two = [Contender("found", "found", spec, None, 1.0, 0.0), Contender("small", "family", spec, None, 1.0, 0.0)]

    def run() -> Any:
        work = contest(lambda: two, images, bright(30, 2), effort=ScratchEffort(2, 4), keep=kept(tmp_path))
        return result(work)

    keep = kept(tmp_path)
    keep.values.clear()
    first = run()
    assert first.found.name == "small"  # twins: no proof, so the baseline
    monkeypatch.setattr(import_module("mbv3.stages.tune"), "fit", lambda *_, **__: pytest.fail("trained again"))
    again = run()
    assert all(torch.equal(v, again.tuned.state[k]) for k, v in first.tuned.state.items())


def test_without_mobilenet_v3_small_another_has_to_be_beaten(
    tiny_spec: ArchSpec, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The found network never is what anyone would take, wherever it stands."""
    losses = {"found": 0.5, "plain": 0.6, "random": 0.55}
    planted(monkeypatch, losses)
    some = [Contender(n, n, replace(tiny_spec, name=n), None, 1.0, 0.0) for n in losses]  # type: ignore[arg-type]
    went = result(contest(lambda: some, images, bright(30, 2), effort=ScratchEffort(3, 60)))
    assert went.found.name == "found" and went.doubt == ""
    short = result(contest(lambda: some, images, bright(30, 2), budget=Budget(0.01)))
    assert short.found.name == "random" and "which the found one has not beaten" in short.doubt
    alone = result(contest(lambda: some[:2], images, bright(30, 2), budget=Budget(0.01)))
    assert alone.found.own and "has not beaten" not in alone.doubt


def test_what_had_no_time_is_said(tiny_spec: ArchSpec, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, {"found": 0.1, "small": 0.5, "large": 1.5, "v2": 0.7, "random": 2.0})
    events = list[Event]()
    result(watch(contest(lambda: five(tiny_spec), images, bright(30, 2), budget=Budget(0.55)), events))
    late = [e.text for e in events if isinstance(e, Note) and "too short for 3 more" in e.text]
    assert len(late) == 1 and "a random network" in late[0]


def test_weights_that_the_search_left_belong_to_the_found_network(
    tiny_spec: ArchSpec, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(tiny_spec, resolution=(32, 32), head=replace(tiny_spec.head, classes=2))
    planted(monkeypatch, {"found": 5.0, "small": 5.0, "plain": 4.0})
    kinds = {"small": "family", "plain": "plain", "found": "found"}
    three = [Contender(n, k, replace(spec, name=n), None, 1.0, 0.0) for n, k in kinds.items()]  # type: ignore[arg-type]
    state = build(spec, 0).state_dict()
    went = result(contest(lambda: three, images, bright(30, 2), effort=ScratchEffort(3, 60), inherited=state))
    assert went.found.kind == "found" and torch.equal(went.tuned.state["stem.conv.weight"], state["stem.conv.weight"])


# ---- steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [40, 64, 100, 255, 600, 1151])
@pytest.mark.parametrize("steps", [3, 20, 120, 1000])
def test_as_many_images_whatever_the_batch(n: int, steps: int) -> None:
    images = Images(bright(n, 0), bright(10, 1), (32, 32))
    unit, recipe = scratch_unit(images, (32, 32), steps), scratch_fit(images, (32, 32), steps)
    assert unit.batch == min(128, n) and unit.steps == steps
    assert recipe.steps * recipe.batch == pytest.approx(steps * unit.batch, rel=0.03, abs=recipe.batch / 2)
    assert recipe.batch == unit.batch or recipe.batch in (32, 64)
    assert recipe.lr == pytest.approx(0.2 * recipe.batch / 128) and recipe.epochs * recipe.epoch_steps == recipe.steps
    if steps == 1000:
        assert recipe.batch == unit.batch


def test_steps_that_a_network_has() -> None:
    images = Images(bright(64, 0), bright(10, 1), (32, 32))
    by_hand, untimed = steps_in_time(images, Budget(10.0), 77), steps_in_time(images, Budget(10.0, timed=False))
    assert by_hand is not None and by_hand(load_spec("mobilenet_v3_small")) == 77 and untimed is None
    timed = steps_in_time(images, Budget(10.0))
    small, large = (shaped_as(scale_spec(load_spec("mobilenet_v3_small"), w), Shape(32, 2), 2) for w in (0.25, 3.0))
    assert timed is not None and timed(small) > timed(large) > 0
