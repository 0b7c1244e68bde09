"""CPU seconds of a training turn and of a table build here, over those of another commit's checkout beside it.

git worktree add ../before fd45124
python scripts/bench_slowed.py ../before [--pairs 24] [--out results/slowed.json]

A process of each checkout is started for each kind of work; they take turns, one at a time, the first of a pair drawn.
Both do the same: as many steps by the recipe for small data on the same images and network, and three passes over the
same layers and whole networks of a table. CPU seconds of all threads count, so that other programs do less harm.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from json_lines import short_commit

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2", "mnasnet_b1", "mobilenet_v3_large@0.75")


def trainings(root: Path, side: int, folder: Path) -> Iterator[None]:
    """A turn of the loop under test of `root`'s scripts/bench_training.py, on images that are drawn here."""
    import torch

    from mbv3.data import ImageSet

    found = importlib.util.spec_from_file_location("bench_training", root / "scripts" / "bench_training.py")
    assert found is not None and found.loader is not None
    bench: Any = importlib.util.module_from_spec(found)
    found.loader.exec_module(bench)

    def images(n: int, side: int, seed: int) -> ImageSet:
        rng = np.random.default_rng(seed)
        return ImageSet(rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8), rng.integers(0, 8, n),
                        tuple("abcdefgh"), "")  # fmt: skip

    bench.noise = bench.procedural_images = images  # whatever the commit calls it
    torch.set_num_threads(1)
    yield from bench.our_turns(side, folder, [])


def tables(root: Path, side: int, folder: Path) -> Iterator[None]:
    """A whole build: three passes over the layers of some known networks at `side` px, and over these networks."""
    from dataclasses import replace

    from mbv3.latency import BuildPlan, build_table, open_runtime
    from mbv3.spec import load_spec, lower

    specs = [(name, replace(load_spec(name), resolution=(side, side))) for name in NETWORKS]
    keys = tuple(dict.fromkeys(x.key for _, spec in specs for x in lower(spec)))
    about = {"space": "some", "space_id": "0" * 16, "width": 1.0, "resolution": side, "reference": NETWORKS[0]}
    plan = BuildPlan(keys, tuple(specs), specs[0][1], about)
    runtime, n = open_runtime("onnxruntime", 1), 0
    while True:
        n += 1
        for _ in build_table(runtime, plan, folder / f"{n}.csv", error=100.0, minutes=10.0):
            pass  # passes end when chance adds no more than 100 %: after the fewest that there are
        yield


WORK: dict[str, tuple[Callable[[Path, int, Path], Iterator[None]], int]] = {
    "training-32": (trainings, 32), "training-224": (trainings, 224), "table": (tables, 224),
}  # fmt: skip


def worker(root: Path, name: str) -> None:
    """A turn for every line of standard input; answers with its CPU seconds."""
    work, side = WORK[name]
    with tempfile.TemporaryDirectory() as folder:
        turns = work(root, side, Path(folder))
        for _ in sys.stdin:
            began = os.times()
            next(turns)
            now = os.times()
            print("cpu", sum(now[:4]) - sum(began[:4]), flush=True)


class Side:
    """A process that works by the code of one checkout."""

    def __init__(self, root: Path, name: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name, str(root)], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def turn(self) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("cpu "):
                return float(line.split()[1])
        raise SystemExit(f"a worker ended with {self.process.wait()}")

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compared(before: Path, name: str, pairs: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    sides = {"before": Side(before, name), "now": Side(ROOT, name)}
    for side in sides.values():
        side.turn()  # opens, compiles, fills caches
    raw: dict[str, list[float]] = {"before": [], "now": []}
    for _ in range(pairs):
        for which in rng.permutation(list(sides)):
            raw[which].append(round(sides[which].turn(), 3))
    for side in sides.values():
        side.end()
    ratios = np.array(raw["now"]) / np.array(raw["before"])
    drawn = np.median(rng.choice(ratios, (2000, pairs)), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "work": name, "pairs": pairs, "ratio": round(float(np.median(ratios)), 4),
        "ratio_95": [round(float(low), 4), round(float(high), 4)], "raw_cpu_s": raw,
    }  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[3]), sys.argv[2])
        return
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("before", type=Path, help="a checkout of the commit to compare with")
    p.add_argument("--pairs", type=int, default=24)
    p.add_argument("--only", choices=tuple(WORK), nargs="+", default=tuple(WORK))
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    rows = []
    for name in args.only:
        rows.append(compared(args.before.resolve(), name, args.pairs))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "raw_cpu_s"}), flush=True)
    if args.out:
        import onnxruntime
        import torch

        about = {"command": f"python scripts/bench_slowed.py ../before --pairs {args.pairs}",
                 "before": short_commit(args.before), "commit": short_commit(), "torch": torch.__version__,
                 "onnxruntime": onnxruntime.__version__, "cpu": platform.processor() or platform.machine(),
                 "seed": 0, "rows": rows}  # fmt: skip
        args.out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
