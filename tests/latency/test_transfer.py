"""From one device's table to another's, with ten networks timed there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mbv3.errors import BadInput
from mbv3.latency import (
    Calibration,
    CostModel,
    LatencyTable,
    MeasuredNetworks,
    Timed,
    most_informative,
    read_networks,
    transfer,
    work_ms,
)
from mbv3.latency.calibration import NONE
from mbv3.latency.costmodel import FEATURES, WORK, WORK_OF, features
from mbv3.space import SearchSpace, load_space, scale
from mbv3.space.additive import layer_keys
from mbv3.spec import ArchSpec, LayerKey, lower

from .fake import FINGERPRINT

COSTS = dict(zip(FEATURES, np.full(len(FEATURES), 0.05), strict=True)) | {"layer": 0.002, "ops": 0.001}
INT8 = dict(zip(WORK, (0.25, 0.3, 1.7, 1.0, 1.2, 0.8, 2.0), strict=True))  # about as a server core's, of float


def cost(key: LayerKey, factors: Mapping[str, float] = dict.fromkeys(WORK, 1.0)) -> float:
    """ms of a layer by its features alone, the time of each kind of work multiplied."""
    work = WORK_OF @ (features(key) * [COSTS[f] for f in FEATURES])
    return float(work @ [factors[kind] for kind in WORK])


def timed(
    space: SearchSpace, n: int, factors: Mapping[str, float], noise: float = 0.0
) -> list[tuple[str, ArchSpec, float]]:
    rng = np.random.default_rng(3)
    specs = [space.spec(tuple(int(v) for v in g)) for g in space.sample(rng, n)]
    ms = [sum(cost(x.key, factors) for x in lower(s)) * (1 + noise * rng.standard_normal()) for s in specs]
    return [(f"net {i}", s, t) for i, (s, t) in enumerate(zip(specs, ms, strict=True))]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return scale(load_space("mnasnet-imagenet"), 0.5, 64)


@pytest.fixture(scope="module")
def table(space: SearchSpace) -> LatencyTable:
    layers = {k: Timed(cost(k), 3, 2 * cost(k), 0.1 * cost(k)) for k in layer_keys(space)}
    reference = {"spec": "reference", "width": 1.0, "resolution": [64, 64], "classes": 1000, "ms": 1.0}
    return LatencyTable(FINGERPRINT, reference, layers, about={"space": "mnasnet-imagenet"})


def test_ten_networks_are_enough(table: LatencyTable, space: SearchSpace) -> None:
    other = replace(FINGERPRINT, cpu="Other 1")
    nets = timed(space, 60, INT8, 0.005)
    moved = transfer(table, nets, other, (nets[0][1], None))
    assert moved.report is not None and moved.report["n"] == 50
    scaled = moved.report["baselines"]["table_scaled"]["rmspe"]
    assert moved.report["rmspe"] < 2 and moved.report["rmspe"] < 0.3 * scaled
    assert moved.fingerprint == other and moved.layers.keys() == table.layers.keys()
    known = (moved.about or {})["transferred"]
    factors = known.pop("factors")
    assert known == {"cpu": "Fake 9000", "runtime": "fake", "threads": 1, "fitted_on": 10}
    assert factors.keys() == {*WORK, "the rest"} - {"resampling"}  # the space has none
    for key, row in moved.layers.items():
        assert row.ms / table.layers[key].ms == pytest.approx(row.mean / table.layers[key].mean)
    assert moved.latency_ms(nets[20][1]) == pytest.approx(nets[20][2], rel=0.06)
    assert moved.reference_ms == pytest.approx(nets[0][2], rel=0.06)  # predicted where it was not timed
    assert transfer(table, nets, other, (nets[0][1], 4.5)).reference_ms == 4.5
    assert LatencyTable.loads(moved.dumps()).dumps() == moved.dumps()
    assert transfer(table, nets[:10], other, (nets[0][1], 1.0)).report is None  # nothing left to test on


def test_each_kind_of_work_has_its_factor(table: LatencyTable, space: SearchSpace) -> None:
    nets = timed(space, 200, INT8)
    moved = transfer(table, nets, FINGERPRINT, (nets[0][1], None), 200)
    factors = (moved.about or {})["transferred"]["factors"]
    assert factors == pytest.approx({k: INT8.get(k, factors[k]) for k in factors}, rel=0.2)
    for key, row in moved.layers.items():
        assert row.ms == pytest.approx(cost(key, INT8), rel=0.1)


def test_the_same_device_keeps_its_times(table: LatencyTable, space: SearchSpace) -> None:
    """The calibration is kept too: what goes by weights, layers and kinds of layers."""
    kinds = (0.05, -0.1, 0.02, 0.0, 0.03, 0.04, 0.01, 0.2, -0.02, *NONE[9:])
    ours = replace(table, calibration=Calibration(1.04, 0.02, 0.3, 0.01, 0.03, kinds, (0.01,) * len(NONE)))
    nets = [(label, spec, 2 * ours.latency_ms(spec)) for label, spec, _ in timed(space, 40, INT8)]
    moved = transfer(ours, nets, FINGERPRINT, (nets[0][1], None))
    assert moved.report is not None and moved.report["rmspe"] < 0.1
    assert [*(moved.about or {})["transferred"]["factors"].values()] == pytest.approx([2.0] * 7, rel=0.01)


def test_a_profile_without_rows_can_be_moved_too(table: LatencyTable, space: SearchSpace) -> None:
    model = CostModel(np.array([COSTS[f] for f in FEATURES]), 10.0)
    nets = timed(space, 60, INT8, 0.005)
    moved = transfer(replace(table, layers={}, model=model), nets, FINGERPRINT, (nets[0][1], None))
    assert moved.report is not None and moved.report["rmspe"] < 2 and not moved.layers
    assert LatencyTable.loads(moved.dumps()).dumps() == moved.dumps()


def test_ten_that_are_chosen_tell_more_than_ten_others(table: LatencyTable, space: SearchSpace) -> None:
    nets, noisy = timed(space, 150, INT8), timed(space, 150, INT8, 0.03)
    chosen = most_informative(work_ms(table, [spec for _, spec, _ in nets]))
    assert len(set(chosen)) == 10 and most_informative(work_ms(table, [nets[0][1]] * 3)) == [0, 1, 2]

    def error(ten: list[int]) -> float:
        moved = transfer(table, [*(noisy[i] for i in ten), *nets[:50]], FINGERPRINT, (nets[0][1], None))
        return float((moved.report or {})["rmspe"])

    others = [error(list(range(i, i + 10))) for i in range(0, 60, 10)]
    assert error(chosen) < 0.8 * np.median(others)


def test_too_few(table: LatencyTable, space: SearchSpace) -> None:
    nets = timed(space, 12, INT8)
    for few, fit, got in ((nets[:9], 10, 9), (nets, 4, 4), ([], 10, 0)):
        with pytest.raises(BadInput, match=rf"at least 8 measured networks to fit on \(got {got}\)"):
            transfer(table, few, FINGERPRINT, (nets[0][1], 1.0), fit)


def test_lists_of_networks(tmp_path: Path) -> None:
    file = tmp_path / "nets.csv"
    whole = MeasuredNetworks((("a", 1.5), ("b,c", 2.25)), FINGERPRINT, 3.5, "of a space")
    for nets in (whole, MeasuredNetworks((("a", 1.5),))):
        file.write_text(nets.dumps())
        assert read_networks(file) == nets
    file.write_text("note,ms,network\nmine,2.5,mobilenet_v2\n")  # by hand
    assert read_networks(file) == MeasuredNetworks((("mobilenet_v2", 2.5),))
    file.write_text("# timed on 3 May\nnetwork,ms\nmobilenet_v2,2.5\n", encoding="utf-8-sig")  # by a spreadsheet
    assert read_networks(file) == MeasuredNetworks((("mobilenet_v2", 2.5),))


def test_a_list_of_ours_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    file, text = tmp_path / "nets.csv", MeasuredNetworks((("a", 1.5), ("b", 2.25)), FINGERPRINT, 3.5, "x").dumps()
    for edited in (text[:-1], text[:-4], text.replace("1.5", "1.6"), text.replace("networks/3", "networks/2")):
        assert edited != text
        file.write_text(edited)
        with pytest.raises(BadInput, match=r"nets\.csv: is incomplete, was edited, or has another format"):
            read_networks(file)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "needs the columns network,ms"),
        ("network,ms\n", "needs the columns network,ms"),
        ("name,ms\na,1\n", "needs the columns network,ms"),
        (
            "network,ms\na,1\nb,fast\nc,-1\nd,nan\na,2\n",
            "4 faulty row.s.; correct them or measure again\n.*row 2: 'fast' is not a time",
        ),
        ("network,ms\na\n", "row 1: None is not a time"),
        ("ms,network\n2.5\n", "row 1: the network is empty"),
        ("# fingerprint: {\nnetwork,ms\na,1\n", "the value of 'fingerprint' in its header is not valid JSON"),
        ('# fingerprint: {"cpu": "x"}\nnetwork,ms\na,1\n', "is not a list of measured networks"),
        ("# reference_ms: -1\nnetwork,ms\na,1\n", "is not a list of measured networks"),
    ],
)
def test_what_is_no_list(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "nets.csv"
    file.write_text(text)
    with pytest.raises(BadInput, match=f"(?s)nets.csv: .*{why}"):
        read_networks(file)
    with pytest.raises(BadInput, match=r"none\.csv: cannot be read"):
        read_networks(tmp_path / "none.csv")
