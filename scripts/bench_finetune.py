"""What fine-tuning brings by which recipe: one line of JSON a training.

python scripts/bench_finetune.py sweep   --data DIR --init FILE --per-class 10 --px 96 --epochs 10 --test-per-class 15
python scripts/bench_finetune.py compare --data DIR --init FILE [--epochs 12] [--seeds 0 1 2]
python scripts/bench_finetune.py rates   --data DIR --init FILE
python scripts/bench_finetune.py nothing --data DIR
python scripts/bench_finetune.py probe   --data DIR --init FILE --px 64 [--per-class N]
python scripts/bench_finetune.py figures

DIR/{train,test}/<class>/*. `sweep` trains two screening designs of many settings; `compare` trains the default recipe,
what it replaced, and the defaults of fastai, timm, Keras and AutoGluon, at equal epochs; `rates` trains the default
with other rates under the head; `nothing` trains the default recipe and many settings from random weights. Several may
be given; --jobs processes share the machine or its GPU. Every training is appended to --out when it ends, and one that
is found there is not run again: the same command goes on after a stop. `probe` trains nothing: it appends how well a
linear classifier of the weights' features tells the photos apart, by which `mbv3 train` takes its recipe.
A line has the right and wrong answers on the test images, packed, so that two settings are compared image by image:
`plain` are those of the weights that `mbv3 train` would leave, `live` those without their average, `taken` with batch
norms over augmented images, `running` with those of the training. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import base64
import copy
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_lines import append, lines_of, short_commit
from numpy.typing import NDArray
from torch import nn

from mbv3.data import ImageSet, batch_order, decode_all, find_class_folder, normalise, split_labels, stored_size
from mbv3.export import initial_weights
from mbv3.nn import build
from mbv3.spec import load_spec, with_head
from mbv3.stages import probe_loss
from mbv3.training import Average, Fit, Recipe, adopt, fit, recalibrate, recipe_for, recipe_values

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "finetune.jsonl"
PROBES = ROOT / "results" / "probes.jsonl"
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
    which = hashlib.sha256("\n".join(str(path) for path, _ in files).encode()).hexdigest()[:12]
    cache = folder.parent / f".{folder.name}-{which}-{side[0]}.npy"
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


def values_of(recipe: Fit) -> dict[str, Any]:
    """What a training depends on: the final rate says all that `lr_batch` does."""
    return {k: v for k, v in recipe_values(recipe).items() if k != "lr_batch"}


def recipe_of(setting: Mapping[str, Any], n: int, px: int, seed: int) -> Fit:
    """What a setting is on `n` images."""
    given = {k: v for k, v in setting.items() if k not in ("recipe", "dropout")}
    return recipe_for(setting.get("recipe", "finetune"), n, (px, px), seed=seed, **given)


def train(
    o: argparse.Namespace, name: str, setting: Mapping[str, Any], per_class: int, px: int, seed: int
) -> dict[str, Any]:
    """One training and its line."""
    train_set = part(Path(o.data) / "train", px, True, per_class)
    test_set = part(Path(o.data) / "test", px, False, o.test_per_class, train_set.classes)
    spec = replace(load_spec(NETWORK), resolution=(px, px))
    spec = with_head(spec, spec.head, len(train_set.classes))
    if "dropout" in setting:
        spec = replace(spec, head=replace(spec.head, dropout=setting["dropout"]))  # type: ignore[type-var]
    recipe = recipe_of(setting, len(train_set), px, seed)
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
        "seconds": round(seconds, 1), "recipe": values_of(recipe),
        "init": Path(o.init).name if o.init else None, "device": device_name(), "torch": torch.__version__,
        "commit": o.commit,
    }  # fmt: skip


def probed(o: argparse.Namespace) -> dict[str, Any]:
    """The line of a probe."""
    photos = part(Path(o.data) / "train", o.px, True, o.per_class)
    spec = replace(load_spec(NETWORK), resolution=(o.px, o.px))
    spec = with_head(spec, spec.head, len(photos.classes))
    began = time.monotonic()
    loss = probe_loss(spec, initial_weights(Path(o.init), spec)[0], photos)
    return {
        "data": Path(o.data).name, "per_class": o.per_class, "images": len(photos), "px": o.px,
        "init": Path(o.init).name, "loss_of_chance": round(loss, 4), "seconds": round(time.monotonic() - began, 1),
        "device": device_name(), "commit": o.commit,
    }  # fmt: skip


def screening() -> Iterator[tuple[str, dict[str, Any]]]:
    """Plackett and Burman's twelve settings of eleven factors, then eight of seven around what those left open."""
    first: dict[str, tuple[Any, Any]] = {
        "lr": (7e-4, 2e-3), "layer_decay": (1.0, 0.88), "head_first": (0.0, 0.2),
        "augment": ("shift", "inception-mild"), "batch": (32, 64), "label_smoothing": (0.0, 0.1),
        "weight_decay": (0.01, 0.1), "body_lr": (1.0, 0.4), "hold_norms": (False, True), "dropout": (0.0, 0.2),
        "warmup": (0.05, 0.2),
    }  # fmt: skip
    line = [1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0]
    for n, row in enumerate([[0] * 11, *([line[(j - i) % 11] for j in range(11)] for i in range(11))]):
        chosen = {k: values[high] for (k, values), high in zip(first.items(), row, strict=True)}
        yield f"screen {n}", {**_ADAMW, **chosen}
    for n, (a, b, c) in enumerate((a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)):
        lr, body = (1e-3, 4e-3)[a], (1e-4, 3e-4)[b]
        yield f"second {n}", {
            **_ADAMW, "warmup": 0.05, "weight_decay": 0.05, "lr": lr, "body_lr": round(body / lr, 4),
            "layer_decay": (1.0, 0.88)[c], "head_first": (0.0, 0.2)[a == b], "batch": (32, 16)[a == c],
            "label_smoothing": (0.1, 0.2)[b == c], "augment": ("none", "shift")[(a + b + c) % 2],
        }  # fmt: skip


