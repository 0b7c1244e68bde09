"""Top-1 of TFLite files by LiteRT, and of the networks of floats that `mbv3 import` makes of them.

    python scripts/check_import.py results/import_int8.json PHOTOS FILE.tflite ...

PHOTOS: files called `<anything>_<ImageNet class>.jpg`, class from 0; a network of 1,001 classes has the background
first. 128 of the photos give batch norms their statistics, which changes no answer. One thread, an image at a time.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbv3.data import decode_all, find_images, normalise
from mbv3.export import loaded
from mbv3.files import write_atomic
from mbv3.graph import answers, read_tflite
from mbv3.runs import import_from
from mbv3.training import read_weights

BATCH = 25


def compared(file: Path, photos: Path) -> dict[str, Any]:
    """Both networks on every photo."""
    with tempfile.TemporaryDirectory() as folder:
        result = import_from(file, out=Path(folder) / "network", data=str(photos))
        state = read_weights(Path(folder) / "network" / "weights.safetensors")
    spec = result.spec
    files = find_images(photos)
    truth = np.array([int(f.stem.rpartition("_")[2]) for f in files]) + getattr(spec.head, "classes", 0) - 1000
    pixels = decode_all(files, spec.resolution, photos, "middle").pixels
    every = np.arange(len(files))
    net, mine = loaded(spec, state), []
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            x = normalise(pixels[every[start : start + BATCH]], spec.resolution, by=(spec.mean, spec.std))
            mine.append(net(x).argmax(1).numpy())
    best = np.concatenate(mine)
    content = file.read_bytes()
    found = read_tflite(content, str(file))
    # an input in floats of these files is RGB from 0 to 1, rescaled inside; one in bytes takes the pixels
    own = ((0.0,) * 3, (1.0,) * 3) if found.codes is None else (spec.mean, spec.std)
    images = [normalise(pixels[every[i : i + 1]], spec.resolution, by=own).contiguous().numpy() for i in every]
    theirs = answers(content, found, images).argmax(1)
    return {
        "file": file.name, "n": len(files), "top1_litert": 100 * float((theirs == truth).mean()),
        "top1_floats": 100 * float((best == truth).mean()), "same_class": 100 * float((theirs == best).mean()),
        "checked": result.as_dict()["checked"],
    }  # fmt: skip


def main() -> None:
    out, photos, *files = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    rows = [compared(file, photos) for file in files]
    for row in rows:
        row["checked"]["on"] = "images of the photos"
    write_atomic(
        out, json.dumps({"torch": torch.__version__, "machine": platform.machine(), "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
