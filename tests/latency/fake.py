"""A machine without noise: runs are Python callables that move a clock by what their layers cost."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

from mbv3.events import Event
from mbv3.latency import Fingerprint, weights_mb
from mbv3.latency.sessions import Run
from mbv3.spec import ArchSpec, LayerKey, lower, lower_key

FINGERPRINT = Fingerprint(
    cpu="Fake 9000", vector="avx2", cores=2, system="Linux x86_64", kernel="6.1", governor="performance",
    runtime="fake", runtime_version="1.0", threads=1,
)  # fmt: skip

A, B, C = 1.05, 0.04, 0.1  # how whole networks on the fake machine follow from their layers


def layer_cost(key: LayerKey) -> float:
    """ms of one layer alone."""
    layer = lower_key(key)
    return 0.05 + layer.madds / 4e6 + layer.params / 1e6


def network_cost(spec: ArchSpec) -> float:
    """ms of a whole network."""
    keys = [x.key for x in lower(spec)]
    return A * sum(map(layer_cost, keys)) + B * sum(map(weights_mb, keys)) + C


@dataclass
class Clock:
    """Seconds, as time.perf_counter tells them."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeRuntime:
    """A Runtime whose runs take `cost * slowness(time)` on `clock`."""

    clock: Clock
    fingerprint: Fingerprint = FINGERPRINT
    slowness: Callable[[float], float] = lambda now: 1.0
    opened: list[LayerKey | str] = field(default_factory=list)
    fail_at: LayerKey | None = None

    def _run(self, ms: float) -> Run:
        def run() -> None:
            self.clock.now += ms * 1e-3 * self.slowness(self.clock.now)

        return run

    def layer(self, key: LayerKey) -> Run:
        if key == self.fail_at:
            raise RuntimeError("the machine was switched off")
        self.opened.append(key)
        return self._run(layer_cost(key))

    def network(self, spec: ArchSpec) -> Run:
        self.opened.append(spec.name)
        return self._run(network_cost(spec))


R = TypeVar("R")


def run_out(task: Generator[Event, None, R]) -> tuple[list[Event], R]:
    """The events of a task that is run to its end, and its value."""
    events: list[Event] = []
    while True:
        try:
            events.append(next(task))
        except StopIteration as end:
            return events, end.value
