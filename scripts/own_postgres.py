"""A PostgreSQL of one's own on loopback, for a bench or a test: a free port, a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Server", "postgres", "programs"]


@dataclass(frozen=True)
class Server:
    """Its URL for `--storage`, and the id of its first process."""

    url: str
    pid: int


def programs() -> Path | None:
    """The folder of initdb and postgres, of the newest version; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3].partition(".")[0]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def _as_another() -> dict[str, Any]:
    """The server refuses to run as root."""
    if os.getuid():
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def postgres(*, fsync: bool = True) -> Iterator[Server]:
    """A server with an empty database `postgres`. `fsync` False: quicker, and not safe against a loss of power."""
    where = programs()
    assert where is not None, "no PostgreSQL is installed"
    other = _as_another()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="mbv3-postgres-"))
    server: subprocess.Popen[bytes] | None = None
    try:
        if other:
            os.chown(folder, other["user"], other["group"])
        data = folder / "data"
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **other}
        subprocess.run(
            [where / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"], check=True, **quiet
        )
        command = [where / "postgres", "-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        server = subprocess.Popen([*command, *([] if fsync else ["-F"])], **quiet)
        until = time.monotonic() + 60
        while subprocess.run([where / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], **quiet).returncode:
            assert time.monotonic() < until and server.poll() is None, "PostgreSQL did not start"
            time.sleep(0.1)
        yield Server(f"postgresql://postgres@127.0.0.1:{port}/postgres", server.pid)
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)  # fast shutdown
            server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
