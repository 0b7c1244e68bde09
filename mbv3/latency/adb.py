"""A table for a phone without Python: models are pushed with adb and timed there by LiteRT's own benchmark_model.

One call of adb a step of the runner's; what it measured is kept here, so a pulled cable costs one step.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.errors import BadInput, plain
from mbv3.events import Event, Note
from mbv3.latency.benchmark import SCRIPT, Visit, read_said, row, visit_script
from mbv3.latency.build import ERROR, MINUTES, STAGE, BuildPlan, build_with
from mbv3.latency.fingerprint import Fingerprint, vectors
from mbv3.latency.runtime import MODELS
from mbv3.latency.table import LatencyTable
from mbv3.latency.timers import LAYER_ROUNDS, NETWORK_ROUNDS

__all__ = ["measure_over_adb"]

ANCHOR_EVERY = 24  # layers
_TARGET = re.compile(r"adb:([A-Za-z0-9][A-Za-z0-9._:()-]*)")
_END = "-- end of mbv3 --"
# what adb says, and what it means with its cure
_COMPLAINTS = (
    ("unauthorized", "it does not trust this computer yet; unlock its screen and allow USB debugging"),
    ("offline", "it is offline; plug it in again, or `adb reconnect`"),
    ("permissions", "this user may not use the USB port; see the udev rules of Android's platform-tools"),
    ("not found", "there is no such device; `adb devices` lists what is connected"),
    ("no devices", "there is no such device; `adb devices` lists what is connected"),
)


def parse_serial(text: str) -> str:
    """The serial of `adb:SERIAL`. Raises: BadInput."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise BadInput(f"--device must be adb:SERIAL, as `adb devices` lists it (got {plain(text)})")
    return found[1]


def _last(said: str) -> str:
    lines = [line.strip() for line in said.split("\n") if line.strip() and not line.startswith("* daemon")]
    return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True, slots=True)
class Phone:
    """A device as adb knows it, and a folder on it that is this build's own."""

    serial: str
    folder: str

    def __str__(self) -> str:
        return f"adb:{self.serial}"

    def adb(self, *arguments: str, cwd: Path | None = None) -> tuple[int, str]:
        """Exit code and output of `adb -s SERIAL ...`. $MBV3_ADB is the client with options of your own."""
        try:
            client = shlex.split(os.environ.get("MBV3_ADB", "")) or ["adb"]
        except ValueError as e:
            raise BadInput(f"MBV3_ADB={os.environ['MBV3_ADB']}: is no command line ({e})") from None
        command = [*client, "-s", self.serial, *arguments]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd
            )
        except OSError as e:
            raise BadInput(
                f"{client[0]}: {e.strerror}; install adb (Android's platform-tools), or set MBV3_ADB"
            ) from None
        return done.returncode, done.stdout.decode(errors="replace").replace("\r", "")

    def complaint(self) -> str | None:
        """Why it cannot be reached, or None."""
        code, said = self.adb("get-state")
        if code == 0 and _last(said) == "device":
            return None
        known = [meaning for word, meaning in _COMPLAINTS if word in said]
        return known[0] if known else f"it cannot be used now ({_last(said)})"

    def failed(self, said: str, doing: str) -> BadInput:
        """The one message for what went wrong."""
        kept = "what was measured is kept here, and the same command goes on there"
        if "No space left" in said:
            return BadInput(f"{self}: its disk is full while {doing} ({_last(said)}); free some of /data; {kept}")
        if complaint := self.complaint():
            return BadInput(f"{self}: the connection was cut while {doing}: {complaint}; {kept}")
        return BadInput(f"{self}: {doing} failed ({_last(said)}); {kept}")

    def shell(self, script: str, doing: str) -> str:
        """What `script` prints there. Raises: BadInput where it did not come to its end: old ones tell no exit code."""
        _, said = self.adb("shell", f"{{ {script}\n}} && echo && echo {shlex.quote(_END)}")
        text, end, _ = said.rpartition(_END)
        if not end:
            raise self.failed(said, doing)
        return text


# ---- what it is ----------------------------------------------------------------------------------------------

_PROBE = """\
say() { echo "mbv3 $*"; }
for name in ro.product.model ro.soc.model ro.board.platform ro.build.version.release; do
    say $name "$(getprop $name 2>/dev/null)"
done
say machine "$(uname -m)"
say kernel "$(uname -r)"
say governor "$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    [ "$(cat $cpu/online 2>/dev/null)" = 0 ] && continue
    say core ${cpu##*/cpu} "$(cat $cpu/cpufreq/cpuinfo_max_freq 2>/dev/null)"
done
[ -f BENCHMARK ] && say there
[ -x BENCHMARK ] && say runs
say digest "$( { sha256sum BENCHMARK || sha1sum BENCHMARK || md5sum BENCHMARK; } 2>/dev/null)"
cat /proc/cpuinfo 2>/dev/null || true
"""


