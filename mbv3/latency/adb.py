"""A table for a phone without Python: models are pushed with adb and timed there by LiteRT's benchmark_model.

Each step of the runner is one call of adb. Its measurements are kept on this machine, so a lost connection costs one
step.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import secrets
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.errors import BadInput, plain
from mbv3.events import Event, Note
from mbv3.files import cache_folder
from mbv3.latency.benchmark import SCRIPT, ScriptOutput, Visit, read_output, row, visit_script
from mbv3.latency.build import ERROR, MINUTES, STAGE, BuildPlan, build_with
from mbv3.latency.fingerprint import Fingerprint, vectors
from mbv3.latency.runtime import models_of
from mbv3.latency.ssh import client
from mbv3.latency.table import LatencyTable
from mbv3.latency.timers import LAYER_ROUNDS, NETWORK_ROUNDS

__all__ = ["measure_over_adb"]

ANCHOR_EVERY = 24  # layers
ANSWER_S, PUSH_S_PER_MB, VISIT_S = 60.0, 2.0, 300.0  # without output for this long a call hangs; each visit prints
_TARGET = re.compile(r"adb:([A-Za-z0-9][A-Za-z0-9._:()-]*)")
# a pattern in the output of adb, and its meaning with the cure
_COMPLAINTS = (
    ("unauthorized", "it does not trust this computer; unlock its screen and allow USB debugging"),
    ("offline", "it is offline; plug it in again, or `adb reconnect`"),
    ("permissions", "this user may not use the USB port; install the udev rules of Android's platform-tools"),
    ("not found|no devices", "there is no such device; `adb devices` lists what is connected"),
)


def parse_serial(text: str) -> str:
    """The serial of `adb:SERIAL`. Raises: BadInput."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise BadInput(f"--device must be adb:SERIAL, as `adb devices` lists it (got {plain(text)})")
    return found[1]


def _last(output: str) -> str:
    lines = [line.strip() for line in output.split("\n") if line.strip() and not line.startswith("* daemon")]
    return lines[-1] if lines else "it printed nothing"


@dataclass(frozen=True, slots=True)
class Phone:
    """A device as adb knows it, and the prefix of the folders that this build creates on it."""

    serial: str
    folder: str

    def __str__(self) -> str:
        return f"adb:{self.serial}"

    def adb(self, *arguments: str, limit_s: float = ANSWER_S) -> tuple[int, str]:
        """Exit code and output of `adb -s SERIAL ...`; 124 where it prints nothing for `limit_s` seconds. $MBV3_ADB:
        the client with options."""
        command = [*client("MBV3_ADB", "adb"), "-s", self.serial, *arguments]
        # not a pipe: the length of the file shows whether anything was printed
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            except OSError as e:
                raise BadInput(
                    f"{command[0]}: {e.strerror}; install adb (Android's platform-tools), or set MBV3_ADB"
                ) from None
            length = 0
            code: int | None = None
            with process:
                try:
                    while code is None:
                        before = length
                        with suppress(subprocess.TimeoutExpired):
                            code = process.wait(limit_s)
                        length = os.fstat(output.fileno()).st_size
                        if code is None and length == before:
                            return 124, f"no output for {limit_s:g} s"
                finally:
                    process.kill()
            output.seek(0)
            return code, output.read().decode(errors="replace").replace("\r", "")

    def complaint(self) -> str | None:
        """Why it cannot be used, with the cure; None where it can."""
        code, output = self.adb("get-state")
        if code == 0 and _last(output) == "device":
            return None
        known = [meaning for word, meaning in _COMPLAINTS if re.search(word, output)]
        return known[0] if known else f"it cannot be used now ({_last(output)}); try `adb devices`"

    def failed(self, output: str, doing: str) -> BadInput:
        """The error for a failed step."""
        kept = "what was measured is kept on this machine, and the same command continues there"
        if "No space left" in output:
            return BadInput(f"{self}: its disk is full while {doing} ({_last(output)}); free some of /data; {kept}")
        if complaint := self.complaint():
            return BadInput(f"{self}: the connection was lost while {doing}: {complaint}; {kept}")
        return BadInput(f"{self}: {doing} failed ({_last(output)}); {kept}")

    def shell(self, script: str, doing: str) -> str:
        """The output of `script` on the phone. Raises: BadInput."""
        code, output = self.adb("shell", script)
        if code:
            raise self.failed(output, doing)
        return output


