"""What a process may use of a machine, and what else the machine did during a measurement. Needs Python only: a kit
contains a copy of this file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

__all__ = ["Watch", "allowed_cores", "cores_to_use", "cpu_quota", "run_clock", "setting", "timed_core", "undisturbed"]

_PROC = Path("/proc/stat")
_NICE = -10
_MHZ = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"


def allowed_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may run on: fewer than the machine's under taskset or in a container."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cpu_quota(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores' worth of time that this process's control groups give it (docker --cpus, a job's limit); None for all."""
    found = []
    try:
        lines = [line.split(":", 2) for line in proc.read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    for _, kinds, path in (line for line in lines if len(line) == 3):
        if kinds and "cpu" not in kinds.split(","):
            continue
        mounts = [root] if not kinds else [root / kinds, root / "cpu"]
        inner = Path(path.lstrip("/"))
        # a group's parents limit it, too; in a container its own group may be the mount itself
        for place in (m / p for m in mounts for p in (inner, *inner.parents)):
            with suppress(OSError, ValueError, IndexError):
                if kinds:
                    quota = float((place / "cpu.cfs_quota_us").read_text("ascii"))
                    period = float((place / "cpu.cfs_period_us").read_text("ascii"))
                else:
                    quota, period = map(float, (place / "cpu.max").read_text("ascii").split())
                if quota > 0 and period > 0:
                    found.append(quota / period)
    return min(found, default=None)


def cores_to_use() -> tuple[int, str]:
    """How many threads may run at one time, and why no more: beyond it they take turns, which are timed instead."""
    cores, quota = len(allowed_cores()), cpu_quota()
    if quota is not None and quota < cores:
        return max(1, int(quota)), f"as its control group gives this process the time of {quota:g} cores"
    return cores, "the cores that this process may use"


def timed_core() -> int | None:
    """The core for timed runs: the last one allowed, because core 0 handles the interrupts on most machines."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@contextmanager
def undisturbed(threads: int = 1) -> Iterator[None]:
    """Pin this thread to one core and raise its priority where the user may: to a real-time one, before which no other
    program gets a turn that would empty the caches (Linux keeps 5 % of a core for them), else by nice. Not with several
    threads: this one would wait for the others, which would have a lower priority on the same core."""
    core = timed_core() if threads == 1 else None
    cores = os.sched_getaffinity(0) if core is not None else set()
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with _first(core is not None and (os.cpu_count() or 1) > 1):
        try:
            if threads == 1:
                with suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, 0, min(nice, _NICE))
            if core is not None:
                os.sched_setaffinity(0, {core})
            yield
        finally:
            if core is not None:
                os.sched_setaffinity(0, cores)
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, nice)


@contextmanager
def _first(wanted: bool) -> Iterator[None]:
    """A real-time priority for this thread, where it is `wanted` and there may be one; what it starts has none. The
    environment variable MBV3_REALTIME=0 says that there may be none."""
    before = None
    if wanted and os.environ.get("MBV3_REALTIME") != "0":
        with suppress(OSError, AttributeError):  # musl has no policies, only Linux the flag
            before, priority = os.sched_getscheduler(0), os.sched_getparam(0)
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        if before is not None and os.sched_getscheduler(0) != before:
            try:
                os.sched_setscheduler(0, before, priority)
            except OSError:  # a user with a limit for real-time priorities may set the flag, and not take it off
                os.sched_setscheduler(0, before | os.SCHED_RESET_ON_FORK, priority)


def run_clock(run: Callable[[], None], threads: int = 1) -> Callable[[], float]:
    """The clock in seconds for runs such as `run`: the CPU time of this thread where it never waits for another or for
    a device, else the wall's.

    On an idle core the two agree. Where other programs take turns on the core, the wall's clock counts their turns too,
    in nearly all runs of a slow network and in few of a fast layer."""
    if threads != 1 or not hasattr(resource, "RUSAGE_THREAD"):  # only Linux counts what a thread waits for
        return time.perf_counter
    run()
    for _ in range(3):  # a page that is read from the disk is waited for once
        waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        own, wall = time.thread_time(), time.perf_counter()
        run()
        run()
        own, wall = time.thread_time() - own, time.perf_counter() - wall
        waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - waits
        if waits == 0 and 0 < own <= 1.1 * wall:  # a clock that ticks shows nothing, or a tick
            return time.thread_time
    return time.perf_counter


@cache
def setting(threads: int = 1) -> dict[str, float]:
    """How this process times runs, for the record: the core of the timed thread, its priority (nice), and whether that
    is a real-time one, where known."""
    core = timed_core() if threads == 1 else None
    with undisturbed(threads):
        out = {"nice": float(os.getpriority(os.PRIO_PROCESS, 0))}
        if core is not None:
            out["core"] = float(core)
            with suppress(OSError, AttributeError):
                out["realtime"] = float(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO)
    return out


class Watch:
    """Observes what else this machine does, from its creation to `seen()`. Linux only; elsewhere it reports nothing."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._own = time.process_time()
        self._machine = self._read()

    @staticmethod
    def _read() -> tuple[float, float] | None:
        """Busy seconds of the allowed cores since the machine started, and seconds that its host gave to other
        guests."""
        try:
            tick = os.sysconf("SC_CLK_TCK")
            ours = {f"cpu{i}" for i in os.sched_getaffinity(0)}  # a container sees all cores of its host
            lines = [line.split() for line in _PROC.read_text("ascii").split("\n")]
            cores = [[int(f) / tick for f in line[1:9]] for line in lines if line and line[0] in ours]
        except (OSError, ValueError, AttributeError):
            return None
        if not cores:
            return None
        user, nice, system, _idle, _wait, irq, soft, steal = map(sum, zip(*cores, strict=True))
        return user + nice + system + irq + soft, steal

    def seen(self) -> dict[str, float]:
        """`others`: cores kept busy by other programs; `stolen`: cores that the host gave to other guests; `mhz`: the
        clock of the timed core now; each where known."""
        out: dict[str, float] = {}
        now, wall = self._read(), max(time.monotonic() - self._began, 1e-3)
        if now and self._machine:
            own = time.process_time() - self._own
            out["others"] = round(max(0.0, now[0] - self._machine[0] - own) / wall, 3)
            out["stolen"] = round(max(0.0, now[1] - self._machine[1]) / wall, 3)
        with suppress(OSError, ValueError):
            out["mhz"] = int(Path(_MHZ.format(timed_core())).read_text("ascii")) / 1000
        return out
