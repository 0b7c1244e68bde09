"""The RNN controller is a distribution over genomes that learns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mbv3.search.controller import Controller

SIZES = (2, 3, 1, 2)
ALL = np.array(list(itertools.product(*(range(n) for n in SIZES))), dtype=np.int64)


def sharp(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> Controller:
    """A policy far from uniform, whose later choices depend on the earlier ones."""
    controller = Controller(sizes, seed)
    with torch.no_grad():
        for p in controller.parameters():
            p *= 6
    return controller


def probabilities(controller: Controller, genomes: NDArray[np.int64] = ALL) -> NDArray[np.float64]:
    with torch.no_grad():
        p: NDArray[np.float64] = controller.evaluate(torch.from_numpy(genomes))[0].double().exp().numpy()
    return p


def test_probabilities_of_all_genomes_sum_to_one() -> None:
    p = probabilities(sharp())
    assert p.sum() == pytest.approx(1.0, abs=1e-5)
    assert p.max() > 2 * p.min() > 0


def test_the_next_choice_depends_on_the_last() -> None:
    p = probabilities(sharp(1)).reshape(SIZES)
    given = p.sum((2, 3)) / p.sum((1, 2, 3))[:, None]
    assert abs(given[0] - given[1]).max() > 0.02


def test_entropies_average_to_the_entropy_of_the_distribution() -> None:
    controller = sharp()
    p = probabilities(controller)
    with torch.no_grad():
        entropy = controller.evaluate(torch.from_numpy(ALL))[1].double().numpy()
    assert float(p @ entropy) == pytest.approx(float(-(p * np.log(p)).sum()), rel=1e-5)  # chain rule


def test_samples_are_drawn_as_often_as_the_probabilities_say() -> None:
    controller, n = sharp(), 6000
    p = probabilities(controller)
    drawn = controller.sample([np.random.default_rng((5, i)) for i in range(n)])
    assert drawn.shape == (n, len(SIZES)) and (drawn >= 0).all() and (drawn < np.array(SIZES)).all()
    index = np.ravel_multi_index(tuple(drawn.T), SIZES)
    counts = np.bincount(index, minlength=len(ALL))
    assert (np.abs(counts - n * p) < 5 * np.sqrt(n * p * (1 - p))).all()  # 5 sigma


def test_a_sample_is_a_function_of_its_generator() -> None:
    controller = sharp()
    one = controller.sample([np.random.default_rng(i) for i in range(6)])
    other = controller.sample([np.random.default_rng(i) for i in (4, 2)])
    np.testing.assert_array_equal(other, one[[4, 2]])


@pytest.mark.parametrize("rewarded", range(0, len(ALL), 5))
def test_one_update_raises_the_probability_of_what_was_rewarded(rewarded: int) -> None:
    controller = Controller(SIZES, 0)
    before = probabilities(controller)
    controller.update(ALL, (np.arange(len(ALL)) == rewarded).astype(np.float64))
    after = probabilities(controller)
    assert after[rewarded] > before[rewarded] * 1.001
    assert after[rewarded] / before[rewarded] == pytest.approx((after / before).max())
    assert after.sum() == pytest.approx(1.0, abs=1e-5)


def test_many_updates_find_the_best() -> None:
    controller = Controller(SIZES, 0, lr=0.01)
    best = 7
    for step in range(40):
        genomes = controller.sample([np.random.default_rng((step, i)) for i in range(16)])
        controller.update(genomes, (genomes == ALL[best]).mean(1))
    assert probabilities(controller)[best] > 0.8


def test_the_baseline_is_a_moving_average_and_nothing_teaches_nothing() -> None:
    controller = Controller(SIZES, 0)
    controller.update(ALL[:4], np.array([1.0, 2.0, 3.0, 6.0]))
    assert controller.baseline == pytest.approx(3.0)
    controller.update(ALL[:2], np.array([5.0, 5.0]))
    assert controller.baseline == pytest.approx(0.95 * 3.0 + 0.05 * 5.0)
    before = probabilities(controller)
    controller.update(ALL[:0], np.array([]))
    assert controller.baseline == pytest.approx(3.1)
    np.testing.assert_array_equal(probabilities(controller), before)


def test_equal_rewards_at_the_first_update_stay_finite() -> None:
    controller = Controller(SIZES, 0)
    controller.update(ALL, np.full(len(ALL), 0.7))
    assert np.isfinite(probabilities(controller)).all()


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    torch.manual_seed(1)
    one = Controller(SIZES, 3)
    torch.manual_seed(2)
    np.testing.assert_array_equal(probabilities(one), probabilities(Controller(SIZES, 3)))
    assert not np.array_equal(probabilities(one), probabilities(Controller(SIZES, 4)))
    state = torch.random.get_rng_state()
    one.update(ALL, ALL.sum(1).astype(np.float64))
    assert torch.equal(state, torch.random.get_rng_state())
