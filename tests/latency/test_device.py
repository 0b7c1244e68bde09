"""Times relative to the reference network: a slower machine gives the same answer."""

from __future__ import annotations

from itertools import chain
from zlib import crc32

import numpy as np
import pytest

from mbv3.latency import BuildPlan, Device, Measured, runner
from mbv3.latency import device as module
from mbv3.latency.device import chunks
from mbv3.latency.protocol import noise_floor, shares, sums
from mbv3.latency.sessions import Run
from mbv3.spec import ArchSpec, LayerKey, MBConv

from .fake import FINGERPRINT, Clock, FakeRuntime, layer_cost, network_cost


def test_a_steady_machine_is_read_exactly(runtime: FakeRuntime, plan: BuildPlan) -> None:
    device = Device(runtime, plan.reference)
    assert device.fingerprint == FINGERPRINT
    assert device.reference_ms == pytest.approx(network_cost(plan.reference))
    layers = device.layers(plan.keys[:7])
    assert list(layers) == list(plan.keys[:7])
    for key, timed in layers.items():
        assert timed.ms == pytest.approx(layer_cost(key)) == pytest.approx(timed.mean)
        assert timed.std == pytest.approx(0, abs=1e-9) and timed.n >= 3
    measured = device.networks([s for _, s in plan.calibration], rounds=4)
    assert measured.ms == pytest.approx([network_cost(s) for _, s in plan.calibration])
    assert measured.noise_floor == 0 and measured.drift == pytest.approx(0, abs=1e-9)


def test_a_slower_machine_is_scaled_back_by_the_reference(clock: Clock, plan: BuildPlan) -> None:
    slow = FakeRuntime(clock, slowness=lambda now: 1.7)
    device = Device(slow, plan.reference, reference_ms=network_cost(plan.reference))
    assert slow.opened == ["reference"]  # opened, but not timed again
    for key, timed in device.layers(plan.keys[:5]).items():
        assert timed.ms == pytest.approx(layer_cost(key))
        assert timed.mean == pytest.approx(layer_cost(key))
    measured = device.networks([s for _, s in plan.calibration])
    assert measured.ms == pytest.approx([network_cost(s) for _, s in plan.calibration])
    assert measured.raw_reference_ms == pytest.approx(1.7 * network_cost(plan.reference))


def test_drift_and_noise_are_reported(clock: Clock, plan: BuildPlan) -> None:
    specs = [s for _, s in plan.calibration]
    drifting = FakeRuntime(clock, slowness=lambda now: 1.0 + 0.5 * (int(now * 40) % 2))
    assert Device(drifting, plan.reference, 1.0).networks(specs, rounds=12).drift > 0.02
    noisy = FakeRuntime(clock, slowness=lambda now: 1.0 + crc32(str(now).encode()) / 2**32)
    measured = Device(noisy, plan.reference, network_cost(plan.reference)).networks(specs, rounds=2)
    assert 0.5 < measured.noise_floor < 30
    for ms, parts, spec in zip(measured.ms, measured.parts, specs, strict=True):
        assert len(set(parts)) == 4
        assert ms == pytest.approx(network_cost(spec), rel=0.3)


def test_noise_floor_by_hand() -> None:
    def floor(*parts: tuple[float, ...]) -> float:
        return Measured(tuple(sum(p) / len(p) for p in parts), parts, 1.0, 0.0).noise_floor

    # many networks: what all of a part share is the reference's
    many = [(1.0 + d, 1.1 + d, 0.9 + d) for d in (0.0,) * 8]
    assert floor(*many) == 0.0 and floor(*many[:7]) == pytest.approx(100 * 0.1 / 3**0.5, abs=1e-3)
    noise = np.random.default_rng(0).standard_normal((400, 4)) * 0.02 + np.array([0.95, 1.05, 1.0, 1.0])
    assert floor(*map(tuple, noise.tolist())) == pytest.approx(100 * 0.02 / 4**0.5, rel=0.1)
    assert floor((1.1, 0.9)) == pytest.approx(10.0, abs=1e-3)  # a standard deviation of 0.1 sqrt 2, over sqrt 2
    assert floor((1.1, 0.9), (3.0, 3.0)) == pytest.approx(10.0 / 2**0.5, abs=1e-3)
    assert floor((2.2, 1.8, 2.2, 1.8)) == pytest.approx(100 * 0.1 / 3**0.5, abs=1e-3)
    assert floor() == 0.0


def test_noisy_parts_count_less_and_the_floor_is_the_error_that_is_left() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(1.0, 3.0, 60)
    sds = np.array([0.01, 0.01, 0.05, 0.01, 0.02, 0.08])
    errors, estimated, plain = [], [], []
    for _ in range(40):
        parts = truth[:, None] * (1 + rng.standard_normal((60, 6)) * sds)
        weights = shares(parts.tolist())
        assert weights.sum() == pytest.approx(1.0) and weights.argmin() == 5 and weights[2] < weights[4] < weights[0]
        errors.append(float(np.mean((parts @ weights / truth - 1) ** 2) ** 0.5))
        plain.append(float(np.mean((parts.mean(axis=1) / truth - 1) ** 2) ** 0.5))
        estimated.append(noise_floor(parts.tolist()) / 100)
    assert np.mean(errors) < 0.5 * np.mean(plain) and np.mean(estimated) == pytest.approx(np.mean(errors), rel=0.1)
    assert shares(parts[:7].tolist()).tolist() == [1 / 6] * 6  # too few networks to tell
    assert shares([[1.0, 2.0, 1.0]] * 9).tolist() == [1 / 3] * 3  # too few parts
    assert shares([[1.0] * 4] * 9).tolist() == [0.25] * 4 and noise_floor([[1.0] * 4] * 9) == 0.0


