"""The solver: exact on spaces that can be enumerated, within every limit, a function of its seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from mbv3.search import Limit, solve
from mbv3.search.solver import _Problem

SIZES = (3, 2, 4, 3, 2, 3)
EVERY = np.array(list(itertools.product(*map(range, SIZES))), dtype=np.int64)


def tables(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(singles, pairs, costs) of random values over one-hot choices."""
    rng = np.random.default_rng(seed)
    n = sum(SIZES)
    return rng.standard_normal(n), 0.5 * rng.standard_normal((n, n)), rng.random(n)


def hot(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.concatenate([np.eye(n)[genomes[:, i]] for i, n in enumerate(SIZES)], axis=1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_best_of_every_network_is_found(seed: int, share: float) -> None:
    singles, pairs, costs = tables(seed)

    def value(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        x = hot(genomes)
        return np.asarray(x @ singles + np.einsum("ni,ij,nj->n", x, pairs, x))

    def cost(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(hot(genomes) @ costs)

    most = float(np.quantile(cost(EVERY), share))
    within = EVERY[cost(EVERY) <= most]
    best = within[np.argmax(value(within))]
    solved = solve(SIZES, value, [Limit(cost, most)], seed=seed, population=40, generations=5, starts=3)
    assert solved.feasible and solved.genome == tuple(best)
    assert solved.value == pytest.approx(float(value(best[None])[0]))


def test_two_limits_hold_at_once() -> None:
    _, _, costs = tables(0)

    def least(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(hot(genomes) @ costs)

    def other(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(hot(genomes) @ costs[::-1])

    limits = [Limit(f, float(np.quantile(f(EVERY), 0.3))) for f in (least, other)]
    solved = solve(SIZES, lambda g: g.sum(1).astype(float), limits, population=60, generations=5, starts=3)
    within = np.all([limit.cost(EVERY) <= limit.most for limit in limits], axis=0)
    assert solved.feasible and solved.value == EVERY[within].sum(1).max()


def test_where_no_network_is_within_the_limit_the_nearest_is_returned() -> None:
    def cost(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        return 10.0 + genomes.sum(1)

    solved = solve(SIZES, lambda g: g.sum(1).astype(float), [Limit(cost, 5.0)], population=40, generations=5, starts=2)
    assert not solved.feasible and solved.genome == (0,) * len(SIZES)


def test_values_that_are_not_finite_never_win() -> None:
    def value(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(genomes[:, 0] == 2, np.nan, genomes.sum(1).astype(float))

    solved = solve(SIZES, value, population=40, generations=5, starts=2)
    assert solved.genome == (1, 1, 3, 2, 1, 2)


def test_the_same_seed_gives_the_same_genome_and_a_space_of_one_network_its_own() -> None:
    def value(genomes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(np.cos(genomes @ np.arange(1.0, 7.0)))

    first, again = (solve(SIZES, value, seed=3, population=30, generations=3, starts=2) for _ in range(2))
    assert first == again and first.evaluations > 100
    assert solve((1, 1), lambda g: np.ones(len(g))).genome == (0, 0)


@pytest.mark.parametrize("sizes", [SIZES, (4,) * 40])
def test_each_genome_counts_once(sizes: tuple[int, ...]) -> None:
    """With one number a genome, and where a space is too large for that, as numpy does."""
    problem = _Problem(sizes, lambda g: g.sum(1) / 1.0, ())
    genomes = problem.random(200, np.random.default_rng(0))
    genomes = np.concatenate([genomes, genomes[::3], genomes[:5] * 0])
    assert (genomes >= 0).all() and (genomes < np.array(sizes)).all()
    found, first = problem.distinct(genomes)
    want, at = np.unique(genomes, axis=0, return_index=True)
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(first, at)


def test_random_genomes_are_uniform() -> None:
    n = 30_000
    drawn = _Problem(SIZES, lambda g: g.sum(1) / 1.0, ()).random(n, np.random.default_rng(0))
    for column, choices in enumerate(SIZES):
        counts = np.bincount(drawn[:, column], minlength=choices)
        assert (np.abs(counts - n / choices) < 5 * np.sqrt(n / choices)).all()  # 5 sigma
