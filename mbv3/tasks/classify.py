"""Class folders as a job: images, what is learned, how it is scored, and how answers are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mbv3.data import ImageSet, find_class_folder, normalise, split_labels, stored_size
from mbv3.errors import BadInput
from mbv3.events import Event
from mbv3.report import Panel
from mbv3.runs.train_options import TrainOptions
from mbv3.tasks.job import VALIDATION, Job, fingerprint, stored
from mbv3.training import Batches, ClassifyMetric, Metric, classify_objective

__all__ = ["classify_job"]

SHEET = 32  # images on a contact sheet


def classify_job(o: TrainOptions, size: tuple[int, int], store: Path, augment: str) -> Iterator[Event | Job]:
    """Class folders: DATA/train/<class>/*, with DATA/val and DATA/test where they are, or DATA/<class>/*.

    Without a validation folder, a part of the training images is held out for the curve: a tenth, a twentieth where a
    test folder has the last word.
    """
    root = Path(o.data)
    folder = root / "train" if (root / "train").is_dir() else root
    test = Path(o.test) if o.test else (root / "test" if folder != root and (root / "test").is_dir() else None)
    val = next((root / v for v in VALIDATION if folder != root and (root / v).is_dir()), None)
    classes, files = find_class_folder(folder)
    if set(classes) == {"images", "masks"}:
        raise BadInput(f"{folder}: holds images and masks, and no class folders; add --task segment")
    paths = [p for p, _ in files]
    labels = np.array([label for _, label in files], dtype=np.int64)
    parts: dict[str, tuple[list[Path], NDArray[np.int64]]] = {"training": (paths, labels)}
    if val is None:
        share, most = (0.05, 2500) if test is not None else (0.1, 5000)
        rest, held = split_labels(labels, len(classes), share, most, o.seed)
        parts["training"] = ([paths[i] for i in rest], labels[rest])
        parts["validation"] = ([paths[i] for i in held], labels[held])
    for name, where in (("validation", val), ("test", test)):
        if where is not None:
            found = find_class_folder(where, classes)[1]
            parts[name] = ([p for p, _ in found], np.array([label for _, label in found], dtype=np.int64))
    sets: dict[str, ImageSet] = {}
    for name, (where_all, truth) in parts.items():
        wanted = size
        if name == "training" and augment.startswith("inception"):  # room to choose a part from
            wanted = (round(size[0] * 8 / 7), round(size[1] * 8 / 7))
        side = stored_size(where_all, wanted)
        for event in stored(where_all, side, store / f"pixels-{name}.u8", name, o):
            if isinstance(event, tuple):
                pixels, kept, sha = event
                sets[name] = ImageSet(pixels, truth[kept], classes, fingerprint(sha, truth[kept].tobytes(), *classes))
            else:
                yield event
    gone = [classes[c] for c in np.flatnonzero(np.bincount(sets["training"].labels, minlength=len(classes)) == 0)]
    if gone:
        raise BadInput(f"{folder}: no image of class(es) {', '.join(gone[:5])} can be decoded")

    def metric(data: Batches) -> Metric:
        assert isinstance(data, ImageSet)
        return ClassifyMetric(data.labels, len(classes))

    def panels(net: nn.Module, data: Batches, at: tuple[int, int]) -> list[Panel]:
        assert isinstance(data, ImageSet)
        index = np.random.default_rng(0).permutation(len(data))[:SHEET]
        pixels, _ = data.batch(index, at, "none", np.random.default_rng(0))
        with torch.inference_mode():
            share = net(normalise(pixels, at, next(net.parameters()).device)).float().softmax(1).cpu().numpy()
        drawn = []
        for image, p, label in zip(pixels, share, data.labels[index], strict=True):
            said = int(p.argmax())
            text = f"{classes[said]} {100 * p[said]:.0f} %"
            if said != label:
                text += f"\n(is {classes[label]})"
            drawn.append(Panel(pixels=image, text=text, right=bool(said == label)))
        return drawn

    yield Job(
        classes, "top1", sets["training"], sets["validation"], sets.get("test"), metric, classify_objective, panels,
        fingerprint(*(s.sha256 for s in sets.values())),
    )  # fmt: skip
