"""A small space, and a table of it that was computed and not measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mbv3.latency import Fingerprint, LatencyTable, NetworkTime, Timed, weights_mb
from mbv3.space import SearchSpace, layer_keys, load_space
from mbv3.spec import ArchSpec, LayerKey, lower, lower_key
from mbv3.tables import space_id

SPACE = """\
format: mbv3-space/1
name: tiny
input: {resolution: 32}
stem: {k: 3, out: 16, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 16, e: [2, 4], k: [3, 5]}
  - {name: b, s: 2, out: 32, e: [2, 6], k: [3, 5], l: [1, 2]}
  - {name: c, s: 2, out: 48, e: [2, 6], k: [3, 5], se: [0, 1]}
head: {features: 32, classes: 2}
"""
FINGERPRINT = Fingerprint(
    cpu="Computed 1", vector="", cores=2, system="Linux x86_64", kernel="6.1", governor="performance",
    runtime="computed", runtime_version="1", threads=1,
)  # fmt: skip


def layer_ms(key: LayerKey) -> float:
    """ms of a layer on a machine that exists in this file only."""
    layer = lower_key(key)
    return 0.05 + layer.madds / 1e6 + layer.params / 1e6


def network_ms(spec: ArchSpec) -> float:
    """ms of a whole network on that machine."""
    return sum(layer_ms(x.key) for x in lower(spec)) + 0.1


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is never touched."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("MBV3_CACHE", str(cache))
    return cache


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(SPACE)
    return file


@pytest.fixture
def space(space_file: Path) -> SearchSpace:
    return load_space(space_file)


@pytest.fixture
def computed_table() -> Callable[..., LatencyTable]:
    """`computed_table(space)`: what a table of `space` would hold if layers took `layer_ms`."""
    return _computed_table


def _computed_table(space: SearchSpace, fingerprint: Fingerprint = FINGERPRINT) -> LatencyTable:
    layers = {k: Timed(round(layer_ms(k), 6), 12, round(layer_ms(k), 6), 0.0) for k in layer_keys(space)}
    nets = []
    for g in space.sample(np.random.default_rng(0), 6):
        spec = space.deployed(tuple(int(v) for v in g))
        keys = [x.key for x in lower(spec)]
        hot = sum(layers[k].ms for k in keys)
        mb, madds = sum(map(weights_mb, keys)), sum(lower_key(k).madds for k in keys)
        nets.append(NetworkTime("calibration:" + "-".join(map(str, g)), round(hot + 0.1, 6), hot, mb, madds))
    return LatencyTable(
        fingerprint=fingerprint,
        reference={
            "spec": "mobilenet_v3_large",
            "width": space.width,
            "resolution": list(space.resolution),
            "classes": 1000,
            "ms": 3.0,
        },
        layers=layers,
        about={
            "space": space.name, "space_id": space_id(space), "width": space.width, "resolution": space.resolution[0],
            "classes": space.head.classes, "date": "2026-01-01",
        },
    ).calibrated(nets)  # fmt: skip
