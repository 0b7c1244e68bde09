"""`--resume-from RUN`: another target begins with the networks or the start that a run keeps, or says why it cannot."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mbv3
from mbv3.runs import Found, adapt_events
from mbv3.stages import passed_in

from .conftest import Said, record, rows
from .driven import Run
from .test_find import computed, ended

__all__ = ["computed"]  # a fixture


def content(run: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


# ---- mbv3 netadapt: the networks on the way


@pytest.fixture
def cut(whole: Run, folder: Path, tmp_path: Path, computed: list[Path]) -> Found:
    """A run of mbv3 netadapt with single cuts."""
    spec = mbv3.load_spec(whole.path / "seed.yaml")
    options = {"data": str(folder / "images"), "finetune_steps": 0, "delta": 0.05, "final_epochs": 1}
    return ended(adapt_events(spec, 1.35, tmp_path / "first", **options))[1]


def test_another_target_costs_the_remaining_cuts(
    cut: Found, computed: list[Path], tmp_path: Path, mbv3: Callable[..., Said]
) -> None:
    r, networks, before = cut.record, passed_in(cut.folder), content(cut.folder)
    assert len(networks) >= 3 and {str(p.file.relative_to(cut.folder)) for p in networks} <= set(r.hashes)
    at = networks[-2]
    target = (at.scored.latency_ms + networks[-1].scored.latency_ms) / 2
    out = tmp_path / "second"
    code, said, err = mbv3("netadapt", "--resume-from", cut.folder, "--target-ms", f"{target:.6f}", "--out", out)
    assert code == 0, err
    assert re.search(rf"^from +the network after step {at.step} of {cut.folder} \(target 1.35 ms\)", said, re.M), said
    assert re.search(r"curve keeps \d+ networks with their weights, [\d.]+ MB; another target goes on", err)
    two: Any = record(out)
    assert two["status"] == "done" and two["measured_ms"] <= target
    taken = two["taken_from"]
    assert (taken["run"], taken["file"], taken["steps"]) == (
        str(cut.folder), str(at.file.relative_to(cut.folder)), at.step,
    )  # fmt: skip
    assert (taken["target_ms"], taken["delivered_ms"]) == (1.35, r.measured_ms)
    assert "start" not in two["stages"] and len(computed) == 1  # neither a start nor a table was made again
    theirs = [row for row in rows(cut.folder / "netadapt.csv") if int(row["step"]) <= at.step]
    assert rows(out / "netadapt.csv")[: len(theirs)] == theirs
    assert {p.name for p in (out / "curve").glob("*.yaml")} >= {p.file.with_suffix(".yaml").name for p in networks[:-1]}
    page = (out / "report.html").read_text()
    assert "Another target of one start" in page and str(cut.folder) in page and "this run" in page
    assert content(cut.folder) == before  # never changed
    assert mbv3("verify", out)[0] in (0, 1)  # the times are those of a table that was computed
    # the command in run.json is one that can be given
    assert two["command"].startswith("mbv3 netadapt ") and f"--resume-from {cut.folder}" in two["command"]
    third = tmp_path / "third"
    words = two["command"].split()[2:]
    assert mbv3("netadapt", *words, "--out", third)[0] == 0
    assert record(third)["taken_from"] == taken


@pytest.mark.parametrize("target", ["50", "0.01"])
def test_targets_beyond_the_curve_are_refused_with_both_ends(
    cut: Found, tmp_path: Path, mbv3: Callable[..., Said], target: str
) -> None:
    code, said, err = mbv3("netadapt", "--resume-from", cut.folder, "--target-ms", target, "--out", tmp_path / "no")
    ends = re.search(rf"a target of {target} ms: from .*first one between ([\d.]+) and ([\d.]+) ms can be met", err)
    assert code == 3 and said == "" and ends, err
    assert float(ends[2]) == pytest.approx(passed_in(cut.folder)[0].scored.latency_ms, rel=0.01)
    assert 0.01 < float(ends[1]) < float(ends[2]) and not (tmp_path / "no").exists()


def test_all_that_differs_is_named_at_once(cut: Found, folder: Path, tmp_path: Path, mbv3: Callable[..., Said]) -> None:
    images, run = tmp_path / "images", tmp_path / "copy"
    shutil.copytree(folder / "images", images)
    shutil.copytree(cut.folder, run)
    next(images.rglob("*.png")).write_bytes(sorted(images.rglob("*.png"))[-1].read_bytes())
    networks = passed_in(run)
    networks[1].file.write_bytes(networks[0].file.read_bytes())
    table = run / "latency-table.csv"
    here = f'"cpu": "{cut.record.device.cpu}"'  # type: ignore[union-attr]
    assert here in table.read_text()
    old = mbv3_table(table)
    old.save(table)
    said = mbv3("netadapt", "--resume-from", run, "--target-ms", "1.4", "--data", images, "--out", tmp_path / "no")
    assert said[0] == 2 and said[2].count("error:") == 1
    for line in (r"images: those of .*images, SHA-256 \w{12}, then \w{12}", rf"{networks[1].file.name}: ",
                 r"latency-table.csv: cpu was 'Fake 9000', here "):  # fmt: skip
        assert re.search(rf"^  .*{line}", said[2], re.M), said[2]
    assert "restore it, or begin anew without --resume-from" in said[2] and not (tmp_path / "no").exists()


def mbv3_table(path: Path) -> Any:
    """The table at `path` as if it were of another CPU."""
    from dataclasses import replace

    from mbv3.latency import LatencyTable

    table = LatencyTable.load(path)
    return replace(table, fingerprint=replace(table.fingerprint, cpu="Fake 9000"))


def test_what_cannot_be_gone_on_from(
    cut: Found, whole: Run, folder: Path, tmp_path: Path, mbv3: Callable[..., Said], search: Callable[..., Said]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(cut.folder, old)
    for file in (old / "curve").glob("*.safetensors"):
        file.unlink()
    broken = tmp_path / "broken"
    shutil.copytree(cut.folder, broken)
    passed_in(broken)[1].file.write_bytes(b"nothing")
    unseen = tmp_path / "unseen"
    shutil.copytree(old, unseen)
    edited: Any = record(old)
    (unseen / "run.json").write_text(json.dumps({**edited, "args": {**edited["args"], "data": None}}))
    for verb, words, rule in (
        (mbv3, ("nowhere",), "nowhere: not a run directory"),
        (mbv3, (whole.path,), "is of a search over a space; only runs of mbv3 netadapt"),
        (mbv3, (old,), r"keeps no weights of the networks on its way \(curve/000_\*.safetensors\)"),
        (mbv3, (unseen,), "holds no weights, for it had no images"),
        (mbv3, (broken,), r"broken/curve/001_[\d.]+ms.safetensors: no checkpoint of mbv3"),
        (
            mbv3,
            (cut.folder, "--keep", "tail", "--seed", "3"),
            r"under the options of that run; leave out --keep, --seed",
        ),
        (mbv3, (cut.folder, "--data", "elsewhere"), "elsewhere"),
        (search, (cut.folder,), "is of mbv3 netadapt without --init; go on with mbv3 netadapt --resume-from"),
        (search, (cut.folder, "--target-ms", "1.4,1.5"), "one target goes on from a run; give one --target-ms"),
    ):
        args = ("netadapt", "--resume-from") if verb is mbv3 else ("--resume-from",)
        code, said, err = verb(*args, words[0], "--target-ms", "1.4", *words[1:], "--out", tmp_path / "no")
        assert code == 2 and said == "" and err.count("error:") == 1 and "Traceback" not in err, err
        assert re.search(rule, err), err
    code, _, err = mbv3("netadapt", "mobilenet_v2", "--resume-from", cut.folder, "--target-ms", "1.4")
    assert code == 2 and "(got mobilenet_v2, another); leave that out" in err
    code, _, err = mbv3("netadapt", "--target-ms", "1.4")
    assert code == 2 and "SPEC is missing" in err and "or --resume-from RUN" in err
    assert not (tmp_path / "no").exists()
