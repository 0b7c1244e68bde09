"""`mbv3-search --task segment|detect --data` without weights: shared weights carry the head, masks and boxes score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mbv3.errors import BadInput
from mbv3.nn import build
from mbv3.runs import find_events
from mbv3.spec import load_spec
from mbv3.tasks import TASKS

from .conftest import Said, record, rows
from .test_find import ended


@pytest.fixture
def given(folder: Path, masks: Path) -> dict[str, Any]:
    """Options of a run with few steps and trials."""
    torch.set_num_threads(1)
    return {
        "target_ms": 4.5, "space": str(folder / "tiny.yaml"), "device": str(folder / "tiny.csv"), "scale": "1x32",
        "trials": 3, "supernet_steps": 2, "final_epochs": 1, "task": "segment", "data": str(masks), "head": "raspp",
        "max_params": 200_000,
    }  # fmt: skip


def test_masks_score(given: dict[str, Any], tmp_path: Path, mbv3: Callable[..., Said]) -> None:
    out, task, metric = tmp_path / "run", "segment", "mean IoU"
    ended(find_events(out=out, **given))
    r: Any = record(out)
    assert (r["status"], r["task"], r["classes"]) == ("done", task, 3)
    assert r["accuracy"]["metric"] == metric and r["accuracy"]["kind"] == "report"
    trials = [float(row["accuracy"]) for row in rows(out / "trials.csv")]
    assert len(trials) == 3 and all(0 <= t <= 100 for t in trials)
    names = {row["network"] for row in rows(out / "candidates.csv")}
    assert {"found", "random"} <= names
    spec = load_spec(str(out / "mobilenetv3.yaml"))
    assert TASKS[task].owns(spec.head) and spec.resolution == (32, 32) and r["predicted_ms"] <= 4.5
    build(spec, 0).load_state_dict(load_file(out / "weights.safetensors"))
    code, said, err = mbv3("verify", out)
    assert code == 0, said + err


def test_a_budget_that_trains_nothing_is_told_first(given: dict[str, Any], tmp_path: Path) -> None:
    o = {**given, "final_epochs": None, "budget_minutes": 0.01}
    with pytest.raises(BadInput, match=r"--budget-minutes 0.01: too short to train anything .* at least [0-9.]+, and "):
        ended(find_events(out=tmp_path / "run", **o))
    assert not (tmp_path / "run" / "trials.csv").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"delta": 0.05}, r"of single cuts, which are judged on class folders alone.*--task segment\) \(got 0.05\)"),
        ({"preset": "paper"}, r"of single cuts.*\(got paper\)"),
        ({"scale": "1", "resolution": "4"}, r"may not be smaller than the network's stride"),
        ({"head": "fcn"}, r"head fcn: needs a map at stride 16; the strides of tiny end at 8"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], said: str, given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        next(find_events(out=tmp_path / "run", **{**given, **changes}))
    assert not (tmp_path / "run").exists()
