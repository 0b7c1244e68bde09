"""A search that shares its study: workers in processes of their own, `mbv3 worker`, and what they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from mbv3.errors import BadInput
from mbv3.events import Event, Note, result
from mbv3.runs import Options, find, find_events, shared_search, work
from mbv3.search import REWARDS, SAMPLERS, SharedSearch, Standing, offered, open_storage
from mbv3.search import shared as shared_module
from mbv3.stages import Job, Study, imagenet_judge, search_shared

from .conftest import Said, record, rows

Command = Callable[..., Said]
QUICK = {"target_ms": 1.45, "finetune_steps": 1, "final_epochs": 0, "delta": 0.1, "budget_minutes": 0.02}


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "_POLL_S", 0.05)


def given(folder: Path) -> dict[str, Any]:
    return {**QUICK, "device": str(folder / "tiny.csv"), "space": str(folder / "tiny.yaml"),
            "data": str(folder / "images")}  # fmt: skip


def stopped(out: Path | None, after: int, **options: Any) -> list[Event]:
    """A search that gets Ctrl-C when `after` networks have a score; what it yielded."""
    events: list[Event] = []
    run = SharedSearch.run

    def until(self: SharedSearch) -> Iterator[Standing]:
        for standing in run(self):
            yield standing
            if standing.ended >= after:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(SharedSearch, "run", until)
        for event in find_events(out=out, **options):
            events.append(event)
    return events


@pytest.fixture(scope="session")
def begun(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an interrupted search `run` by shared weights whose study is in study.log. Copy it."""
    base = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("MBV3_CACHE", str(base / "cache"))
        m.setenv("OMP_NUM_THREADS", "1")
        stopped(base / "run", 2, **given(folder), accuracy="supernet", supernet_steps=8, trials=8,
                storage=str(base / "study.log"))  # fmt: skip
    yield base


@pytest.fixture
def own(begun: Path, tmp_path: Path) -> Path:
    own = tmp_path / "own"
    shutil.copytree(begun, own)
    file = own / "run" / "run.json"
    file.write_text(file.read_text().replace(str(begun), str(own)))
    return own


def edited(own: Path, **changes: Any) -> None:
    """What the search wrote for workers, with `changes`."""
    storage = open_storage(str(own / "study.log"))
    [study] = storage.get_all_studies()
    job = {**json.loads(study.user_attrs["mbv3:job"]), **changes}
    storage.set_study_user_attr(study._study_id, "mbv3:job", json.dumps(job))


def said(result: Said) -> str:
    code, out, err = result
    assert code == 2 and out == "" and "Traceback" not in err, (code, out, err)
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_a_worker_ends_what_a_stopped_search_left_and_the_search_goes_on_with_it(
    own: Path, mbv3: Command, search: Command
) -> None:
    log = str(own / "study.log")
    [study] = offered(open_storage(log))
    assert study.name == "run" and 2 <= study.ended < 8 and not study.finished
    assert Job.parse(study.job, "a study").text() == study.job
    code, out, err = mbv3("worker", log, "--run", own / "run", "--json")
    assert code == 0 and json.loads(out) == {"networks": 8}, err
    assert "nothing is left for a worker" in said(mbv3("worker", log))
    scored = {t.user_attrs["genome"]: t.values[0] for t in open_storage(log).get_all_trials(0) if t.values}
    code, _, err = search("--resume", own / "run")
    assert code == 0, err
    networks = rows(own / "run" / "trials.csv")
    assert record(own / "run")["status"] == "done" and len(networks) == 8
    assert {r["genome"]: float(r["accuracy"]) for r in networks} == scored


def test_processes_beside_the_search_score_what_it_alone_would(folder: Path, tmp_path: Path) -> None:
    options = {**given(folder), "accuracy": "train", "trials": 8}
    stopped(tmp_path / "two", 8, **options, workers=2)
    networks = rows(tmp_path / "two" / "trials.csv")
    assert len({r["genome"] for r in networks}) == 8 and all(r["state"] == "complete" for r in networks)
    text = (tmp_path / "two" / "workers.log").read_text()
    assert "Traceback" not in text


def test_processes_begin_when_the_study_is_there_with_the_images_of_now_and_their_errors_are_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mbv3: Command
) -> None:
    commands: list[list[str]] = []
    studies: list[str] = []

    class Fails(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **more: Any) -> None:
            commands.append(command)
            studies.extend(s.name for s in offered(open_storage(str(tmp_path / "run" / "study.log"))))
            super().__init__([sys.executable, "-c", "raise SystemExit(3)"], **more)
            self.wait()

    shutil.copytree(folder / "images", tmp_path / "images")
    options = {**given(folder), "data": str(tmp_path / "images"), "accuracy": "train", "trials": 4, "workers": 2}
    monkeypatch.setattr(shared_search.subprocess, "Popen", Fails)
    events = stopped(tmp_path / "run", 1, **options)
    assert studies == ["run"]
    [warning] = [e for e in events if isinstance(e, Note) and "a worker ended" in e.text]
    assert warning.warning and f"exit code 3; {tmp_path / 'run' / 'workers.log'} says why" in warning.text
    (tmp_path / "images").rename(tmp_path / "moved")
    stopped(None, 2, resume=tmp_path / "run", data=str(tmp_path / "moved"))
    monkeypatch.undo()
    code, _, err = mbv3(*commands[-1][3:])
    assert code == 0, err


@pytest.fixture
def registries() -> Iterator[None]:
    """Objects that `find` registers are those of one test."""
    kept = dict(REWARDS), dict(SAMPLERS)
    yield
    for registry, before in zip((REWARDS, SAMPLERS), kept, strict=True):
        for name in set(registry) - set(before):
            del registry[name]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("registries")
