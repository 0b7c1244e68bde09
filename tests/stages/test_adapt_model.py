"""NetAdapt by the ImageNet model on a device whose measurements are off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from mbv3.events import Note
from mbv3.latency import LatencyTable, load_profile
from mbv3.spec import ArchSpec, load_spec
from mbv3.stages import Adapted, adapt_predicted
from mbv3.tables import Latency, Whole

TARGET = 40.0
SLOWER = 1.07  # than predicted


class OnDevice(Latency):
    """A device that takes SLOWER times the prediction; each measurement of a network is off by the next of `read`."""

    def __init__(self, table: LatencyTable, read: Iterator[float]) -> None:
        super().__init__(table)
        self.device = object()  # type: ignore[assignment]
        self.read = read

    def __call__(self, specs: Sequence[ArchSpec]) -> list[float]:
        return [ms * self.correction for ms in self.rough(1.0)(specs)]

    def measure(self, spec: ArchSpec, parts: int) -> Whole:
        return self.verdict(spec, 0.0)

    def verdict(self, spec: ArchSpec, target_ms: float) -> Whole:
        ms = SLOWER * self.rough(1.0)([spec])[0] * next(self.read, 1.0)
        return Whole(ms, 0.002 * ms, 1.0)


@pytest.mark.parametrize(
    "read",
    [
        (1.0,),
        (1.0, 0.93),  # it seems to leave room, and is widened too far
        (1.0, 1.05),  # it seems to be over, is cut too far, and gets channels back
        (1.0, 0.97, 1.02, 0.98),
    ],
)
def test_it_ends_within_the_target_and_near_it_whatever_a_measurement_says(read: tuple[float, ...]) -> None:
    latency = OnDevice(load_profile("pixel-1"), iter(read))
    work = adapt_predicted([load_spec("mobilenet_v3_large")], latency, TARGET, delta=0.05)
    notes: list[str] = []
    try:
        while True:
            event = next(work)
            notes += [event.text] if isinstance(event, Note) else []
    except StopIteration as e:
        found: Adapted = e.value
    assert found.reached and found.verdict is not None
    true = SLOWER * latency.rough(1.0)([found.spec])[0]
    assert 0.95 * TARGET <= true <= TARGET  # the last measurement may be off too
    if read == (1.0, 0.93):
        assert any("leaves room" in n for n in notes) and any("NetAdapt goes on" in n for n in notes)
