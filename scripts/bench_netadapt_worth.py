"""Joint cuts of public weights by what a site is worth: what is lost to its readers, or the sum of its scores. At
equal multiply-adds and equal fine-tuning, on photos that decided nothing.

    python scripts/bench_netadapt_worth.py --data caltech101 --weights mobilenet_v3_small_imagenet.pth

DATA has train/ and test/, a folder a class. The head is learned first; a line a cut is appended to --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from json_lines import append

from mbv3.data import load_class_folder, split
from mbv3.events import result
from mbv3.export import read_any_weights
from mbv3.netadapt import menus, site_scores, solve
from mbv3.nn import cut_state
from mbv3.spec import ArchSpec, count, load_spec
from mbv3.stages import Images, Memory, Tuner, adopted

OUT = Path(__file__).resolve().parents[1] / "results" / "netadapt-worth.jsonl"
HEAD_FIRST = 0.2
WORTHS = ("explained", "scores")


def madds(specs: Sequence[ArchSpec]) -> list[float]:
    return [float(count(s).madds) for s in specs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--net", default="mobilenet_v3_small")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.35])
    parser.add_argument("--start-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=OUT)
    o = parser.parse_args()
    torch.set_num_threads(1)
    photos, test = (load_class_folder(o.data / part, (o.px, o.px), seed=0) for part in ("train", "test"))
    images = Images(*split(photos, 0.1, 500, 0), (o.px, o.px))
    named = load_spec(o.net)
    spec = replace(named, resolution=(o.px, o.px), head=replace(named.head, classes=len(photos.classes)))
    for seed in o.seeds:
        tuner = Tuner(images, seed)
        state, _ = adopted(spec, read_any_weights(o.weights, named).state, seed)
        state = result(tuner.tune(spec, state, tuner.recipe(spec, o.start_steps, HEAD_FIRST), Memory()))
        tested = replace(images, held_out=test)
        judge = Tuner(tested, seed)
        judge.held = test
        about = {"net": o.net, "px": o.px, "steps": o.steps, "seed": seed, "n": len(test)}
        print("uncut", judge.score(spec, state).score, flush=True)
        tuner.teacher = tuner.net(spec, state)
        scores = tuner.channels(spec, state, "taylor")
        for share in o.shares:
            for worth in WORTHS:
                values = tuner.explained(spec, state, scores) if worth == "explained" else site_scores(spec, scores)
                limit = share * madds([spec])[0]
                cut = solve(spec, menus(spec, values), madds, limit).spec
                smaller = tuner.recalibrated(cut, cut_state(state, spec, cut, scores))
                before = judge.score(cut, smaller)
                found = judge.score(cut, result(tuner.tune(cut, smaller, tuner.recipe(cut, o.steps), Memory())))
                line = {**about, "share": share, "worth": worth, "madds_share": round(madds([cut])[0] / limit, 4),
                        "uncut": round(judge.score(spec, state).score, 2), "before": round(before.score, 2),
                        "top1": round(found.score, 2), "loss": round(float(found.loss.mean()), 4)}  # fmt: skip
                append(o.out, line)


if __name__ == "__main__":
    main()
