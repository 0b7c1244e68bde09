"""`mbv3 supernet check RUN`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from .conftest import Said, record
from .driven import Run

KEYS = ["tau", "low", "high", "n", "tau_without_recalibration", "steps"]


def test_a_finished_run_is_checked_again_from_what_is_kept(
    whole: Run, mbv3: Callable[..., Said], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.path, run)
    before = (run / "run.json").read_bytes()
    ask = ("supernet", "check", run, "--networks", "3", "--steps", "2")
    code, out, err = mbv3(*ask, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found) == KEYS and found["n"] == 3 and found["steps"] == 2
    assert (found["low"], found["high"]) == (-1, 1) and -1 <= found["tau"] <= 1
    assert (run / "run.json").read_bytes() == before
    trained = sorted((run / "supernet-check" / "3-2steps").glob("road-ranking-*.safetensors"))
    assert len(trained) == 3
    times = [f.stat().st_mtime_ns for f in trained[1:]]
    trained[0].unlink()  # as if it had been killed in the first
    code, out, err = mbv3(*ask)
    assert code == 0, err
    assert f"{found['tau']:.3f} (-1.000 to 1.000" in out and "3, each trained alone for 2 steps" in out
    assert [f.stat().st_mtime_ns for f in trained[1:]] == times and trained[0].exists()


def test_a_run_says_that_nothing_was_checked_by_hand(whole: Run) -> None:
    assert "is not checked: mbv3 supernet check" in whole.err
    assert record(whole.path).get("ranking") is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--networks", "2"), "--networks: must be from 3 to 200 (got 2)"),
        (("--steps", "0"), "--steps: must be from 1 to 10000000 (got 0)"),
        (("--minutes", "0"), "--minutes: must be above 0 and at most 100000 (got 0)"),
        (("--minutes", "0.00001"), "--minutes: too few to train 3 networks alone (got 1e-05)"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    whole: Run, mbv3: Callable[..., Said], tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.path, run)
    code, out, err = mbv3("supernet", "check", run, *more)
    assert code == 2 and says in err and out == "" and "Traceback" not in err


def test_runs_without_shared_weights(whole: Run, mbv3: Callable[..., Said], tmp_path: Path) -> None:
    code, _, err = mbv3("supernet", "check", tmp_path)
    assert code == 2 and "run.json" in err
    run = tmp_path / "run"
    shutil.copytree(whole.path, run)
    weights = run / "supernet.safetensors"
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if "stem" not in k}, weights, {"meta": "{}"})
    code, _, err = mbv3("supernet", "check", run)
    assert code == 2 and "not the shared weights of space tiny as this run has it" in err
    weights.unlink()
    code, _, err = mbv3("supernet", "check", run)
    assert code == 2 and "its shared weights are not trained yet, or supernet.safetensors was removed" in err
    kept = json.loads((run / "run.json").read_text())
    kept["args"] |= {"accuracy": "imagenet", "supernet_steps": None}
    (run / "run.json").write_text(json.dumps(kept))
    code, _, err = mbv3("supernet", "check", run)
    assert code == 2 and "a run without shared weights of its own" in err
    kept["args"] |= {"accuracy": "supernet", "task": "segment", "delta": None, "finetune_steps": None}
    (run / "run.json").write_text(json.dumps(kept))
    code, _, err = mbv3("supernet", "check", run)
    assert code == 2 and "is known of classifiers alone, and this run is of --task segment" in err


@pytest.mark.parametrize(
    ("step_s", "why", "n"),
    [(0.02, "under 2.0", 6), (1e3, "the time is too short to train 3 networks beside them", None)],
    ids=["badly", "unknown"],
)
def test_shared_weights_that_do_not_rank_do_not_choose(
    folder: Path, search: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float, why: str,
    n: int | None,
) -> None:  # fmt: skip
    monkeypatch.setattr("mbv3.runs.chain.LEAST_TAU", 2.0)
    monkeypatch.setattr("mbv3.stages.ranking._step_seconds", lambda *_: step_s)  # on a busy machine, too
    monkeypatch.setattr("mbv3.stages.ranking._score_seconds", lambda *_: 0.0)
    given = ("--device", folder / "tiny.csv", "--space", folder / "tiny.yaml", "--data", folder / "images")
    code, _, err = search(
        *given, "--accuracy", "supernet", "--supernet-minutes", "0.01", "--budget-minutes", "1", "--trials", "30",
        "--sampler", "rnn", "--target-ms", "1.45", "--scale", "1", "--final-epochs", "0", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    assert "so the ImageNet model proposes the network instead" in err and "solve" in err and "rnn" not in err
    assert "--accuracy supernet searches" not in err
    assert why in err
    ranking = record(tmp_path / "run").get("ranking")
    assert (ranking and ranking["n"]) == n
