"""A stand-in for a phone and its adb: a folder, a client that runs shell commands in it, and a benchmark_model that
runs TFLite files with LiteRT's Python package and tells its times as the real one does."""

from __future__ import annotations

import json
import shlex
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SERIAL = "R58M-1:5555"
BENCHMARK = "/data/local/tmp/benchmark_model"

_ADB = """\
import fcntl, os, signal, subprocess, sys, time
from pathlib import Path

root = Path({root!r})
fault = (root / "fault").read_text()

def here(text):
    for theirs, ours in (("/data/local/tmp", "tmp"), ("/sys/devices/system/cpu", "cpu"), ("/proc/cpuinfo", "cpuinfo")):
        text = text.replace(theirs, str(root / ours))
    return text

assert sys.argv[1] == "-s"
serial, verb, *rest = sys.argv[2:]
if serial != {serial!r}:
    sys.exit(f"error: device '{{serial}}' not found")
if fault in ("unauthorized", "offline"):
    sys.exit(f"error: device {{fault}}" + ".\\nThis adb server's $ADB_VENDOR_KEYS is not set" * (fault != "offline"))
if verb == "get-state":
    print("* daemon started successfully\\ndevice")
elif verb == "push":
    *files, target = rest
    for n, name in enumerate(files):
        if fault == "full" and n == 2:
            why = "remote write failed: No space left on device"
            sys.exit(f"adb: error: failed to copy '{{name}}' to '{{target}}': {{why}}")
        data = Path(name).read_bytes()
        Path(here(target), Path(name).name).write_bytes(here(data.decode()).encode() if name.endswith(".sh") else data)
    print(f"{{len(files)}} files pushed.")
elif verb == "shell":
    [command] = rest
    if "visit.sh" in command and fault == "hung":
        time.sleep(60)
    running = open(root / "running", "w")
    if "visit.sh" in command:  # what a cut left behind goes on and ends just now
        if (root / "stopped").exists():
            os.killpg(int((root / "stopped").read_text()), signal.SIGCONT)
            (root / "stopped").unlink()
        fcntl.flock(running, fcntl.LOCK_EX)  # each of its processes holds this
    env = dict(os.environ, PATH=f"{{root / 'bin'}}:{{os.environ['PATH']}}")
    run = subprocess.Popen(["sh", "-c", here(command)], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, start_new_session=True,
                           pass_fds=[running.fileno()])
    visits = 0
    for line in run.stdout:
        print(line.rstrip("\\n"), end="\\r\\n")
        visits += line.startswith("mbv3 visit")
        if fault == "cut" and visits == 5 and (root / "steps").read_text() == "11":
            (root / "fault").write_text("offline")
            os.killpg(run.pid, signal.SIGSTOP)
            (root / "stopped").write_text(str(run.pid))
            os._exit(1)
    if "visit.sh" in command:
        (root / "steps").write_text((root / "steps").read_text() + "1")
    sys.exit(run.wait())
else:
    sys.exit(f"adb: unknown command {{verb}}")
"""

_GETPROP = """\
#!/bin/sh
case "$1" in
    ro.product.model) echo "Phone 9 Pro" ;;
    ro.soc.model) echo "SoC-1" ;;
    ro.build.version.release) echo 14 ;;
    *) echo ;;
esac
"""

_CLIENT = """\
import json, os, socket, sys
with socket.create_connection(("127.0.0.1", {port})) as s:
    s.sendall(json.dumps([os.getcwd(), *sys.argv[1:]]).encode() + b"\\n")
    said = b"".join(iter(lambda: s.recv(4096), b"")).decode()
print(said[1:], end="")
sys.exit(int(said[0]))
"""

_CPUINFO = """\
processor\t: 0
Features\t: fp asimd evtstrm
CPU part\t: 0xd05

processor\t: 3
Features\t: fp asimd evtstrm
CPU part\t: 0xd44

Hardware\t: Board
"""


