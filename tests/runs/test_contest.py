"""`mbv3-search --data` without weights: what is delivered, recorded, and resumed after a kill in any stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mbv3.events import StageStart
from mbv3.nn import build
from mbv3.runs import find_events
from mbv3.spec import load_spec
from mbv3.training import loop

from .conftest import Said, record, rows
from .test_find import ended


class Killed(BaseException):
    """The process is gone: nothing is tidied up."""


def given(folder: Path) -> dict[str, Any]:
    return {
        "target_ms": 1.0, "device": "pixel-1", "space": str(folder / "tiny.yaml"), "data": str(folder / "images"),
        "final_epochs": 8,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("contest") / "run"
    events, _ = ended(find_events(out=out, **given(folder)))
    said = [getattr(e, "text", "") for e in events]
    assert any("--accuracy supernet searches by shared weights" in text for text in said)
    return out


def test_what_a_run_leaves(run: Path, mbv3: Callable[..., Said]) -> None:
    r: Any = record(run)
    assert (r["status"], r["exit"]) == ("done", 0) and r["predicted_ms"] <= 1.0 and r["measured_ms"] is None
    assert r["accuracy"]["kind"] == "report" and r["accuracy"]["recipe"] == "small-data" and r["accuracy"]["error"] > 0
    assert "8 held-out images, answered once" in r["accuracy"]["note"]
    names = [c["name"] for c in r["comparison"]]
    assert {n.split("@")[0] for n in names} == {
        "found", "mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2", "random of the space",
    }  # fmt: skip
    assert all(c["ms"] <= 1.0 and c["steps"] >= 1 for c in r["comparison"])
    assert [b["name"] for b in r["baselines"]] == [n for n in names if n != "found"]
    assert all({"name", "ms", "accuracy"} <= set(b) for b in r["baselines"])
    rounds = [row["round"] for row in rows(run / "candidates.csv")]
    assert rounds[:5] == ["1"] * 5 and rounds[-1] == "last" and {row["round"] for row in rows(run / "shapes.csv")}
    spec = load_spec(str(run / "mobilenetv3.yaml"))
    build(spec, 0).load_state_dict(load_file(run / "weights.safetensors"))
    assert "delivered: " in r["scale"]["why"] and dict(spec.provenance)["network"]
    assert not [p.name for p in run.iterdir() if p.name.startswith(("road-", "pixels-"))]
    code, out, err = mbv3("verify", run)
    assert code == 0, out + err


def test_gone_at_any_step_it_ends_the_same(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setitem(loop.fit.__kwdefaults__, "every_s", 0.0)
    step, left = loop.one_step, 0

    def counted(*a: Any, **k: Any) -> float:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return step(*a, **k)

    monkeypatch.setattr(loop, "one_step", counted)
    for stage, steps in (("shapes", 2), ("candidates", 3), ("training", 2)):
        with pytest.raises(Killed):
            for event in find_events(resume=out) if out.exists() else find_events(out=out, **given(folder)):
                if isinstance(event, StageStart) and event.stage == stage:
                    left = steps
        begun = len([*out.glob("road-*-training.safetensors")])
        assert begun == 1 if stage == "training" else begun <= 1
        assert not [*out.glob("road-*-last.safetensors")]
    left = 0
    ended(find_events(resume=out))
    mine: Any = record(out)
    whole: Any = record(run)
    for name in ("accuracy", "baselines", "comparison", "predicted_ms", "plan"):
        assert mine[name] == whole[name], name
    assert (out / "mobilenetv3.yaml").read_bytes() == (run / "mobilenetv3.yaml").read_bytes()
    a, b = load_file(run / "weights.safetensors"), load_file(out / "weights.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a)
