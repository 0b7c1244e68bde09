"""Searches without images on this CPU, each re-measured: is the target met, how much of it is used, and is the found
network better than what can be downloaded?

    python scripts/bench_measured.py run [--runtimes onnxruntime litert] [--seeds 0 1 2 3 4] [--minutes M]
    python scripts/bench_measured.py figures

The searches of a seed are one `mbv3.find_front(TARGETS, runtime=R, seed=S, scale="1")`, on the table of the cache. The
five targets are multiples of what a typical network of the space takes here. When they have ended, `mbv3.verify` times
every network again, in new sessions. A line of JSON a search is appended to --out. A seed that is there is not run
again, and none is begun that would end after --minutes. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from json_lines import append, lines_of, short_commit

import mbv3
from mbv3.latency import open_runtime
from mbv3.space import load_space, scale
from mbv3.stages import quick_ms, typical

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "measured.jsonl"
SPACE = "mobilenetv3"
STEPS = (0.5, 0.7, 0.95, 1.3, 1.8)  # of what a typical network takes


def targets(runtime: str) -> list[float]:
    space = scale(load_space(SPACE), 1.0)
    [ms] = quick_ms(open_runtime(runtime, 1), [space.deployed(typical(space))])
    return [float(f"{ms * step:.2g}") for step in STEPS]


def searches(runtime: str, targets_ms: list[float], seed: int) -> list[dict[str, Any]]:
    folder = Path(tempfile.mkdtemp()) / "run"
    try:
        front = mbv3.find_front(targets_ms, out=folder, runtime=runtime, seed=seed, scale="1", space=SPACE)
        again = [mbv3.verify(found.folder).measured_ms for found in front.found]
    finally:
        shutil.rmtree(folder.parent)
    about = {
        "cpu": open_runtime(runtime, 1).fingerprint.cpu, "load": os.getloadavg()[0], "commit": short_commit(),
    }  # fmt: skip
    out = []
    for found, again_ms in zip(front.found, again, strict=True):
        r = found.record
        assert again_ms is not None and r.accuracy is not None and r.total_s is not None
        out.append({
            "runtime": runtime, "target_ms": r.target_ms, "seed": seed, "predicted_ms": found.predicted_ms,
            "measured_ms": found.measured_ms, "error_ms": found.error_ms, "again_ms": round(again_ms, 5),
            "accuracy": r.accuracy.value, "accuracy_error": r.accuracy.error, "minutes": round(r.total_s / 60, 2),
            "beside": [{"name": b.name, "ms": b.ms, "accuracy": b.accuracy, "published": b.published, "below": b.below,
                        "below_error": b.below_error} for b in r.baselines],
            **about,
        })  # fmt: skip
    return out


def run(args: argparse.Namespace) -> None:
    end, longest = time.monotonic() + 60 * args.minutes, 0.0
    for runtime in args.runtimes:
        done = [(x["runtime"], x["seed"]) for x in lines_of(args.out)]
        known = sorted({x["target_ms"] for x in lines_of(args.out) if x["runtime"] == runtime})
        for seed in args.seeds:
            began = time.monotonic()
            if (runtime, seed) in done or began + longest > end:
                continue
            known = known or targets(runtime)
            found = searches(runtime, known, seed)
            longest = max(longest, time.monotonic() - began)
            append(args.out, *found)


def figures(args: argparse.Namespace) -> None:
    for runtime in args.runtimes:
        mine = [x for x in lines_of(args.out) if x["runtime"] == runtime]
        if not mine:
            continue
        within = [x["again_ms"] <= x["target_ms"] for x in mine]
        slack = [100 * (1 - x["again_ms"] / x["target_ms"]) for x in mine]
        print(
            f"{runtime}: {sum(within)} of {len(mine)} within the target when measured again, mean slack "
            f"{statistics.fmean(slack):.2f} % ({min(slack):.2f} to {max(slack):.2f}), "
            f"{statistics.median(x['minutes'] for x in mine):.1f} min a run"
        )
        for target_ms in sorted({x["target_ms"] for x in mine}):
            for x in [x for x in mine if x["target_ms"] == target_ms][:1]:
                zoo = [b for b in x["beside"] if b["published"] is not None]
                text = ", ".join(f"{b['name']} {b['ms']:.3g} ms {b['accuracy']:.1f} % (published {b['published']})"
                                 for b in zoo)  # fmt: skip
                print(
                    f"  {target_ms:g} ms, seed {x['seed']}: {x['again_ms']:.3f} ms, {x['accuracy']:.1f} +- "
                    f"{x['accuracy_error']:.1f} % predicted; the best to download: {text or 'none within'}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "figures"))
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "litert"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    {"run": run, "figures": figures}[args.what](args)


if __name__ == "__main__":
    main()
