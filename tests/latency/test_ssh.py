"""A real sshd on 127.0.0.1, with a key made for the test: measured, cut in the middle, gone on, refused."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mbv3.errors import BadInput
from mbv3.events import Note, Progress
from mbv3.latency import BuildPlan, LatencyTable, measure_over_ssh, this_cpu
from mbv3.latency.ssh import Host, _failed, parse_host

from .fake import run_out

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
real = pytest.mark.skipif(
    not Path(SSHD).exists() or shutil.which("ssh-keygen") is None, reason="no OpenSSH server on this machine"
)


@dataclass
class Server:
    """An sshd of this test's own; commands run in `home`."""

    process: subprocess.Popen[bytes]
    port: int
    home: Path
    folder: Path

    @property
    def target(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{sys.executable}"

    def cut(self) -> None:
        """End the processes of every connection, as a broken network does for the client."""
        below = {self.process.pid}
        for _ in range(3):
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    pid, _, rest = stat.read_text().partition(" (")
                    name, _, fields = rest.rpartition(") ")
                except OSError:
                    continue
                if int(fields.split()[1]) in below and name.startswith("sshd"):
                    below.add(int(pid))
        for pid in below - {self.process.pid}:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder, home = tmp_path / "ssh", tmp_path / "home"
    folder.mkdir(mode=0o700)
    home.mkdir()
    for name in ("host", "key", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'key.pub'}\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f'PermitRootLogin prohibit-password\nForceCommand echo hello; cd {home} && eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    (folder / "config").write_text(
        f"Host *\n  IdentityFile {folder / 'key'}\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder / 'known'}\n"
        "  StrictHostKeyChecking accept-new\n  LogLevel ERROR\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    monkeypatch.setenv("MBV3_SSH", f"ssh -F {folder / 'config'}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    for _ in range(100):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.05)
    yield Server(process, port, home, folder)
    process.terminate()
    process.wait()


@real
def test_a_table_is_measured_cut_and_gone_on_with(server: Server, plan: BuildPlan, tmp_path: Path) -> None:
    out = tmp_path / "board.csv"
    with pytest.raises(BadInput, match=r"the connection was lost while measuring .* the same command continues there"):
        for event in measure_over_ssh(server.target, plan, "onnxruntime", 1, out, minutes=0.02):
            if isinstance(event, Progress) and event.done >= 2:
                server.cut()
    [results] = server.home.rglob("results.jsonl")
    for _ in range(100):  # until the kit has noticed that nobody listens
        kept = results.read_bytes()
        time.sleep(0.3)
        if results.read_bytes() == kept:
            break
    assert kept.count(b"\n") >= 2

    with pytest.raises(BadInput, match=r"cannot be written"):  # a folder: the device keeps what it measured
        list(measure_over_ssh(server.target, plan, "onnxruntime", 1, tmp_path, minutes=0.02))
    events, table = run_out(measure_over_ssh(server.target, plan, "onnxruntime", 1, out, minutes=0.02))
    assert any(isinstance(e, Note) and "the kit is on the device;" in e.text for e in events)
    assert not any(isinstance(e, Progress) for e in events)  # all was measured before the table could not be written
    assert tuple(table.layers) == plan.keys
    assert LatencyTable.load(out).dumps() == table.dumps()
    assert table.fingerprint.id == this_cpu("onnxruntime", table.fingerprint.runtime_version, 1).id
    assert not list(server.home.rglob("kit.json"))  # nothing is left behind


@real
def test_what_the_device_lacks_is_said(server: Server, plan: BuildPlan) -> None:
    def said(target: str, match: str) -> None:
        with pytest.raises(BadInput, match=match):
            list(measure_over_ssh(target, plan, "onnxruntime", 1, server.folder / "none.csv"))

    base = server.target.removesuffix(sys.executable)
    said(f"{base}/nowhere/python", r"has no /nowhere/python; install Python 3\.10 or newer, or give its path")
    for name, words, match in (
        (
            "bare",
            "python 3 11\nnumpy missing\nonnxruntime missing",
            "numpy and onnxruntime not installed .*run there: .*pip",
        ),
        ("old", "python 3 8\nnumpy 1.0\nonnxruntime 1.0", r"is Python 3\.8; install 3\.10 or newer"),
        ("none", "hello", r"is not Python \(it printed 'hello hello'\)"),
    ):
        script = server.home / name
        script.write_text(f"#!/bin/sh\ncat <<'X'\n{words}\nX\n")
        script.chmod(0o755)
        said(f"{base}{script}", match)
    config = server.folder / "config"
    config.write_text(config.read_text().replace(str(server.folder / "key"), str(server.folder / "other")))
    said(server.target, r"refused the key .*set up a login of `ssh .*` without a password first")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # bound and not listened on: nobody answers
        said(f"ssh://127.0.0.1:{s.getsockname()[1]}", r"cannot be reached")
    assert not list(server.home.rglob("kit.json"))


def test_hosts() -> None:
    assert parse_host("ssh://pi@board") == Host("pi@board", None, "python3")
    assert parse_host("ssh://board:2222/opt/v/bin/python") == Host("board", 2222, "/opt/v/bin/python")
    assert parse_host("ssh://u@[::1]:22") == Host("u@::1", 22, "python3")
    assert parse_host("ssh://a.b-c").command("true")[-3:] == ["--", "a.b-c", "true"]
    for bad in (
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://h:0",
        "ssh://h:99999",
        "http://h",
        "ssh://h;rm",
        "ssh://a b",
    ):
        with pytest.raises(BadInput, match=r"--device must be ssh://\[user@\]host"):
            parse_host(bad)


def test_failures_have_their_cure() -> None:
    host = parse_host("ssh://u@board")
    for code, words, match in (
        (255, "x\nu@board: Permission denied (publickey).", "refused the key"),
        (255, "Host key verification failed.", "its host key is not known; run `ssh u@board` once"),
        (255, "", r"cannot be reached, or the connection was lost while measuring \(exit 255\)"),
        (
            2,
            "tar: No space left on device\ntar: Exiting",
            "its disk has no space for the 3 MB of the kit; free some and",
        ),
        (
            137,
            "",
            "measuring was killed there, probably because the device ran out of memory; .*continues where it stopped",
        ),
        (2, "error: models.bin: copy the kit again", "measuring failed .*copy the kit again"),
    ):
        with pytest.raises(BadInput, match=match):
            raise _failed(host, code, words, "measuring", 3_000_000)


def test_without_a_client(plan: BuildPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBV3_SSH", "no-such-ssh -v")
    with pytest.raises(BadInput, match=r"no-such-ssh: .*install the OpenSSH client, or set MBV3_SSH"):
        list(measure_over_ssh("ssh://board", plan, "onnxruntime", 1, Path("none.csv")))
    monkeypatch.setenv("MBV3_SSH", 'ssh -F "x')
    with pytest.raises(BadInput, match=r"MBV3_SSH=.*: is not a command line"):
        list(measure_over_ssh("ssh://board", plan, "onnxruntime", 1, Path("none.csv")))