def test_sums_by_hand() -> None:
    assert sums([[1.0, 2.0], [10.0, 20.0], [100.0, 300.0]], [[0, 1], [2, 2, 0]]) == [[11.0, 22.0], [201.0, 602.0]]


class Ticking(FakeRuntime):
    """Runs take whole ticks of 2^-20 s, so that differences of the clock are exact."""

    def network(self, spec: ArchSpec) -> Run:
        self.opened.append(spec.name)
        seconds = round(network_cost(spec) * 1e-3 * 2**20) / 2**20

        def run() -> None:
            self.clock.now += seconds

        return run


@pytest.mark.parametrize("chunk_bytes", [1_200_000_000, 5_000_000, 2_000_000])
@pytest.mark.parametrize("given", [None, 7.3])
def test_the_reference_gets_its_own_time_back(
    chunk_bytes: int, given: float | None, clock: Clock, plan: BuildPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "CHUNK_BYTES", chunk_bytes)
    device = Device(Ticking(clock), plan.reference, given)
    raw = round(network_cost(plan.reference) * 1e-3 * 2**20) / 2**20 * 1e3
    assert device.reference_ms == (given or raw)
    alone = device.networks([plan.reference])
    assert alone.ms == (device.reference_ms,) and alone.parts == ((device.reference_ms,) * 4,)
    assert alone.raw_reference_ms == raw and alone.drift == alone.noise_floor == 0
    others = [s for _, s in plan.calibration]
    for at in (0, 3, len(others)):
        among = device.networks([*others[:at], plan.reference, *others[at:]], rounds=4)
        assert among.ms[at] == device.reference_ms and among.parts[at] == (device.reference_ms,) * 4
        assert len(set(among.ms)) > 4 and device.reference_ms not in among.ms[:at] + among.ms[at + 1 :]


def test_every_part_runs_on_sessions_opened_anew(runtime: FakeRuntime, plan: BuildPlan) -> None:
    device = Device(runtime, plan.reference, 1.0)
    specs = [s for _, s in plan.calibration]
    runtime.opened.clear()
    device.networks(specs, rounds=2)
    assert runtime.opened == 4 * [*(s.name for s in specs), "reference"]
    runtime.opened.clear()
    device.networks(specs, parts=2)
    assert runtime.opened == 2 * [*(s.name for s in specs), "reference"]


def test_more_parts_are_timed_while_it_is_noisy(clock: Clock, plan: BuildPlan) -> None:
    specs = [s for _, s in plan.calibration]
    noisy = FakeRuntime(clock, slowness=lambda now: 1.0 + crc32(str(now).encode()) / 2**32)
    device = Device(noisy, plan.reference, network_cost(plan.reference))
    few, many = device.networks(specs, rounds=4), device.networks(specs, rounds=4, more_s=60.0)
    assert few.noise_floor > module.NOISE and {len(p) for p in few.parts} == {4}
    [parts] = {len(p) for p in many.parts}
    assert 4 < parts <= module.MOST_PARTS and many.noise_floor < few.noise_floor
    assert many.noise_floor <= module.NOISE or parts == module.MOST_PARTS
    steady = Device(FakeRuntime(clock), plan.reference).networks(specs, rounds=4, more_s=60.0)
    assert {len(p) for p in steady.parts} == {4}  # nothing to gain


