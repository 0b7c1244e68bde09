"""How far `--sampler solve` stays below the best known network, and how long it takes.

    python scripts/bench_solve.py [--seeds 5] [--starts 40]

The best known is the best of `--starts` random starts of a local search over every change of one and two choices, and
of all runs of solve, at each target. Times of the layers are those of the shipped profile pixel-1: nothing is measured.
Writes results/solve.json; regret is in points of top-1.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path

import torch

from mbv3.accuracy import imagenet_space
from mbv3.events import result
from mbv3.latency import load_profile
from mbv3.search import Limit
from mbv3.search import solve as local_search
from mbv3.space import load_space
from mbv3.stages import imagenet_judge, solve, space_latency
from mbv3.tables import Latency

ROOT = Path(__file__).resolve().parents[1]
PROFILE, SPACE = "pixel-1", "mnasnet-imagenet"
TARGETS = (25.0, 35.0, 50.0, 70.0, 100.0)  # ms; the space takes 16 to 277


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space(SPACE)
    judge, cost = imagenet_judge(space), space_latency(space, Latency(load_profile(PROFILE)))
    top1 = imagenet_space(space)
    rows = []
    for target in TARGETS:
        known = local_search(
            space.sizes, top1, [Limit(cost.many, target)], seed=1000, population=2, generations=0, starts=args.starts
        )
        found = []
        for seed in range(args.seeds):
            began = time.process_time()
            solution = result(solve(space, judge, cost, target, seed=seed))
            found.append((solution.best.accuracy, time.process_time() - began, solution.evaluations))
        best = max(known.value, *(accuracy for accuracy, _, _ in found))
        rows.append(
            {
                "target_ms": target, "best_known": round(best, 4), "local_search": round(known.value, 4),
                "regret": [round(best - accuracy, 4) for accuracy, _, _ in found],
                "cpu_s": [round(s, 2) for _, s, _ in found], "evaluations": [n for _, _, n in found],
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    kept = {
        "command": f"python scripts/bench_solve.py --seeds {args.seeds} --starts {args.starts}", "space": SPACE,
        "profile": PROFILE, "seeds": args.seeds, "starts": args.starts, "python": platform.python_version(),
        "machine": platform.machine(), "threads": 1, "commit": commit.stdout.strip(), "targets": rows,
        "worst_regret": max(r for row in rows for r in row["regret"]),  # type: ignore[attr-defined]
        "worst_cpu_s": max(s for row in rows for s in row["cpu_s"]),  # type: ignore[attr-defined]
    }  # fmt: skip
    (ROOT / "results/solve.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
