"""How far `--sampler solve` stays below the best known network, how long it takes, and what its bound is worth.

    python scripts/bench_solve.py [--seeds 20] [--starts 40] [--device pixel-1|TABLE.csv] [--space mnasnet-imagenet]
        [--targets 40 90]

The best known is the best of `--starts` random starts of a local search over every change of one and two choices, and
of all runs of solve, at each of --targets (by default five between the fastest and the slowest network). The times are
those of a table; nothing is measured. Writes results/solve.json after every target: regret and gap in points of top-1,
seconds by the clock and of the processor, on one thread. With `--budget-s` a target that would not end in time is left
out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_lines import short_commit

from mbv3.events import result
from mbv3.search import Limit
from mbv3.search import solve as local_search
from mbv3.space import load_space
from mbv3.stages import imagenet_judge, most_accurate, solve, space_latency
from mbv3.tables import Latency, read_table

ROOT = Path(__file__).resolve().parents[1]
SHARES = (0.12, 0.25, 0.4, 0.6, 0.8)  # of the way from the fastest to the slowest network, in logarithms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--device", default="pixel-1")
    parser.add_argument("--space", default="mnasnet-imagenet")
    parser.add_argument("--targets", type=float, nargs="+", help="ms, in place of the five shares of the range")
    parser.add_argument("--budget-s", type=float, default=float("inf"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space(args.space)
    table, _ = read_table(args.device, "onnxruntime", 1, True)
    judge, cost = imagenet_judge(space), space_latency(space, Latency(table))
    least, most = cost.range_ms()
    commit = short_commit()
    began, rows, longest = time.monotonic(), [], 0.0
    for target in args.targets or [float(f"{least * (most / least) ** share:.3g}") for share in SHARES]:
        start = time.monotonic()
        if start - began + longest > args.budget_s:
            print(f"no time for {target:g} ms", file=sys.stderr)
            break
        known = local_search(
            space.sizes, judge.accuracies, [Limit(cost.many, target)], seed=1000, population=2, generations=0,
            starts=args.starts,
        )  # fmt: skip
        found: list[tuple[float, float, float, float]] = []
        for seed in range(args.seeds):
            wall, cpu = time.monotonic(), time.process_time()
            solution = result(solve(space, judge, cost, target, seed=seed))
            spent = time.monotonic() - wall, time.process_time() - cpu
            found.append((solution.best.accuracy, *spent, solution.bound or np.nan))
        only = time.monotonic()
        most_accurate(judge, cost, target, [solution.best.genome])
        bound_s = time.monotonic() - only
        best = max(known.value, *(f[0] for f in found))
        rows.append(
            {
                "target_ms": target, "best_known": round(best, 4), "local_search": round(known.value, 4),
                "regret": [round(best - f[0], 4) for f in found], "s": [round(f[1], 2) for f in found],
                "cpu_s": [round(f[2], 2) for f in found], "bound_s": round(bound_s, 2),
                "gap": [round(f[3] - f[0], 4) for f in found],
                "bound_holds": bool(all(f[3] >= best - 1e-6 for f in found)),
            }
        )  # fmt: skip
        longest = max(longest, time.monotonic() - start)
        print(json.dumps(rows[-1]), flush=True)
        _keep(args, table.about or {}, commit, rows)
    print(json.dumps(_summary(rows), indent=1))


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    every = {key: [v for row in rows for v in row[key]] for key in ("regret", "s", "cpu_s", "gap")}
    return {
        "runs": len(every["regret"]), "regret_0": sum(r < 5e-5 for r in every["regret"]),
        **{f"median_{k}": round(statistics.median(v), 4) for k, v in every.items()},
        **{f"worst_{k}": max(v) for k, v in every.items()},
        "bound_holds": all(row["bound_holds"] for row in rows),
    }  # fmt: skip


def _keep(args: argparse.Namespace, about: Any, commit: str, rows: list[dict[str, Any]]) -> None:
    kept = {
        "command": f"python scripts/bench_solve.py --seeds {args.seeds} --starts {args.starts} --space {args.space} "
        f"--device {Path(args.device).name}"
        + (f" --targets {' '.join(f'{t:g}' for t in args.targets)}" if args.targets else ""),
        "space": args.space, "device": Path(args.device).name, "table": {k: about[k] for k in ("date",) if k in about},
        "seeds": args.seeds, "starts": args.starts, "python": platform.python_version(),
        "machine": platform.machine(), "threads": 1, "commit": commit, "summary": _summary(rows), "targets": rows,
    }  # fmt: skip
    (ROOT / "results/solve.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
