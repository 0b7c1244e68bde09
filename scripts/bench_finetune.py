"""What fine-tuning brings by which recipe: one line of JSON a training.

python scripts/bench_finetune.py sweep   --data DIR --init FILE [--per-class 15 --px 96]     many settings, few images
python scripts/bench_finetune.py compare --data DIR --init FILE [--seeds 3]     the default beside others' recipes
python scripts/bench_finetune.py figures                                         the tables of what was kept

DIR/{train,test}/<class>/*. Every training is appended to --out when it ends, and one that is found there is not run
again: the same command goes on after a stop. Every line has the answers' right and wrong on the test images, packed, so
that two settings are compared image by image. The settings are chosen on every second test image (`choose`), the other
half has the last word (`report`).
"""

from __future__ import annotations

import argparse
import base64
import copy
import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mbv3.pipeline.train_init import initial_weights
from numpy.typing import NDArray
from torch import nn

from mbv3.data import ImageSet, batch_order, decode_all, find_class_folder, normalise, split_labels, stored_size
from mbv3.nn import build
from mbv3.spec import load_spec, with_head
from mbv3.training import Fit, adopt, fit, recalibrate, recipe_for
from mbv3.training.optimizer import Average

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "finetune_sweep.jsonl"
NETWORK = "mobilenet_v3_small"


def part(folder: Path, px: int, room: bool, per_class: int, classes: tuple[str, ...] | None = None) -> ImageSet:
    """Decoded images, kept beside the folder for the next call: `per_class` of every class (0: all), drawn once."""
    names, files = find_class_folder(folder, classes)
    names = classes or names
    labels = np.array([c for _, c in files], dtype=np.int64)
    if per_class:
        rng = np.random.default_rng(0)
        drawn = [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(len(names))]
        keep = np.sort(np.concatenate(drawn))
        files, labels = [files[i] for i in keep], labels[keep]
    elif room:  # as `mbv3 train` holds some out for its curve
        keep, _ = split_labels(labels, len(names), 0.05, 2500, 0)
        files, labels = [files[i] for i in keep], labels[keep]
    wanted = (round(px * 8 / 7),) * 2 if room else (px, px)
    side = stored_size([p for p, _ in files], wanted)
    cache = folder.parent / f".{folder.name}-{per_class}-{side[0]}.npy"
    if not cache.exists():
        np.save(cache, np.asarray(decode_all([p for p, _ in files], side, folder).pixels))
    return ImageSet(np.load(cache, mmap_mode="r"), labels, names, str(cache))


def taken_anew(net: nn.Module, data: ImageSet, recipe: Fit, augment: str) -> nn.Module:
    """A copy of `net` with batch-norm statistics over 16 batches."""
    net = copy.deepcopy(net)
    order, rng = batch_order(len(data), recipe.batch, recipe.seed), np.random.default_rng((recipe.seed, 2))
    number = min(16 * max(64, recipe.batch) // recipe.batch, len(data) // recipe.batch)
    device = next(net.parameters()).device
    batches = (
        normalise(data.batch(next(order), recipe.size, augment, rng)[0], recipe.size, device)  # type: ignore[arg-type]
        for _ in range(number)
    )
    recalibrate(net, batches)
    return net


def right(net: nn.Module, data: ImageSet, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which images are answered right."""
    net.eval()
    device, hits = next(net.parameters()).device, []
    with torch.inference_mode():
        for start in range(0, len(data), 64):
            index = np.arange(start, min(start + 64, len(data)))
            x = normalise(np.asarray(data.images[index]), size, device)
            hits.append(net(x).argmax(1).cpu().numpy() == data.labels[index])
    return np.concatenate(hits)


def packed(hits: NDArray[np.bool_]) -> str:
    return base64.b64encode(np.packbits(hits)).decode()


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor())
    return f"{model}, {torch.get_num_threads()} thread(s)"


@contextmanager
def keeping(last: dict[str, nn.Module], net: nn.Module) -> Iterator[None]:
    """Inside, the weights that a training ends with are kept as `live` before their average takes their place."""
    swap = Average.swap

    def swapped(average: Average) -> None:
        last["live"] = copy.deepcopy(net)
        swap(average)

    Average.swap = swapped  # type: ignore[method-assign]
    try:
        yield
    finally:
        Average.swap = swap  # type: ignore[method-assign]


def train(
    o: argparse.Namespace, name: str, setting: Mapping[str, Any], per_class: int, px: int, seed: int
) -> dict[str, Any]:
    """One training and its line."""
    train_set = part(Path(o.data) / "train", px, True, per_class)
    test_set = part(Path(o.data) / "test", px, False, o.test_per_class, train_set.classes)
    spec = replace(load_spec(NETWORK), resolution=(px, px))
    spec = with_head(spec, spec.head, len(train_set.classes))
    given = dict(setting)
    base = given.pop("recipe", "finetune")
    dropout = given.pop("dropout", None)
    if dropout is not None:
        spec = replace(spec, head=replace(spec.head, dropout=dropout))  # type: ignore[type-var]
    recipe = recipe_for(base, len(train_set), (px, px), seed=seed, **given)
    net = build(spec, seed)
    if o.init:
        adopt(net, initial_weights(Path(o.init), spec)[0], o.init)
    net.to("cuda" if torch.cuda.is_available() else "cpu")
    began = time.monotonic()
    last: dict[str, nn.Module] = {}

    with keeping(last, net):
        for _ in fit(net, train_set, recipe):
            pass
    seconds = time.monotonic() - began

    def answered(net: nn.Module, augment: str) -> NDArray[np.bool_]:
        ready = net if recipe.hold_norms else taken_anew(net, train_set, recipe, augment)
        return right(ready, test_set, recipe.size)

    answers = {"plain": answered(net, "none")}
    if last:
        answers["live"] = answered(last["live"], "none")
    if o.all:
        answers["taken"] = answered(net, recipe.augment)
        answers["running"] = right(net, test_set, recipe.size)
    return {
        "data": Path(o.data).name, "per_class": per_class, "images": len(train_set), "px": px, "seed": seed,
        "name": name,
        "setting": dict(setting), **{k: round(100 * float(v.mean()), 2) for k, v in answers.items()},
        "right": {k: packed(v) for k, v in answers.items()}, "test_images": len(test_set),
        "seconds": round(seconds, 1), "recipe": {k: v for k, v in asdict(recipe).items() if k != "source"},
        "init": Path(o.init).name if o.init else None, "device": device_name(), "torch": torch.__version__,
        "commit": o.commit,
    }  # fmt: skip


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def key(line: Mapping[str, Any]) -> str:
    return json.dumps([line[k] for k in ("data", "per_class", "px", "seed", "setting", "init")], sort_keys=True)


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("what")
    p.add_argument("--data")
    p.add_argument("--init")
    p.add_argument("--per-class", type=int, default=0)
    p.add_argument("--test-per-class", type=int, default=0)
    p.add_argument("--px", type=int, default=128)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--setting")
    p.add_argument("--name", default="")
    p.add_argument("--all", action="store_true")
    p.add_argument("--out", default=str(OUT))
    p.add_argument("--commit", default="")
    o = p.parse_args()
    torch.set_num_threads(1)
    setting = json.loads(o.setting)
    line = train(o, o.name, setting, o.per_class, o.px, o.seed)
    with open(o.out, "a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")
    print(
        {k: line.get(k) for k in ("name", "images", "px", "plain", "live", "taken", "running", "seconds")}, flush=True
    )


if __name__ == "__main__":
    main()
