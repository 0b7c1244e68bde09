"""`--max-params`, `--max-madds` and `--max-mb` of a run: its network, its baselines, run.json, and exit 3."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mbv3.runs import find_events
from mbv3.spec import count, load_spec

from .conftest import Said, record, rows


def given(folder: Path, out: Path, target: float = 5.0) -> tuple[object, ...]:
    device, space = folder / "imagenet.csv", "mnasnet-imagenet"
    return ("--target-ms", target, "--device", device, "--space", space, "--delta", "0.1", "--out", out)


@pytest.fixture(scope="module")
def free(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """run.json of a run without limits."""
    out = tmp_path_factory.mktemp("free") / "run"
    for _ in find_events(5.0, str(out), device=str(folder / "imagenet.csv"), space="mnasnet-imagenet", delta=0.1):
        pass
    return record(out)


@pytest.mark.parametrize("sampler", ["solve", "random"])
def test_a_run_keeps_to_its_limits_and_records_them(
    search: Callable[..., Said], folder: Path, tmp_path: Path, free: dict[str, object], sampler: str
) -> None:
    out, params = tmp_path / "run", int(0.9 * float(str(free["params"])))
    more = ("--trials", 400) if sampler == "random" else ()
    limits = ("--max-params", params, "--max-madds", "1G")
    code, said, err = search(*given(folder, out), *limits, "--sampler", sampler, *more, "--json")
    assert code == 0, err
    r, spec = json.loads(said), load_spec(out / "mobilenetv3.yaml")
    assert count(spec).params <= params < free["params"]  # type: ignore[operator]
    assert r["limits"] == [
        {"name": "params", "most": params, "found": count(spec).params},
        {"name": "madds", "most": 10**9, "found": count(spec).madds},
    ]
    assert (r["args"]["max_params"], r["args"]["max_madds"], r["args"]["max_mb"]) == (params, 10**9, None)
    assert f"--max-params {params} --max-madds 1000000000" in r["command"]
    seed = next(t for t in rows(out / "trials.csv") if int(t["number"]) == r["seed_trial"])
    assert count(load_spec(out / "seed.yaml")).params <= params and seed["state"] == "complete"
    for b in r["baselines"]:
        if "@" in b["name"]:
            assert b["name"] not in [x["name"] for x in free["baselines"]]  # type: ignore[attr-defined]


def test_a_limit_that_nothing_meets_ends_with_exit_3(search: Callable[..., Said], folder: Path, tmp_path: Path) -> None:
    code, said, err = search(*given(folder, tmp_path / "run"), "--max-params", "10k", "--max-mb", 100)
    assert code == 3 and said == "" and "Traceback" not in err
    assert "no network is within a limit" in err and "--max-params 0.01 M parameters: they have" in err
    assert "--max-mb" not in err
    r = record(tmp_path / "run")
    assert (r["status"], r["exit"]) == ("unreachable", 3) and r["range_ms"]
    assert (tmp_path / "run" / "latency-table.csv").exists()


def test_a_limit_that_no_trial_meets_says_what_to_do(search: Callable[..., Said], folder: Path, tmp_path: Path) -> None:
    least = ("--max-params", "600k", "--sampler", "random", "--trials", 3)
    code, _, err = search(*given(folder, tmp_path / "run"), *least)
    assert code == 3 and "none of 3 trials is within --max-params 0.6 M" in err and "--sampler solve" in err
