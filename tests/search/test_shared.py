"""One study, several workers: every network once, nothing lost whoever dies, and what one worker alone would find."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import os
import signal
import sqlite3
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from mbv3.errors import BadInput, Mbv3Error
from mbv3.search import (
    SAMPLERS,
    Aim,
    Search,
    SharedSearch,
    Trial,
    check_storage,
    make_reward,
    open_storage,
    storage_name,
    surrogate,
)
from mbv3.search import shared as shared_module
from mbv3.search.proposer import scaled
from mbv3.space import Genome, SearchSpace, parse_space

SPACE_TEXT = """\
format: mbv3-space/1
name: five
input: {resolution: 32}
stem: {k: 3, out: 8, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 8, e: [2, 3, 4], k: [3, 5, 7]}
  - {name: b, s: 2, out: 16, e: [2, 3, 4, 6], k: [3, 5, 7], l: [1, 2, 3], se: [0, 1]}
head: {features: 16, classes: 4}
"""
SPACE = parse_space(SPACE_TEXT)  # 648 networks
REWARD = make_reward("mnasnet-soft", 8.0, -0.07)


def accuracy(genome: Genome) -> float:
    return 60.0 + sum((i + 1) * g * (3 - g) for i, g in enumerate(genome))


def latency(genome: Genome) -> float:
    return 5.0 + 0.5 * sum(genome)


def some_fail(genome: Genome) -> float:
    return math.nan if sum(genome) % 5 == 0 else accuracy(genome)


def shared(
    storage: Any, trials: int = 24, space: SearchSpace = SPACE, score: Any = accuracy, **more: Any
) -> SharedSearch:
    return SharedSearch(
        space, score, latency, REWARD,
        **{"storage": storage, "sampler": "evolution", "target_ms": 8.0, "trials": trials, **more},
    )  # fmt: skip


def told(trials: Sequence[Trial]) -> list[str]:
    """Trials as text: NaN equals NaN there."""
    return [repr(t) for t in trials]


def done(search: SharedSearch) -> SharedSearch:
    for _ in search.run():
        pass
    return search


@contextlib.contextmanager
def closing(url: str) -> Iterator[Any]:
    """An open storage; a database's connections are closed in the end."""
    storage = open_storage(url)
    try:
        yield storage
    finally:
        engine = getattr(getattr(storage, "_backend", None), "engine", None)
        if engine is not None:
            engine.dispose()


@pytest.fixture(params=["journal", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "study.log") if request.param == "journal" else f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def journal(tmp_path: Path) -> str:
    return str(tmp_path / "study.log")


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "_POLL_S", 0.02)


# -- alone