def _probe(phone: Phone, benchmark: str, threads: int) -> tuple[Fingerprint, tuple[int, ...]]:
    """What the phone and its benchmark_model are, and the fastest cores, one a thread; none where their clocks cannot
    be read or processes cannot be kept on them. Raises: BadInput."""
    said = phone.shell(_PROBE.replace("BENCHMARK", shlex.quote(benchmark)), "asking what it is")
    told = [line.split(maxsplit=2)[1:] for line in said.split("\n") if line.startswith("mbv3 ")]
    fact = {words[0]: words[1].strip() for words in told if len(words) == 2}
    if ["there"] not in told:
        raise BadInput(
            f"{phone}: has no file {benchmark}; push LiteRT's benchmark_model there, or name it: --benchmark"
        )
    if ["runs"] not in told:
        raise BadInput(f"{phone}: {benchmark} is not executable; run: adb shell chmod +x {shlex.quote(benchmark)}")
    if "digest" not in fact:
        raise BadInput(f"{phone}: {benchmark} cannot be told from others, as there is no sha256sum, sha1sum or md5sum")
    cores = [w[1].split() for w in told if w[0] == "core"]  # number and kHz, or the number alone
    clocks = [(int(c[1]) if len(c) > 1 else 0, int(c[0])) for c in cores]
    if not 1 <= threads <= len(clocks):
        raise BadInput(f"--threads must be from 1 to {len(clocks)}, the cores of {phone} (got {threads})")
    fastest = tuple(core for _, core in sorted(clocks)[-threads:]) if all(khz for khz, _ in clocks) else ()
    if fastest and "pinned" not in phone.shell(f"taskset {_mask(fastest):x} echo pinned || true", "pinning a process"):
        fastest = ()
    info: dict[str, str] = {}
    parts, here = {}, ""  # the CPU part of each core
    for line in said.split("\n"):
        name, colon, value = (x.strip() for x in line.partition(":"))
        if colon and not line.startswith("mbv3"):
            info.setdefault(name.lower(), value)
            if name == "processor":
                here = value
            elif name == "CPU part":
                parts[here] = value
    model = fact.get("ro.product.model") or info.get("model name") or "unknown"
    soc = fact.get("ro.soc.model") or fact.get("ro.board.platform") or info.get("hardware")
    part = parts.get(str(max(fastest, default=clocks[-1][1])))
    android = "Android" if "ro.build.version.release" in fact else "Linux"
    fingerprint = Fingerprint(
        cpu=" ".join([model, *([soc] if soc else []), *([f"({part})"] if part else [])]),
        vector=vectors(info.get("features") or info.get("flags") or ""),
        cores=len(clocks),
        system=f"{android} {fact.get('machine', '')}",
        kernel=fact.get("kernel", ""),
        governor=fact.get("governor", "unreadable"),
        runtime="litert",
        runtime_version=f"benchmark_model {fact['digest'][:12]}",  # it does not tell its version
        threads=threads,
    )
    return fingerprint, fastest


def _mask(cores: Sequence[int]) -> int:
    return sum(1 << core for core in cores)


# ---- timing --------------------------------------------------------------------------------------------------


