"""`--target-ms A,B,C`: a run directory a target, one pass, front.csv, a page, a list as JSON; resume; bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import mbv3 as package
from mbv3.errors import BadInput
from mbv3.events import StageStart
from mbv3.runs import find_front, front_events, is_front
from mbv3.stages import solve

from .conftest import Said, record
from .driven import PREDICTED, drive

TARGETS = (1.45, 2.0, 3.0)  # ms; the tiny space takes 1.2 to 4
FOLDERS = ("1.45ms", "2ms", "3ms")


def given(folder: Path, out: Path) -> tuple[object, ...]:
    targets = ",".join(map(str, TARGETS))
    device, space = folder / "tiny.csv", folder / "tiny.yaml"
    return ("--target-ms", targets, "--device", device, "--space", space, "--delta", 0.1, "--out", out)


def options(folder: Path) -> dict[str, str]:
    return {"device": str(folder / "tiny.csv"), "space": str(folder / "tiny.yaml")}


@pytest.fixture(scope="module")
def front(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("front") / "run"
    found = find_front(TARGETS, out=out, delta=0.1, **options(folder))
    assert found.record.status == "done" and found.record.exit == 0 and found.folder == out
    return out


def test_every_target_has_a_run_directory_of_its_own(front: Path, mbv3: Callable[..., Said]) -> None:
    r = record(front)
    assert r["format"] == "mbv3-front/1" and r["targets_ms"] == list(TARGETS)
    assert r["folders"] == list(FOLDERS) and "--target-ms 1.45,2,3 " in str(r["command"])
    values = []
    for folder, target in zip(r["folders"], TARGETS, strict=True):  # type: ignore[call-overload]
        one = record(front / folder)
        assert one["status"] == "done" and one["target_ms"] == target and one["args"]["target_ms"] == target  # type: ignore[index]
        assert one["predicted_ms"] <= target and (front / folder / "report.html").exists()  # type: ignore[operator]
        assert one["bound"]["most"] >= one["bound"]["found"]  # type: ignore[index]
        values.append(one["bound"]["found"])  # type: ignore[index]
        code, said, err = mbv3("verify", front / folder)
        assert code == 0, said + err
    assert values == sorted(values)
    code, _, err = mbv3("verify", front)
    assert code == 2 and "its format must be mbv3-run/1 (got mbv3-front/1)" in err


def test_the_front_is_a_table_and_a_page(front: Path) -> None:
    table = pd.read_csv(front / "front.csv")
    assert table["target_ms"].tolist() == list(TARGETS) and (table["status"] == "done").all()
    assert table["accuracy"].is_monotonic_increasing and (table["ms"] <= table["target_ms"]).all()
    assert table["folder"].tolist() == list(FOLDERS) and table["best_beside"].notna().all()
    page = (front / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "<svg" in page and page.count("/report.html") == 3
    assert "points better at most" in page and "<script" not in page


def test_json_is_a_list_and_one_pass_serves_all_targets(
    search: Callable[..., Said], folder: Path, front: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[tuple[float, int]] = []

    def counted(*args: object, **how: object) -> object:
        began.append((args[3], len(how.get("first", ()))))  # type: ignore[arg-type]
        return solve(*args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(sys.modules["mbv3.stages.solve"], "solve", counted)
    code, said, err = search(*given(folder, tmp_path / "run"), "--json")
    assert code == 0, err
    assert [t for t, _ in began] == list(TARGETS) and began[0][1] == 0 < min(n for _, n in began[1:])
    listed = json.loads(said)
    assert [r["target_ms"] for r in listed] == list(TARGETS)
    for r, one in zip(listed, FOLDERS, strict=True):
        own = (tmp_path / "run" / one / "mobilenetv3.yaml").read_bytes()
        assert own == (front / one / "mobilenetv3.yaml").read_bytes() and r["spec"] == "mobilenetv3.yaml"


def test_a_target_out_of_reach_does_not_end_the_others(
    search: Callable[..., Said], folder: Path, tmp_path: Path
) -> None:
    device, space = folder / "tiny.csv", folder / "tiny.yaml"
    args = ("--target-ms", "0.01,2", "--device", device, "--space", space, "--delta", 0.1, "--out", tmp_path / "run")
    code, said, err = search(*args, "--json")
    assert code == 3 and [r["status"] for r in json.loads(said)] == ["unreachable", "done"]
    assert "0.01 ms: a target of 0.01 ms cannot be met" in err
    r = record(tmp_path / "run")
    assert (r["status"], r["exit"]) == ("done", 3)
    assert pd.read_csv(tmp_path / "run" / "front.csv")["accuracy"].notna().tolist() == [False, True]


def test_an_interrupted_front_goes_on(folder: Path, front: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = drive(*map(str, given(folder, out)), fate=f"SIGINT {PREDICTED}:60")
    assert first.code == 4, first.err
    assert f"mbv3-search --resume {out}" in first.err and record(out)["status"] == "interrupted"
    assert is_front(out)
    other = drive("--resume", str(out), "--storage", "study.log")
    assert other.code == 2 and "goes on under its own options; leave out --storage" in other.err
    again = drive("--resume", str(out))
    assert again.code == 0, again.err
    lines = again.out.splitlines()
    assert lines[0].split()[0] == "target" and [x.split()[0] for x in lines[1:4]] == ["1.45", "2", "3"]
    for one in FOLDERS:
        assert (out / one / "mobilenetv3.yaml").read_bytes() == (front / one / "mobilenetv3.yaml").read_bytes()


def test_a_dropped_front_is_an_interruption(folder: Path, tmp_path: Path) -> None:
    events = front_events((1.5, 2.0), tmp_path / "run", **options(folder))
    for event in events:
        if isinstance(event, StageStart):
            break
    events.close()
    assert (record(tmp_path / "run")["status"], record(tmp_path / "run")["exit"]) == ("interrupted", 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("20,10", "several targets must rise, each once (10 comes after 20); give 10,20"),
        ("10,10,20", "several targets must rise, each once (10 is there twice); give 10,20"),
        ("10,", "invalid float value: ''"),
        ("10,fast", "invalid float value: 'fast'"),
        ("-5,10", "--target-ms must be a number of milliseconds above 0"),
        ("5,inf", "--target-ms must be a number of milliseconds above 0"),
    ],
)
def test_targets_that_cannot_be_are_refused(search: Callable[..., Said], tmp_path: Path, text: str, words: str) -> None:
    code, said, err = search(f"--target-ms={text}", "--device", "pixel-1", "--out", tmp_path / "run")
    assert code == 2 and said == "" and words in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_several_targets_are_of_the_search_without_images_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="several targets are searched for without --data"):
        find_front((5.0, 6.0), out=tmp_path / "run", data=str(folder / "images"))
    with pytest.raises(BadInput, match=r"--target-ms must be a number of milliseconds above 0 .*\(got \(5, 6\)\)"):
        package.find((5, 6), out=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="--target-ms is missing"):
        find_front((), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
