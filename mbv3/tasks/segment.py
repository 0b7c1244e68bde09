"""Images with masks as a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mbv3.data import IGNORED, MaskFiles, MaskSet, find_masks, normalise, read_class_names
from mbv3.errors import BadInput
from mbv3.events import Event, Note
from mbv3.report import Panel
from mbv3.runs.train_options import TrainOptions
from mbv3.tasks.job import VALIDATION, Job, fingerprint, spread, stored, tenth_out
from mbv3.training import Batches, Metric, SegmentMetric, classify_objective

__all__ = ["segment_job"]

SHEET = 12  # images on a contact sheet


def _parts(o: TrainOptions) -> dict[str, MaskFiles]:
    """DATA/train, DATA/val and DATA/test, or DATA itself with a tenth held out."""
    root = Path(o.data)
    names = read_class_names(root)
    classes = len(names) or None
    if not (root / "train").is_dir():
        all_ = find_masks(root, classes, skip_broken=o.skip_broken)
        rest, held = tenth_out(len(all_.images), o.seed, root)

        def some(index: list[int], faults: tuple[str, ...]) -> MaskFiles:
            images, masks = (tuple(files[i] for i in index) for files in (all_.images, all_.masks))
            return MaskFiles(images, masks, faults, tuple(all_.seen[i] for i in index),
                             tuple(all_.turned[i] for i in index))  # fmt: skip

        parts = {"training": some(rest.tolist(), all_.faults), "validation": some(held.tolist(), ())}
    else:
        where = {"training": root / "train", "test": root / "test"}
        val = next((root / v for v in VALIDATION if (root / v).is_dir()), None)
        if val is not None:
            where["validation"] = val
        parts = {n: find_masks(d, classes, skip_broken=o.skip_broken) for n, d in where.items() if d.is_dir()}
        if "validation" not in parts:
            if "test" not in parts:
                raise BadInput(f"{root}: has train, but neither val nor test to score on")
            parts["validation"] = parts["test"]
    return parts


def segment_job(o: TrainOptions, size: tuple[int, int], store: Path) -> Iterator[Event | Job]:
    """Images and masks at `size`, scored at the masks' own."""
    parts = _parts(o)
    names = read_class_names(Path(o.data))
    seen = {name: frozenset[int]().union(*part.seen) for name, part in parts.items()}
    learned = sorted(seen["training"] - {IGNORED})
    if len(learned) < 2:
        # 0 and 255 is how most programs write a mask of two classes, and nothing would be learned from it
        beside = f" beside {IGNORED}, which is ignored: write the second class as 1"
        cure = beside if IGNORED in seen["training"] else ""
        raise BadInput(f"{o.data}: its training masks hold only class {', '.join(map(str, learned)) or 'none'}{cure}; "
                       "at least two classes are needed")  # fmt: skip
    if not names and learned[-1] >= 2 * len(learned):
        raise BadInput(f"{o.data}: its masks hold the class indices {', '.join(map(str, learned[:5]))}, ... "
                       f"{learned[-1]}; number the classes 0, 1, 2, ..., or name all of them, one a line, in "
                       f"{Path(o.data) / 'classes.txt'}")  # fmt: skip
    classes = names or tuple(str(i) for i in range(1 + max(i for s in seen.values() for i in s - {IGNORED})))
    absent = [name for i, name in enumerate(classes) if i not in seen["training"]]
    if absent:
        yield Note("images", f"no training mask holds class(es) {', '.join(absent)}", warning=True)
    sets: dict[str, MaskSet] = {}
    for name, files in parts.items():
        if files.faults:
            text = f"{len(files.faults)} faulty {name} images or masks are left out, for instance {files.faults[0]}"
            yield Note("images", text, warning=True)
        if any(files.turned):
            text = (
                f"{sum(files.turned)} {name} images are turned upright, for instance "
                f"{files.images[files.turned.index(True)]}; their masks are taken to be of what is then seen"
            )
            yield Note("images", text, warning=True)
        pixels = masks = None
        masks_of = files.masks
        for event in stored(list(files.images), size, store / f"pixels-{name}.u8", name, o, "stretch"):
            if isinstance(event, tuple):
                pixels, kept, sha = event
                masks_of = tuple(files.masks[i] for i in kept)
            else:
                yield event
        for event in stored(list(masks_of), size, store / f"pixels-{name}-masks.u8", f"{name} mask", o, "mask"):
            if isinstance(event, tuple):
                masks, _, sha_masks = event
            else:
                yield event
        assert pixels is not None and masks is not None
        sets[name] = MaskSet(pixels, masks, masks_of, classes, fingerprint(sha, sha_masks, *classes))

    def metric(data: Batches) -> Metric:
        assert isinstance(data, MaskSet)
        return SegmentMetric(data)

    def panels(net: nn.Module, data: Batches, at: tuple[int, int]) -> list[Panel]:
        assert isinstance(data, MaskSet)
        index = spread(len(data), SHEET)
        pixels, truth = data.batch(index, at, "none", np.random.default_rng(0))
        with torch.inference_mode():
            logits = net(normalise(pixels, at, next(net.parameters()).device)).float()
            said = functional.interpolate(logits, at, mode="bilinear").argmax(1).cpu()
        drawn = []
        for image, mask, answer in zip(pixels, truth, said, strict=True):
            counts = mask != IGNORED
            right = 100 * float((mask[counts] == answer[counts]).float().mean()) if counts.any() else 0.0
            text = f"image, truth, answer: {right:.0f} % of the pixels right"
            drawn.append(Panel(pixels=image, text=text, masks=(mask.numpy(), answer.numpy())))
        return drawn

    yield Job(
        classes, "miou", sets["training"], sets["validation"], sets.get("test"), metric, classify_objective, panels,
        fingerprint(*(s.sha256 for s in sets.values())),
    )  # fmt: skip
