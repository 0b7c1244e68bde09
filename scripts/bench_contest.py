"""Whether what a search on images delivers is below anything that anyone could take: all that competed in a run, each
trained alone for as long.

    python scripts/bench_contest.py runs/3ms --data DIR --minutes 3

DIR/{train,test}/<class>/*, the images of the run. The networks of its contest (what was found, MobileNetV3-Small,
-Large and MobileNetV2 at the same ms, a random one) learn from scratch by the recipe of `mbv3 train`, each for so many
minutes of this process's own time, and answer the test images once. A line for each is appended to --out: its top-1,
and what the run's rounds had said of it. What is there already is not trained again. OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path
from typing import Any

from json_lines import append, lines_of, short_commit

from mbv3.events import result
from mbv3.latency import open_runtime
from mbv3.record import SearchRecord, load_as
from mbv3.spec import ArchSpec, parse_spec
from mbv3.stages import Images, on_device, read_photos, scratch_fit, scratch_unit, trained
from mbv3.training import fit

ROOT = Path(__file__).resolve().parents[1]
FEW, STEPS = 3, 10  # that tell the seconds of a step


def step_cpu_s(spec: ArchSpec, images: Images) -> float:
    """Seconds of this process's own time that a training step of `spec` takes."""

    def took(steps: int) -> float:
        began = time.process_time()
        for _ in fit(on_device(spec, None), images.train, scratch_unit(images, spec.resolution, steps)):
            pass
        return time.process_time() - began

    return (took(FEW + STEPS) - took(FEW)) / STEPS


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path)
    p.add_argument("--data", required=True, type=Path)
    p.add_argument("--name", default="cifar10", help="of the data in the lines")
    p.add_argument("--minutes", type=float, default=3.0)
    p.add_argument("--steps", type=int, help="in place of those that the minutes allow by the time of the first ones")
    p.add_argument("--only", nargs="+", help="names of networks, as in RUN/candidates.csv")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=ROOT / "results" / "supernet-contest.jsonl")
    o = p.parse_args()
    r = load_as(o.run, SearchRecord)
    kept: Any = r.plan["contenders"]
    contest = [(name, parse_spec(text, name), ms) for name, _, text, ms, _ in kept if not o.only or name in o.only]
    rounds = o.run / "candidates.csv"
    rows = list(csv.DictReader(rounds.open(encoding="utf-8", newline=""))) if rounds.exists() else []
    drawn: Any = r.args.get("seed") or 0
    photos = result(read_photos(o.data, max(spec.resolution for _, spec, _ in contest), seed=drawn))
    commit = short_commit()
    key: dict[str, Any] = {"data": o.name, "target_ms": r.target_ms, "run_minutes": r.args.get("budget_minutes"),
           "minutes": o.minutes, "seed": o.seed}  # fmt: skip
    done = lines_of(o.out)
    for name, spec, ms in contest:
        if any(line["network"] == name and all(line[k] == v for k, v in key.items()) for line in done):
            continue
        steps = o.steps or max(1, round(60 * o.minutes / step_cpu_s(spec, photos.images)))
        began = time.process_time()
        recipe = scratch_fit(photos.images, spec.resolution, steps, seed=o.seed)
        tuned = result(trained(name, spec, None, photos.images, recipe))
        net = on_device(tuned.spec, tuned.state)
        answers = photos.images.work.answers(net, photos.report, spec.resolution)
        line = {
            **key, "network": name, "name": spec.name, "px": spec.resolution[0], "ms": round(ms, 4), "steps": steps,
            "top1": round(answers.score, 2), "error": round(answers.error, 2), "n": len(answers),
            "spent_min": round((time.process_time() - began) / 60, 2),
            "rounds": [[w["round"], int(w["steps"]), float(w["loss"])] for w in rows if w["network"] == name],
            "device": f"{open_runtime('onnxruntime', 1).fingerprint.cpu}, {r.device and r.device.cpu}'s times",
            "threads": os.environ.get("OMP_NUM_THREADS"), "commit": commit,
        }  # fmt: skip
        append(o.out, line)


if __name__ == "__main__":
    main()
