"""Same seed, same table: the same network; killed anywhere and resumed: still the same network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import record, rows
from .driven import IMAGENET_SEARCH, NETADAPT, PRETRAIN, SEARCH, SUPERNET, Run, drive

SAME = ("mobilenetv3.yaml", "seed.yaml", "trials.csv", "netadapt.csv", "weights.safetensors", "mobilenetv3.onnx")


def same(run: Path, other: Path) -> None:
    """Both runs left the same files, byte for byte."""
    for name in SAME:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert sorted(p.name for p in (run / "curve").iterdir()) == sorted(p.name for p in (other / "curve").iterdir())


def killed(run: Run) -> Path:
    assert run.code == -signal.SIGKILL, run.err
    assert record(run.path)["status"] == "running"
    return run.path


def finished(run: Run) -> Path:
    assert run.code == 0, run.err
    assert record(run.path)["status"] == "done"
    return run.path


def test_twice_the_same(whole: Run, tiny: tuple[str, ...], tmp_path: Path) -> None:
    same(finished(drive(*tiny, "--out", str(tmp_path / "run"))), whole.path)


def test_killed_in_every_stage_of_a_supernet_run(whole: Run, tiny: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed(drive(*tiny, "--out", str(out), fate=f"SIGKILL {SUPERNET}"))
    assert (out / "supernet.safetensors").exists() and not (out / "trials.csv").exists()

    again = ("--resume", str(out))
    killed(drive(*again, fate=f"SIGKILL {SEARCH}"))
    assert 20 <= len(rows(out / "trials.csv")) < 30 and not (out / "seed.yaml").exists()

    killed(drive(*again, fate=f"SIGKILL {PRETRAIN}"))
    assert (out / "seed-training.safetensors").exists() and not (out / "netadapt.csv").exists()

    killed(drive(*again, fate=f"SIGKILL {NETADAPT}:9"))
    steps = {int(r["step"]) for r in rows(out / "netadapt.csv")}
    assert steps >= {0, 1} and not (out / "mobilenetv3.yaml").exists()

    last = drive(*again)
    same(finished(last), whole.path)
    assert f"going on after step {max(steps)}" in last.err
