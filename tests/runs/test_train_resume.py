"""Trainings that end early: killed, diverged, out of disk; and those of two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mbv3.errors import BadInput
from mbv3.events import Note
from mbv3.nn import build
from mbv3.runs import train_events, train_run
from mbv3.runs.train_log import logged
from mbv3.spec import ArchSpec, dump_spec
from mbv3.stages import familiar
from mbv3.training import Diverged, load_checkpoint, read_weights, recipe_for, save_checkpoint, save_weights

from .training import quick, run

DRIVER = """\
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where it is ignored, in the background
import torch; torch.set_num_threads(1)
from mbv3.training import loop
loop.fit.__kwdefaults__["every_s"] = 0.0
die = int(sys.argv.pop(1))
step, calls = loop.one_step, 0
def counted(*a, **k):
    global calls
    calls += 1
    if calls == die:
        os.kill(os.getpid(), getattr(signal, os.environ["FATE"]))
    return step(*a, **k)
loop.one_step = counted
from mbv3.cli import main
sys.exit(main())
"""


def command(*args: object, die: int = 0, fate: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DRIVER, str(die), "train", *map(str, args)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", "FATE": fate},
    )  # fmt: skip


@pytest.fixture
def file(tiny_spec: ArchSpec, tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(dump_spec(tiny_spec))
    return tmp_path / "tiny.yaml"


def test_what_an_older_version_began_goes_on_by_its_recipe(
    tiny_spec: ArchSpec, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that has no Dice loss yet is one without, and what recipes are now is of no interest."""
    options: dict[str, Any] = {"task": "segment", "output_stride": 8, "epochs": 4.0, "batch": 4}
    whole, _ = quick(tiny_spec, masks, tmp_path / "whole", dice=0.0, **options)
    events = train_events(tiny_spec, data=str(masks), out=tmp_path / "o", dice=0.0, **options)
    next(e for e in events if isinstance(e, Note) and e.text.startswith("epoch 2 of 4"))
    next(events)  # the checkpoint is behind the epoch's event
    events.close()
    record = json.loads((tmp_path / "o/run.json").read_text())
    assert record["status"] == "interrupted"
    assert record["recipe"].pop("dice") == 0.0 and record["args"].pop("dice") == 0.0
    (tmp_path / "o/run.json").write_text(json.dumps(record))
    parts, meta = load_checkpoint(tmp_path / "o/checkpoint.safetensors") or ({}, {})
    assert meta.pop("recipe")["dice"] == 0.0  # checkpoints had none
    save_checkpoint(tmp_path / "o/checkpoint.safetensors", parts, meta)
    with monkeypatch.context() as m:
        m.setattr(train_run, "recipe_for", lambda *a, **k: replace(recipe_for(*a, **k), lr=0.9, steps=3, epochs=1.5))
        again, said = run(None, resume=tmp_path / "o")
    assert any(text.startswith("goes on at step ") for text in said) and again.metrics == whole.metrics
    assert "recipe as it was begun: " in (tmp_path / "o/log.txt").read_text()
    assert again.record.recipe == {**whole.record.recipe}
    quick(tiny_spec, masks, tmp_path / "other", **options)
    assert "4 epochs), Dice loss x 1, weights averaged" in (tmp_path / "other/log.txt").read_text()
    first, other = (read_weights(tmp_path / name / "weights.safetensors") for name in ("whole", "other"))
    assert all(value.equal(first[name]) for name, value in read_weights(tmp_path / "o/weights.safetensors").items())
    assert not all(value.equal(first[name]) for name, value in other.items())


