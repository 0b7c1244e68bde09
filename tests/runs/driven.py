"""mbv3-search in a process of its own that can be told where to die."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Checkpoints after every step, so that a short training has some to go on from; then `SIGNAL module:attribute:n` sends
# the process that signal when the attribute is called for the n-th time.
_DRIVER = """\
import os, signal, sys
from importlib import import_module
from mbv3.training import loop
loop.fit.__kwdefaults__["every_s"] = 0.0
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell begins with it ignored
fate = sys.argv.pop(1)
if fate:
    name, place = fate.split(" ")
    module, path, n = place.split(":")
    owner = import_module(module)
    *parents, attribute = path.split(".")
    for p in parents:
        owner = getattr(owner, p)
    original, calls = getattr(owner, attribute), 0
    def wrapped(*a, **k):
        global calls
        calls += 1
        if calls == int(n):
            os.kill(os.getpid(), getattr(signal, name))
        return original(*a, **k)
    setattr(owner, attribute, wrapped)
from mbv3.cli import search_main
sys.exit(search_main())
"""

SUPERNET = "mbv3.training.loop:one_step:8"  # the eighth training step of this process
PRETRAIN = "mbv3.training.loop:one_step:9"
SEARCH = "mbv3.supernet.task:SupernetAccuracy.__call__:23"
IMAGENET_SEARCH = "mbv3.search.study:Search._one:33"
NETADAPT = "mbv3.stages.adapt_tune:FineTune.__call__"
PREDICTED = "mbv3.stages.adapt_model:imagenet"


@dataclass(frozen=True)
class Run:
    """How a process ended. `out`, `err`: what it said; `path`: --out or --resume."""

    code: int
    out: str
    err: str
    path: Path


def drive(*args: str, fate: str = "") -> Run:
    """Run mbv3-search with `args` to its end, natural or not."""
    process = subprocess.run([sys.executable, "-c", _DRIVER, fate, *args], capture_output=True, text=True, timeout=300)
    at = args.index("--out" if "--out" in args else "--resume")
    return Run(process.returncode, process.stdout, process.stderr, Path(args[at + 1]))
