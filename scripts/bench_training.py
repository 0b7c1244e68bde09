"""Images/s of `mbv3 train`'s loop beside a plain loop over the same network on tensors in memory, and of decoding.

python scripts/bench_training.py [--minutes 4] [--out results/training_speed.json]

The two take turns of a few steps each, in one process, so that a machine that drifts treats both alike. Both train
MobileNetV3-Small with SGD in channels_last; the plain loop has one batch, already normalised, and neither loads, nor
augments, nor averages, nor writes. The loop under test does what `mbv3 train` does by its default recipe. JPEGs of the
benchmark are drawn here, decoding is timed alone. Peak memory is taken after each tenth of the turns.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_lines import short_commit
from PIL import Image

from mbv3.data import ImageSet, normalise, store_pixels
from mbv3.events import Event
from mbv3.nn import build
from mbv3.spec import load_spec
from mbv3.training import Epoch, fit, recipe_for

TURN = {32: 12, 224: 2}  # steps of a turn
BATCH = {32: 128, 224: 64}


def network(side: int) -> torch.nn.Module:
    spec = replace(load_spec("mobilenet_v3_small"), resolution=(side, side))
    spec = replace(spec, head=replace(spec.head, classes=8))
    if side == 32:
        spec = replace(spec, stem=replace(spec.stem, s=1))
    return build(spec, 0).to(memory_format=torch.channels_last)


def noise(n: int, side: int, seed: int) -> ImageSet:
    """Images of 8 classes that nothing can be learned from: only speed counts here. Smooth, as JPEG files must be."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (n, 3, 8, 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").permute(0, 2, 3, 1).numpy()
    images = np.clip(smooth + rng.normal(0, 14, smooth.shape), 0, 255).astype(np.uint8)
    return ImageSet(images, rng.integers(0, 8, n), tuple("abcdefgh"), "")


def plain_turns(side: int) -> Iterator[None]:
    """The loop that anyone would write first."""
    net = network(side).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    data = noise(BATCH[side], side, 0)
    x, y = normalise(np.asarray(data.images), (side, side)), torch.from_numpy(data.labels)
    while True:
        for _ in range(TURN[side]):
            loss = torch.nn.functional.cross_entropy(net(x), y, label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        yield


def our_turns(side: int, folder: Path, told: list[float]) -> Iterator[None]:
    """`fit` by the default recipe over a pixel file, an epoch a turn."""
    few = noise(512, side, 1)
    times = np.resize(np.arange(512), TURN[side] * BATCH[side])
    pixels = np.memmap(folder / f"{side}.u8", np.uint8, "w+", shape=(len(times), side, side, 3))
    pixels[:] = np.asarray(few.images)[times]
    data = ImageSet(pixels, few.labels[times], few.classes, "")
    recipe = recipe_for("small-data", len(data), (side, side), batch=BATCH[side], epochs=10_000, lr=0.01)
    stop = object()

    def at_epoch(e: Epoch) -> Iterator[Event]:
        told.append(e.waiting)
        yield stop  # type: ignore[misc]

    for event in fit(network(side), data, recipe, at_epoch=at_epoch):
        if event is stop:
            yield


def decoding(side: int, folder: Path) -> float:
    """Images/s of JPEGs of 1.5 times the side to the pixel file, on all cores."""
    big = noise(64, round(1.5 * side), 2)
    files = []
    for i in range(512):
        files.append(folder / f"{side}-{i}.jpg")
        Image.fromarray(np.asarray(big.images)[i % 64]).save(files[-1], quality=90)
    began = time.perf_counter()
    for _ in store_pixels(files, (side, side), folder, folder / f"decoded-{side}.u8", most_bytes=10**10):
        pass
    return len(files) / (time.perf_counter() - began)


def seconds(turn: Callable[[], Any]) -> float:
    began = time.perf_counter()
    turn()
    return time.perf_counter() - began


def bench(side: int, minutes: float, folder: Path) -> dict[str, Any]:
    told: list[float] = []
    plain, ours = plain_turns(side), our_turns(side, folder, told)
    for _ in range(2):
        next(plain), next(ours)
    n = TURN[side] * BATCH[side]
    rates: dict[str, list[float]] = {"plain": [], "mbv3": []}
    memory = []
    end = time.perf_counter() + 60 * minutes
    while time.perf_counter() < end or len(rates["plain"]) < 4:
        rates["plain"].append(n / seconds(lambda: next(plain)))
        rates["mbv3"].append(n / seconds(lambda: next(ours)))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    ratios = np.array(rates["mbv3"]) / np.array(rates["plain"])
    tenths = np.linspace(0, len(memory) - 1, 11).astype(int)
    return {
        "side": side, "batch": BATCH[side], "turns": len(ratios), "steps_a_turn": TURN[side],
        **{f"{k}_images_s": round(float(np.median(v)), 1) for k, v in rates.items()},
        "ratio": round(float(np.median(ratios)), 3), "ratio_sd": round(float(ratios.std(ddof=1)), 3),
        "waiting": round(float(told[-1]), 4), "decoding_images_s": round(decoding(side, folder), 1),
        "peak_memory_mb": [memory[i] for i in tenths], "raw": {k: [round(x, 1) for x in v] for k, v in rates.items()},
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--minutes", type=float, default=2.0, help="for each of the two sizes")
    p.add_argument("--out", type=Path)
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [bench(side, args.minutes, Path(folder)) for side in (32, 224)]
    result = {
        "command": "python scripts/bench_training.py", "commit": short_commit(), "torch": torch.__version__,
        "cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "rows": rows,
    }  # fmt: skip
    for row in rows:
        print(json.dumps({k: v for k, v in row.items() if k != "raw"}))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
