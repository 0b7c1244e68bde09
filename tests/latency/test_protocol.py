"""The timing protocol on a clock that only the runs move."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mbv3.latency import interleave, open_runtime, p10
from mbv3.latency.conditions import run_clock, timed_core
from mbv3.latency.protocol import Samples
from mbv3.latency.sessions import Run
from mbv3.spec import load_spec

from .fake import Clock

linux = pytest.mark.skipif(sys.platform != "linux", reason="what a thread waits for is counted on Linux only")


def machine(clock: Clock, log: list[str]) -> Callable[[str, float], Callable[[], None]]:
    def make(name: str, ms: float) -> Callable[[], None]:
        def run() -> None:
            log.append(name)
            clock.now += ms * 1e-3

        return run

    return make


def visits(log: list[str]) -> list[str]:
    """Runs of the same name one after the other are one visit."""
    return [name for i, name in enumerate(log) if i == 0 or log[i - 1] != name]


def test_every_item_is_visited_once_a_round_in_shuffled_orders(clock: Clock) -> None:
    log: list[str] = []
    run = machine(clock, log)
    samples = interleave([run(str(i), 1.0) for i in range(30)], run("anchor", 2.0), rounds=6, seed=0)
    visited = [v for v in visits(log) if v != "anchor"]
    orders = [tuple(visited[r : r + 30]) for r in range(0, len(visited), 30)]
    assert all(sorted(order) == sorted(map(str, range(30))) for order in orders)
    assert len(orders) == len(set(orders)) == 6
    assert all(len(times) == 1 for item in samples.items for times in item)
    assert np.allclose([t for item in samples.items for r in item for t in r], 1.0)
    assert np.allclose([t for r in samples.anchor for t in r], 2.0)


def test_the_seed_decides_the_order(clock: Clock) -> None:
    def order(seed: int) -> list[str]:
        log: list[str] = []
        run = machine(clock, log)
        interleave([run(str(i), 1.0) for i in range(9)], run("anchor", 1.0), rounds=2, seed=seed)
        return log

    assert order(1) == order(1) != order(2)


@pytest.mark.parametrize(("n", "every", "times"), [(1, 24, 1), (2, 24, 2), (5, 24, 2), (48, 24, 2), (50, 10, 5)])
def test_the_anchor_is_timed_at_least_twice_a_round(clock: Clock, n: int, every: int, times: int) -> None:
    log: list[str] = []
    run = machine(clock, log)
    samples = interleave([run(str(i), 1.0) for i in range(n)], run("anchor", 1.0), rounds=3, seed=0, anchor_every=every)
    assert [len(r) for r in samples.anchor] == [times] * 3
    assert times >= min(n, 2)
    order = visits(log)
    assert order[0] == "anchor" != order[-1]  # it begins every round and ends none


def test_rounds_end_when_the_time_is_used(clock: Clock) -> None:
    run = machine(clock, [])
    for max_s, rounds in ((0.0, 3), (0.0101, 3), (0.0161, 5), (9.0, 12)):
        samples = interleave([run("a", 1.0)], run("anchor", 1.0), rounds=12, seed=0, max_s=max_s)
        assert len(samples.anchor) == len(samples.items[0]) == rounds


@pytest.mark.parametrize(("min_s", "rounds"), [(0.0, 3), (0.011, 3), (0.0121, 4), (0.0401, 11), (9.0, 60)])
def test_rounds_go_on_until_enough_time_has_passed(clock: Clock, min_s: float, rounds: int) -> None:
    run = machine(clock, [])
    # a round takes 4 ms: of anchor and item one run to warm up and one timed
    samples = interleave([run("a", 1.0)], run("anchor", 1.0), rounds=3, seed=0, min_s=min_s)
    assert len(samples.items[0]) == len(samples.anchor) == rounds


def test_short_items_are_timed_more_often(clock: Clock) -> None:
    run = machine(clock, [])
    costs = [5.0, 0.3, 0.11, 0.001]
    samples = interleave([run(str(i), ms) for i, ms in enumerate(costs)], run("anchor", 1.0), rounds=3, seed=0)
    assert [[len(r) for r in item] for item in samples.items] == [[1] * 3, [2] * 3, [5] * 3, [8] * 3]
    fixed = interleave([run("a", 0.001), run("b", 9.0)], run("anchor", 1.0), rounds=2, seed=0, min_runs=2, max_runs=2)
    assert [[len(r) for r in item] for item in fixed.items] == [[2, 2], [2, 2]]
    slow = interleave(
        [run("a", 4.9), run("b", 5.0)], run("anchor", 9.0), rounds=2, seed=0, min_runs=2, max_runs=2, slow_ms=5.0
    )
    assert [[len(r) for r in item] for item in slow.items] == [[2, 2], [1, 1]]


def test_the_first_run_of_a_visit_is_not_timed(clock: Clock) -> None:
    last = ""

    def make(name: str, ms: float) -> Callable[[], None]:
        def run() -> None:
            nonlocal last
            clock.now += (ms if last == name else 50 * ms) * 1e-3  # cold after another
            last = name

        return run

    samples = interleave([make("a", 1.0), make("b", 2.0)], make("anchor", 3.0), rounds=4, seed=0)
    assert np.allclose(samples.items[0], 1.0) and np.allclose(samples.items[1], 2.0)
    assert np.allclose([t for r in samples.anchor for t in r], 3.0)


def test_no_items_times_the_anchor(clock: Clock) -> None:
    samples = interleave([], machine(clock, [])("anchor", 4.0), rounds=5, seed=0)
    assert samples.items == () and len(samples.anchor) == 5
    assert samples.anchor_ms() == pytest.approx(4.0)


def test_no_collection_while_timing_and_all_is_put_back(clock: Clock) -> None:
    seen: list[bool] = []
    cores = os.sched_getaffinity(0)

    def run() -> None:
        seen.append(gc.isenabled() or os.sched_getaffinity(0) != {max(cores)})
        clock.now += 1e-3

    def broken() -> None:
        raise RuntimeError("no more")

    assert gc.isenabled()
    interleave([run], run, rounds=2, seed=0)
    assert seen and not any(seen)
    with pytest.raises(RuntimeError, match="no more"):
        interleave([broken], run, rounds=2, seed=0)
    assert gc.isenabled() and os.sched_getaffinity(0) == cores
    interleave([lambda: seen.append(os.sched_getaffinity(0) == cores)], run, rounds=1, seed=0, threads=2)
    assert seen[-1] or len(cores) == 1
    gc.disable()
    try:
        interleave([run], run, rounds=1, seed=0)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_p10_by_hand() -> None:
    assert p10(list(range(1, 12))) == pytest.approx(2.0)
    assert p10([7.0]) == 7.0
    assert p10([10.0, 20.0]) == pytest.approx(11.0)


def test_samples_summarise_all_rounds() -> None:
    samples = Samples(items=(((1.0, 2.0), (3.0,)),), anchor=((1.0,), (2.0, 4.0)))
    assert samples.ms(0) == pytest.approx(p10([1, 2, 3]))
    assert samples.anchor_ms() == pytest.approx(p10([1, 2, 4]))
    assert samples.timed_s == pytest.approx(0.013)
    assert samples.anchor_variation() == pytest.approx(1 / 2)  # medians 1 and 3: deviation 1, mean 2
    assert Samples(items=(), anchor=((1.0,),)).anchor_variation() == 0.0


@linux
def test_other_programs_on_the_core_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the wall's clock a run longer than a turn meets them nearly always, a short one hardly ever."""
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)  # they would get no turns at all

    def work(n: int) -> Run:
        def run() -> None:
            for _ in range(n):  # in the caches: what the others push out of them costs time of the thread's own
                pass

        return run

    core = timed_core()
    busy = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-c", busy], start_new_session=True) for _ in range(3)]
    try:
        samples = interleave([work(10_000), work(1_000_000)], work(100_000), rounds=8, seed=0)
    finally:
        for one in others:
            one.kill()
            one.wait()
    assert samples.ms(1) / samples.ms(0) == pytest.approx(100, rel=0.4)


@linux
def test_a_run_that_waits_is_timed_by_the_wall() -> None:
    def work() -> None:
        sum(range(100_000))

    with ThreadPoolExecutor(1) as pool:
        assert run_clock(work) is time.thread_time
        assert run_clock(lambda: time.sleep(1e-3)) is time.perf_counter
        assert run_clock(lambda: pool.submit(work).result()) is time.perf_counter
    assert run_clock(work, threads=2) is time.perf_counter


@linux
def test_a_clock_that_ticks_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    thread_time = time.thread_time
    monkeypatch.setattr(time, "thread_time", lambda: thread_time() // 0.01 / 100)
    assert run_clock(lambda: None) is time.perf_counter


@linux
@pytest.mark.parametrize("name", ["onnxruntime", "litert"])
def test_a_built_in_runtime_does_its_work_on_the_thread_that_calls(name: str) -> None:
    assert run_clock(open_runtime(name, 1).network(load_spec("mobilenet_v3_small"))) is time.thread_time
