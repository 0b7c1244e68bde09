"""How much the road trains in its minutes: what cuts have answered beside their steps counts, too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbv3.errors import BadInput
from mbv3.spec import load_spec
from mbv3.stages import SHARES, Budget, Images, Memory, Sizes, road_pace
from mbv3.stages.road_pace import LEAST, Effort, Pace, check_minutes
from mbv3.stages.shrink_tune import scored_images
from mbv3.stages.tune import fit_of
from mbv3.tables import VERDICT_S
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
    pace.rounds, pace.keep = [2, 2], Memory()
    _, cut, _ = pace.early()
    assert once - cut == pytest.approx(scored / batch, abs=1)


def test_minutes_that_scores_alone_would_use_up_are_refused(pace: Pace) -> None:
    check_minutes(pace.sizes, pace.images, pace.budget)
    batch = fit_of(pace.images, pace.sizes.start, 5).batch
    scores = scored_images(pace.images) / batch * STEP_S / 60  # of the one candidate that is left in such a time
    with pytest.raises(BadInput, match="too short to train anything on these images here; give at least"):
        check_minutes(pace.sizes, pace.images, Budget(scores))


def test_few_minutes_cut_at_fewer_sizes(pace: Pace) -> None:
    """Every cut is measured and scored, so that little time is for the small sizes alone, decided once."""
    sizes = pace.sizes
    step = STEP_S * (LEAST + scored_images(pace.images) / fit_of(pace.images, sizes.start, 5).batch)
    each = (VERDICT_S + step) / 60 / (SHARES["cuts"].share + SHARES["cuts-measured"].share)
    for minutes, cuts in ((1.9 * each, 1), (2.1 * each, 2), (0.1, 1)):
        some = Pace(sizes, pace.images, Budget(minutes), Memory())
        assert some.candidates().cut == sizes.cut[:cuts]
        some.budget = Budget(100 * each)
        assert some.candidates().cut == sizes.cut[:cuts]
    timed = Pace(sizes, pace.images, Budget(1.9 * each), Memory())  # where nothing is measured there is time for both
    assert timed.candidates(measured=False).cut == sizes.cut
    by_hand = Pace(sizes, pace.images, Budget(0.1), Memory(), Effort.of(20))
    assert by_hand.candidates() == sizes


def test_what_is_left_of_the_minutes_is_trained(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps follow the networks that learn them and the clock, so that the whole takes the minutes."""
    took = {24: 0.2, 28: 0.3}
    monkeypatch.setattr(road_pace, "seconds_of_step", lambda spec, images, recipe: took[spec.resolution[0]])
    now = [pace.began]
    monkeypatch.setattr(road_pace.time, "monotonic", lambda: now[0])
    now[0] += 90
    alike = pace.alike(pace.sizes.cut)
    assert alike * (0.2 + 0.3) == pytest.approx(0.4 * (240 - 90), rel=0.01)
    now[0] += alike * 0.5
    assert pace.last(pace.sizes.cut[1]) * 0.3 == pytest.approx(240 - 90 - alike * 0.5, rel=0.01)
    now[0] += 200  # late: a fifth of the minutes is left for the last training in any case
    pace.keep = Memory()
    assert pace.last(pace.sizes.cut[1]) * 0.3 == pytest.approx(0.2 * 240, rel=0.01)
