"""Genomes of a space, drawn gene by gene so that a failure shrinks to the first choices."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mbv3.space import Genome, SearchSpace


def genomes(space: SearchSpace) -> SearchStrategy[Genome]:
    return st.tuples(*(st.integers(0, n - 1) for n in space.sizes))
