"""Images with boxes as a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mbv3.data import Annotated, BoxSet, find_boxes, normalise
from mbv3.events import Event, Note
from mbv3.report import Box, Panel
from mbv3.runs.train_options import TrainOptions
from mbv3.spec import ArchSpec, SSDLite, with_head
from mbv3.tasks.job import Job, fingerprint, spread, stored, tenth_out
from mbv3.training import Batches, DetectMetric, Metric, detect_objective, objects

__all__ = ["detect_job"]

SHEET = 12  # images on a contact sheet
SURE = 0.4  # of a box that is drawn


def _parts(o: TrainOptions) -> dict[str, Annotated]:
    """The data set's own parts; a tenth of the training images is held out where there are none."""
    parts = find_boxes(Path(o.data), skip_broken=o.skip_broken)
    if "validation" not in parts and "test" in parts:
        parts["validation"] = parts["test"]
    if "validation" not in parts:
        whole = parts["training"]
        rest, held = tenth_out(len(whole.files), o.seed, o.data)
        parts["training"], parts["validation"] = _some(whole, rest), _some(whole, held)
    return parts


def _some(data: Annotated, index: NDArray[np.int64]) -> Annotated:
    return replace(
        data,
        files=tuple(data.files[i] for i in index),
        boxes=tuple(data.boxes[i] for i in index),
        sizes=data.sizes[index],
    )


def detect_job(o: TrainOptions, spec: ArchSpec, store: Path) -> Iterator[Event | Job]:
    """Images stretched to the network's input, boxes in shares of them."""
    parts = _parts(o)
    classes = parts["training"].classes
    for line in parts["training"].mended:
        yield Note("images", line, warning=True)
    size = spec.resolution
    sets: dict[str, BoxSet] = {}
    for name, part in parts.items():
        for event in stored(list(part.files), size, store / f"pixels-{name}.u8", name, o, "stretch"):
            if isinstance(event, tuple):
                pixels, kept, sha = event
                boxes = tuple(part.boxes[i] for i in kept)
                truth = (a.tobytes() for b in boxes for a in (b.edges, b.labels, b.kinds))
                sets[name] = BoxSet(pixels, boxes, part.sizes[kept], classes, fingerprint(sha, *truth, *classes))
            else:
                yield event
    head = with_head(spec, spec.head, len(classes) + 1).head
    assert isinstance(head, SSDLite)

    def metric(data: Batches) -> Metric:
        assert isinstance(data, BoxSet)
        return DetectMetric(data, head)

    def panels(net: nn.Module, data: Batches, at: tuple[int, int]) -> list[Panel]:
        assert isinstance(data, BoxSet)
        index = spread(len(data), SHEET)
        pixels, _ = data.batch(index, at, "none", np.random.default_rng(0))
        with torch.inference_mode():
            found = objects(net(normalise(pixels, at, next(net.parameters()).device)), head)
        scale = np.array([at[1], at[0], at[1], at[0]])
        drawn = []
        for image, said, i in zip(pixels, found, index, strict=True):
            boxes = [Box(edges=tuple(e), text="", truth=True) for e in (data.boxes[i].edges * scale).tolist()]
            for edges, score, label in zip(said.boxes.numpy() * scale, said.scores, said.labels, strict=True):
                if float(score) >= SURE:
                    text = f"{classes[int(label) - 1]} {100 * float(score):.0f}"
                    boxes.append(Box(edges=tuple(edges.tolist()), text=text))
            drawn.append(Panel(pixels=image, text=f"{len(data.boxes[i])} objects", boxes=tuple(boxes)))
        return drawn

    yield Job(
        classes, "map50", sets["training"], sets["validation"], sets.get("test"), metric,
        lambda recipe: detect_objective(head), panels, fingerprint(*(s.sha256 for s in sets.values())),
    )  # fmt: skip
