"""What else a machine did while something was timed. Needs Python alone: it travels in a kit as it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

__all__ = ["Watch", "setting", "timed_core", "undisturbed"]

_PROC = Path("/proc/stat")
_NICE = -10
_MHZ = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"


def timed_core() -> int | None:
    """The core that runs are timed on: the last allowed one, as core 0 takes the interrupts on most machines."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@contextmanager
def undisturbed(threads: int = 1) -> Iterator[None]:
    """This thread on one core, and before other programs where the user may ask for that; but neither where it has
    others to wait for, which would have to stand behind it."""
    core = timed_core() if threads == 1 else None
    cores = os.sched_getaffinity(0) if core is not None else set()
    nice = os.getpriority(os.PRIO_PROCESS, 0)
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


@cache
def setting(threads: int = 1) -> dict[str, float]:
    """How runs are timed by this process, for the record: the core that the calling thread is pinned to, and its
    priority (nice); each where it can be known."""
    core = timed_core() if threads == 1 else None
    with undisturbed(threads):
        out = {"nice": float(os.getpriority(os.PRIO_PROCESS, 0))}
    return out if core is None else {**out, "core": float(core)}


class Watch:
    """From its making to `seen()`: what this process's machine did beside it. Linux; elsewhere nothing is seen."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._own = time.process_time()
        self._machine = self._read()

    @staticmethod
    def _read() -> tuple[float, float] | None:
        """Seconds of the allowed cores at work since the start of the machine, and those its host gave to others."""
        try:
            tick = os.sysconf("SC_CLK_TCK")
            ours = {f"cpu{i}" for i in os.sched_getaffinity(0)}  # a container is told of all of its host's
            lines = [line.split() for line in _PROC.read_text("ascii").split("\n")]
            cores = [[int(f) / tick for f in line[1:9]] for line in lines if line and line[0] in ours]
        except (OSError, ValueError, AttributeError):
            return None
        if not cores:
            return None
        user, nice, system, _idle, _wait, irq, soft, steal = map(sum, zip(*cores, strict=True))
        return user + nice + system + irq + soft, steal

    def seen(self) -> dict[str, float]:
        """`others`: cores that other programs kept busy, `stolen`: cores that the host took, `mhz`: the timed core's
        clock now; each where it can be known."""
        out: dict[str, float] = {}
        now, wall = self._read(), max(time.monotonic() - self._began, 1e-3)
        if now and self._machine:
            own = time.process_time() - self._own
            out["others"] = round(max(0.0, now[0] - self._machine[0] - own) / wall, 3)
            out["stolen"] = round(max(0.0, now[1] - self._machine[1]) / wall, 3)
        with suppress(OSError, ValueError):
            out["mhz"] = int(Path(_MHZ.format(timed_core())).read_text("ascii")) / 1000
        return out
