"""A verdict on a network and a target takes as many parts as it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from mbv3.latency import Device, Measured
from mbv3.spec import ArchSpec, load_spec
from mbv3.tables import measure_verdict

TARGET = 10.0


class Read:
    """A device on which every part of a network reads the next of `ms`, again and again."""

    def __init__(self, *ms: float) -> None:
        self.ms, self.asked = ms, 0

    def networks(self, specs: Sequence[ArchSpec], *, parts: int, **_: Any) -> Measured:
        read = tuple(self.ms[(self.asked + i) % len(self.ms)] for i in range(parts))
        self.asked += parts
        return Measured((sum(read) / parts,), (read,), 1.0, 0.0)


@pytest.mark.parametrize(
    ("ms", "parts"),
    [
        ((10.8, 10.9), 4),  # clearly over
        ((9.9, 10.3), 8),  # perhaps over, and not surely within
        ((9.8, 9.9), 16),  # within: it is delivered, and measured better for that
        (
            (9.8, 9.8, 9.8, 9.8, 9.8, 9.8, 9.8, 9.8, 10.9, 9.9, 9.8, 9.8, 10.5, 10.9, 9.9, 9.9),
            16,
        ),  # it seems to be within for half of the time
    ],
)
def test_parts_are_measured_until_it_is_clear(ms: tuple[float, ...], parts: int) -> None:
    read = Read(*ms)
    whole = measure_verdict(cast(Device, read), load_spec("mobilenet_v3_small"), TARGET)
    assert read.asked == parts
    assert whole.ms == pytest.approx(sum(ms[i % len(ms)] for i in range(parts)) / parts)
    assert (whole.most_ms <= TARGET) == (max(ms) < TARGET)
