"""Networks that a check may ask for."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from mbv3.errors import BadInput
from mbv3.pipeline.check import unseen_networks
from mbv3.space import load_space

from .conftest import computed_table


def test_networks_that_calibrated_the_table_are_left_out(folder: Path) -> None:
    space = load_space(folder / "tiny.yaml")
    table = computed_table(space)
    every = ["-".join(map(str, g)) for g in product(*map(range, space.sizes))]
    some = table.networks[0]
    all_but_one = replace(table, networks=tuple(replace(some, label=f"calibration:{g}") for g in every[1:]))
    assert [label for label, _ in unseen_networks(all_but_one, space, 4, 0)] == [f"check:{every[0]}"]
    whole = replace(table, networks=tuple(replace(some, label=f"calibration:{g}") for g in every))
    with pytest.raises(BadInput, match="all networks of space tiny calibrated the table; none is left to check it"):
        unseen_networks(whole, space, 4, 0)