class Pushed:
    """A Timer: `model(i)` is pushed and run by `benchmark` on `cores`, a process a visit; `names[i]` is what it is."""

    def __init__(
        self,
        phone: Phone,
        benchmark: str,
        model: Callable[[int], bytes],
        names: Sequence[str],
        threads: int,
        cores: Sequence[int],
    ) -> None:
        self._phone, self._benchmark, self._model, self._names, self._threads = phone, benchmark, model, names, threads
        self._command, self._core = shlex.quote(benchmark), max(cores, default=None)
        self._setting: dict[str, float] = {}
        if cores:
            self._command = f"taskset {_mask(cores):x} {self._command}"
            self._setting = {"core": cores[0]} if threads == 1 else {"mask": _mask(cores)}

    def _visited(self, rounds: Sequence[Sequence[int]], most_s: float) -> tuple[dict[int, list[Visit]], dict[str, Any]]:
        """The visits of each model, and what else a journal's line holds. Raises: BadInput."""
        phone, models = self._phone, sorted({i for r in rounds for i in r})
        script = visit_script(phone.folder, self._command, self._threads, rounds, most_s, self._core)
        files = {f"{i}.tflite": self._model(i) for i in models} | {SCRIPT: script.encode()}
        with tempfile.TemporaryDirectory(prefix="mbv3-") as name:
            try:
                for file, content in files.items():
                    (Path(name) / file).write_bytes(content)
            except OSError as e:
                raise BadInput(
                    f"{name}: the models cannot be written ({e.strerror}); set TMPDIR to another place"
                ) from None
            began = time.monotonic()  # writing the models is no timing
            phone.shell(f"rm -rf {phone.folder} && mkdir -p {phone.folder}", "making a folder")
            code, pushed = phone.adb("push", *files, f"{phone.folder}/", cwd=Path(name))
        if code:
            error = phone.failed(pushed, f"pushing {sum(map(len, files.values())) / 1e6:.0f} MB of models")
            phone.adb("shell", f"rm -rf {phone.folder}")
            raise error
        _, text = phone.adb("shell", f"sh {phone.folder}/{SCRIPT}")
        said = read_said(text)
        if said.failed:
            model, words = said.failed
            raise BadInput(
                f"{phone}: {self._benchmark} fails on {self._names[model]} ({words}); is it a benchmark_model for this "
                "CPU, and a recent one?"
            )
        if not said.whole:
            raise phone.failed(text, "timing")
        visits: dict[int, list[Visit]] = {i: [] for i in models}
        for i, visit in said.visits:
            if visit is None or i not in visits:
                raise BadInput(
                    f"{phone}: {self._benchmark} tells no time of {self._names[i]}; is it LiteRT's benchmark_model?"
                )
            visits[i].append(visit)
        took = {
            "s": round(time.monotonic() - began, 3),
            "timed": round(sum(v.runs * v.mean_ms for mine in visits.values() for v in mine) / 1e3, 3),
        }
        clock = {"mhz": said.khz / 1e3} if said.khz else {}
        return visits, {**took, "conditions": {**self._setting, **clock}}

    @property
    def _reference(self) -> int:
        return len(self._names) - 1

    def layers(self, models: Sequence[int], *, seed: int, most_s: float) -> dict[str, Any]:
        rng, rounds = np.random.default_rng(seed), []
        every = max(1, min(ANCHOR_EVERY, (len(models) + 1) // 2))
        for _ in range(LAYER_ROUNDS):
            mixed = rng.permutation(models).tolist()
            parts = [mixed[at : at + every] for at in range(0, len(mixed), every)]
            rounds.append([i for part in parts for i in (self._reference, *part)])
        visits, more = self._visited(rounds, most_s)
        return {"reference_ms": row(visits[self._reference])[0], "ms": [row(visits[i]) for i in models], **more}

    def networks(self, models: Sequence[int], *, seed: int, most_s: float) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        rounds = [rng.permutation([*models, self._reference]).tolist() for _ in range(NETWORK_ROUNDS)]
        visits, more = self._visited(rounds, most_s)
        anchor = [v.mean_ms for v in visits[self._reference]]  # one a round
        said = {"reference_ms": row(visits[self._reference])[0], "drift": float(np.std(anchor) / np.mean(anchor))}
        return {**said, "ms": [row(visits[i])[0] for i in models], **more}


def measure_over_adb(
    target: str,
    benchmark: str | None,
    plan: BuildPlan,
    runtime: str,
    threads: int,
    out: Path,
    *,
    error: float = ERROR,
    minutes: float = MINUTES,
) -> Iterator[Event | LatencyTable]:
    """Measure `plan` on the phone `target` with the benchmark_model that lies there at the path `benchmark`, write the
    table to `out`. Yields events and at last the table. The same call after an interruption goes on.

    Raises:
        BadInput: no adb, no such phone, it does not answer or is full, no benchmark_model there or it fails, `out` is
            being built by another process or holds what was measured on another device.
    """
    serial = parse_serial(target)
    if runtime != "litert":
        raise BadInput(f"--runtime {runtime}: {target} is timed by LiteRT's benchmark_model; give --runtime litert")
    if not benchmark or not benchmark.startswith("/") or not benchmark.isprintable():
        raise BadInput(
            f"--device {target} needs --benchmark PATH, where LiteRT's benchmark_model lies on the device, from its "
            f"root (got {plain(benchmark or 'none')})"
        )
    # its own for this table, and the same after a cut: what was left behind then is removed
    own = hashlib.sha256(f"{platform.node()}:{out.resolve()}".encode()).hexdigest()[:12]
    phone = Phone(serial, f"/data/local/tmp/mbv3-{own}")
    if complaint := phone.complaint():
        raise BadInput(f"{phone}: {complaint}")
    fingerprint, cores = _probe(phone, benchmark, threads)
    if not cores:
        yield Note(STAGE, f"{phone}: its cores' clocks cannot be read, or processes cannot be kept on one; any is used")
    keys, nets = list(dict.fromkeys(plan.keys)), [*plan.calibration, ("the reference network", plan.reference)]
    models = MODELS[runtime]

    def model(i: int) -> bytes:
        return models.layer(keys[i]) if i < len(keys) else models.network(nets[i - len(keys)][1])

    names = [*map(str, keys), *(label for label, _ in nets)]
    timer = Pushed(phone, benchmark, model, names, threads, cores)
    marked = replace(plan, about={**plan.about, "benchmark": benchmark})
    yield from build_with(timer, fingerprint, marked, out, error=error, minutes=minutes)
    yield LatencyTable.load(out)