# everything that the recipe would take from the number of images is said
_ADAMW: dict[str, Any] = {
    "recipe": "finetune",
    "optimizer": "adamw",
    "ema": 0.999,
    "hold_norms": False,
    "recalibrate": 16,
}
_PLAIN: dict[str, Any] = {**_ADAMW, "ema": 0.0, "clip": 1e9, "layer_decay": 1.0}
_FASTAI = {**_PLAIN, "lr": 1e-3, "first_lr": 2.0, "warmup": 0.3, "weight_decay": 0.01, "label_smoothing": 0.0,
           "augment": "shift", "batch": 64}  # fmt: skip
_KERAS = {**_PLAIN, "lr": 1e-5, "first_lr": 10.0, "head_first": 0.5, "body_lr": 1.0, "schedule": "steps", "decay": 1.0,
          "warmup": 0.0, "batch": 32, "augment": "shift", "label_smoothing": 0.0, "weight_decay": 0.0,
          "hold_norms": True}  # fmt: skip


def rivals(epochs: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """The default, what it replaced, and others' defaults as our recipes: the head, the mirror-and-shift in place of
    their own light augmentations, and Adam throughout Keras' two phases are departures.

    fastai: one epoch of the head at twice the rate, the body a hundredth of the head's rate (two groups, as for
    networks that it does not know), or graded down to that; timm: train.py, five epochs of warm-up; Keras: TensorFlow's
    tutorial (the head at 1e-4, everything at 1e-5, half of the epochs each) and the guide (the head at 1e-3);
    AutoGluon: medium quality.
    """
    yield "default", {"recipe": "finetune"}
    yield "adamw 1e-3", {"recipe": "small-data", "optimizer": "adamw", "lr": 1e-3, "ema": 0.0, "weight_decay": 0.05}
    yield "small-data", {"recipe": "small-data"}
    yield "finetune-sgd", {"recipe": "finetune-sgd"}
    first = round(1 / epochs, 4)
    yield "fastai", {**_FASTAI, "head_first": first, "body_lr": 0.01}
    yield "fastai graded", {**_FASTAI, "head_first": first, "body_lr": 1.0, "layer_decay": 0.68}
    yield "timm", {
        **_PLAIN, "optimizer": "sgd", "lr": 0.05, "batch": 128, "weight_decay": 2e-5, "augment": "inception",
        "label_smoothing": 0.1, "warmup": round(min(0.5, 5 / epochs), 4), "head_first": 0.0, "body_lr": 1.0,
    }  # fmt: skip
    yield "keras tutorial", _KERAS
    yield "keras guide", {**_KERAS, "first_lr": 100.0}
    yield "autogluon", {
        **_PLAIN, "lr": 4e-4, "weight_decay": 1e-3, "layer_decay": 0.9, "warmup": 0.1, "batch": 128, "clip": 1.0,
        "augment": "shift", "label_smoothing": 0.0, "head_first": 0.0, "body_lr": 1.0,
    }  # fmt: skip


def candidates() -> Iterator[tuple[str, dict[str, Any]]]:
    """The default with what the screens on the whole of Caltech-101 speak for."""
    smooth: dict[str, Any] = {"recipe": "finetune", "label_smoothing": 0.2}
    yield "smoothing .2", smooth
    yield "smoothing .2, batch 32", {**smooth, "batch": 32, "lr": 1e-3}
    yield "smoothing .2, batch 32, body .3", {**smooth, "batch": 32, "lr": 1e-3, "body_lr": 0.3, "head_first": 0.0}
    yield "smoothing .2, batch 32, no augmentation", {**smooth, "batch": 32, "lr": 1e-3, "augment": "none"}


def rates() -> Iterator[tuple[str, dict[str, Any]]]:
    """The default with other rates under the head."""
    for body in (0.2, 0.4, 1.0):
        for decay in (0.9, 0.95, 1.0):
            if (body, decay) != (0.4, 0.9):
                yield f"body {body:g}, decay {decay:g}", {"recipe": "finetune", "body_lr": body, "layer_decay": decay}
    yield "all at one rate", {"recipe": "finetune", "body_lr": 1.0, "layer_decay": 1.0, "head_first": 0.0}


def from_nothing() -> Iterator[tuple[str, dict[str, Any]]]:
    """The default recipe, then settings drawn around it and around AdamW's."""
    yield "default", {"recipe": "small-data"}
    rng = np.random.default_rng(0)
    for n in range(24):
        adamw = n % 2 == 0
        batch = int(rng.choice([16, 32, 64]))
        lr = float(rng.choice([5e-4, 1e-3, 2e-3, 4e-3]) if adamw else rng.choice([0.025, 0.05, 0.1, 0.2]))
        yield f"nothing {n}", {
            "recipe": "small-data", "optimizer": "adamw" if adamw else "sgd", "batch": batch, "lr": lr,
            "weight_decay": float(rng.choice([0.02, 0.1]) if adamw else rng.choice([1e-4, 5e-4])),
            "ema": float(rng.choice([0.0, 0.99, 0.998])), "warmup": float(rng.choice([0.05, 0.2])),
            "label_smoothing": float(rng.choice([0.0, 0.1])), "recalibrate_plain": True,
            "augment": str(rng.choice(["none", "shift", "inception-mild"])),
            "dropout": float(rng.choice([0.0, 0.2])),
        }  # fmt: skip


def key(line: Mapping[str, Any]) -> str:
    """What makes two lines one training; what a recipe did not have yet is at its default."""
    recipe = {f.name: f.default for f in fields(Recipe)} | line["recipe"] | {"lr_batch": 0}
    place = [line[k] for k in ("data", "per_class", "px", "seed", "init")]
    return json.dumps([*place, line["setting"].get("dropout"), recipe], sort_keys=True)


def apart(lines: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Name to top-1 of every seed; what was trained by another recipe than the setting gives now is named apart."""
    found: dict[str, list[float]] = {}
    for line in lines:
        now = values_of(recipe_of(line["setting"], line["images"], line["px"], line["seed"]))
        other = [f"{k} {v}" for k, v in line["recipe"].items() if now.get(k, v) != v]
        found.setdefault(line["name"] + (f", before ({', '.join(other)})" if other else ""), []).append(line["plain"])
    return found


def effects(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Points that a factor's other value brings, over a screening design, by least squares."""
    settings = [line["setting"] for line in lines]
    factors = [k for k in settings[0] if len({json.dumps(x[k]) for x in settings}) == 2]
    values = {k: sorted({x[k] for x in settings}) for k in factors}
    design = np.array([[1.0, *(x[k] == values[k][1] for k in factors)] for x in settings])
    found = np.linalg.lstsq(design, np.array([line["plain"] for line in lines]), rcond=None)[0]
    for k, value in zip(factors, found[1:], strict=True):
        yield f"  {k} {values[k][0]} -> {values[k][1]}: {value:+.1f}"


def figures(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Tables: the screens' effects, then every set of images with its settings, best first, n seeds."""
    for design in ("screen", "second"):
        screened = [line for line in lines if line["name"].startswith(design) and line["seed"] == 0]
        for images in sorted({line["images"] for line in screened}):
            mine = [line for line in screened if line["images"] == images]
            yield f"{design}: {len(mine)} settings, {images} images, {mine[0]['px']} px"
            yield from effects(mine)

    def place(line: dict[str, Any]) -> tuple[Any, ...]:
        return line["data"], line["images"], line["px"], line["recipe"]["epochs"], line["init"] or "nothing"

    for where in sorted(set(map(place, lines))):
        mine = [line for line in lines if place(line) == where]
        yield "{}: {} images, {} px, {:g} epochs, from {}".format(*where)
        for name, tops in sorted(apart(mine).items(), key=lambda pair: -float(np.mean(pair[1]))):
            error = f" +- {np.std(tops, ddof=1) / len(tops) ** 0.5:.2f}" if len(tops) > 1 else ""
            yield f"  {name}: {np.mean(tops):.2f}{error} % (n = {len(tops)})"


DESIGNS: dict[str, Callable[[float], Iterator[tuple[str, dict[str, Any]]]]] = {
    "compare": rivals, "sweep": lambda epochs: screening(), "candidates": lambda epochs: candidates(),
    "rates": lambda epochs: rates(), "nothing": lambda epochs: from_nothing(),
}  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="+", choices=(*DESIGNS, "probe", "figures"))
    p.add_argument("--data")
    p.add_argument("--init")
    p.add_argument("--per-class", type=int, default=0)
    p.add_argument("--test-per-class", type=int, default=0)
    p.add_argument("--px", type=int, default=128)
    p.add_argument("--epochs", type=float, default=12)
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="of sweep and nothing the first, but for --only")
    p.add_argument("--only", nargs="*", help="names of settings")
    p.add_argument("--all", action="store_true", help="score with batch norms of every kind")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    p.add_argument("--commit", help="where this is no clone")
    p.add_argument("--out", type=Path, default=OUT)
    o = p.parse_args()
    if o.what == ["figures"]:
        print("\n".join(figures(lines_of(o.out))))
        return
    o.commit = o.commit or short_commit()
    if o.what == ["probe"]:
        append(PROBES, probed(o))
        return
    names, n = None, 0
    for folder, room, per_class in (("test", False, o.test_per_class), ("train", True, o.per_class)):
        images = part(Path(o.data) / folder, o.px, room, per_class, names)  # decoded once for all processes
        names, n = images.classes, len(images)
    known, todo = set(map(key, lines_of(o.out))), []
    for what in o.what:
        mine = argparse.Namespace(**{**vars(o), "init": None if what == "nothing" else o.init})
        for seed in o.seeds if o.only or what not in ("sweep", "nothing") else o.seeds[:1]:
            for name, setting in DESIGNS[what](o.epochs):
                setting = {**setting, "epochs": o.epochs}
                wanted = {"data": Path(o.data).name, "per_class": o.per_class, "px": o.px, "seed": seed,
                          "setting": setting, "recipe": values_of(recipe_of(setting, n, o.px, seed)),
                          "init": mine.init and Path(mine.init).name}  # fmt: skip
                if (not o.only or name in o.only) and key(wanted) not in known:
                    todo.append((mine, name, setting, o.per_class, o.px, seed))
    with ProcessPoolExecutor(o.jobs, get_context("spawn"), torch.set_num_threads, (o.threads,)) as pool:
        for done in as_completed([pool.submit(train, *job) for job in todo]):
            line = done.result()
            append(o.out, line, quiet=True)
            shown = ("name", "seed", "images", "px", "plain", "live", "seconds", "init")
            print({k: line.get(k) for k in shown}, flush=True)


if __name__ == "__main__":
    main()