@pytest.mark.parametrize(("kind", "name"), [*(("journal", s) for s in SAMPLERS), ("sqlite", "nsga2")])
def test_a_worker_alone_scores_what_a_search_in_memory_scores_also_after_a_stop(
    kind: str, name: str, tmp_path: Path
) -> None:
    url = str(tmp_path / "study.log") if kind == "journal" else f"sqlite:///{tmp_path / 'study.db'}"
    n = 7 if name == "gp" else 18
    memory = Search(SPACE, some_fail, latency, REWARD, sampler=name, seed=3, target_ms=8.0, trials=n)
    whole = told(list(memory.run(n)))
    with closing(url) as storage:
        for stop in (n // 3, n):
            search = shared(storage, n, score=some_fail, sampler=name, seed=3)
            for standing in (steps := search.run()):
                if standing.ended >= stop:
                    steps.close()
        assert told(search.trials) == whole


def test_a_worker_alone_takes_more_at_once_where_scores_cost_nothing(journal: str) -> None:
    search = done(shared(journal, 60, sampler="random"))
    assert len(search.study.get_trials(deepcopy=False)) == 60 and search._chunk > 4


# -- several


def test_several_at_once_score_every_network_once(url: str) -> None:
    found: list[SharedSearch] = []

    def work(place: int) -> None:
        with closing(url) as storage:
            found.append(done(shared(storage, 40, place=place, score=slow)))

    def slow(genome: Genome) -> float:
        time.sleep(0.01)
        return accuracy(genome)

    threads = [Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 3
    assert told(found[0].trials) == told(found[1].trials) == told(found[2].trials)
    assert len({t.genome for t in found[0].trials}) == len(found[0].trials) == 40
    workers = {t.user_attrs["worker"] for t in found[0].study.get_trials() if t.state == TrialState.COMPLETE}
    assert len(workers) > 1


def test_of_two_that_take_one_network_at_one_moment_the_first_has_it(url: str) -> None:
    with closing(url) as one, closing(url) as two:
        a, b = shared(one), shared(two)
        seen = a._book.read(), b._book.read()
        mine, theirs = a._take(seen[0]), b._take(seen[1])
        assert len(mine) == 1 and theirs == {}
        now = b._book.read()
        assert [e.genome for e in now.live] == list(mine.values()) and now.lost == {}
        again = b._take(now)
        assert set(again.values()).isdisjoint(mine.values())


def test_the_last_network_is_taken_by_one(journal: str) -> None:
    a, b = shared(journal, 1), shared(journal, 1, place=5)
    seen = a._book.read(), b._book.read()
    assert len(a._take(seen[0])) == 1 and b._take(seen[1]) == {}


def test_a_small_space_comes_to_its_end(journal: str) -> None:
    few = parse_space(SPACE_TEXT.replace("e: [2, 3, 4, 6], k: [3, 5, 7], l: [1, 2, 3], se: [0, 1]", "e: 2, k: 3"))
    assert few.size == 9
    search = done(shared(journal, 40, space=few))
    assert search.exhausted and len({t.genome for t in search.trials}) == 9
    late = shared(journal, 40, space=few)
    assert told(done(late).trials) == told(search.trials)


def test_what_is_at_work_elsewhere_promises_less_to_the_surrogate_and_so_do_its_neighbours() -> None:
    sampler = surrogate.SurrogateSampler(SPACE, 0)
    sampler.open(Aim(trials=30))
    genomes = SPACE.sample(np.random.default_rng(0), 200)
    taught, pending, asked = genomes[:16], genomes[16:17], genomes[16:]
    values = np.array([accuracy(tuple(g)) for g in taught.tolist()])

    def improvement(known: Any) -> Any:
        inputs, at, weights = sampler._inputs(known), sampler._inputs(asked), surrogate._WEIGHTS[0]
        root = np.linalg.inv(surrogate._cholesky(inputs.parts(inputs), weights))
        return surrogate._Process(weights, 1.0, root, scaled(values)).improvement(at.parts(inputs), at.own())

    plain, aware = improvement(taught), improvement(np.concatenate([taught, pending]))
    assert (aware <= plain + 1e-12).all() and aware[0] < 0.9 * plain[0]
    near = (asked != pending).sum(1) == 1
    assert near.any() and (1 - aware / plain)[near].mean() > 1.5 * (1 - aware / plain)[~near].mean()


# -- death


def test_what_a_dead_worker_held_is_scored_by_another(url: str) -> None:
    with closing(url) as one, closing(url) as two:
        dead = shared(one)
        held = dead._take(dead._book.read())  # and is heard of no more
        began = time.monotonic()
        search = done(shared(two, grace_s=0.3))
        assert time.monotonic() - began > 0.3
        assert len(search.trials) == 24 and set(held.values()) <= {t.genome for t in search.trials}
        assert dead._book.end([shared_module.scored(i, 50.0, 6.0, 0.5) for i in held]) == []  # it comes too late


def test_a_worker_that_is_known_to_have_ended_is_not_waited_for(journal: str) -> None:
    dead = shared(journal, worker="gone")
    held = dead._take(dead._book.read())
    search = done(shared(journal, gone=lambda worker: worker == "gone"))
    assert len(search.trials) == 24 and set(held.values()) <= {t.genome for t in search.trials}


def test_signs_of_life_keep_what_is_at_work(journal: str) -> None:
    def slow(genome: Genome) -> float:
        time.sleep(0.8)
        return 99.0

    first = shared(journal, 3, score=slow, beat_s=0.05)
    thread = Thread(target=done, args=(first,))
    thread.start()
    while not first._held:
        time.sleep(0.01)
    second = done(shared(journal, 3, grace_s=0.4))
    thread.join()
    assert [t.state for t in second.study.get_trials()] == [TrialState.COMPLETE] * 3
    assert max(t.accuracy for t in second.trials) == 99.0  # nobody took it from the slow one


def test_a_network_that_no_worker_survives_fails_after_three(journal: str) -> None:
    wanted = shared(journal, 5)
    for _ in range(3):
        dead = shared(journal, 5)
        [(trial_id, genome)] = dead._take(dead._book.read()).items()
        dead._book.end([shared_module.Ended(trial_id, None, {})])  # as another does when it hears no more of it
    assert wanted._book.read().lost == {genome: 3}
    asked: list[Genome] = []

    def score(g: Genome) -> float:
        asked.append(g)
        return accuracy(g)

    search = done(shared(journal, 5, score=score))
    [failed] = [t for t in search.trials if t.state == "failed"]
    assert failed.genome == genome and genome not in asked and len(asked) == 4


def test_what_is_at_work_is_given_back_at_an_interruption(journal: str) -> None:
    def interrupted(genome: Genome) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        done(shared(journal, score=interrupted))
    view = shared(journal)._book.read()
    assert view.live == () and list(view.lost.values()) == [0]
    assert len(done(shared(journal)).trials) == 24


def _worker(url: str, place: int, trials: int) -> None:
    def slow(genome: Genome) -> float:
        time.sleep(0.03)
        return accuracy(genome)

    with closing(url) as storage:
        done(shared(storage, trials, score=slow, place=place, worker=f"w{place}", grace_s=1.0, beat_s=0.2))


def own_postgres() -> Any:
    path = Path(__file__).parents[2] / "scripts" / "own_postgres.py"
    spec = importlib.util.spec_from_file_location("own_postgres", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_postgres"] = module
    spec.loader.exec_module(module)
    return module


def test_four_workers_on_postgresql_of_which_two_are_killed_lose_nothing() -> None:
    pytest.importorskip("psycopg", reason="mbv3-search[storage] is not installed")
    own = own_postgres()
    if own.programs() is None:
        pytest.skip("no PostgreSQL is installed (apt-get install postgresql)")
    n, context = 80, get_context("fork")
    with own.postgres(fsync=False) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        each = [context.Process(target=_worker, args=(server.url, i, n)) for i in range(4)]
        for p in each:
            p.start()
        with closing(server.url) as storage:
            while not any(s.study_name == "mbv3-search" for s in storage.get_all_studies()):
                time.sleep(0.05)
            study = optuna.load_study(study_name="mbv3-search", storage=storage)
            for victim, after in ((1, n // 5), (2, n // 3)):
                while sum(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)) < after:
                    time.sleep(0.02)
                assert each[victim].pid is not None
                os.kill(each[victim].pid, signal.SIGKILL)
            for p in each:
                p.join()
            assert [p.exitcode for p in each] == [0, -9, -9, 0]
            trials = study.get_trials()
            scored = [t for t in trials if t.state == TrialState.COMPLETE]
            assert len({t.user_attrs["genome"] for t in scored}) == len(scored) == n
            assert not [t for t in trials if t.state == TrialState.RUNNING]
            assert {t.user_attrs["worker"] for t in scored} == {"w0", "w1", "w2", "w3"}
            late = done(shared(storage, n, grace_s=1.0))  # who joins in the end knows all
            assert sorted(t.genome for t in late.trials) == sorted(
                tuple(map(int, t.user_attrs["genome"].split("-"))) for t in scored
            )


# -- the storage


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_a_database_that_cannot_be_opened_is_left_closed(tmp_path: Path) -> None:
    file = tmp_path / "later.db"
    url = f"sqlite:///{file}"
    with closing(url):
        pass
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        other.commit()
    with pytest.raises(BadInput, match=r"^--storage .*later\.db: cannot be opened") as failed:
        open_storage(url)
    assert failed.value.__context__ is not None  # which holds what had been opened
    held = [p for p in Path("/proc/self/fd").iterdir() if p.exists() and p.resolve() == file]
    assert not held


def test_the_study_is_one_of_optuna(url: str) -> None:
    with closing(url) as storage:
        search = done(shared(storage, 30, score=some_fail))
        plain = url if url.startswith("sqlite") else storage
        study = optuna.load_study(study_name="mbv3-search", storage=plain)
        try:
            assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
            assert study.metric_names == ["accuracy", "latency_ms"]
            trials = study.get_trials()
            assert [t.number for t in trials] == list(range(30))
            for t, mine in zip(trials, search.trials, strict=True):
                assert tuple(t.params[n] for n in SPACE.names) == mine.genome
                assert t.system_attrs["constraints"] == [mine.latency_ms - 8.0, 0.0]
                assert t.datetime_start is not None and t.datetime_complete is not None
                assert abs((t.datetime_complete - t.datetime_start).total_seconds()) < 600
                if mine.state == "complete":
                    assert t.values == [mine.accuracy, mine.latency_ms] and t.user_attrs["reward"] == mine.reward
                else:
                    assert t.state == TrialState.FAIL and t.user_attrs["accuracy"] is None
            # best_trials are those that meet the constraints and that no other beats in both
            fit = [m for m in search.trials if m.state == "complete" and m.latency_ms <= 8.0]
            best = {
                m.number for m in fit
                if not any(o.accuracy >= m.accuracy and o.latency_ms <= m.latency_ms
                           and (o.accuracy, o.latency_ms) != (m.accuracy, m.latency_ms) for o in fit)
            }  # fmt: skip
            assert {t.number for t in study.best_trials} == best
        finally:
            engine = getattr(getattr(study._storage, "_backend", None), "engine", None)
            if engine is not None:
                engine.dispose()


def test_a_study_of_another_search_is_refused_and_stays_as_it_was(journal: str) -> None:
    done(shared(journal, 4))
    before = Path(journal).read_bytes()
    other = parse_space(SPACE_TEXT.replace("out: 16", "out: 24"))
    with pytest.raises(BadInput, match=r"written by a search with another space \('five 1x32x32 \w+', here 'five 1x32"):
        shared(journal, 4, space=other)
    with pytest.raises(BadInput, match=r"another table \('a', here 'b'\); nothing was changed"):
        shared(journal, 4, name="two", about={"table": "a"})
        shared(journal, 4, name="two", about={"table": "b"})
    with pytest.raises(BadInput, match=r"another sampler \('evolution', here 'rnn', also trials\)"):
        shared(journal, 5, sampler="rnn")
    assert Path(journal).read_bytes().startswith(before)


def test_a_study_of_someone_else_is_refused(journal: str) -> None:
    optuna.create_study(storage=open_storage(journal), study_name="theirs")
    with pytest.raises(BadInput, match="its study theirs is not one of mbv3; give another --study"):
        shared(journal, name="theirs")


def test_a_journal_whose_last_line_was_cut_off_goes_on(journal: str) -> None:
    first = shared(journal, 10)
    for standing in (steps := first.run()):
        if standing.ended >= 4:
            steps.close()
    with open(journal, "ab") as f:
        f.write(b'{"op_code":5,"worker_id":"killed in the mid')
    assert len(done(shared(journal, 10)).trials) == 10
    assert len(done(shared(journal, 10)).trials) == 10  # also who reads it from its beginning


def test_a_storage_that_is_away_for_a_while_is_waited_for(journal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = shared(journal, 6)
    calls = itertools.count()
    get = search.study.get_trials

    def away(**how: Any) -> Any:
        if next(calls) in (2, 3):
            raise ConnectionRefusedError("no route")
        return get(**how)

    monkeypatch.setattr(search.study, "get_trials", away)
    assert len(done(search).trials) == 6
    search = shared(journal, 12, name="more", patience_s=0.1)

    def gone(**how: Any) -> Any:
        raise ConnectionRefusedError("no route")

    monkeypatch.setattr(search.study, "get_trials", gone)
    with pytest.raises(Mbv3Error, match=r"could not be reached for 0 s \(ConnectionRefusedError: no route\)"):
        done(search)


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("{}", "is a folder; give a file for Optuna's journal"),
        ("{}/none/study.log", "there is no folder .* for Optuna's journal; make it"),
        ("{}/notes.txt", "is a file, and no journal of Optuna's"),
        ("sqlite:///{}/no/such/study.db", "cannot be opened .*unable to open database file"),
        ("nonsense://x", "cannot be opened|its driver is not installed"),
        ("grpc://host", "must be grpc://HOST:PORT"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_in_a_line(storage: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match=f"^--storage .*{said}") as e:
        open_storage(storage.format(tmp_path))
    assert "\n" not in str(e.value)


def test_a_server_that_is_not_there_is_refused() -> None:
    pytest.importorskip("psycopg", reason="mbv3-search[storage] is not installed")
    with pytest.raises(BadInput, match=r"^--storage postgresql://me:\*\*\*@127.0.0.1:1/x: cannot be opened .*refused"):
        open_storage("postgresql://me:secret@127.0.0.1:1/x")


def test_passwords_are_not_written_down() -> None:
    assert storage_name("postgresql://me:s3cret@host/db") == "postgresql://me:***@host/db"
    assert storage_name("/some/file:with@signs") == "/some/file:with@signs"
    with pytest.raises(BadInput, match=r"postgresql://me:\*\*\*@host/db: a run writes its options down; leave"):
        check_storage("postgresql://me:s3cret@host/db")
    for url in (
        "postgresql://me:s3/cret@host/db", "postgresql://me:s3@cret@host/db", "postgresql://me:s3?cret@host/db",
        "postgresql://:s3cret@host/db", "postgresql://me@there:s3cret@host/db", "grpc://me:s3cret@host",
        "postgresql://host/db?user=me&password=s3cret", "mysql://host/db?PASSWD=s3cret&x=1",
        "postgresql://host/db?sslpassword=s3cret",
    ):  # fmt: skip
        with pytest.raises(BadInput, match=r"\*\*\*.*: a run writes its options down; leave the password out") as e:
            check_storage(url)
        assert "s3" not in str(e.value) and "cret" not in str(e.value), url
    with pytest.raises(BadInput, match=r"^--storage grpc://me:\*\*\*@host: must be grpc://HOST:PORT"):
        open_storage("grpc://me:s3cret@host")
    check_storage("postgresql://me@host/db")
    check_storage("postgresql://me@host:5432/db?sslmode=require&passfile=/home/me/.pgpass")
    with pytest.raises(BadInput, match="must be a file for Optuna's journal, or a URL"):
        check_storage(" ")
