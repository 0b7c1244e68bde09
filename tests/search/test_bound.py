"""The bound: never below the best of all networks, equal to it where the relaxation closes, cheap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbv3.search import upper_bound
from mbv3.space import Chain, joined

SHAPES = ((3, 2), (2,), (), (4,), (2, 2))
EVERY = np.array(list(itertools.product(*(range(n) for shape in SHAPES for n in shape))), dtype=np.int64)
Array = NDArray[np.float64]


def chain(rng: np.random.Generator, numbers: int, states: tuple[int, ...]) -> Chain:
    """Random sums along SHAPES, with `states` before each block and one more at the end."""
    parts, nexts = [], []
    for shape, before, after in zip(SHAPES, states[:-1], states[1:], strict=True):
        choices = int(np.prod(shape))
        parts.append(rng.random((before, choices, numbers)) * (rng.random((1, 1, numbers)) < 0.7))
        nexts.append(rng.integers(0, after, (before, choices)))
    return Chain(SHAPES, rng.random(numbers), tuple(parts), tuple(nexts), rng.random((states[-1], numbers)))


def worth_of(rng: np.random.Generator, numbers: int) -> tuple[object, object]:
    """A concave function of sums, of the model's form but of any sign, and its gradient."""
    a, b, c = rng.random(numbers), rng.random(numbers), rng.standard_normal(numbers)

    def worth(x: Array) -> Array:
        return np.asarray(np.log(0.1 + x @ a) - np.logaddexp(0, 1 - x @ b) + x @ c)

    def slopes(x: Array) -> Array:
        return np.asarray(a / (0.1 + x @ a) + b / (1 + np.exp(x @ b - 1)) + c)

    return worth, slopes


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), limits=st.integers(0, 3), share=st.sampled_from([0.05, 0.3, 0.8]))
def test_no_network_exceeds_the_bound(seed: int, limits: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    sums = chain(rng, 4, (1, 2, 3, 2, 1, 2))
    costs = [chain(rng, 1, (1, 3, 1, 2, 2, 1)) for _ in range(limits)]
    worth, slopes = worth_of(rng, 4)
    most = [float(np.quantile(c(EVERY), share)) for c in costs]
    within = np.all([np.ones(len(EVERY), bool), *(c(EVERY)[:, 0] <= m for c, m in zip(costs, most, strict=True))], 0)
    if not within.any():
        return
    values = np.where(within, worth(sums(EVERY)), -np.inf)  # type: ignore[operator]
    ranked = np.argsort(-values)
    for known, seconds in ((0, 0.0), (0, 60.0), (min(5, int(within.sum()) - 1), 0.3)):
        best = values[ranked[known]]
        first = [tuple(int(v) for v in EVERY[ranked[known]])]
        bound = upper_bound(
            sums,
            worth,
            slopes,
            list(zip(costs, most, strict=True)),
            float(best),
            first=first,
            seconds=seconds,  # type: ignore[arg-type]
        )
        assert bound >= values.max() - 1e-9
        if seconds == 60.0:  # so small a space is searched whole
            assert bound == pytest.approx(values.max(), abs=1e-5)


def test_chains_are_joined_state_by_state() -> None:
    rng = np.random.default_rng(3)
    some, more = chain(rng, 2, (1, 2, 3, 2, 1, 2)), chain(rng, 3, (1, 1, 2, 3, 2, 1))
    assert np.allclose(joined([some, more])(EVERY), np.concatenate([some(EVERY), more(EVERY)], axis=1))
    own = [int(np.ravel_multi_index(g, s)) if s else 0 for g, s in zip(_split(EVERY[77]), SHAPES, strict=True)]
    assert some.genome(own) == tuple(EVERY[77])


def _split(genome: NDArray[np.int64]) -> list[tuple[int, ...]]:
    found, at = [], 0
    for shape in SHAPES:
        found.append(tuple(int(v) for v in genome[at : at + len(shape)]))
        at += len(shape)
    return found