def test_networks_too_large_to_be_open_together_are_timed_in_groups(
    runtime: FakeRuntime, plan: BuildPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(runtime, plan.reference)
    specs = [s for _, s in plan.calibration]
    monkeypatch.setattr(runner, "CHUNK_BYTES", -(-sum(map(module.network_bytes, specs)) // 3))
    runtime.opened.clear()
    measured = device.networks(specs, rounds=4)
    groups = [[*(s.name for s in specs[g::3]), "reference"] for g in range(3)]
    assert runtime.opened == 4 * list(chain(*groups))
    assert measured.ms == pytest.approx([network_cost(s) for s in specs])
    assert measured.raw_reference_ms == pytest.approx(network_cost(plan.reference))


def test_no_networks_at_all(runtime: FakeRuntime, plan: BuildPlan) -> None:
    measured = Device(runtime, plan.reference).networks([])
    assert measured.ms == measured.parts == () and measured.noise_floor == 0
    assert measured.raw_reference_ms == pytest.approx(network_cost(plan.reference))


def test_chunks_hold_every_layer_once_in_order(plan: BuildPlan) -> None:
    assert chunks([]) == []
    keys = plan.keys * 20
    parts = chunks(keys)
    assert tuple(chain(*parts)) == keys and len(parts) > 1
    assert {len(p) for p in parts[:-1]} == {runner.CHUNK_LAYERS} and 1 <= len(parts[-1]) <= runner.CHUNK_LAYERS


def test_chunks_bound_what_is_open_at_a_time() -> None:
    big = [LayerKey(MBConv(k=3, exp=960 + i, out=960), 960, 112, 112) for i in range(10)]
    parts = chunks(big)
    assert len(parts) > 1 and sum(map(len, parts)) == 10
    for part in parts:
        assert len(part) == 1 or sum(map(module.layer_bytes, part)) <= runner.CHUNK_BYTES == 1_200_000_000
    assert len(chunks([LayerKey(MBConv(k=3, exp=9600, out=960), 960, 224, 224)])) == 1  # one too large alone


def test_a_small_board_opens_no_more_than_half_of_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/meminfo": "MemTotal: 927000 kB\nMemAvailable:     500000 kB\n"}
    monkeypatch.setattr(runner.Path, "read_text", lambda self, *_: files[str(self)])
    assert runner.room() == 256_000_000
    files["/proc/meminfo"] = "MemAvailable: 64000000 kB\n"
    assert runner.room() == runner.CHUNK_BYTES
    files["/proc/meminfo"] = "of another system"
    assert runner.room() == runner.CHUNK_BYTES


def test_layers_on_demand_are_scaled_by_known_ones_of_their_size(clock: Clock, plan: BuildPlan) -> None:
    """Small layers suffer by 40 % and large ones not at all: one scale for both would be off by far."""

    size = {key: 0.05 * 1.2**i for i, key in enumerate(plan.keys)}

    class Uneven(FakeRuntime):
        def layer(self, key: LayerKey) -> Run:
            cost = size[key] * (1.4 if size[key] < 1.0 else 1.0) * 1e-3

            def run() -> None:
                self.clock.now += cost

            return run

    asked = [plan.keys[2], plan.keys[-2]]
    known = {k: ms for k, ms in size.items() if k not in asked}
    layers = Device(Uneven(clock), plan.reference, network_cost(plan.reference)).layers(asked, known)
    assert len(known) > 2 * module.NEAR
    for key in asked:
        assert layers[key].ms == pytest.approx(size[key], rel=1e-6)


def test_the_fastest_runs_are_read_through_heavy_disturbances(clock: Clock, plan: BuildPlan) -> None:
    """Half of the time the machine is 40 % slower, and never faster."""
    noisy = FakeRuntime(clock, slowness=lambda now: 1.4 if crc32(str(int(now * 50)).encode()) % 2 else 1.0)
    known = {k: layer_cost(k) for k in plan.keys[:8]}
    layers = Device(noisy, plan.reference, network_cost(plan.reference)).layers(plan.keys[8:20], known, passes=6)
    for key, timed in layers.items():
        assert timed.ms == pytest.approx(layer_cost(key), rel=0.01) and timed.mean > 1.05 * timed.ms


def test_half_a_minute_that_slows_only_some_layers_spoils_none(
    clock: Clock, plan: BuildPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers beside known ones that do not suffer, for as long as one chunk takes in all of its passes."""
    monkeypatch.setattr(runner, "CHUNK_LAYERS", 4)
    known = {k: layer_cost(k) for k in plan.keys[:6]}
    asked = plan.keys[6:26]
    slow = (0.0, 0.0)

    class Disturbed(FakeRuntime):
        def layer(self, key: LayerKey) -> Run:
            def run() -> None:
                disturbed = key in asked and slow[0] <= self.clock.now < slow[1]
                self.clock.now += layer_cost(key) * 1e-3 * (1.3 if disturbed else 1.0)

            return run

    device = Device(Disturbed(clock), plan.reference, network_cost(plan.reference))
    began = clock.now
    device.layers(asked, known, passes=6)
    took = clock.now - began
    slow = (clock.now + 0.37 * took, clock.now + 0.65 * took)  # a chunk is a fifth of it, and slower then
    for key, timed in device.layers(asked, known, passes=6).items():
        assert timed.ms == pytest.approx(layer_cost(key), rel=1e-6)
        assert timed.mean > 1.02 * timed.ms  # it was disturbed


def test_layers_opened_last_are_not_always_the_same(clock: Clock, plan: BuildPlan) -> None:
    """The last third of what is opened lies badly in memory; in some pass every layer is not among it."""
    known = {k: layer_cost(k) for k in plan.keys[:12]}

    class Late(FakeRuntime):
        def layer(self, key: LayerKey) -> Run:
            late = len(self.opened) % 24 >= 16
            run = super().layer(key)
            slow = self._run(0.3 * layer_cost(key))
            return (lambda: (run(), slow())[0]) if late else run

    runtime = Late(clock)
    device = Device(runtime, plan.reference, network_cost(plan.reference))
    runtime.opened.clear()
    for key, timed in device.layers(plan.keys[12:24], known, passes=12).items():
        assert timed.ms == pytest.approx(layer_cost(key), rel=0.01)
    assert len(runtime.opened) == 12 * 24
