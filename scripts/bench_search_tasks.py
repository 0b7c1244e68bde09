"""Searches on photos, masks and boxes beside what anyone trains by hand at the same milliseconds, for as many steps.

python scripts/bench_search_tasks.py --task segment --data DIR --device pixel-1 --target-ms T --init W --work FOLDER

It runs `mbv3-search --task TASK --data DIR` with --init W --from mobilenet_v3_small, or without weights, and then
trains MobileNetV3-Small under the same head by `mbv3 train`, from the same weights at the largest input within the
target, or from nothing as wide as the target allows at the images' own size; it learns as many steps as the delivered
network did in all. A line for every seed is appended to --out; what is there, or in FOLDER, is not done again: an
interrupted run goes on. OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from json_lines import append, lines_of, short_commit

from mbv3.events import result
from mbv3.latency import open_runtime
from mbv3.record import SearchRecord, TrainRecord, load_as
from mbv3.spec import ArchSpec, dump_spec, load_spec, pixels, scale_spec, with_head
from mbv3.stages import Effort, sized, widest_within
from mbv3.tables import Latency, read_table
from mbv3.tasks import TASKS, Peek, Source
from mbv3.training import recipe_for

ROOT = Path(__file__).resolve().parents[1]
BY_HAND = "mobilenet_v3_small"
FINE = 8  # px
ENLARGED = 136  # small photos are enlarged to less
SAME = ("task", "data", "device", "target_ms", "epochs", "init", "seed")  # what makes two lines one cell


def called(entry: str, *args: object) -> None:
    """Run `mbv3-search` or `mbv3` with these arguments."""
    code = f"import sys; from mbv3.cli import {entry}; sys.exit({entry}())"
    subprocess.run([sys.executable, "-c", code, *map(str, args)], check=True, cwd=ROOT)


def searched(o: argparse.Namespace, seed: int) -> Path:
    """The run directory of the search, finished."""
    out = o.work / f"{o.task}-{o.target_ms:g}ms-{'init' if o.init else 'none'}-{seed}"
    if (out / "run.json").exists():
        called("search_main", "--resume", out)
        return Path(out)
    weights = ("--init", o.init, "--from", BY_HAND) if o.init else ()
    few = ("--supernet-steps", o.supernet_steps, "--trials", o.trials) if not o.init else ()
    called("search_main", "--task", o.task, "--data", o.data, "--device", o.device, "--target-ms", o.target_ms,
           "--final-epochs", o.epochs, "--seed", seed, *weights, *few, "--out", out)  # fmt: skip
    return Path(out)


def steps_of(o: argparse.Namespace, run: Path) -> int:
    """Steps that the delivered network learned in all: the start's and its cut's, those of its rounds, the last."""
    with (run / "candidates.csv").open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    last = next(row for row in rows if row["round"] == "last")
    plan = load_as(run, SearchRecord).plan
    effort = Effort.of(next(int(row["steps"]) for row in rows if row["round"] == "alike"))  # with --final-epochs
    start, cut, *_ = (plan.get("early_steps") or (effort.start, effort.cut)) if o.init else (0, 0)
    mine = sum(int(row["steps"]) for row in rows if row["network"] == last["network"])
    return mine + int(start) + (int(cut) if last["network"].startswith("cut-") else 0)


def by_hand_spec(o: argparse.Namespace, peek: Peek) -> tuple[ArchSpec, float]:
    """MobileNetV3-Small under the task's head within the target, and its predicted ms."""
    task, latency = TASKS[o.task], Latency(read_table(o.device, "onnxruntime", 1, False)[0])
    h, w = (max(FINE, FINE * round(v / FINE)) for v in peek.shape)
    plain = replace(load_spec(BY_HAND), resolution=(h, w))
    made = task.headed(plain) if task.head else plain
    spec = with_head(made, made.head, peek.outputs)
    if not o.init:
        fit = widest_within(partial(scale_spec, spec), o.target_ms, latency)
        assert fit is not None, "the target is out of reach"
        return fit
    at: Callable[[int], ArchSpec] = partial(sized, spec)
    sides = range(64 if task.head else 32, max(2 * h, ENLARGED), FINE)
    inside = [(s, ms) for s in map(at, sides) if (ms := latency([s])[0]) <= o.target_ms]
    return inside[-1]


