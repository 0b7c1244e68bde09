"""How NetAdapt divides the time that a run was given, and what it leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbv3.data import split
from mbv3.netadapt import Scored, Start
from mbv3.nn import build
from mbv3.spec import load_spec, named_sites, sites
from mbv3.stages import Budget, Images, Memory
from mbv3.stages.adapt_pace import Pace, Plan, keep_pace, planned
from tests.drawn import drawn_images


@pytest.mark.parametrize(
    ("minutes", "delta", "steps_then", "delta_then"),
    [(0.01, None, 1, 0.04), (1e5, None, 60, 0.01), (0.01, 0.02, 1, 0.02), (1e5, 0.02, 60, 0.02)],
)
def test_short_of_time_the_cuts_are_fewer_and_larger_unless_their_size_was_given(
    minutes: float, delta: float | None, steps_then: int, delta_then: float
) -> None:
    images = Images(*split(drawn_images(80, 32, 0), 0.25, 16, 0), (32, 32))
    spec = replace(load_spec("mobilenet_v3_small@0.35"), resolution=(32, 32))
    spec = replace(spec, head=replace(spec.head, classes=len(images.train.classes)))
    start = Start(0, spec, build(spec, 0).state_dict(), Scored(2.0, 50.0, 1.0))
    keep = Memory()

    def pace(minutes: float) -> Pace:
        return planned(start, 1.0, images, None, delta, Budget(minutes), 0, keep).pace

    assert pace(minutes) == Pace(steps_then, delta_then)
    # a run that goes on keeps to it, whatever its time is now
    assert pace(1.0) == Pace(steps_then, delta_then)


@pytest.mark.parametrize(
    ("first", "now", "pace", "fixed", "then"),
    [
        (10, (10, 0.01), 1.0, False, (10, 0.01)),
        (10, (10, 0.01), 3.0, False, (10, 0.01)),  # never more than was planned
        (12, (12, 0.01), 0.5, False, (6, 0.01)),
        (12, (6, 0.01), 1.5, False, (9, 0.01)),  # it had been slow for a while only
        (12, (12, 0.01), 0.2, False, (4, 4 / 240)),  # fewer than four steps tell little: larger cuts instead
        (3, (3, 0.01), 0.5, False, (3, 0.02)),
        (3, (3, 0.01), 0.0, False, (1, 0.04)),  # no time left
        (3, (3, 0.01), 0.5, True, (2, 0.01)),  # the cuts' size was given by hand
    ],
)
def test_a_run_behind_its_forecast_tunes_less_and_then_cuts_more(
    first: int, now: tuple[int, float], pace: float, fixed: bool, then: tuple[int, float]
) -> None:
    kept = keep_pace(Plan(Pace(first, 0.01), fixed, 100.0, 100.0), Pace(*now), pace)
    assert (kept.steps, kept.delta) == (then[0], pytest.approx(then[1]))


def test_the_time_is_shared_by_the_sites_that_may_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbv3.stages.adapt_pace._proposal_seconds", lambda *args: (0.1, 0.01))
    images = Images(*split(drawn_images(80, 32, 0), 0.25, 16, 0), (32, 32))
    start = Start(0, load_spec("mobilenet_v3_small"), {}, Scored(2.0, 50.0, 1.0))
    some = named_sites(start.spec, only="rows[3],tail")
    taken = [planned(start, 1.0, images, None, 0.01, Budget(1e5), 0, Memory(), s).forecast_s for s in (None, some)]
    assert taken[0] is not None and taken[1] is not None
    assert len(some) == 3 and taken[0] / taken[1] == pytest.approx(len(sites(start.spec)) / 2, rel=0.01)


def test_where_one_proposal_is_tuned_it_has_the_time_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbv3.stages.adapt_pace._proposal_seconds", lambda *args: (5.0, 0.1))
    images = Images(*split(drawn_images(80, 32, 0), 0.25, 16, 0), (32, 32))
    start = Start(0, load_spec("mobilenet_v3_small"), {}, Scored(10.0, 50.0, 1.0))
    every, one = (planned(start, 5.0, images, None, None, Budget(60.0), 0, Memory(), one=x) for x in (False, True))
    assert every.pace == Pace(1, 0.04) and one.pace.delta < 0.04
    for plan in (every, one):
        assert plan.forecast_s is not None and plan.given_s is not None
    assert every.forecast_s > every.given_s >= one.forecast_s > 0.8 * one.given_s  # type: ignore[operator]


def test_steps_given_by_hand_are_not_paced() -> None:
    images = Images(*split(drawn_images(80, 32, 0), 0.25, 16, 0), (32, 32))
    start = Start(0, load_spec("mobilenet_v3_small"), {}, Scored(2.0, 50.0, 1.0))
    plan = planned(start, 1.0, images, 5, None, Budget(0.01), 0, Memory())
    assert plan == Plan(Pace(5, 0.01), False, None, None)
