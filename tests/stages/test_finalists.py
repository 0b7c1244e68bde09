"""The choice among noisy scores."""

from __future__ import annotations

import numpy as np

from mbv3.data import ImageSet
from mbv3.events import Note, result
from mbv3.search import Trial
from mbv3.space import parse_space
from mbv3.stages import (
    FINALISTS,
    Chosen,
    Images,
    SupernetJudge,
    answered_best,
    choose_seed,
    finalists,
    pick_seed,
    shared_scorer,
    smoothed,
)
from mbv3.stages.images import others, subset
from mbv3.stages.ranking import kendall
from mbv3.supernet import Supernet
from mbv3.training import ClassAnswers
from tests.drawn import drawn_images

SPACE = parse_space("""\
format: mbv3-space/1
name: tiny
input: {resolution: 16}
stem: {k: 3, out: 8, nl: RE, s: 2}
blocks:
  - {name: a, s: 2, out: 16, e: [2, 3, 4], k: [3, 5], l: [1, 2, 3]}
head: {features: 16, classes: 8, dropout: 0}
""")


def trial(number: int, accuracy: float, ms: float) -> Trial:
    genome = SPACE.check(tuple(int(v) for v in np.unravel_index(number, SPACE.sizes)))
    return Trial(number, genome, accuracy, ms, accuracy, "complete")


def test_finalists_are_of_those_that_a_seed_is_chosen_among() -> None:
    trials = [trial(i, 50 + (7 * i) % 5, 0.9 + 0.1 * i) for i in range(6)]  # 0.9 to 1.4 ms
    window = [t for t in trials if 1.0 <= t.latency_ms <= 1.02 * 1.25]
    found = finalists([*trials, trials[2]], 1.0, 1.25, 9)
    assert found[0] is pick_seed(trials, 1.0, 1.25)
    assert {t.number for t in found} == {t.number for t in window} and len(found) == len(window) < 6
    assert [t.accuracy for t in found] == sorted((t.accuracy for t in window), reverse=True)
    assert finalists(trials, 1.0, 1.25, 2) == found[:2]
    above = finalists([trial(0, 60.0, 2.0), trial(1, 70.0, 3.0)], 1.0, 1.25)
    assert [t.number for t in above] == [0]  # the nearest, however good those above it are
    below = [trial(0, 60.0, 0.5), trial(1, 70.0, 0.6)]
    assert finalists(below, 1.0, 1.25) == below[::-1]


def given(right: np.ndarray) -> ClassAnswers:
    return ClassAnswers(np.zeros(len(right)), right)


def test_all_answer_first_and_the_best_of_them_the_rest() -> None:
    """By cross-entropy, whatever the top-1."""
    images, asked = 400, list[tuple[int, int]]()

    def answer(i: int, index: np.ndarray) -> ClassAnswers:
        asked.append((i, len(index)))
        return ClassAnswers(np.full(len(index), abs(i - 11.0)), index % 20 < i)  # the largest number has the best top-1

    i, found = result(answered_best(20, images, answer))
    assert i == 11 and sorted(found) == list(range(7, 15))
    assert [n for _, n in asked[:20]] == [150] * 20 and [n for _, n in asked[20:]] == [250] * 8
    assert all(len(a) == images for a in found.values())
    assert found[11].score == given(np.arange(images) % 20 < 11).score  # each image once
    broken = lambda i, index: ClassAnswers(np.full(len(index), np.nan if i in (0, 3) else i), index % 2 < 1)  # noqa: E731
    assert result(answered_best(20, images, broken))[0] == 1
    assert result(answered_best(3, images, broken))[0] == 1
    asked.clear()
    i, found = result(answered_best(3, images, answer))  # so few answer all at once
    assert i == 2 and asked == [(0, images), (1, images), (2, images)]


