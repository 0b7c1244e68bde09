"""How much the road trains in its minutes: what cuts have answered beside their steps counts, too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbv3.errors import BadInput
from mbv3.spec import load_spec
from mbv3.stages import Budget, Images, Memory, Sizes, road_pace
from mbv3.stages.road_pace import LEAST, Pace, check_minutes
from mbv3.stages.shrink_tune import scored_images
from mbv3.stages.tune import fit_of
from tests.drawn import drawn_images

STEP_S = 0.1


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    monkeypatch.setattr(road_pace, "seconds_of_step", lambda spec, images, recipe: STEP_S)
    start = replace(load_spec("mobilenet_v3_small"), resolution=(32, 32))
    cut = tuple(replace(start, resolution=(side, side)) for side in (24, 28))
    images = Images(drawn_images(600, 16, 0), drawn_images(100, 16, 1), (32, 32))
    return Pace(Sizes(start, (), cut), images, Budget(4.0), Memory())


def test_steps_of_a_cut_leave_time_for_what_it_has_answered(pace: Pace) -> None:
    batch = fit_of(pace.images, pace.sizes.start, 5).batch
    scored = scored_images(pace.images)
    assert 600 + 600 * 2 / 3 < scored < 3 * 600  # all images once with a gradient, and about three times without
    for minutes in (4.0, 8.0):
        pace.budget, pace.keep = Budget(minutes), Memory()
        _, cut, _ = pace.early()
        share = pace.budget.seconds("cuts")
        assert cut > LEAST
        assert share - 2 * STEP_S <= 2 * (cut + scored / batch) * STEP_S <= share
    once = cut
    pace.rounds, pace.keep = 4, Memory()  # two each
    _, cut, _ = pace.early()
    assert once - cut == pytest.approx(scored / batch, abs=1)


def test_minutes_that_scores_alone_would_use_up_are_refused(pace: Pace) -> None:
    check_minutes(pace.sizes, pace.images, pace.budget)
    batch = fit_of(pace.images, pace.sizes.start, 5).batch
    scores = len(pace.sizes.cut) * scored_images(pace.images) / batch * STEP_S / 60
    with pytest.raises(BadInput, match="too short to train anything on these images here; give at least"):
        check_minutes(pace.sizes, pace.images, Budget(scores))