@dataclass
class Phone:
    """What the stand-in did, and what is wrong with it: `fault` for adb, `fails(n)` for benchmark_model's nth run."""

    root: Path
    adb: str
    ran: list[dict[str, str]] = field(default_factory=list)
    fails: Callable[[int], bool] = lambda n: False

    def fault(self, what: str) -> None:
        (self.root / "fault").write_text(what)

    @property
    def left(self) -> list[str]:
        """Folders of builds that are still there."""
        return [p.name for p in (self.root / "tmp").glob("mbv3-*")]


def _stat(times: list[int]) -> str:
    """As the real one prints its statistics, in microseconds."""
    if len(set(times)) == 1:
        return f"count={len(times)} curr={times[-1]}" + " (all same)" * (len(times) > 1)
    p5, median, p95 = (int(np.percentile(times, q)) for q in (5, 50, 95))
    return (
        f"count={len(times)} first={times[0]} curr={times[-1]} min={min(times)} max={max(times)} "
        f"avg={np.mean(times):.6g} std={int(np.std(times))} p5={p5} median={median} p95={p95}"
    )


def _benchmark(phone: Phone, folder: str, flags: dict[str, str]) -> tuple[int, str]:
    from ai_edge_litert.interpreter import Interpreter

    phone.ran.append(flags)
    lines = ["INFO: STARTING!", f"INFO: Graph: [{flags['graph']}]"]
    if phone.fails(len(phone.ran)):
        return 1, "\n".join([*lines, "ERROR: Op builtin_code out of range: 206.", "ERROR: Benchmarking failed."])
    content = (Path(folder) / flags["graph"]).read_bytes()
    model = Interpreter(model_content=content, num_threads=int(flags["num_threads"]))
    model.allocate_tensors()
    x = model.get_input_details()[0]
    model.set_tensor(x["index"], np.zeros(x["shape"], np.float32))
    for runs, least in (("warmup_runs", "warmup_min_secs"), ("num_runs", "min_secs")):
        times: list[int] = []
        began = time.monotonic()
        while len(times) < int(flags[runs]) or time.monotonic() - began < float(flags[least]):
            t = time.perf_counter()
            model.invoke()
            times.append(max(1, int((time.perf_counter() - t) * 1e6)))
        lines += [f"INFO: Running benchmark for at least {flags[runs]} iterations", f"INFO: {_stat(times)}", ""]
    return 0, "\n".join([*lines, "INFO: Inference timings in us: Init: 5579, First inference: 80"])


def plug_in(root: Path) -> tuple[Phone, socketserver.TCPServer]:
    """A phone under `root`, and the server behind its benchmark_model; the caller shuts it down."""
    for name in ("tmp", "bin", "cpu"):
        (root / name).mkdir(parents=True)
    for core, khz in enumerate((1800000, 1800000, 2800000, 2800000)):
        cpufreq = root / f"cpu/cpu{core}/cpufreq"
        cpufreq.mkdir(parents=True)
        (cpufreq / "cpuinfo_max_freq").write_text(f"{khz}\n")
        (cpufreq / "scaling_governor").write_text("schedutil\n")
    (root / "cpu/cpufreq").mkdir()
    (root / "cpuinfo").write_text(_CPUINFO)
    (root / "fault").write_text("")
    (root / "steps").write_text("")
    adb = root / "adb.py"
    adb.write_text(_ADB.format(root=str(root), serial=SERIAL))
    phone = Phone(root, shlex.join([sys.executable, "-I", "-S", str(adb)]))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            folder, *arguments = json.loads(self.rfile.readline())
            flags = dict(a.removeprefix("--").split("=", 1) for a in arguments)
            code, said = _benchmark(phone, folder, flags)
            self.wfile.write(f"{code}{said}\n".encode())

    server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    client = root / "client.py"
    client.write_text(_CLIENT.format(port=server.server_address[1]))
    for path, text in (
        (root / "tmp/benchmark_model", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {client} "$@"\n'),
        (root / "bin/getprop", _GETPROP),
        (root / "bin/taskset", f'#!/bin/sh\necho "$1" >> {root / "masks"}\nshift\nexec "$@"\n'),
    ):
        path.write_text(text)
        path.chmod(0o755)
    return phone, server
