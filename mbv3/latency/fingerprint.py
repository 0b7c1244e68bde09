"""Identity of a measurement: the CPU, the runtime, the threads."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Fingerprint", "this_cpu", "vectors"]

_VECTOR_FLAGS = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512vl",
    "avx512_vnni",
    "amx_tile",
    "neon",
    "asimd",
    "sve",
)
_COMPARED = ("cpu", "vector", "system", "runtime", "runtime_version", "threads", "precision", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Device and runtime of a measurement. `governor` and `kernel` are recorded, not compared."""

    cpu: str
    vector: str  # vector instruction sets
    cores: int
    system: str
    kernel: str
    governor: str
    runtime: str
    runtime_version: str
    threads: int
    precision: str = "fp32"
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.cpu}, {self.runtime} {self.runtime_version} {self.precision}, {self.threads} thread(s)"

    def differences(self, other: Fingerprint) -> list[tuple[str, object, object]]:
        """(field, own value, other value) of every difference that makes times incomparable."""
        return [(f, getattr(self, f), getattr(other, f)) for f in _COMPARED if getattr(self, f) != getattr(other, f)]

    @property
    def id(self) -> str:
        """Twelve hex digits over the compared fields."""
        text = json.dumps([getattr(self, f) for f in _COMPARED])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip().splitlines()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {k.strip().lower(): v.strip() for k, _, v in reversed(list(pairs))}


def vectors(flags: str) -> str:
    """The vector instruction sets among the flags or features of /proc/cpuinfo."""
    return " ".join(f for f in _VECTOR_FLAGS if f in flags.split())


def this_cpu(runtime: str, runtime_version: str, threads: int, precision: str = "fp32") -> Fingerprint:
    """The fingerprint of this machine with a runtime."""
    info = _cpuinfo()
    model = info.get("model name") or info.get("hardware") or platform.processor() or platform.machine()
    part = [info[k] for k in ("cpu family", "model", "stepping", "cpu part") if k in info]
    return Fingerprint(
        cpu=" ".join([model, *(["(" + "/".join(part) + ")"] if part else [])]),
        vector=vectors(info.get("flags") or info.get("features") or ""),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        kernel=platform.release(),
        governor=_first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unreadable",
        runtime=runtime,
        runtime_version=runtime_version,
        threads=threads,
        precision=precision,
    )