def test_the_choice_is_less_lucky_than_the_best_score() -> None:
    """240 networks whose true top-1 has a deviation of one point, scored on 1,000 images and again on up to 4,000: the
    regret of 100 searches, and by how much the score that is reported is above the truth."""
    rng = np.random.default_rng(0)
    regret, optimism = np.zeros((100, 2)), np.zeros((100, 2))
    for s in range(100):
        truth = rng.normal(60, 1.0, 240)
        scores = rng.binomial(1000, truth / 100) / 10
        order = np.argsort(-scores)[:FINALISTS]
        right = rng.random((len(order), 4000)) < truth[order, None] / 100

        def answer(i: int, index: np.ndarray, right: np.ndarray = right) -> ClassAnswers:
            return ClassAnswers((~right[i, index]).astype(float), right[i, index])

        i, fresh = result(answered_best(len(order), 4000, answer))
        for column, (network, said) in enumerate(((order[0], scores[order[0]]), (order[i], fresh[i].score))):
            regret[s, column] = truth.max() - truth[network]
            optimism[s, column] = said - truth[network]
    assert regret[:, 1].mean() < 0.6 * regret[:, 0].mean()
    assert optimism[:, 0].mean() > 3  # of the best score of 240
    assert abs(optimism[:, 1].mean()) < 1.2


def judge(held: int) -> SupernetJudge:
    images = Images(drawn_images(40, 16, 0), drawn_images(held, 16, 1), (16, 16))
    scorer = shared_scorer(Supernet(SPACE, 0), images)
    return SupernetJudge(scorer, others(images.held_out, 16, 64))


def test_the_best_are_scored_again_on_images_that_chose_none() -> None:
    trials = [trial(i, 50.0 + i, 1.0) for i in range(5)]
    events = list[object]()
    work = choose_seed(trials, judge(48), 1.0)
    while True:
        try:
            events.append(next(work))
        except StopIteration as stop:
            chosen: Chosen = stop.value
            break
    assert chosen.trial in trials and chosen.error is not None and chosen.error > 0
    assert any(isinstance(e, Note) and "scored again" in e.text for e in events)
    few = judge(18)  # 2 others are too few
    alone = result(choose_seed(trials, few, 1.0))
    score = few.scorer(alone.trial.genome)
    assert alone.trial == trials[-1] and (alone.top1, alone.error) == (score.top1, score.sigma)


def test_more_than_eight_answer_in_two_rounds() -> None:
    trials = [trial(i, 50.0 + i, 1.0) for i in range(12)]
    chosen = result(choose_seed(trials, judge(80), 1.0))
    fresh = judge(80).fresh
    assert chosen.trial in trials and fresh is not None and len(fresh) == 64
    right = round(chosen.top1 * 64 / 100)
    assert chosen.top1 == 100 * right / 64  # of all 64, not of the first 24


def test_smoothed_scores_are_nearer_to_the_truth() -> None:
    """An additive truth with a share of its own, under noise of its size: the order of 200 networks."""
    rng = np.random.default_rng(0)
    sizes = (3, 4, 2, 3, 3, 4)
    genomes = np.unique(rng.integers(0, sizes, (200, 6)), axis=0)
    effects = [rng.normal(size=n) for n in sizes]
    truth = sum(e[g] for e, g in zip(effects, genomes.T, strict=True)) + rng.normal(0, 0.3, len(genomes))
    noisy = truth + rng.normal(0, truth.std(), len(genomes))
    even = smoothed(genomes, sizes, noisy)
    before, after = (kendall(s, truth)[0] for s in (noisy, even))
    assert after > before + 0.15
    assert np.array_equal(even, smoothed(genomes, sizes, noisy))
    alone = smoothed(genomes, sizes, rng.normal(size=len(genomes)))  # of nothing but noise little is left
    assert alone.std() < 0.5


def test_others_are_what_a_subset_leaves() -> None:
    data: ImageSet = drawn_images(50, 16, 0)
    mine, rest = subset(data, 30), others(data, 30, 15)
    assert rest is not None and len(mine) == 30 and len(rest) == 15
    a, b = ({np.asarray(d.images[i]).tobytes() for i in range(len(d))} for d in (mine, rest))
    assert not a & b
    assert others(data, 45, 100) is None and others(data, 60, 100) is None
