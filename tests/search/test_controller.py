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
        p: NDArray[np.float64] = controller.log_p(torch.from_numpy(genomes)).double().exp().numpy()
    return p


def test_probabilities_of_all_genomes_sum_to_one() -> None:
    p = probabilities(sharp())
    assert p.sum() == pytest.approx(1.0, abs=1e-5)
    assert p.max() > 2 * p.min() > 0


def test_the_next_choice_depends_on_the_last() -> None:
    p = probabilities(sharp(1)).reshape(SIZES)
    given = p.sum((2, 3)) / p.sum((1, 2, 3))[:, None]
    assert abs(given[0] - given[1]).max() > 0.02


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


def taught(controller: Controller, genomes: NDArray[np.int64], advantages: NDArray[np.float64], updates: int) -> None:
    for i in range(updates):
        controller.update(genomes, advantages, np.random.default_rng(i))


@pytest.mark.parametrize("rewarded", range(0, len(ALL), 5))
def test_one_update_raises_the_probability_of_what_was_rewarded(rewarded: int) -> None:
    controller = Controller(SIZES, 0)
    before = probabilities(controller)
    taught(controller, ALL, (np.arange(len(ALL)) == rewarded) * 3.0, 1)
    after = probabilities(controller)
    assert after[rewarded] > before[rewarded] * 1.001
    assert after[rewarded] / before[rewarded] == pytest.approx((after / before).max())
    assert after.sum() == pytest.approx(1.0, abs=1e-5)


def test_updates_end_at_the_policy_of_the_largest_reward_plus_entropy() -> None:
    """It is known in closed form: probabilities go with exp(advantage / temperature), whatever is added to all."""
    advantages = np.random.default_rng(0).normal(size=len(ALL))
    want = np.exp(advantages / 0.5)
    for added in (0.0, 40.0):
        controller = Controller(SIZES, 0, lr=0.01, temperature=0.5)
        taught(controller, ALL, advantages + added, 60)
        np.testing.assert_allclose(probabilities(controller), want / want.sum(), rtol=0.15, atol=0.003)


def test_genomes_that_no_policy_drew_teach_too() -> None:
    """Trials of any origin are replayed: some of the genomes say what the others are worth."""
    value = np.equal(ALL, ALL[7]).mean(1)
    some = np.random.default_rng(3).permutation(len(ALL))[: len(ALL) * 3 // 4]
    some = some[some != 7]
    controller = Controller(SIZES, 0, lr=0.01, temperature=0.1)
    taught(controller, ALL[some], value[some], 30)
    assert probabilities(controller).argmax() == 7


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_compare_teaches_nothing(n: int) -> None:
    controller = Controller(SIZES, 0)
    before = probabilities(controller)
    taught(controller, ALL[:n], np.full(n, 2.0), 1)
    np.testing.assert_array_equal(probabilities(controller), before)


def test_equal_advantages_lead_to_a_uniform_policy() -> None:
    controller = sharp()
    before = probabilities(controller)
    taught(controller, ALL, np.zeros(len(ALL)), 30)
    assert probabilities(controller).std() < 0.2 * before.std()


def test_a_large_history_is_taught_in_parts() -> None:
    controller = Controller(SIZES, 0, steps=3, minibatch=5)
    seen: list[int] = []
    log_p = controller.log_p
    controller.log_p = lambda genomes: (seen.append(len(genomes)), log_p(genomes))[1]  # type: ignore[method-assign,func-returns-value]
    taught(controller, ALL, np.arange(len(ALL)) / 6 - 1, 1)
    assert seen == [5, 5, 5]


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    torch.manual_seed(1)
    one = Controller(SIZES, 3)
    torch.manual_seed(2)
    np.testing.assert_array_equal(probabilities(one), probabilities(Controller(SIZES, 3)))
    assert not np.array_equal(probabilities(one), probabilities(Controller(SIZES, 4)))
    state = torch.random.get_rng_state()
    taught(one, ALL, ALL.sum(1).astype(np.float64), 1)
    assert torch.equal(state, torch.random.get_rng_state())
