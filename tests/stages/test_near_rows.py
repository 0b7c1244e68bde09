"""Estimated rows that decide a search are measured."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbv3.accuracy import imagenet_space
from mbv3.events import result
from mbv3.latency import Fingerprint, LatencyTable, Timed
from mbv3.search import Limit, solve
from mbv3.space import SearchSpace, layer_keys, load_space, scale
from mbv3.spec import LayerKey, lower, lower_key
from mbv3.stages import Memory, SpaceLatency, near_rows, space_latency
from mbv3.tables import Latency

HERE = Fingerprint(
    cpu="Computed 1", vector="", cores=2, system="Linux x86_64", kernel="6.1", governor="performance",
    runtime="computed", runtime_version="1", threads=1,
)  # fmt: skip
TARGET = 5.0


def true_ms(key: LayerKey) -> float:
    """Layers of this machine are up to 15 % faster or slower than their work says."""
    luck = int(hashlib.sha256(str(key).encode()).hexdigest()[:6], 16) / 0xFFFFFF
    return (0.02 + lower_key(key).madds * 3e-8) * (0.85 + 0.3 * luck)


@dataclass
class Machine:
    asked: list[int] = field(default_factory=list)

    def layers(
        self, keys: Sequence[LayerKey], known: Mapping[LayerKey, float], *, passes: int
    ) -> dict[LayerKey, Timed]:
        self.asked.append(len(keys))
        return {k: Timed(true_ms(k), 18, true_ms(k), 0.0) for k in keys}


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return scale(load_space("mnasnet-imagenet"), 1.0, 224)


def a_part(space: SearchSpace, rows: int, device: Any) -> Latency:
    keys = list(dict.fromkeys(layer_keys(space)))
    some = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))[:rows]]
    reference = {"spec": "mobilenet_v3_large", "width": 1.0, "resolution": [224, 224], "classes": 1000, "ms": 6.0}
    layers = {k: Timed(true_ms(k), 18, true_ms(k), 0.0) for k in some}
    return Latency(LatencyTable(HERE, reference, layers), device)


def best(space: SearchSpace, cost: SpaceLatency) -> tuple[int, ...]:
    within = [Limit(cost.many, TARGET)]
    return solve(space.sizes, imagenet_space(space), within, seed=3, population=400, generations=12, starts=2).genome


def really(space: SearchSpace, genome: tuple[int, ...]) -> float:
    return sum(true_ms(x.key) for x in lower(space.deployed(genome)))


def test_what_is_best_is_measured(space: SearchSpace) -> None:
    machine = Machine()
    latency = a_part(space, 60, machine)
    assert space_latency(space, latency).estimated  # which trials.csv says of each trial
    fooled = best(space, space_latency(space, latency))
    assert really(space, fooled) > 1.01 * TARGET  # it took layers that are estimated too fast

    cost = result(near_rows(space, latency, [TARGET]))
    found = best(space, cost)
    assert cost(found) == pytest.approx(really(space, found), rel=0.01) and really(space, found) <= 1.01 * TARGET
    measured = sum(machine.asked)
    assert 10 < measured < 0.5 * len(set(layer_keys(space))) and machine.asked[0] > machine.asked[-1]
    # not worse than a search that has every row
    whole = space_latency(space, a_part(space, 10_000, None))
    assert not whole.estimated
    score = imagenet_space(space)
    assert score(np.array([found]))[0] > score(np.array([best(space, whole)]))[0] - 0.25


def test_rows_are_kept(space: SearchSpace, tmp_path: Path) -> None:
    class Kept(Memory):
        def file(self, name: str) -> Path:
            return tmp_path / name

    latency, keep = a_part(space, 60, Machine()), Kept()
    cost = result(near_rows(space, latency, [TARGET], keep=keep))
    assert [int(r["layers"]) > 0 for r in keep.rows("rows.csv")][-2:] == [True, False]
    again = Machine()
    device: Any = again
    resumed = Latency(LatencyTable.load(tmp_path / "latency-table.csv"), device)
    genome = best(space, cost)
    assert result(near_rows(space, resumed, [TARGET], keep=keep))(genome) == pytest.approx(cost(genome), rel=1e-6)
    assert not again.asked  # a resumed run measures nothing twice


def test_turns_that_ran_out_do_not_begin_again(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[near_rows.__module__], "TURNS", 1)
    latency, keep = a_part(space, 60, machine := Machine()), Memory()
    result(near_rows(space, latency, [TARGET], keep=keep))
    assert len(machine.asked) == 1 and int(keep.rows("rows.csv")[-1]["layers"]) > 0
    result(near_rows(space, latency, [TARGET], keep=keep))
    assert len(machine.asked) == 1


def test_the_fastest_network_is_measured_where_the_target_may_be_out_of_reach(space: SearchSpace) -> None:
    latency = a_part(space, 60, Machine())
    cost = result(near_rows(space, latency, [0.1]))
    fastest = cost.additive.extreme(False)[1]
    assert cost(fastest) == pytest.approx(really(space, fastest), rel=1e-3)


def test_nothing_is_measured_without_a_device(space: SearchSpace) -> None:
    latency = a_part(space, 60, None)
    rows = len(latency.table.layers)
    assert list(near_rows(space, latency, [TARGET])) == [] and len(latency.table.layers) == rows