def test_a_reward_or_a_sampler_that_a_worker_cannot_make_is_refused(folder: Path, tmp_path: Path) -> None:
    def nearest(accuracy: float, ms: float) -> float:
        return accuracy

    options = {**given(folder), "accuracy": "train", "trials": 4, "out": tmp_path / "run"}
    with pytest.raises(BadInput, match=r"^--workers 2: workers .* do not know the reward nearest.* take one of limit,"):
        find(**options, reward=nearest, workers=2)
    storage = {"storage": str(tmp_path / "study.log")}
    with pytest.raises(BadInput, match=r"^--storage: workers .* do not know the sampler RandomSampler.* surrogate"):
        find(**options, sampler=optuna.samplers.RandomSampler(seed=0), **storage)
    assert list(tmp_path.iterdir()) == []


def test_what_a_worker_refuses_in_one_line(own: Path, mbv3: Command, tmp_path: Path, folder: Path) -> None:
    log = str(own / "study.log")
    before = open_storage(log).get_all_trials(0)
    assert "has no study other (--study); there are run" in said(mbv3("worker", log, "--study", "other"))
    for typo in (tmp_path / "none" / "study.log", tmp_path / "typo.log", f"sqlite:///{tmp_path / 'typo.db'}"):
        assert "there is no file /" in said(mbv3("worker", typo))
    assert list(tmp_path.glob("typo*")) == []
    (tmp_path / "new.log").touch()
    assert "holds no search yet; begin one with mbv3-search" in said(mbv3("worker", tmp_path / "new.log"))
    assert f"--data {tmp_path / 'no'}: the search's images are not there" in said(
        mbv3("worker", log, "--run", own / "run", "--data", tmp_path / "no")
    )
    shutil.copytree(folder / "images", tmp_path / "others")
    (tmp_path / "others" / "dark" / "0.png").unlink()
    other = said(mbv3("worker", log, "--run", own / "run", "--data", tmp_path / "others"))
    assert "these are not the images of the search (SHA-256" in other
    weights = own / "run" / "supernet.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert "is not the supernet.safetensors that the search scores with" in said(
        mbv3("worker", log, "--run", own / "run")
    )
    weights.unlink()
    assert "the shared weights of the search are not there; mount" in said(mbv3("worker", log, "--run", own / "run"))
    edited(own, version="0.0.9")
    assert "study run is of mbv3-search 0.0.9, and this worker is" in said(mbv3("worker", log))
    edited(own, version="0.1.0", format="mbv3-job/9")
    assert "what its search wrote for workers cannot be read (its format is not" in said(mbv3("worker", log))
    after = open_storage(log).get_all_trials(0)
    assert [(t.number, t.state, t.values) for t in after] == [(t.number, t.state, t.values) for t in before]


def test_a_worker_with_its_images_elsewhere_writes_nothing_into_the_run(
    own: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "images", tmp_path / "moved")
    weights = own / "run" / "supernet.safetensors"
    before = weights.stat()
    assert work(str(own / "study.log"), run=str(own / "run"), data=str(tmp_path / "moved")) == 8
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_study_of_another_search_is_left_alone_and_another_one_is_taken(
    own: Path, folder: Path, tmp_path: Path, search: Command
) -> None:
    log = own / "study.log"
    options = {**given(folder), "accuracy": "supernet", "supernet_steps": 8, "trials": 8, "storage": str(log)}
    before = log.read_bytes()
    other = r"its study run was written by a search with another seed \(0, here 1\); nothing was changed"
    for more in ({"study": "run", "out": tmp_path / "other"}, {"out": tmp_path / "run"}):
        with pytest.raises(BadInput, match=other):
            result(find_events(**options, **more, seed=1))
        assert not Path(more["out"]).exists() and log.read_bytes() == before
    edit = own / "run" / "run.json"
    edit.write_text(edit.read_text().replace('"sampler": null', '"sampler": "random"'))
    code, _, err = search("--resume", own / "run")
    assert code == 2 and "with another sampler" in err and "Give another --study" in err
    code, _, err = search("--resume", own / "run", "--study", "run", "--storage", log)
    assert code == 2 and "with another sampler" in err
    code, _, err = search("--resume", own / "run", "--study", "mine")
    assert code == 0, err
    assert [s.name for s in offered(open_storage(str(log)))] == ["run", "mine"]
    done = record(own / "run")
    assert done["args"]["study"] == done["plan"]["study"] == "mine"  # type: ignore[index]


def test_a_search_of_other_weights_or_another_training_leaves_a_study_alone(own: Path) -> None:
    [study] = offered(open_storage(str(own / "study.log")))
    job = Job.parse(study.job, "a study")
    judge = imagenet_judge(job.space.space())  # nothing is scored here
    for key, other in (
        ("weights", replace(job, files=dict.fromkeys(job.files, "0" * 64))),
        ("training", replace(job, plan={"supernet_steps": 9})),
        ("size", replace(job, size=(64, 64))),
    ):
        steps = search_shared(other, judge, Study(str(own / "study.log"), "run"))
        with pytest.raises(BadInput, match=f"its study run was written by a search with another {key} "):
            next(steps)
    next(search_shared(job, judge, Study(str(own / "study.log"), "run")))


def test_a_storage_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"target_ms": 3.0, "data": "photos", "accuracy": "train"}
    for given, kept in (
        ("study.log", str(tmp_path / "study.log")),
        ("sqlite:///study.db", f"sqlite:///{tmp_path / 'study.db'}"),
        ("sqlite+pysqlite:///a/b.db?timeout=3", f"sqlite+pysqlite:///{tmp_path / 'a' / 'b.db'}?timeout=3"),
        ("sqlite:////there/study.db", "sqlite:////there/study.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
    ):
        assert Options.of({**options, "storage": given}).as_dict()["storage"] == kept
