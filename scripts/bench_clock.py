"""One-thread runs on a core that other programs share: by the wall's clock, and by the thread's own.

    python scripts/bench_clock.py [--others 3] [--seconds 10] [--no-realtime]

MobileNetV3-Large, -Small and the layers of -Small are visited in shuffled order on one core, first alone, then beside
--others endless loops on the same core. The time of each is the 10th percentile of its runs. What counts is the last
column: how many times as long as alone, which a table corrects where it is the same for networks and layers. Nothing
else should run. With --no-realtime the thread has no real-time priority, as where the user may set none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from json_lines import short_commit

from mbv3.latency import open_runtime, p10, timed_core, undisturbed
from mbv3.spec import load_spec, lower

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "latency_clock.json"
NETWORKS = ("mobilenet_v3_large", "mobilenet_v3_small")
LOOP = "import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"


def timed(runtime: str, seconds: float) -> dict[str, dict[str, float]]:
    """ms by clock, of each network and of the sum over the layers of the last."""
    here = open_runtime(runtime, 1)
    layers = dict.fromkeys(x.key for x in lower(load_spec(NETWORKS[-1])))
    runs = [*(here.network(load_spec(name)) for name in NETWORKS), *(here.layer(key) for key in layers)]
    took: dict[str, list[list[float]]] = {"wall": [[] for _ in runs], "own": [[] for _ in runs]}
    rng, end = np.random.default_rng(0), time.monotonic() + seconds
    with undisturbed(1):
        while time.monotonic() < end:
            for i in rng.permutation(len(runs)):
                runs[i]()
                wall, own = time.perf_counter(), time.thread_time()
                runs[i]()
                own, wall = time.thread_time() - own, time.perf_counter() - wall
                took["wall"][i].append(1e3 * wall)
                took["own"][i].append(1e3 * own)
    n = len(NETWORKS)
    return {
        clock: {**{name: p10(t) for name, t in zip(NETWORKS, times, strict=False)}, "layers": sum(map(p10, times[n:]))}
        for clock, times in took.items()
    }


def beside(others: int, runtime: str, seconds: float) -> dict[str, dict[str, float]]:
    loop = LOOP.format(core=timed_core())
    # sessions of their own: within one, the priority of the timed thread would win
    programs = [subprocess.Popen([sys.executable, "-c", loop], start_new_session=True) for _ in range(others)]
    try:
        return timed(runtime, seconds)
    finally:
        for one in programs:
            one.kill()
            one.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--no-realtime", action="store_true")
    args = parser.parse_args()
    if args.no_realtime:
        os.sched_setscheduler = lambda *_: None  # type: ignore[assignment,misc]
    found: dict[str, Any] = {}
    for runtime in ("onnxruntime", "litert"):
        alone = timed(runtime, args.seconds)
        shared = beside(args.others, runtime, args.seconds)
        for clock in alone:
            for name, ms in alone[clock].items():
                now = shared[clock][name]
                found.setdefault(runtime, {}).setdefault(clock, {})[name] = [round(ms, 4), round(now, 4)]
                print(f"{runtime} {clock:4} {name:20} {ms:7.3f} ms, {now:7.3f} beside {args.others}, {now / ms:.2f}")
    name = "no_realtime" if args.no_realtime else "realtime"
    kept = json.loads(args.out.read_text("utf-8")) if args.out.exists() else {}
    about = {"cpu": open_runtime("onnxruntime", 1).fingerprint.cpu, "commit": short_commit(),
             "others": args.others, "seconds": args.seconds}  # fmt: skip
    kept[name] = {**about, "alone_and_beside_ms": found}
    args.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
