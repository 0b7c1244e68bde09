"""A small space, a table of it that was computed and not timed, images, and runs of the command line in a process."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mbv3.cli import main, search_main
from mbv3.latency import LatencyTable, NetworkTime, Timed, open_runtime, weights_mb
from mbv3.space import SearchSpace, load_space, scale
from mbv3.space.additive import layer_keys
from mbv3.spec import LayerKey, lower, lower_key

from .driven import Run, drive

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

TARGET = "1.45"  # ms; the tiny space takes 1.2 to 4, and no network of it 1.41 to 1.55: NetAdapt has work
SUPERNET = ("--target-ms", TARGET, "--accuracy", "supernet", "--supernet-steps", "12", "--trials", "30",
            "--finetune-steps", "1", "--final-epochs", "0", "--delta", "0.03")  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is never touched; one thread, so that sums have one order."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("MBV3_CACHE", str(cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    torch.set_num_threads(1)
    return cache


def layer_ms(key: LayerKey) -> float:
    """ms of a layer on a machine that exists in this file only."""
    layer = lower_key(key)
    return 0.05 + layer.madds / 1e6 + layer.params / 1e6


def computed_table(space: SearchSpace, **fingerprint: object) -> LatencyTable:
    """What a table of `space` would hold if layers took `layer_ms`; its fingerprint is this machine's."""
    here = open_runtime("onnxruntime", 1).fingerprint
    layers = {}
    for k in layer_keys(space):
        layers[k] = Timed(round(layer_ms(k), 6), 12, round(layer_ms(k), 6), 0.0)
    nets = []
    for g in space.sample(np.random.default_rng(0), 6):
        spec = space.deployed(tuple(int(v) for v in g))
        keys = [x.key for x in lower(spec)]
        hot = sum(layers[k].ms for k in keys)
        mb, madds = sum(map(weights_mb, keys)), sum(lower_key(k).madds for k in keys)
        nets.append(NetworkTime("calibration:" + "-".join(map(str, g)), round(hot + 0.1, 6), hot, mb, madds))
    return LatencyTable(
        fingerprint=type(here)(**{**here.as_dict(), **fingerprint}),
        reference={
            "spec": "mobilenet_v3_large",
            "width": space.width,
            "resolution": list(space.resolution),
            "classes": 1000,
            "ms": 3.0,
        },
        layers=layers,
        about={"space": space.name, "width": space.width, "resolution": space.resolution[0], "date": "2026-01-01"},
    ).calibrated(nets)


@pytest.fixture(autouse=True)
def short_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound from little time, which holds too."""
    monkeypatch.setattr(import_module("mbv3.stages.gap"), "SECONDS", 0.1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Space, table and images that every run here starts from; nobody writes in it afterwards."""
    where = tmp_path_factory.mktemp("given")
    (where / "tiny.yaml").write_text(SPACE)
    computed_table(load_space(where / "tiny.yaml")).save(where / "tiny.csv")
    computed_table(scale(load_space("mnasnet-imagenet"), 0.35, 64)).save(where / "imagenet.csv")
    rng = np.random.default_rng(0)
    for c, name in enumerate(("dark", "light")):
        (where / "images" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(100 * c, 156 + 100 * c, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(where / "images" / name / f"{i}.png")
    return where


@pytest.fixture(scope="session")
def tiny(folder: Path) -> tuple[str, ...]:
    """Arguments of a whole run on the tiny space, without --out."""
    given = ("--device", "tiny.csv", "--space", "tiny.yaml", "--data", "images")
    return (*SUPERNET, *(str(folder / a) if i % 2 else a for i, a in enumerate(given)))


@pytest.fixture(scope="session")
def whole(folder: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run on the tiny space. Copy before you change anything in it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as m:
        m.setenv("MBV3_CACHE", str(out.parent / "cache"))
        m.setenv("OMP_NUM_THREADS", "1")
        done = drive(*tiny, "--out", str(out), "--json")
    assert done.code == 0, done.err
    return done


Said = tuple[int, str, str]


@pytest.fixture
def search(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`search("--target-ms", "5", ...)`: mbv3-search in this process; (exit code, stdout, stderr)."""
    return lambda *a: _said(search_main, a, capsys)


@pytest.fixture
def mbv3(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`mbv3("verify", RUN)`: mbv3 in this process; (exit code, stdout, stderr)."""
    return lambda *a: _said(main, a, capsys)


def _said(entry: Callable[[list[str]], int], args: tuple[object, ...], capsys: pytest.CaptureFixture[str]) -> Said:
    capsys.readouterr()
    try:
        code = entry([str(a) for a in args])
    except SystemExit as e:
        code = int(e.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def record(run: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads((run / "run.json").read_text())
    return value


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as f:
        return list(csv.DictReader(f))