# ---- identity ----------------------------------------------------------------------------------------------

_PROBE = """\
say() { echo "mbv3 $*"; }
for name in ro.product.model ro.soc.model ro.board.platform ro.build.version.release; do
    say $name "$(getprop $name 2>/dev/null)"
done
say machine "$(uname -m)"
say kernel "$(uname -r)"
say governor "$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    say core ${cpu##*/cpu} $(cat $cpu/online 2>/dev/null || echo 1) $(cat $cpu/cpufreq/cpuinfo_max_freq 2>/dev/null)
done
[ -f BENCHMARK ] && say there
[ -x BENCHMARK ] && say runs
say digest "$(sha256sum BENCHMARK 2>/dev/null)"
cat /proc/cpuinfo 2>/dev/null || true
"""


def _probe(phone: Phone, benchmark: str, threads: int) -> tuple[Fingerprint, int, bool]:
    """(fingerprint, mask, whether the cores differ) of the phone.

    The mask has the fastest cores, one for each thread; 0 where clocks cannot be read or processes cannot be pinned.
    Raises: BadInput.
    """
    output = phone.shell(_PROBE.replace("BENCHMARK", shlex.quote(benchmark)), "asking what it is")
    answers = [line.split(maxsplit=2)[1:] for line in output.split("\n") if line.startswith("mbv3 ")]
    fact = {words[0]: words[1].strip() for words in answers if len(words) == 2}
    _check_benchmark(phone, benchmark, ["there"] in answers, ["runs"] in answers, "digest" in fact)
    # number, 1 for online, and kHz where it can be read
    cores = [[*map(int, w[1].split())] for w in answers if w[0] == "core"]
    mask, clocks = _fastest_cores(phone, cores, threads)
    info, parts = _cpuinfo(output)
    model = fact.get("ro.product.model") or info.get("model name") or "unknown"
    soc = fact.get("ro.soc.model") or fact.get("ro.board.platform") or info.get("hardware")
    part = parts.get(str(mask.bit_length() - 1 if mask else cores[-1][0]))
    android = "Android" if "ro.build.version.release" in fact else "Linux"
    fingerprint = Fingerprint(
        cpu=" ".join(filter(None, (model, soc, f"({part})" if part else "", f"taskset {mask:x}" if mask else ""))),
        vector=vectors(info.get("features") or info.get("flags") or ""),
        cores=len(cores),
        system=f"{android} {fact.get('machine', '')}",
        kernel=fact.get("kernel", ""),
        governor=fact.get("governor", "unreadable"),
        runtime="litert",
        runtime_version=f"benchmark_model {fact['digest'][:12]}",  # it does not print its version
        threads=threads,
    )
    return fingerprint, mask, len(clocks) > 1 or len(set(parts.values())) > 1


def _check_benchmark(phone: Phone, benchmark: str, exists: bool, executable: bool, hashed: bool) -> None:
    """Raises: BadInput unless `benchmark` exists on the phone, can run and has a SHA-256."""
    if not exists:
        raise BadInput(
            f"{phone}: has no file {benchmark}; push LiteRT's benchmark_model there, or give its path: --benchmark"
        )
    if not executable:
        raise BadInput(f"{phone}: {benchmark} is not executable; run: adb shell chmod +x {shlex.quote(benchmark)}")
    if not hashed:
        raise BadInput(
            f"{phone}: {benchmark} cannot be identified without sha256sum, which Android 8 and newer have; use a newer "
            "device"
        )


