"""How much networks learn from scratch in the same seconds of one core, and what they take on it.

python scripts/bench_learning.py --data DIR --seconds 120 --nets mobilenet_v3_small@1 residual_1@1.75 residual_1@1

DIR/{train,test}/<class>/*. A network is a published one or one of mbv3.stages.PLAIN at a width, at the images' own
shape. First a step of all is timed, one after the other in turns, and so is an image on ONNX Runtime, beside
MobileNetV3-Large in the same rounds. Then each learns by the recipe that `mbv3 train` takes by default, as many steps
as fit into the seconds, and answers the test images. One line a network is appended to --out. `--batch` overrides
that of the recipe.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bench_finetune import device_name
from json_lines import append, short_commit

from mbv3.data import class_parts, peek_class_folder
from mbv3.events import result
from mbv3.latency import Device, open_runtime
from mbv3.nn import build
from mbv3.progress import drain
from mbv3.spec import ArchSpec, count, load_spec, scale_spec
from mbv3.stages import PLAIN, Images, natural, read_photos, ready, scratch_fit, scratch_unit, shaped_as
from mbv3.tables import reference_at
from mbv3.training import fit, recipe_for

ROOT = Path(__file__).resolve().parents[1]
TURNS, STEPS = 5, 3  # that time a step


def named(name: str, side: int, classes: int) -> ArchSpec:
    base, _, width = name.partition("@")
    spec = scale_spec(PLAIN.get(base) or load_spec(base), float(width or 1))
    return replace(shaped_as(spec, natural(side), classes), name=name)


def step_s(specs: list[ArchSpec], images: Images) -> list[float]:
    """Processor seconds of a step of the recipe's usual batch, the median over turns."""
    took: list[list[float]] = [[] for _ in specs]
    nets = [build(spec, 0) for spec in specs]
    for _ in range(TURNS):
        for net, spec, mine in zip(nets, specs, took, strict=True):
            recipe = scratch_unit(images, spec.resolution, STEPS)
            began = time.process_time()
            drain(fit(net, images.train, recipe))
            mine.append((time.process_time() - began) / STEPS)
    return [float(np.median(mine[1:])) for mine in took]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, type=Path)
    p.add_argument("--name", help="of the data in the lines; by default the folder's")
    p.add_argument("--nets", nargs="+", required=True)
    p.add_argument("--seconds", type=float, default=120.0)
    p.add_argument("--batch", type=int)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--out", type=Path, default=ROOT / "results" / "learning.jsonl")
    o = p.parse_args()
    torch.set_num_threads(1)
    classes, _, side = peek_class_folder(class_parts(o.data)["training"])
    specs = [named(name, side, classes) for name in o.nets]
    photos = result(read_photos(o.data, specs[0].resolution))
    device = Device(open_runtime("onnxruntime", 1), reference_at(1.0, 224), 1.0)
    ratios = device.networks(specs, parts=4, max_s=2.0 * len(specs)).ms
    commit = short_commit()
    for spec, ratio, s in zip(specs, ratios, step_s(specs, photos.images), strict=True):
        for seed in o.seeds:
            recipe = scratch_fit(photos.images, spec.resolution, max(1, int(o.seconds / s)), seed=seed)
            if o.batch:
                passes = recipe.steps * recipe.batch / len(photos.images.train)
                recipe = recipe_for("small-data", len(photos.images.train), spec.resolution, seed=seed, epochs=passes,
                                    batch=o.batch)  # fmt: skip
            net = build(spec, seed)
            began = time.process_time()
            drain(fit(net, photos.images.train, recipe))
            took = time.process_time() - began
            ready(net, photos.images.train, recipe)
            answers, counts = photos.images.work.answers(net, photos.report, spec.resolution), count(spec)
            line = {
                "data": o.name or o.data.name, "net": spec.name, "large_ms": round(float(ratio), 4), "seed": seed,
                "params": counts.params, "madds": counts.madds, "seconds": o.seconds, "took_s": round(took, 1),
                "step_s": round(s, 4), "batch": recipe.batch, "steps": recipe.steps,
                "epochs": round(recipe.steps / recipe.epoch_steps, 3), "top1": round(answers.score, 2),
                "test_images": len(photos.report), "device": device_name(), "torch": torch.__version__,
                "commit": commit,
            }  # fmt: skip
            append(o.out, line)


if __name__ == "__main__":
    main()
