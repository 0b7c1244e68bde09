"""Same seed, same table: the same network; killed anywhere and resumed: still the same network."""

from __future__ import annotations

import signal
from pathlib import Path

import torch
from safetensors.torch import load_file

from .conftest import record, rows
from .driven import IMAGENET_SEARCH, NETADAPT, PRETRAIN, SEARCH, SUPERNET, Run, drive

SAME = ("mobilenetv3.yaml", "seed.yaml", "trials.csv", "netadapt.csv", "latency-table.csv", "mobilenetv3.onnx")


def same(run: Path, other: Path) -> None:
    """Both runs left the same files, byte for byte."""
    for name in SAME:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    mine, theirs = (load_file(p / "weights.safetensors") for p in (run, other))  # the order in its header is chance
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
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
    out, space = tmp_path / "run", tmp_path / "tiny.yaml"
    began = Path(tiny[tiny.index("--space") + 1]).read_text("utf-8")
    space.write_text(began)
    mine = [str(space) if a.endswith("tiny.yaml") else a for a in tiny]
    killed(drive(*mine, "--out", str(out), fate=f"SIGKILL {SUPERNET}"))
    assert (out / "supernet.safetensors").exists() and not (out / "trials.csv").exists()
    space.write_text(edited := began.replace("k: [3, 5]", "k: [5, 3]"))  # its genomes are other networks
    assert edited != began

    again = ("--resume", str(out))
    killed(drive(*again, fate=f"SIGKILL {SEARCH}"))
    assert 20 <= len(rows(out / "trials.csv")) < 30 and not (out / "seed.yaml").exists()

    trials = out / "trials.csv"
    trials.write_bytes(trials.read_bytes()[:-9])  # as if the power had gone half-way through a line

    killed(drive(*again, fate=f"SIGKILL {PRETRAIN}"))
    assert (out / "seed-training.safetensors").exists() and not (out / "netadapt.csv").exists()

    killed(drive(*again, fate=f"SIGKILL {NETADAPT}:3"))
    steps = {int(r["step"]) for r in rows(out / "netadapt.csv")}
    assert steps >= {0, 1} and not (out / "mobilenetv3.yaml").exists()

    last = drive(*again)
    same(finished(last), whole.path)
    assert f"the space {space} is not as it was when this run began; the run goes on with its copy" in last.err
    assert f"going on after step {max(steps)}" in last.err


def test_interrupted_by_a_scheduler(tiny: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = drive(*tiny, "--out", str(out), fate=f"SIGTERM {SEARCH}")
    assert run.code == 4, run.err
    assert run.err.splitlines()[-1] == (
        f"interrupted; what was measured and trained is kept. Go on with: mbv3-search --resume {out}"
    )
    assert "Traceback" not in run.err and run.out == ""
    assert (record(out)["status"], record(out)["exit"]) == ("interrupted", 4)
    assert 20 <= len(rows(out / "trials.csv")) < 30


def imagenet(folder: Path, out: Path) -> tuple[str, ...]:
    return ("--target-ms", "3", "--device", str(folder / "imagenet.csv"), "--space", "mnasnet-imagenet",
            "--trials", "60", "--sampler", "rnn", "--delta", "0.1", "--seed", "7", "--out", str(out))  # fmt: skip


def test_a_search_is_replayed(folder: Path, tmp_path: Path) -> None:
    """The trials of a killed search are those of a whole one."""
    stop = "mbv3.runs.chain:deliver:1"  # nothing after NetAdapt is of interest
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert drive(*imagenet(folder, whole), fate=f"SIGKILL {stop}").code == -signal.SIGKILL
    killed(drive(*imagenet(folder, out), fate=f"SIGKILL {IMAGENET_SEARCH}"))
    assert 20 <= len(rows(out / "trials.csv")) < 60
    killed(drive("--resume", str(out), fate=f"SIGKILL {stop}"))
    for name in ("trials.csv", "seed.yaml"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
