"""A phone as adb reaches it: its serial, what went wrong, what it is and which of its cores are the fastest."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass

from mbv3.errors import BadInput, plain
from mbv3.latency.fingerprint import Fingerprint, vectors
from mbv3.latency.ssh import client

__all__ = ["ANSWER_S", "Phone", "parse_serial", "probe"]

ANSWER_S = 60.0  # without output for this long a call hangs
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


def probe(phone: Phone, benchmark: str, threads: int) -> tuple[Fingerprint, int, bool]:
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
