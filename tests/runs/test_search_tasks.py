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
def given(folder: Path, masks: Path, boxes: Path) -> dict[str, dict[str, Any]]:
    """Options of a run by task, with few steps and trials."""
    torch.set_num_threads(1)
    same = {
        "target_ms": 5.0, "device": str(folder / "imagenet.csv"), "resolution": "64", "scale": "0.35", "trials": 3,
        "supernet_steps": 2, "final_epochs": 1, "budget_minutes": 0.5,
    }  # fmt: skip
    return {name: {**same, "task": name, "data": str(data)} for name, data in (("segment", masks), ("detect", boxes))}


@pytest.mark.parametrize(("task", "metric"), [("segment", "mean IoU"), ("detect", "mAP@.5")])
def test_masks_and_boxes_score(
    task: str, metric: str, given: dict[str, dict[str, Any]], tmp_path: Path, mbv3: Callable[..., Said]
) -> None:
    out = tmp_path / "run"
    ended(find_events(out=out, **given[task]))
    r: Any = record(out)
    assert (r["status"], r["task"], r["classes"]) == ("done", task, 3)
    assert r["accuracy"]["metric"] == metric and r["accuracy"]["kind"] == "report"
    trials = [float(row["accuracy"]) for row in rows(out / "trials.csv")]
    assert len(trials) == 3 and all(0 <= t <= 100 for t in trials)
    names = {row["network"] for row in rows(out / "candidates.csv")}
    assert {"found", "mobilenet_v3_small"} <= names
    spec = load_spec(str(out / "mobilenetv3.yaml"))
    assert TASKS[task].owns(spec.head) and spec.resolution == (64, 64) and r["predicted_ms"] <= 5.0
    build(spec, 0).load_state_dict(load_file(out / "weights.safetensors"))
    code, said, err = mbv3("verify", out)
    assert code == 0, said + err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"delta": 0.05}, r"of single cuts, which are judged on class folders alone.*--task segment\) \(got 0.05\)"),
        ({"preset": "paper"}, r"of single cuts.*\(got paper\)"),
        ({"resolution": "16"}, r"may not be smaller than the network's stride"),
        ({"head": "deeplabv3"}, None),
    ],
)
def test_what_is_refused(
    changes: dict[str, Any], said: str | None, given: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    work = find_events(out=tmp_path / "run", **{**given["segment"], **changes})
    if said is None:  # every head of the task is taken
        next(work)
        work.close()
        return
    with pytest.raises(BadInput, match=said):
        next(work)
    assert not (tmp_path / "run").exists()
