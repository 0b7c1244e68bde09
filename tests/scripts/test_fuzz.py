"""scripts/fuzz_inputs.py in short: no traceback, and no planted fault that nobody is told of."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = str(Path(__file__).resolve().parents[2] / "scripts")


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Any]:
    """The script as a module; the modules beside it are found for as long."""
    sys.path.insert(0, SCRIPTS)
    try:
        yield import_module("fuzz_inputs")
    finally:
        sys.path.remove(SCRIPTS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBV3_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def answered(fuzz: Any, cases: list[Any], folder: Path, *, control: bool = False) -> tuple[Counter[str], list[str]]:
    """Outcomes by kind, and a line for each that is not as it has to be."""
    outcomes: Counter[str] = Counter()
    wrong = []
    for i, case in enumerate(cases):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow and numpy; the commands show them and go on
            answer = fuzz.read(case.kind, fuzz.written(case, folder / str(i)))
        outcomes[f"{case.kind} {answer.outcome}"] += 1
        if found := fuzz.judged(case, answer, control=control):
            wrong.append(f"{found}: {case.kind}, {case.fault or case.source}: {answer.said[-300:]}")
    return outcomes, wrong


def test_valid_inputs_are_accepted(fuzz: Any, tmp_path: Path) -> None:
    cases = [case for kind in fuzz.KINDS for case in fuzz.valid(kind)]
    assert answered(fuzz, cases, tmp_path, control=True)[1] == []


def test_planted_faults_are_refused_or_told(fuzz: Any, tmp_path: Path) -> None:
    cases = list(fuzz.planted(1, 20))
    assert len(cases) >= 190 and {c.kind for c in cases} == set(fuzz.KINDS)
    assert len({(c.kind, c.fault) for c in cases}) == len(cases)
    assert answered(fuzz, cases, tmp_path)[1] == []


def test_bent_and_drawn_inputs_end_in_a_message(fuzz: Any, tmp_path: Path) -> None:
    cases = list(fuzz.inputs(210, 20))
    outcomes, wrong = answered(fuzz, cases, tmp_path)
    assert wrong == [] and sum(outcomes.values()) == 210
    assert all(outcomes[f"{kind} refused"] for kind in fuzz.KINDS)  # they are wrong, and in each kind


def test_what_would_fail_is_counted(fuzz: Any) -> None:
    case = fuzz.valid("spec")[0].changed({}, fault="a doubled id", says="id 7")
    for outcome, said, wrong in (
        ("accepted", "", "silent"), ("traceback", "x", "traceback"), ("refused", "id 8 is wrong", "told as another"),
        ("warned", "id 7 is there twice", ""),
    ):  # fmt: skip
        assert fuzz.judged(case, fuzz.Answer(outcome, said)) == wrong
    assert fuzz.judged(case, fuzz.Answer("refused", "id 7"), control=True) == "refused though valid"


def test_a_hang_ends_and_the_next_input_is_read(fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = fuzz.read

    def slow(kind: str, folder: Path) -> Any:
        if (folder / "slow").exists():
            while True:
                pass
        return original(kind, folder)

    monkeypatch.setattr(fuzz, "read", slow)
    monkeypatch.setattr(fuzz, "MOST_CPU_S", 0.1)
    monkeypatch.setattr(fuzz, "WAIT_S", 0.05)
    case = fuzz.valid("spec")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside other tests' threads
        worker = fuzz.Worker(tmp_path)
        assert worker.read(case).outcome == "accepted"
        assert worker.read(case.changed({"slow": b""})).outcome == "hang"
        assert worker.read(case).outcome == "accepted"
    worker.end()
