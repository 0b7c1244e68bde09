"""A table for a device that OpenSSH can reach: a kit is copied there and run, and its results are copied back.

Keys, hosts and jumps are those of the user's OpenSSH client; no password is asked for or kept.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import tarfile
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mbv3.errors import BadInput
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.latency.build import ERROR, MINUTES, BuildPlan, noise_warning, saved
from mbv3.latency.kit import kit_files, parse_kit, table_of_results
from mbv3.latency.sessions import KINDS
from mbv3.latency.table import LatencyTable

__all__ = ["Host", "client", "measure_over_ssh", "parse_host"]

STAGE = "table"
FOLDER = ".cache/mbv3/kits"  # in the home folder on the device
_TARGET = re.compile(r"ssh://(?:([A-Za-z0-9._-]+)@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[^\0\n]*)?")
_SSH = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")


def client(variable: str, program: str) -> list[str]:
    """The client command: the value of the environment variable, which may hold options, or `program`. Raises:
    BadInput."""
    try:
        return shlex.split(os.environ.get(variable, "")) or [program]
    except ValueError as e:
        raise BadInput(
            f"{variable}={os.environ[variable]}: is not a command line ({e}); quote it as in a shell"
        ) from None


@dataclass(frozen=True, slots=True)
class Host:
    """A device: `destination` as ssh takes it, the port (None: the client's default), python on the device."""

    destination: str
    port: int | None
    python: str

    def command(self, remote: str) -> list[str]:
        """The command that runs `remote` in the shell of the device. $MBV3_SSH: the client with options (`ssh -F
        FILE`)."""
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*client("MBV3_SSH", "ssh"), *_SSH, *port, "--", self.destination, remote]


def parse_host(text: str) -> Host:
    """`ssh://[user@]host[:port][/path/to/python]`. Raises: BadInput."""
    found = _TARGET.fullmatch(text)
    port = int(found[3]) if found and found[3] else None
    if found is None or (port is not None and not 1 <= port <= 65535) or found[2].startswith("-"):
        raise BadInput(f"--device must be ssh://[user@]host[:port][/path/to/python] or adb:SERIAL (got {text!r})")
    name = found[2].strip("[]")
    return Host(f"{found[1]}@{name}" if found[1] else name, port, found[4] or "python3")


def _failed(host: Host, code: int, stderr: str, doing: str, sent: int | None = None) -> BadInput:
    """The error for a failed remote command; `sent`: bytes that were sent to it."""
    last = stderr.strip().split("\n")[-1] if stderr.strip() else f"exit {code}"
    where = host.destination
    if code == 255:  # from ssh itself
        if "Permission denied" in stderr:
            return BadInput(
                f"{where}: refused the key ({last}); set up a login of `ssh {where}` without a password first"
            )
        if "Host key verification failed" in stderr:
            return BadInput(f"{where}: its host key is not known; run `ssh {where}` once and accept it")
        return BadInput(
            f"{where}: cannot be reached, or the connection was lost while {doing} ({last}); what was measured is kept "
            "on the device, and the same command continues there"
        )
    if "No space left" in stderr:
        size = "" if sent is None else f" for the {sent / 1e6:.0f} MB of the kit"
        return BadInput(f"{where}: its disk has no space{size}; free some and run the same command again")
    if code in (-9, 137):
        return BadInput(
            f"{where}: {doing} was killed there, probably because the device ran out of memory; stop other programs on "
            "it or use a smaller --scale; the same command continues where it stopped"
        )
    return BadInput(f"{where}: {doing} failed ({last}); cure that and run the same command again")


def _run(host: Host, remote: str, doing: str, data: bytes | None = None) -> str:
    """Standard output of a remote command. Raises: BadInput."""
    try:
        done = subprocess.run(host.command(remote), input=data or b"", capture_output=True)
    except OSError as e:
        raise BadInput(f"{e.filename or 'ssh'}: {e.strerror}; install the OpenSSH client, or set MBV3_SSH") from None
    if done.returncode:
        stderr = done.stderr.decode(errors="replace")
        raise _failed(host, done.returncode, stderr, doing, None if data is None else len(data))
    return done.stdout.decode(errors="replace")


_BEGIN = "-- results of mbv3 --"
_PROBE = """\
import sys
from importlib.util import find_spec
print('python', *sys.version_info[:2])
for name in sys.argv[1:]:
    package, *modules = name.split(',')
    print(package, 'found' if any(map(find_spec, modules)) else 'missing')
"""