def _fastest_cores(phone: Phone, cores: list[list[int]], threads: int) -> tuple[int, set[int]]:
    """The mask of the fastest cores, one for each thread, or 0; and the different clocks in kHz. Raises: BadInput."""
    if not 1 <= threads <= len(cores):
        raise BadInput(f"--threads must be from 1 to {len(cores)}, the cores of {phone} (got {threads})")
    clocks = sorted((khz, core, online) for core, online, *more in cores for khz in more)
    # also cores that are offline: every call must choose the same ones
    fastest = clocks[-threads:] if len(clocks) >= threads else []
    if off := [f"cpu{core}" for _, core, online in fastest if not online]:
        raise BadInput(
            f"{phone}: {' and '.join(off)} of its {threads} fastest core(s) switched off; keep it awake (adb shell svc "
            "power stayon true) and out of power saving"
        )
    mask = sum(1 << core for _, core, _ in fastest)
    if mask and "pinned" not in phone.shell(f"taskset {mask:x} echo pinned || true", "pinning a process"):
        mask = 0
    return mask, {khz for khz, _, _ in clocks}


def _cpuinfo(output: str) -> tuple[dict[str, str], dict[str, str]]:
    """The first value of each field of /proc/cpuinfo, and the CPU part of each core by its number."""
    info: dict[str, str] = {}
    parts, core = {}, ""
    for line in output.split("\n"):
        name, colon, value = (x.strip() for x in line.partition(":"))
        if colon and not line.startswith("mbv3"):
            info.setdefault(name.lower(), value)
            if name == "processor":
                core = value
            elif name == "CPU part":
                parts[core] = value
    return info, parts


# ---- timing --------------------------------------------------------------------------------------------------


