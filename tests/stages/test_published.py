"""Published networks beside each other, on a machine without noise and by a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbv3.accuracy import Published, zoo
from mbv3.latency import Device, load_profile, protocol
from mbv3.spec import load_spec
from mbv3.stages import published_times
from mbv3.tables import Latency
from tests.latency.fake import Clock, FakeRuntime, network_cost

NAMES = ("lcnet_050.ra2", "tinynet_e", "mobilenetv3_small_100.lamb", "tf_mobilenetv3_small_100", "mobilenet_v3_small")


@pytest.fixture
def few() -> list[Published]:
    return [next(p for p in zoo() if p.name == name) for name in NAMES]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    clock = Clock()
    monkeypatch.setitem(protocol.interleave.__kwdefaults__ or {}, "clock", clock)
    return FakeRuntime(clock)


def test_measured_once_a_network_and_sorted_by_top1(few: list[Published], fake: FakeRuntime) -> None:
    device = Device(fake, replace(load_spec("mobilenet_v3_small@0.5"), name="reference"))
    found = published_times(device, None, few)
    assert [f.network.name for f in found] == sorted(NAMES, key=lambda n: -next(p.top1 for p in few if p.name == n))
    for f in found:
        assert f.ms == pytest.approx(network_cost(f.network.spec())) and f.estimated is None and f.error_ms < 1e-6
    # two sets of weights of MobileNetV3-Small are one network; TensorFlow's padding is another
    opened = [name for name in fake.opened if name != "reference"]
    assert len(opened) == 4 * 4  # four parts


def test_what_is_much_slower_than_the_target_is_looked_at_only(few: list[Published], fake: FakeRuntime) -> None:
    device = Device(fake, replace(load_spec("mobilenet_v3_small@0.5"), name="reference"))
    fastest = min(network_cost(p.spec()) for p in few)
    [only] = published_times(device, 1.01 * fastest, few)
    assert only.network.name == min(few, key=lambda p: network_cost(p.spec())).name
    assert published_times(device, 0.1 * fastest, few) == []


def test_predicted_times_say_what_the_table_lacks(few: list[Published]) -> None:
    found = published_times(Latency(load_profile("note-10")), None, few)
    assert len(found) == len(few)
    assert all(f.estimated == 1 and 0 < f.error_ms < f.ms for f in found)
    fast = sorted(f.ms for f in found)[0]
    assert [f.ms for f in published_times(Latency(load_profile("note-10")), fast, few)] == [fast]
