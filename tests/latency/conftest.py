"""A fake machine, a small space and the plan of its table."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from mbv3.latency import BuildPlan, protocol, timers
from mbv3.space import SearchSpace, parse_space
from mbv3.space.additive import layer_keys
from mbv3.spec import lower

from .fake import Clock, FakeRuntime

SPACE = """\
format: mbv3-space/1
name: tiny
input: {resolution: 32}
stem: {k: 3, out: 8, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 8, e: [2, 3], k: [3, 5], se: [0, 1]}
  - {name: b, s: 2, out: 16, e: [2, 3], k: [3, 5], l: [1, 2], nl: [RE, HS], width: [1, 1.5]}
head: {features: 16, classes: 4}
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that everything is timed with in a test."""
    fake = Clock()
    monkeypatch.setitem(protocol.interleave.__kwdefaults__ or {}, "clock", fake)
    monkeypatch.setitem(timers.InProcess.__init__.__kwdefaults__ or {}, "clock", fake)
    monkeypatch.setattr(gc, "collect", lambda _=2: 0)  # slow in a process as full as a test session
    return fake


@pytest.fixture
def runtime(clock: Clock) -> FakeRuntime:
    return FakeRuntime(clock)


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return parse_space(SPACE)


@pytest.fixture(scope="session")
def plan(space: SearchSpace) -> BuildPlan:
    """Every layer of the small space, eight networks to calibrate on, a reference outside of it."""
    genomes = space.sample(np.random.default_rng(0), 8)
    nets = tuple((f"random-{i}", space.spec(tuple(g))) for i, g in enumerate(genomes))
    largest = space.spec(tuple(n - 1 for n in space.sizes), name="reference")
    keys = layer_keys(space)
    assert {x.key for _, s in nets for x in lower(s)} <= set(keys) and len(keys) > 40
    about = {"space": "tiny", "space_id": "0123456789", "width": 1.0, "resolution": 32}
    return BuildPlan(keys, nets, largest, {**about, "reference": "reference"})
