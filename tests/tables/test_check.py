"""Networks for a calibration, a check and a transfer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from mbv3.errors import BadInput
from mbv3.latency import LatencyTable, work_ms
from mbv3.space import SearchSpace, load_space, scale, under_head
from mbv3.spec import count, load_spec, lower
from mbv3.tables import (
    calibration_network,
    cut_network,
    draw,
    informative_networks,
    table_plan,
    unseen_networks,
)
from mbv3.tables.check import CANDIDATES

Computed = Callable[..., LatencyTable]


def test_networks_that_calibrated_the_table_are_left_out(space: SearchSpace, computed_table: Computed) -> None:
    table = computed_table(space)
    every = ["-".join(map(str, g)) for g in product(*map(range, space.sizes))]
    some = table.networks[0]
    all_but_one = replace(table, networks=tuple(replace(some, label=f"calibration:{g}") for g in every[1:]))
    assert [label for label, _ in unseen_networks(all_but_one, space, 4, 0)] == [f"check:{every[0]}"]
    whole = replace(table, networks=tuple(replace(some, label=f"calibration:{g}") for g in every))
    with pytest.raises(BadInput, match="calibrated on all networks of space tiny, so none is left to check it"):
        unseen_networks(whole, space, 4, 0)


def test_the_first_ten_are_the_most_informative_and_the_others_are_random(
    space: SearchSpace, computed_table: Computed
) -> None:
    table = computed_table(space)
    drawn = [label for label, _ in unseen_networks(table, space, CANDIDATES + 15, 0)]
    labels = [label for label, _ in informative_networks(table, space, 15, 0)]
    assert len(set(labels)) == 15 and labels[10:] == [x for x in drawn if x not in labels[:10]][:5]
    assert len(informative_networks(table, space, 4, 0)) == 4
    share = work_ms(table, [spec for _, spec in unseen_networks(table, space, CANDIDATES + 15, 0)])
    share /= share.sum(axis=1, keepdims=True)

    def information(ten: list[str]) -> float:
        some = share[[drawn.index(label) for label in ten]]
        return float(np.linalg.slogdet(some.T @ some + 1e-4 * np.eye(share.shape[1]))[1])

    assert information(labels[:10]) > max(information(drawn[i : i + 10]) for i in range(0, 60, 10))


@pytest.mark.parametrize("head", [None, "lraspp-torchvision"])
def test_a_third_of_the_calibration_is_cut_as_netadapt_cuts(head: str | None) -> None:
    space = scale(load_space("mnasnet-imagenet"), 0.5, 64)
    if head:
        space = under_head(space, head, 5)
    plan = table_plan(space)
    assert len(set(plan.keys)) == len(plan.keys)
    cut = {label: spec for label, spec in plan.calibration if label.startswith("cut:")}
    assert len(plan.calibration) == 60 and len(cut) == 20
    assert {x.key for spec in cut.values() for x in lower(spec)} <= set(plan.keys)
    for label, spec in plan.calibration:
        whole = space.deployed(space.genome(label.rpartition(":")[2]))
        assert (count(spec).madds < count(whole).madds) == (label in cut)
        assert calibration_network(space, label) == spec  # a check finds it again by its name
    odd = {row.out for spec in cut.values() for row in spec.rows}
    assert len({out % 8 for out in odd}) == 8


def test_every_network_of_a_small_space_is_timed_as_it_is_too(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw, "CALIBRATION_NETWORKS", 400)  # more than it has
    labels = [label for label, _ in table_plan(space).calibration]
    whole = {x.partition(":")[2] for x in labels if x.startswith("calibration:")}
    cut = {x.rpartition(":")[2] for x in labels if x.startswith("cut:")}
    assert cut and cut < whole and len(labels) == len(whole) + len(cut)


def test_a_network_with_fewer_than_eight_channels_is_cut_too() -> None:
    spec = load_spec("mobilenet_v3_small")
    rows = tuple(replace(row, skip="none", out=4 if i == 1 else row.out) for i, row in enumerate(spec.rows))
    thin = replace(spec, rows=rows)
    for seed in range(20):
        assert count(cut_network(thin, seed)).madds <= count(thin).madds