class Pushed:
    """A Timer: `model(i)` is pushed and run by `benchmark`, one process for each visit, pinned to the cores of `mask`
    unless that is 0; `names[i]` is its name in messages."""

    def __init__(
        self,
        phone: Phone,
        benchmark: str,
        model: Callable[[int], bytes],
        names: Sequence[str],
        threads: int,
        mask: int,
    ) -> None:
        self._phone, self._benchmark, self._model, self._names, self._threads = phone, benchmark, model, names, threads
        self._command = f"taskset {mask:x} " * bool(mask) + shlex.quote(benchmark)

    def _visited(self, rounds: Sequence[Sequence[int]], most_s: float) -> tuple[dict[int, list[Visit]], dict[str, Any]]:
        """The visits of each model, and the other fields of a journal's line. Raises: BadInput."""
        models = sorted({i for r in rounds for i in r})
        output, seconds = self._run(models, rounds, most_s)
        if output.failed:
            model, words = output.failed
            raise BadInput(
                f"{self._phone}: {self._benchmark} fails on {self._names[model]} ({words}); is it a benchmark_model "
                "for this CPU, and a recent one?"
            )
        visits: dict[int, list[Visit]] = {i: [] for i in models}
        for i, visit in output.visits:
            if visit is None or i not in visits:
                raise BadInput(
                    f"{self._phone}: {self._benchmark} prints no time for {self._names[i]}; is it LiteRT's "
                    "benchmark_model?"
                )
            visits[i].append(visit)
        timed_s = sum(v.runs * v.mean_ms for model_visits in visits.values() for v in model_visits) / 1e3
        return visits, {"s": round(seconds, 3), "timed": round(timed_s, 3), "conditions": {}}

    def _run(self, models: Sequence[int], rounds: Sequence[Sequence[int]], most_s: float) -> tuple[ScriptOutput, float]:
        """Push `models` with a script that visits them; its output and the seconds taken. Raises: BadInput."""
        phone = self._phone
        # a new folder for each step: the script of a lost connection may end at any time, and then removes its folder
        folder = f"{phone.folder}-{secrets.token_hex(4)}"
        script = visit_script(folder, self._command, self._threads, rounds, most_s)
        try:
            with tempfile.TemporaryDirectory(prefix="mbv3-") as name:
                try:
                    for i in models:
                        (Path(name) / f"{i}.tflite").write_bytes(self._model(i))
                    (Path(name) / SCRIPT).write_text(script)
                except OSError as e:
                    raise BadInput(
                        f"{name}: the models cannot be written ({e.strerror}); set TMPDIR to another folder"
                    ) from None
                began = time.monotonic()  # the time for writing the models does not count
                phone.shell(f"rm -rf {phone.folder}-* && mkdir {folder}", "making a folder")
                files = sorted(Path(name).iterdir())
                mb = sum(f.stat().st_size for f in files) / 1e6
                limit_s = ANSWER_S + PUSH_S_PER_MB * mb
                code, text = phone.adb("push", *map(str, files), f"{folder}/", limit_s=limit_s)
                if code:
                    raise phone.failed(text, f"pushing {mb:.0f} MB of models")
            code, text = phone.adb("shell", f"sh {folder}/{SCRIPT}", limit_s=VISIT_S)
            output = read_output(text)
            if code and output.failed is None:
                raise phone.failed(text, "timing")
        except BaseException:
            phone.adb("shell", f"rm -rf {folder}")
            raise
        return output, time.monotonic() - began

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
        anchor = [v.mean_ms for v in visits[self._reference]]  # one for each round
        entry = {"reference_ms": row(visits[self._reference])[0], "drift": float(np.std(anchor) / np.mean(anchor))}
        return {**entry, "ms": [row(visits[i])[0] for i in models], **more}


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
) -> Generator[Event, None, LatencyTable]:
    """Measure `plan` on the phone `target` with its benchmark_model at the path `benchmark`, and write the table to
    `out`; returns it. The same call after an interruption continues.

    Raises:
        BadInput: there is no adb or no such phone; the phone does not answer or its disk is full; benchmark_model is
            missing or fails; another process uses the phone or `out`; `out` holds measurements of another device.
    """
    serial = parse_serial(target)
    if runtime != "litert":
        raise BadInput(f"--runtime {runtime}: {target} is timed by LiteRT's benchmark_model; give --runtime litert")
    if not benchmark or not benchmark.startswith("/") or not benchmark.isprintable():
        raise BadInput(
            f"--device {target} needs --benchmark PATH, the absolute path of LiteRT's benchmark_model on the "
            f"device (got {plain(benchmark or 'none')})"
        )
    # one prefix for each table: after an interruption the same call removes the folders left behind
    own = hashlib.sha256(f"{platform.node()}:{out.resolve()}".encode()).hexdigest()[:12]
    phone = Phone(serial, f"/data/local/tmp/mbv3-{own}")
    with _locked(phone):
        if complaint := phone.complaint():
            raise BadInput(f"{phone}: {complaint}")
        fingerprint, mask, differ = _probe(phone, benchmark, threads)
        if not mask:
            why = "the clocks of its cores cannot be read, or processes cannot be pinned to a core"
            yield Note(STAGE, f"{phone}: {why}; any core is used" + ", and they differ" * differ, warning=differ)
        keys, nets = list(dict.fromkeys(plan.keys)), [*plan.calibration, ("the reference network", plan.reference)]
        models = models_of(runtime)

        def model(i: int) -> bytes:
            return models.layer(keys[i]) if i < len(keys) else models.network(nets[i - len(keys)][1])

        names = [*map(str, keys), *(label for label, _ in nets)]
        timer = Pushed(phone, benchmark, model, names, threads, mask)
        return (yield from build_with(timer, fingerprint, plan, out, error=error, minutes=minutes))


@contextmanager
def _locked(phone: Phone) -> Iterator[None]:
    """Excludes other processes from timing on `phone`. Raises: BadInput where one does."""
    place = cache_folder() / f"{phone}.lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.open("w")
    except OSError as e:
        raise BadInput(f"{place}: cannot be written ({e.strerror}); set MBV3_CACHE to another folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(f"{phone}: another process is timing on it; wait for it, or stop it") from None
        yield
