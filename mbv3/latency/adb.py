"""A table for a phone without Python: models are pushed with adb and timed there by LiteRT's own benchmark_model.

One call of adb a step of the runner's; what it measured is kept here, so a pulled cable costs one step.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbv3.errors import BadInput, plain
from mbv3.events import Event, Note
from mbv3.files import cache_folder, hold
from mbv3.latency.benchmark import SCRIPT, Visit, read_said, row, visit_script
from mbv3.latency.build import ERROR, MINUTES, STAGE, BuildPlan, build_with
from mbv3.latency.fingerprint import Fingerprint, vectors
from mbv3.latency.runtime import MODELS
from mbv3.latency.ssh import client
from mbv3.latency.table import LatencyTable
from mbv3.latency.timers import LAYER_ROUNDS, NETWORK_ROUNDS

__all__ = ["measure_over_adb"]

ANCHOR_EVERY = 24  # layers
ANSWER_S, PUSH_S_PER_MB, VISIT_S = 60.0, 2.0, 300.0  # without a word for so long, it hangs; a visit prints as it goes
_TARGET = re.compile(r"adb:([A-Za-z0-9][A-Za-z0-9._:()-]*)")
# what adb says (a pattern), and what it means with its cure
_COMPLAINTS = (
    ("unauthorized", "it does not trust this computer yet; unlock its screen and allow USB debugging"),
    ("offline", "it is offline; plug it in again, or `adb reconnect`"),
    ("permissions", "this user may not use the USB port; see the udev rules of Android's platform-tools"),
    ("not found|no devices", "there is no such device; `adb devices` lists what is connected"),
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
    """A device as adb knows it, and how the names of this build's own folders on it begin."""

    serial: str
    folder: str

    def __str__(self) -> str:
        return f"adb:{self.serial}"

    def adb(self, *arguments: str, limit_s: float = ANSWER_S) -> tuple[int, str]:
        """Exit code and output of `adb -s SERIAL ...`, or 124 where it prints nothing for `limit_s` seconds. $MBV3_ADB
        is the client with options of your own."""
        command = [*client("MBV3_ADB", "adb"), "-s", self.serial, *arguments]
        with tempfile.TemporaryFile() as said:  # no pipe: a file's length tells whether there was a word
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
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
                        length = os.fstat(said.fileno()).st_size
                        if code is None and length == before:
                            return 124, f"no word for {limit_s:g} s"
                finally:
                    process.kill()
            said.seek(0)
            return code, said.read().decode(errors="replace").replace("\r", "")

    def complaint(self) -> str | None:
        """Why it cannot be reached, or None."""
        code, said = self.adb("get-state")
        if code == 0 and _last(said) == "device":
            return None
        known = [meaning for word, meaning in _COMPLAINTS if re.search(word, said)]
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
        """What `script` prints there. Raises: BadInput."""
        code, said = self.adb("shell", script)
        if code:
            raise self.failed(said, doing)
        return said


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
    say core ${cpu##*/cpu} $(cat $cpu/online 2>/dev/null || echo 1) $(cat $cpu/cpufreq/cpuinfo_max_freq 2>/dev/null)
done
[ -f BENCHMARK ] && say there
[ -x BENCHMARK ] && say runs
say digest "$(sha256sum BENCHMARK 2>/dev/null)"
cat /proc/cpuinfo 2>/dev/null || true
"""


def _probe(phone: Phone, benchmark: str, threads: int) -> tuple[Fingerprint, int, bool]:
    """What the phone and its benchmark_model are; the mask of the fastest cores, one a thread, or 0 where clocks cannot
    be read or processes cannot be kept on them; whether its cores differ. Raises: BadInput."""
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
        raise BadInput(
            f"{phone}: {benchmark} cannot be told from others without sha256sum, which Android 8 and newer have"
        )
    cores = [[*map(int, w[1].split())] for w in told if w[0] == "core"]  # number, online, and kHz where it can be read
    if not 1 <= threads <= len(cores):
        raise BadInput(f"--threads must be from 1 to {len(cores)}, the cores of {phone} (got {threads})")
    clocks = sorted((khz, core, online) for core, online, *more in cores for khz in more)
    fastest = clocks[-threads:] if len(clocks) >= threads else []  # sleeping ones too: the same in every call
    if off := [f"cpu{core}" for _, core, online in fastest if not online]:
        raise BadInput(
            f"{phone}: {' and '.join(off)} of its {threads} fastest core(s) switched off; keep it awake (adb shell svc "
            "power stayon true) and out of power saving"
        )
    mask = sum(1 << core for _, core, _ in fastest)
    if mask and "pinned" not in phone.shell(f"taskset {mask:x} echo pinned || true", "pinning a process"):
        mask = 0
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
        runtime_version=f"benchmark_model {fact['digest'][:12]}",  # it does not tell its version
        threads=threads,
    )
    return fingerprint, mask, len({khz for khz, _, _ in clocks}) > 1 or len(set(parts.values())) > 1


# ---- timing --------------------------------------------------------------------------------------------------


class Pushed:
    """A Timer: `model(i)` is pushed and run by `benchmark`, a process a visit, on the cores of `mask` where it is
    not 0; `names[i]` is what it is."""

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
        """The visits of each model, and what else a journal's line holds. Raises: BadInput."""
        phone, models = self._phone, sorted({i for r in rounds for i in r})
        # a folder for this step alone: the script behind a cut connection may end, and remove its own, at any time
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
                        f"{name}: the models cannot be written ({e.strerror}); set TMPDIR to another place"
                    ) from None
                began = time.monotonic()  # writing the models is no timing
                phone.shell(f"rm -rf {phone.folder}-* && mkdir {folder}", "making a folder")
                files = sorted(Path(name).iterdir())
                mb = sum(f.stat().st_size for f in files) / 1e6
                limit_s = ANSWER_S + PUSH_S_PER_MB * mb
                code, text = phone.adb("push", *map(str, files), f"{folder}/", limit_s=limit_s)
                if code:
                    raise phone.failed(text, f"pushing {mb:.0f} MB of models")
            code, text = phone.adb("shell", f"sh {folder}/{SCRIPT}", limit_s=VISIT_S)
            said = read_said(text)
            if code and said.failed is None:
                raise phone.failed(text, "timing")
        except BaseException:
            phone.adb("shell", f"rm -rf {folder}")
            raise
        if said.failed:
            model, words = said.failed
            raise BadInput(
                f"{phone}: {self._benchmark} fails on {self._names[model]} ({words}); is it a benchmark_model for this "
                "CPU, and a recent one?"
            )
        visits: dict[int, list[Visit]] = {i: [] for i in models}
        for i, visit in said.visits:
            if visit is None or i not in visits:
                raise BadInput(
                    f"{phone}: {self._benchmark} tells no time of {self._names[i]}; is it LiteRT's benchmark_model?"
                )
            visits[i].append(visit)
        timed_s = sum(v.runs * v.mean_ms for mine in visits.values() for v in mine) / 1e3
        return visits, {"s": round(time.monotonic() - began, 3), "timed": round(timed_s, 3), "conditions": {}}

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
        BadInput: no adb, no such phone, it does not answer or is full, no benchmark_model there or it fails, it or
            `out` is in another process's hands, or `out` holds what was measured on another device.
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
    place = cache_folder() / f"{phone}.lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.open("w")
    except OSError as e:
        raise BadInput(f"{place}: cannot be written ({e.strerror})") from None
    with lock:
        if hold(lock) is False:
            raise BadInput(f"{phone}: another process is timing on it; wait for it, or end it")
        if complaint := phone.complaint():
            raise BadInput(f"{phone}: {complaint}")
        fingerprint, mask, differ = _probe(phone, benchmark, threads)
        if not mask:
            why = "its cores' clocks cannot be read, or processes cannot be kept on one"
            yield Note(STAGE, f"{phone}: {why}; any is used" + ", and they differ" * differ, warning=differ)
        keys, nets = list(dict.fromkeys(plan.keys)), [*plan.calibration, ("the reference network", plan.reference)]
        models = MODELS[runtime]

        def model(i: int) -> bytes:
            return models.layer(keys[i]) if i < len(keys) else models.network(nets[i - len(keys)][1])

        names = [*map(str, keys), *(label for label, _ in nets)]
        timer = Pushed(phone, benchmark, model, names, threads, mask)
        yield from build_with(timer, fingerprint, plan, out, error=error, minutes=minutes)
        yield LatencyTable.load(out)
