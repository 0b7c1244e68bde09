"""A search on images without weights beside what anyone could train by hand in the same time at the same milliseconds.

python scripts/bench_scratch.py --data DIR --device pixel-1 --target-ms 2 --minutes 10 --out results/scratch.jsonl

DIR/{train,test}/<class>/*. It runs `mbv3-search --data DIR --budget-minutes M`, then trains MobileNetV3-Small, as wide
as the target allows on the device, by `mbv3 train` with its default recipe for as many processor seconds as the whole
search took: at the images' own size, with its first two strides removed where they are smaller than 64 px. One line is
appended to --out. `--per-class N` takes N training images a class. OMP_NUM_THREADS sets the threads of both.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from json_lines import append, short_commit

from mbv3.data import ImageSet, class_parts, peek_class_folder
from mbv3.events import result
from mbv3.nn import build
from mbv3.record import SearchRecord, TrainRecord, load_as
from mbv3.spec import ArchSpec, dump_spec, load_spec, scale_spec
from mbv3.stages import Images, Shape, read_photos, shaped_as, widest_within
from mbv3.tables import Latency, read_table
from mbv3.training import Fit, fit, recipe_for

ROOT = Path(__file__).resolve().parents[1]
BY_HAND = "mobilenet_v3_small"
SMALL = 64  # px
STEPS = 8  # that tell the seconds of one


def subset(data: Path, per_class: int, work: Path) -> Path:
    """Links to `per_class` training images a class and to all test images."""
    for part in ("train", "test"):
        for folder in sorted((data / part).iterdir()):
            (work / part / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[: per_class if part == "train" else None]:
                (work / part / folder.name / file.name).symlink_to(file.resolve())
    return work


class Took(NamedTuple):
    """Seconds of a process by the clock, and of its processor: others may have been at work beside it."""

    s: float
    cpu_s: float


def cpu_s() -> float:
    """Processor seconds of the processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def called(entry: str, *args: object) -> Took:
    """Run `mbv3-search` or `mbv3` with these arguments."""
    code = f"import sys; from mbv3.cli import {entry}; sys.exit({entry}())"
    began, before = time.monotonic(), cpu_s()
    subprocess.run([sys.executable, "-c", code, *map(str, args)], check=True, cwd=ROOT)
    return Took(round(time.monotonic() - began, 1), round(cpu_s() - before, 1))


def step_cpu_s(spec: ArchSpec, images: Images, batch: int) -> float:
    """Processor seconds of a training step."""
    net, recipe = build(spec, 0), Fit(steps=2, size=images.size, batch=batch)
    for _ in fit(net, images.train, recipe):
        pass
    began = time.process_time()
    for _ in fit(net, images.train, replace(recipe, steps=STEPS)):
        pass
    return (time.process_time() - began) / STEPS


def by_hand(o: argparse.Namespace, data: Path, searched: Took, work: Path) -> dict[str, Any]:
    """The network and the training by hand; its figures."""
    classes, _, side = peek_class_folder(class_parts(data)["training"])
    shape = Shape(side, 2 if side < SMALL else 0)
    base, latency = load_spec(BY_HAND), Latency(read_table(o.device, "onnxruntime", 1, False)[0])
    fit = widest_within(lambda w: shaped_as(scale_spec(base, w), shape, classes), o.target_ms, latency)
    assert fit is not None, "the target is out of reach"
    spec, ms = replace(fit[0], name=BY_HAND), fit[1]
    (work / "by-hand.yaml").write_text(dump_spec(spec))
    photos = result(read_photos(data, (side, side)))
    few = Images(first(photos.images.train, 2000), first(photos.images.held_out, 10), (side, side))
    n = sum(len(s) for s in (photos.images.train, photos.images.held_out)) * 19 // 20
    recipe = recipe_for("small-data", n, (side, side))
    step_s = step_cpu_s(spec, few, recipe.batch)
    scoring = (len(photos.report) + n / 19) * step_s / recipe.batch / 3
    epochs = round((searched.cpu_s - scoring) / step_s / recipe.epoch_steps, 2)
    out = work / "by-hand"
    took = called("main", "train", work / "by-hand.yaml", "--data", data, "--epochs", epochs, "--score-every", 10**6,
                  "--seed", o.seed, "--out", out)  # fmt: skip
    r = load_as(out, TrainRecord)
    top1 = float(r.metrics["top1"] or 0.0)
    error = 100 * math.sqrt(top1 / 100 * (1 - top1 / 100) / (r.n or 1))
    return {
        "by_hand": f"{BY_HAND}, {shape}", "by_hand_ms": round(ms, 4), "by_hand_top1": top1,
        "by_hand_error": round(error, 3), "by_hand_s": took.s, "by_hand_cpu_s": took.cpu_s, "by_hand_epochs": epochs,
        "by_hand_params": r.params,
    }  # fmt: skip


def first(data: ImageSet, n: int) -> ImageSet:
    return data.take(range(min(n, len(data))))  # type: ignore[arg-type]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, type=Path)
    p.add_argument("--device", default="pixel-1")
    p.add_argument("--target-ms", type=float, required=True)
    p.add_argument("--minutes", type=float, default=10.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--per-class", type=int)
    p.add_argument("--name", help="of the data in the line; by default the folder's")
    p.add_argument("--keep", type=Path, help="folder of the two runs; by default they are removed")
    p.add_argument("--out", type=Path, default=ROOT / "results" / "scratch.jsonl")
    o = p.parse_args()
    commit = short_commit()
    with tempfile.TemporaryDirectory() as scratch:
        work = o.keep or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        data = o.data if o.per_class is None else subset(o.data, o.per_class, work / "images")
        searched = called("search_main", "--data", data, "--device", o.device, "--target-ms", o.target_ms,
                         "--budget-minutes", o.minutes, "--seed", o.seed, "--out", work / "run")  # fmt: skip
        r = load_as(work / "run", SearchRecord)
        assert r.accuracy is not None and r.accuracy.value is not None and r.accuracy.error is not None
        row: dict[str, Any] = {
            "data": o.name or o.data.name, "per_class": o.per_class, "device": o.device, "target_ms": o.target_ms,
            "minutes": o.minutes, "seed": o.seed, "threads": os.environ.get("OMP_NUM_THREADS"),
            "commit": commit, "search_s": searched.s, "search_cpu_s": searched.cpu_s,
            "ms": r.predicted_ms,
            "top1": r.accuracy.value, "error": round(r.accuracy.error, 3), "delivered": r.scale.why if r.scale else "",
            "params": r.params, "stages": dict(r.stages), "plan": dict(r.plan),
            "comparison": [[c.name, c.ms, c.steps, c.top1, c.sigma] for c in r.comparison],
        }  # fmt: skip
        row["plan"] = {k: v for k, v in row["plan"].items() if k not in ("contenders", "shapes")}
        row |= by_hand(o, data, searched, work)
    row["above"] = round(row["top1"] - row["by_hand_top1"], 3)
    row["above_error"] = round(math.hypot(row["error"], row["by_hand_error"]), 3)
    append(o.out, row, quiet=True)
    print(json.dumps({k: v for k, v in row.items() if k not in ("plan", "stages")}, indent=1))


if __name__ == "__main__":
    main()