def test_photos_unlike_the_weights_go_on_by_their_recipe(
    tiny_spec: ArchSpec, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = tmp_path / "init.safetensors"
    save_weights(init, build(tiny_spec, 1).state_dict())
    options: dict[str, Any] = {"init": str(init), "batch": 8, "epochs": 3.0}
    monkeypatch.setattr(familiar, "FEW", 1)
    monkeypatch.setattr(familiar, "probe_loss", lambda *_: 1.4)
    whole, _ = quick(tiny_spec, classes, tmp_path / "whole", **options)
    log = (tmp_path / "whole/log.txt").read_text()
    assert (
        "recipe finetune-far (default with --init; the features of the weights tell these photos apart badly: " in log
    )
    assert "1.40 of chance's loss): adamw" in log
    assert (whole.record.recipe_name, whole.record.recipe["body_lr"]) == ("finetune-far", 1.0)
    events = train_events(tiny_spec, data=str(classes), out=tmp_path / "o", **options)
    next(e for e in events if isinstance(e, Note) and e.text.startswith("epoch 1 of 3"))
    next(events)  # the checkpoint is behind the epoch's event
    events.close()
    monkeypatch.setattr(familiar, "probe_loss", lambda *_: pytest.fail("the recipe is the one that it began with"))
    again, _ = run(None, resume=tmp_path / "o")
    assert again.record.recipe_name == "finetune-far" and again.metrics == whole.metrics
    asked, _ = quick(tiny_spec, classes, tmp_path / "asked", recipe="finetune", **options)
    assert (asked.record.recipe_name, asked.record.recipe["body_lr"]) == ("finetune", 0.4)


def test_killed_and_resumed_gives_the_same_bytes(classes: Path, file: Path, tmp_path: Path) -> None:
    options = (file, "--data", classes, "--epochs", 4, "--batch", 8, "--dropout", 0.5)
    whole = command(*options, "--out", tmp_path / "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["status"] == "done"
    killed = command(*options, "--out", tmp_path / "o", die=9)
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "o/checkpoint.safetensors").exists()
    (moved := tmp_path / "moved").mkdir()
    classes = classes.rename(moved / "classes")
    lost = command("--resume", tmp_path / "o")
    assert lost.returncode == 2 and "classes is not there any more; put the images back, or say where" in lost.stderr
    stopped = command("--resume", tmp_path / "o", "--data", classes, die=6, fate="SIGTERM")
    assert stopped.returncode == 4, stopped.stderr
    record = json.loads((tmp_path / "o/run.json").read_text())
    assert (record["status"], record["exit"]) == ("interrupted", 4)
    assert f"Go on with: mbv3 train --resume {tmp_path / 'o'}" in stopped.stderr
    done = command("--resume", tmp_path / "o", "--json")
    assert done.returncode == 0 and "goes on at step 13 of 20" in done.stderr
    for column in (1, 2):  # step and loss; what was told is whole and the same
        logs = [[row.split(",")[column] for row in (tmp_path / n / "log.csv").read_text().splitlines()]
                for n in ("whole", "o")]  # fmt: skip
        assert logs[0] == logs[1] and len(logs[0]) == 5
    a, b = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("whole", "o"))
    assert a == b
    again = command("--resume", tmp_path / "o", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["top1"] == json.loads(whole.stdout)["top1"]
    wrong = command(file, "--resume", tmp_path / "o", "--lr", 1)
    assert wrong.returncode == 2 and "leave out SPEC, --lr" in wrong.stderr


def test_two_processes_under_torchrun(classes: Path, file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mbv3", "train",
         str(file), "--data", str(classes), "--epochs", "2", "--batch", "8", "--out", str(tmp_path / "o"), "--json"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)  # one of the two speaks
    assert record["processes"] == 2 and record["recipe"]["epoch_steps"] == 46 // 16
    assert record["recipe"]["lr"] == pytest.approx(0.2 * 16 / 128)
    assert done.stderr.count("epoch 2 of 2") == 1


def test_divergence_keeps_the_last_good_state(
    tiny_spec: ArchSpec, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mbv3.training import loop

    with pytest.raises(Diverged, match=r"nothing was learned before it; try a lower --lr"):
        quick(tiny_spec, classes, tmp_path / "first", lr=1e30, recipe="paper")
    real, calls = loop.one_step, 0

    def broken(*a: Any, **k: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise Diverged("training: the loss became nan at step 8, with a learning rate of 1")
        return real(*a, **k)

    monkeypatch.setattr(loop, "one_step", broken)
    with pytest.raises(Diverged, match=r"nan at step 8.*the state after step 5 is kept as .*--init and a lower --lr"):
        quick(tiny_spec, classes, tmp_path / "o", epochs=3.0)
    state = read_weights(tmp_path / "o/weights.safetensors")
    assert all(bool(v.isfinite().all()) for v in state.values())
    assert json.loads((tmp_path / "o/run.json").read_text())["status"] == "diverged"


def test_a_log_that_cannot_be_written_is_told(tiny_spec: ArchSpec, tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(BadInput, match=r"log.txt: cannot be written \(Is a directory\)"):
        list(logged(tmp_path, (note for note in [Note("run", "something")])))


def test_a_full_disk_keeps_the_previous_checkpoint(
    tiny_spec: ArchSpec, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, calls = os.replace, 0

    def full(source: str, target: Any) -> None:
        nonlocal calls
        checkpoint = str(target).endswith("checkpoint.safetensors")
        calls += checkpoint
        if checkpoint and calls == 2:
            raise OSError(28, "No space left on device")
        replaced(source, target)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", full)
        with pytest.raises(BadInput, match=r"checkpoint.safetensors: cannot be written \(No space left on device\)"):
            quick(tiny_spec, classes, tmp_path / "o", epochs=4.0)
    found = load_checkpoint(tmp_path / "o/checkpoint.safetensors")
    assert found is not None and found[1]["step"] == 5
    assert json.loads((tmp_path / "o/run.json").read_text())["status"] == "failed"
    begun = (tmp_path / "o/run.json").read_text()
    record = json.loads(begun)
    record["processes"] = 2
    (tmp_path / "o/run.json").write_text(json.dumps(record))
    with pytest.raises(BadInput, match=r"it began with processes 2, now 1; resume it with as many"):
        run(None, resume=tmp_path / "o")
    (tmp_path / "o/run.json").write_text(begun)
    looked_at = next((classes / "test/red").iterdir())
    image = looked_at.read_bytes()
    Image.new("RGB", (32, 32)).save(looked_at)
    with pytest.raises(BadInput, match=r"the images of .* are not those that this training began with"):
        run(None, resume=tmp_path / "o")
    looked_at.write_bytes(image)
    result, _ = run(None, resume=tmp_path / "o")
    quick(tiny_spec, classes, tmp_path / "whole", epochs=4.0)
    a, b = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("whole", "o"))
    assert a == b and result.record.status == "done"