def by_hand(o: argparse.Namespace, run: Path, seed: int) -> dict[str, Any]:
    """The training by hand, and its figures."""
    task = TASKS[o.task]
    spec, ms = by_hand_spec(o, task.peek(Source(path=o.data, apart=True)))
    out, steps = run.with_name(f"{run.name}-by-hand"), steps_of(o, run)
    if (out / "run.json").exists():
        called("main", "train", "--resume", out)
    else:
        file = run.with_name(f"{run.name}-by-hand.yaml")
        file.write_text(dump_spec(replace(spec, name=BY_HAND)), "utf-8")
        n = len(result(task.load(replace(spec, resolution=(64, 64)), Source(path=o.data))).train)
        epochs = steps / recipe_for(task.finetune if o.init else task.recipe, n, spec.resolution).epoch_steps
        weights = ("--init", o.init) if o.init else ()
        called("main", "train", file, "--task", o.task, "--data", o.data, "--epochs", f"{epochs:.5f}", "--score-every",
               10**6, "--seed", seed, *weights, "--out", out)  # fmt: skip
    r = load_as(out, TrainRecord)
    score = next(iter(r.metrics.values()))
    return {"by_hand": score, "by_hand_ms": round(ms, 4), "by_hand_px": pixels(spec.resolution), "steps": steps,
            "by_hand_params": r.params, "by_hand_n": r.n}  # fmt: skip


def cell(o: argparse.Namespace, seed: int) -> dict[str, Any]:
    """A search and a training by hand."""
    commit = short_commit()
    run = searched(o, seed)
    r = load_as(run, SearchRecord)
    assert r.accuracy is not None and r.accuracy.value is not None
    row = {
        "metric": r.accuracy.metric, "found": r.accuracy.value, "error": r.accuracy.error, "ms": r.predicted_ms,
        "px": r.scale and r.scale.resolution, "delivered": r.scale and r.scale.why, "params": r.params,
        "comparison": [[c.name, c.ms, c.steps, c.top1, c.sigma, c.n] for c in r.comparison],
        "notes": list(r.notes), "stages": dict(r.stages), "threads": os.environ.get("OMP_NUM_THREADS"),
        "cpu": open_runtime("onnxruntime", 1).fingerprint.cpu, "commit": commit,
    } | by_hand(o, run, seed)  # fmt: skip
    return {**row, "above": round(r.accuracy.value - row["by_hand"], 3)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--task", choices=("classify", "segment", "detect"), required=True)
    p.add_argument("--data", required=True, type=Path)
    p.add_argument("--device", default="pixel-1")
    p.add_argument("--target-ms", type=float, required=True)
    p.add_argument("--init", type=Path, help="ImageNet weights of mobilenet_v3_small; without them from nothing")
    p.add_argument("--epochs", type=float, default=20.0, help="of every network that is compared")
    p.add_argument("--supernet-steps", type=int, default=400)
    p.add_argument("--trials", type=int, default=60)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--work", type=Path, required=True, help="folder of the runs")
    p.add_argument("--out", type=Path, default=ROOT / "results" / "search-tasks.jsonl")
    o = p.parse_args()
    o.work.mkdir(parents=True, exist_ok=True)
    done = lines_of(o.out)
    for seed in o.seeds:
        key = {
            "task": o.task, "data": o.data.name, "device": o.device, "target_ms": o.target_ms, "epochs": o.epochs,
            "init": o.init and o.init.name, "seed": seed,
        }  # fmt: skip
        if not any(all(row[k] == key[k] for k in SAME) for row in done):
            row = {**key, **cell(o, seed)}
            append(o.out, row, quiet=True)
            done.append(row)
    same = [row for row in done if row["task"] == o.task and row["data"] == o.data.name]
    for row in same:
        apart = f"{row['above']:+.2f}"
        print(f"{row['data']} {row['target_ms']:g} ms seed {row['seed']}: found {row['found']:.2f}, by hand "
              f"{row['by_hand']:.2f}, {apart} points of {row['metric']}")  # fmt: skip
    if len(same) > 1:
        mean = sum(row["above"] for row in same) / len(same)
        spread = math.sqrt(sum((row["above"] - mean) ** 2 for row in same) / (len(same) - 1) / len(same))
        print(f"mean {mean:+.2f} +- {spread:.2f} points, n = {len(same)}")


if __name__ == "__main__":
    main()
