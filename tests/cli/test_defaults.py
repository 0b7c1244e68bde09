"""What a table is built for and what is searched is one space, where none is named."""

from __future__ import annotations

import inspect

import pytest

import mbv3
from mbv3.cli.latency_arguments import SPACE as HELPED
from mbv3.errors import BadInput
from mbv3.runs.options import Options
from mbv3.tables import choose_table, space_of
from mbv3.tables.plan import SPACE


def test_a_table_is_of_the_space_that_is_searched() -> None:
    assert HELPED == SPACE == Options.of({"target_ms": 1.0}).space_name
    for function in (mbv3.build_table, choose_table):
        assert inspect.signature(function).parameters["space"].default == SPACE
    assert inspect.signature(space_of).parameters["given"].default == SPACE


def test_netadapt_has_one_target() -> None:
    with pytest.raises(BadInput, match=r"^--target-ms 3,4: a network is shrunk to one target; give one$"):
        mbv3.adapt("mobilenet_v3_small", (3.0, 4.0))  # type: ignore[arg-type]
