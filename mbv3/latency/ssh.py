"""A table for a device reached with OpenSSH: a kit is copied there, run, and its results are brought back.

Keys, hosts and jumps are those of the user's own OpenSSH client; nothing asks for or keeps a password.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mbv3.errors import BadInput
from mbv3.events import Event, Note, Progress, StageStart
from mbv3.latency.build import ERROR, MINUTES, BuildPlan, noise_warning
from mbv3.latency.kit import kit_files, parse_kit, table_of_results
from mbv3.latency.sessions import KINDS
from mbv3.latency.table import LatencyTable

__all__ = ["Host", "client", "measure_over_ssh", "parse_host"]

STAGE = "table"
FOLDER = ".cache/mbv3/kits"  # under the user's home on the device
_TARGET = re.compile(r"ssh://(?:([A-Za-z0-9._-]+)@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[^\0\n]*)?")
_SSH = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")


def client(variable: str, program: str) -> list[str]:
    """The command that reaches devices: $`variable`, which may hold options of the user's own, or `program`. Raises:
    BadInput."""
    try:
        return shlex.split(os.environ.get(variable, "")) or [program]
    except ValueError as e:
        raise BadInput(f"{variable}={os.environ[variable]}: is no command line ({e})") from None


@dataclass(frozen=True, slots=True)
class Host:
    """Where a device is: `destination` as ssh takes it, the port or None for the client's, python on the device."""

    destination: str
    port: int | None
    python: str

    def command(self, remote: str) -> list[str]:
        """`remote`, run by the device's shell. $MBV3_SSH is the client with options of your own (`ssh -F FILE`)."""
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


def _failed(host: Host, code: int, said: str, doing: str, given: int | None = None) -> BadInput:
    """The one message for what went wrong; `given`: bytes that were sent."""
    last = said.strip().split("\n")[-1] if said.strip() else f"exit {code}"
    where = host.destination
    if code == 255:  # ssh's own
        if "Permission denied" in said:
            return BadInput(f"{where}: refused the key ({last}); let `ssh {where}` log in without a password first")
        if "Host key verification failed" in said:
            return BadInput(f"{where}: its host key is not known; run `ssh {where}` once and accept it")
        return BadInput(
            f"{where}: cannot be reached, or the connection was cut while {doing} ({last}); what was measured is kept "
            "on the device, and the same command goes on there"
        )
    if "No space left" in said:
        size = "" if given is None else f" for the kit's {given / 1e6:.0f} MB"
        return BadInput(f"{where}: its disk has no room{size}; free some and run the same command again")
    if code in (-9, 137):
        return BadInput(
            f"{where}: {doing} was killed there, as a system does that runs out of memory; end other programs on it or "
            "take a smaller --scale, and the same command goes on where it stopped"
        )
    return BadInput(f"{where}: {doing} failed ({last})")


def _run(host: Host, remote: str, doing: str, given: bytes | None = None) -> str:
    """Standard output of a remote command. Raises: BadInput."""
    try:
        done = subprocess.run(host.command(remote), input=given or b"", capture_output=True)
    except OSError as e:
        raise BadInput(f"{e.filename or 'ssh'}: {e.strerror}; install OpenSSH's client, or set MBV3_SSH") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise _failed(host, done.returncode, said, doing, None if given is None else len(given))
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
    """Raises: BadInput when the device cannot run a kit."""
    package = KINDS[runtime].package
    wanted = f"numpy,numpy {','.join((package, *KINDS[runtime].modules))}"
    python = shlex.quote(host.python)
    there = f"command -v {python} >/dev/null || {{ echo nopython; exit 0; }}"
    said = _run(host, f"{there}; {python} -c {shlex.quote(_PROBE)} {wanted}", "looking for Python").split()
    if said[-1:] == ["nopython"]:
        raise BadInput(
            f"{host.destination}: has no {host.python}; install Python 3.10 or newer, or name it: "
            "ssh://user@host/path/to/python"
        )
    try:
        at = said.index("python")
        found = int(said[at + 1]), int(said[at + 2])
        missing = [name for name in ("numpy", package) if said[said.index(name) + 1] == "missing"]
    except (ValueError, IndexError):
        raise BadInput(f"{host.destination}: {host.python} is no Python (it said {' '.join(said)[:200]!r})") from None
    if found < (3, 10):
        raise BadInput(f"{host.destination}: {host.python} is Python {found[0]}.{found[1]}; 3.10 or newer is needed")
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
) -> Iterator[Event | LatencyTable]:
    """Measure `plan` on the device `target`, write the table to `out`. Yields events and at last the table.

    The kit's folder stays on the device until its results are here: the same call after an interruption goes on.

    Raises:
        BadInput: unreachable, key refused, no Python, numpy or runtime there, disk full, connection cut.
    """
    host = parse_host(target)
    files = kit_files(plan, runtime, threads, error=error, minutes=minutes)
    kit = parse_kit(files["kit.json"], "kit.json")
    folder = f"{FOLDER}/{kit['id'][:16]}"
    what = f"{len(plan.keys)} layers and {len(plan.calibration)} networks"
    yield StageStart(STAGE, f"timing {what} on {host.destination}")
    _probe(host, runtime)
    there = _run(host, f"test -f {folder}/complete && echo there || true", "looking for the kit")
    if there.split("\n")[-2:-1] != ["there"]:  # its shell may say more when it starts
        copy = f"mkdir -p {folder} && cd {folder} && tar xf - && touch complete"
        _run(host, copy, "copying the kit", _tar(files))
    else:
        yield Note(STAGE, "the kit is on the device already; what was measured before an interruption is kept")
        asked = {"kit.json": files["kit.json"]}  # how long to measure may have changed
        _run(host, f"cd {folder} && tar xf -", "copying the kit", _tar(asked))
    said = ""
    began, before = time.monotonic(), -1
    remote = f"cd {folder} && {shlex.quote(host.python)} run.py"
    with subprocess.Popen(
        host.command(remote), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        try:
            for raw in process.stderr:
                line = raw.decode(errors="replace").strip()
                step = re.fullmatch(r"([0-9]+)/([0-9]+)", line)
                if step is None:
                    said += line + "\n"
                    continue
                done, total = int(step[1]), int(step[2])
                before = done if before < 0 else before
                rate = (done - before) / max(time.monotonic() - began, 1e-9)
                yield Progress(STAGE, done, total, "steps", (total - done) / rate if rate > 0 else None)
        except GeneratorExit:
            process.terminate()
            raise
    if process.returncode:
        raise _failed(host, process.returncode, said, "measuring")
    text = _run(host, f"echo {shlex.quote(_BEGIN)}; cat {folder}/results.jsonl", "fetching the results")
    text = text.partition(_BEGIN + "\n")[2]
    table = table_of_results(kit, text, f"{host.destination}: results.jsonl")
    table.save(out)  # before anything is removed there
    yield from noise_warning(table)
    _run(host, f"rm -rf {folder}", "removing the kit")
    yield table