def _probe(host: Host, runtime: str) -> None:
    """Raises: BadInput where the device cannot run a kit."""
    package = KINDS[runtime].package
    wanted = f"numpy,numpy {','.join((package, *KINDS[runtime].modules))}"
    python = shlex.quote(host.python)
    missing_python = f"command -v {python} >/dev/null || {{ echo nopython; exit 0; }}"
    words = _run(host, f"{missing_python}; {python} -c {shlex.quote(_PROBE)} {wanted}", "looking for Python").split()
    if words[-1:] == ["nopython"]:
        raise BadInput(
            f"{host.destination}: has no {host.python}; install Python 3.10 or newer, or give its path: "
            "ssh://user@host/path/to/python"
        )
    try:
        at = words.index("python")
        found = int(words[at + 1]), int(words[at + 2])
        missing = [name for name in ("numpy", package) if words[words.index(name) + 1] == "missing"]
    except (ValueError, IndexError):
        raise BadInput(
            f"{host.destination}: {host.python} is not Python (it printed {' '.join(words)[:200]!r}); "
            "give the path of one: ssh://user@host/path/to/python"
        ) from None
    if found < (3, 10):
        raise BadInput(
            f"{host.destination}: {host.python} is Python {found[0]}.{found[1]}; install 3.10 or "
            "newer, or give its path: ssh://user@host/path/to/python"
        )
    if missing:
        raise BadInput(
            f"{host.destination}: {' and '.join(missing)} not installed for {host.python}; run there: "
            f"{host.python} -m pip install {' '.join(missing)}"
        )


def _tar(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def measure_over_ssh(
    target: str,
    plan: BuildPlan,
    runtime: str,
    threads: int,
    out: Path,
    *,
    error: float = ERROR,
    minutes: float = MINUTES,
) -> Generator[Event, None, LatencyTable]:
    """Measure `plan` on the device `target` and write the table to `out`; returns it.

    The folder of the kit stays on the device until its results are here, so the same call after an interruption
    continues there.

    Raises:
        BadInput: the device cannot be reached, refuses the key, has no Python, numpy or runtime, or its disk is full;
            the connection was lost.
    """
    host = parse_host(target)
    files = kit_files(plan, runtime, threads, error=error, minutes=minutes)
    kit = parse_kit(files["kit.json"], "kit.json")
    folder = f"{FOLDER}/{kit['id'][:16]}"
    size = f"{len(plan.keys)} layers and {len(plan.calibration)} networks"
    yield StageStart(STAGE, f"timing {size} on {host.destination}")
    _probe(host, runtime)
    there = _run(host, f"test -f {folder}/complete && echo there || true", "looking for the kit")
    if there.split("\n")[-2:-1] != ["there"]:  # its shell may print more when it starts
        copy = f"mkdir -p {folder} && cd {folder} && tar xf - && touch complete"
        _run(host, copy, "copying the kit", _tar(files))
    else:
        yield Note(STAGE, "the kit is on the device; measurements from before an interruption are kept")
        limits = {"kit.json": files["kit.json"]}  # --error and --minutes may have changed
        _run(host, f"cd {folder} && tar xf -", "copying the kit", _tar(limits))
    yield from _follow(host, f"cd {folder} && {shlex.quote(host.python)} run.py")
    text = _run(host, f"echo {shlex.quote(_BEGIN)}; cat {folder}/results.jsonl", "fetching the results")
    text = text.partition(_BEGIN + "\n")[2]
    table = table_of_results(kit, text, f"{host.destination}: results.jsonl")
    table = saved(table, out)  # before anything is removed there
    yield from noise_warning(table)
    _run(host, f"rm -rf {folder}", "removing the kit")
    return table


def _follow(host: Host, remote: str) -> Iterator[Progress]:
    """Run the kit with the command `remote` and report its steps. Raises: BadInput."""
    stderr = ""
    began, before = time.monotonic(), -1
    with subprocess.Popen(
        host.command(remote), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        try:
            for raw in process.stderr:
                line = raw.decode(errors="replace").strip()
                step = re.fullmatch(r"([0-9]+)/([0-9]+)", line)
                if step is None:
                    stderr += line + "\n"
                    continue
                done, total = int(step[1]), int(step[2])
                before = done if before < 0 else before
                rate = (done - before) / max(time.monotonic() - began, 1e-9)
                yield Progress(STAGE, done, total, "steps", (total - done) / rate if rate > 0 else None)
        except GeneratorExit:
            process.terminate()
            raise
    if process.returncode:
        raise _failed(host, process.returncode, stderr, "measuring")
