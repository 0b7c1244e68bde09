"""The RNN controller is a distribution over genomes that learns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mbv3.search.controller import Controller, advantages

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
    drawn = controller.sample(np.random.default_rng(5), n)
    assert drawn.shape == (n, len(SIZES)) and (drawn >= 0).all() and (drawn < np.array(SIZES)).all()
    index = np.ravel_multi_index(tuple(drawn.T), SIZES)
    counts = np.bincount(index, minlength=len(ALL))
    assert (np.abs(counts - n * p) < 5 * np.sqrt(n * p * (1 - p))).all()  # 5 sigma


def test_a_sample_is_a_function_of_its_generator() -> None:
    controller = sharp()
    one, again, other = (controller.sample(np.random.default_rng(s), 6) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_higher_temperature_is_nearer_to_uniform() -> None:
    controller, n = sharp(), 6000
    counts = []
    for temperature in (1.0, 8.0):
        drawn = controller.sample(np.random.default_rng(0), n, temperature=temperature)
        counts.append(np.bincount(np.ravel_multi_index(tuple(drawn.T), SIZES), minlength=len(ALL)))
    assert counts[1].std() < 0.6 * counts[0].std()


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
        genomes = controller.sample(np.random.default_rng(step), 16)
        controller.update(genomes, (genomes == ALL[best]).mean(1))
    assert probabilities(controller)[best] > 0.8


def test_advantages_are_rewards_less_the_mean_of_the_others() -> None:
    rewards = np.array([0.5, 0.6, 0.9, 0.4])
    others = np.array([(rewards.sum() - r) / 3 for r in rewards])
    np.testing.assert_allclose(advantages(rewards), (rewards - others) / np.sqrt(np.mean((rewards - others) ** 2)))
    assert advantages(rewards).sum() == pytest.approx(0)
    np.testing.assert_array_equal(advantages(np.full(5, 0.7)), np.zeros(5))
    np.testing.assert_array_equal(advantages(np.array([0.7])), [0.0])


def test_rewards_that_fall_together_teach_as_before() -> None:
    """The baseline does not lag: what all networks of a batch lose says nothing about one of them."""
    one, other = Controller(SIZES, 0), Controller(SIZES, 0)
    rewards = ALL.sum(1).astype(np.float64)
    for step in range(3):
        one.update(ALL, rewards)
        other.update(ALL, rewards - 10 * step)
    np.testing.assert_allclose(probabilities(one), probabilities(other), rtol=1e-4)


def test_the_rate_rises_and_the_entropy_weight_falls() -> None:
    controller = Controller(SIZES, 0, lr=0.01, warmup=4, updates=40)
    rates = []
    for _ in range(6):
        controller.update(ALL, ALL.sum(1).astype(np.float64))
        rates.append(controller.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    flat = [Controller(SIZES, 0, entropy=e, updates=1000) for e in (0.0, 1.0)]
    late = Controller(SIZES, 0, entropy=1.0, updates=1)
    for c in (*flat, late):
        c.warmup = 1
        c.update(ALL, ALL.sum(1).astype(np.float64))
    np.testing.assert_array_equal(probabilities(late), probabilities(flat[0]))  # nothing is left of it
    assert not np.allclose(probabilities(flat[0]), probabilities(flat[1]), atol=1e-7)


def test_nothing_teaches_nothing() -> None:
    controller = Controller(SIZES, 0)
    before = probabilities(controller)
    controller.update(ALL[:0], np.array([]))
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
