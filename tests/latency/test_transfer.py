"""From one device's table to another's, with ten networks timed there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mbv3.errors import BadInput
from mbv3.latency import LatencyTable, MeasuredNetworks, Timed, read_networks, transfer, weights_mb
from mbv3.latency.calibration import kinds
from mbv3.space import SearchSpace
from mbv3.space.additive import layer_keys
from mbv3.spec import ArchSpec, LayerKey, lower

from .fake import FINGERPRINT, layer_cost


def there(key: LayerKey) -> float:
    """Another device: twice as slow, thrice for 5x5, its memory slower."""
    return (3.0 if kinds(key)[0] else 2.0) * layer_cost(key) + 0.2 * weights_mb(key)


def timed(space: SearchSpace, n: int, noise: float = 0.0) -> list[tuple[str, ArchSpec, float]]:
    rng = np.random.default_rng(3)
    specs = [space.spec(tuple(int(v) for v in g)) for g in space.sample(rng, n)]
    ms = [sum(there(x.key) for x in lower(s)) * (1 + noise * rng.standard_normal()) for s in specs]
    return [(f"net {i}", s, t) for i, (s, t) in enumerate(zip(specs, ms, strict=True))]


@pytest.fixture(scope="module")
def table(space: SearchSpace) -> LatencyTable:
    layers = {k: Timed(layer_cost(k), 1, layer_cost(k), 0.0) for k in layer_keys(space)}
    reference = {"spec": "reference", "width": 1.0, "resolution": [32, 32], "classes": 4, "ms": 1.0}
    return LatencyTable(FINGERPRINT, reference, layers, about={"space": "tiny"})


def test_ten_networks_are_enough(table: LatencyTable, space: SearchSpace) -> None:
    other = type(FINGERPRINT)(**{**FINGERPRINT.as_dict(), "cpu": "Other 1"})
    nets = timed(space, 60, 0.005)
    moved = transfer(table, nets, other, (nets[0][1], None))
    assert moved.report is not None and moved.report["n"] == 50
    scaled = moved.report["baselines"]["table_scaled"]["rmspe"]
    assert moved.report["rmspe"] < 2 and moved.report["rmspe"] < 0.5 * scaled
    assert moved.fingerprint == other and moved.layers == table.layers
    assert (moved.about or {})["transferred"] == {"cpu": "Fake 9000", "runtime": "fake", "threads": 1, "fitted_on": 10}
    assert moved.latency_ms(nets[20][1]) == pytest.approx(nets[20][2], rel=0.06)
    assert moved.reference_ms == pytest.approx(nets[0][2], rel=0.06)  # predicted where it was not timed
    assert transfer(table, nets, other, (nets[0][1], 4.5)).reference_ms == 4.5
    assert LatencyTable.loads(moved.dumps()).dumps() == moved.dumps()
    assert transfer(table, nets[:10], other, (nets[0][1], 1.0)).report is None  # nothing left to test on


def test_too_few(table: LatencyTable, space: SearchSpace) -> None:
    nets = timed(space, 12)
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
    for edited in (text[:-1], text[:-4], text.replace("1.5", "1.6"), text.replace("networks/2", "networks/1")):
        assert edited != text
        file.write_text(edited)
        with pytest.raises(BadInput, match=r"nets\.csv: is not whole, was edited, or is of another version"):
            read_networks(file)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "needs the columns network,ms"),
        ("network,ms\n", "needs the columns network,ms"),
        ("name,ms\na,1\n", "needs the columns network,ms"),
        ("network,ms\na,1\nb,fast\nc,-1\nd,nan\na,2\n", "4 row.s. at fault\n.*row 2: 'fast' is not a time"),
        ("network,ms\na\n", "row 1: None is not a time"),
        ("ms,network\n2.5\n", "row 1: names no network"),
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
