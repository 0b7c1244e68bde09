"""Peak memory of shrinking a network on images beside that of training it, each in a process of its own.

    python scripts/bench_netadapt_memory.py --net mobilenet_v2 --px 128

Both have the same noise images, batches of 32, and a few steps: what they hold at most does not grow with the steps.
Prints ru_maxrss of each, and of a process that only builds the network and the images.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from json_lines import append

from mbv3.data import ImageSet
from mbv3.events import result
from mbv3.nn import build
from mbv3.spec import load_spec, with_head
from mbv3.stages import Images, Joint, Single, shrink
from mbv3.tables import Latency, read_table
from mbv3.training import fit, recipe_for

OUT = Path(__file__).resolve().parents[1] / "results" / "netadapt-memory.jsonl"
CLASSES = 10


def noise(count: int, px: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, px, px, 3), dtype=np.uint8)
    return ImageSet(images, np.arange(count) % CLASSES, tuple(map(str, range(CLASSES))), "")


def given(o: argparse.Namespace) -> tuple[object, Images]:
    spec = load_spec(o.net)
    spec = replace(with_head(spec, spec.head, CLASSES), resolution=(o.px, o.px))
    return spec, Images(noise(o.images, o.px, 0), noise(o.images, o.px, 1), spec.resolution)


def nothing(o: argparse.Namespace) -> None:
    spec, _ = given(o)
    build(spec, 0)  # type: ignore[arg-type]


def train(o: argparse.Namespace) -> None:
    spec, images = given(o)
    recipe = recipe_for("finetune", len(images.train), images.size, seed=0, epochs=1.0, precision="fp32")
    for _ in fit(build(spec, 0), images.train, replace(recipe, steps=3)):  # type: ignore[arg-type]
        pass


def cut(o: argparse.Namespace, engine: str) -> None:
    spec, images = given(o)
    latency = Latency(read_table("pixel-1", "onnxruntime", 1, True)[0], None)
    target = o.share * latency([spec])[0]  # type: ignore[list-item]
    weights = build(spec, 0).state_dict()  # type: ignore[arg-type]
    by, steps = (Joint(), 3) if engine == "joint" else (Single(delta=0.3), 1)
    result(shrink(spec, latency, images, target, weights=weights, engine=by, steps=steps))  # type: ignore[arg-type]


def joint(o: argparse.Namespace) -> None:
    cut(o, "joint")


def netadapt(o: argparse.Namespace) -> None:
    cut(o, "netadapt")


def _measured(work: Callable[[argparse.Namespace], None], o: argparse.Namespace, to: Connection) -> None:
    torch.set_num_threads(1)
    work(o)
    unit = 1 if sys.platform == "darwin" else 1024
    to.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


def peak_mb(work: Callable[[argparse.Namespace], None], o: argparse.Namespace) -> float:
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(work, o, there))
    process.start()
    mb = float(here.recv())
    process.join()
    return mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="mobilenet_v2")
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--engines", nargs="+", default=["joint"], choices=("joint", "netadapt"))
    parser.add_argument("--out", type=Path, default=OUT)
    o = parser.parse_args()
    works = {"nothing": nothing, "train": train, "joint": joint, "netadapt": netadapt}
    mb = {name: peak_mb(works[name], o) for name in ("nothing", "train", *o.engines)}
    line = {"net": o.net, "px": o.px, "images": o.images, "mb": {k: round(v) for k, v in mb.items()},
            "times_training": {e: round(mb[e] / mb["train"], 3) for e in o.engines}}  # fmt: skip
    append(o.out, line)


if __name__ == "__main__":
    main()
