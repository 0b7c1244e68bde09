"""Identity of a measurement: the CPU, the runtime, the threads."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbv3.latency.conditions import allowed_cores, timed_core

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
_CPUINFO, _DEVICES = Path("/proc/cpuinfo"), Path("/sys/devices")
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


def _first_line(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip().splitlines()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""


def _cpuinfo() -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """What /proc/cpuinfo says of the machine, and of each core."""
    try:
        blocks = _CPUINFO.read_text("utf-8").split("\n\n")
    except (OSError, UnicodeDecodeError):
        return {}, {}
    machine: dict[str, str] = {}
    cores: dict[int, dict[str, str]] = {}
    for block in blocks:
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        said = {k.strip().lower(): v.strip() for k, _, v in reversed(list(pairs))}
        number = said.get("processor", "")
        if number.isdecimal():
            cores[int(number)] = said
        else:
            machine |= said
    return machine, cores


def _listed(text: str) -> set[int]:
    """Numbers of a list such as 0-7,16."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.strip().isdecimal():
            found |= set(range(int(first), int(last or first) + 1))
    return found


def _mhz(core: int) -> float:
    text = _first_line(_DEVICES / f"system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq")
    return int(text) / 1000 if text.isdecimal() else 0.0


def _kind(core: int, all_cores: Iterable[int]) -> str:
    """Which of a hybrid processor's cores it is, where model and part do not tell: Intel's, or one that is clocked more
    than 5 % lower than another (a turbo that few cores have is less)."""
    for name, shown in (("cpu_core", "P-core"), ("cpu_atom", "E-core"), ("cpu_lowpower", "LP E-core")):
        if core in _listed(_first_line(_DEVICES / name / "cpus")):
            return shown
    own, top = _mhz(core), max(map(_mhz, all_cores), default=0.0)
    return f"{own / 1000:.1f} of {top / 1000:.1f} GHz" if 0 < own < 0.95 * top else ""


def _name(core: int | None, machine: Mapping[str, str], cores: Mapping[int, Mapping[str, str]]) -> str:
    """A core's processor, its part numbers, and its kind on a machine with several."""
    own = cores.get(core, {}) if core is not None else {}
    info = {**machine, **(own or next(iter(cores.values()), {}))}
    model = info.get("model name") or info.get("hardware") or platform.processor() or platform.machine()
    part = [info[k] for k in ("cpu family", "model", "stepping", "cpu part") if k in info]
    kind = _kind(core, cores) if core is not None else ""
    return " ".join([model, *(["(" + "/".join(part) + ")"] if part else []), *([kind] if kind else [])])


def vectors(flags: str) -> str:
    """The vector instruction sets among the flags or features of /proc/cpuinfo."""
    return " ".join(f for f in _VECTOR_FLAGS if f in flags.split())


def this_cpu(runtime: str, runtime_version: str, threads: int, precision: str = "fp32") -> Fingerprint:
    """The fingerprint of this machine with a runtime: of the core that one thread is timed on, or of the kinds of all
    cores that several threads may run on."""
    machine, cores = _cpuinfo()
    timed = timed_core()
    used = [timed] if threads == 1 or timed is None else [c for c in allowed_cores() if c in cores] or [timed]
    info = {**machine, **cores.get(used[0] or 0, next(iter(cores.values()), {}))}
    governor = _DEVICES / f"system/cpu/cpu{used[0] or 0}/cpufreq/scaling_governor"
    return Fingerprint(
        cpu=" + ".join(sorted({_name(core, machine, cores) for core in used})),
        vector=vectors(info.get("flags") or info.get("features") or ""),
        cores=len(allowed_cores()),
        system=f"{platform.system()} {platform.machine()}",
        kernel=platform.release(),
        governor=_first_line(governor) or "unreadable",
        runtime=runtime,
        runtime_version=runtime_version,
        threads=threads,
        precision=precision,
    )
