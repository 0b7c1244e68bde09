"""What a task on given data is to the training, and what the tasks share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mbv3.data import Framing, Pixels, store_pixels
from mbv3.errors import BadInput
from mbv3.events import Event, Note, Progress
from mbv3.report import Panel
from mbv3.runs.train_options import TrainOptions
from mbv3.training import Batches, Fit, Metric, Objective

__all__ = ["STAGE", "VALIDATION", "Job", "fingerprint", "spread", "stored", "tenth_out"]

STAGE = "training"
VALIDATION = ("val", "valid", "validation")


@dataclass(frozen=True)
class Job:
    """Everything of a task that the training asks for. `counts`: the metric that counts, higher is better."""

    classes: tuple[str, ...]
    counts: str
    train: Batches
    validation: Batches
    test: Batches | None
    metric: Callable[[Batches], Metric]
    objective: Callable[[Fit], Objective]
    panels: Callable[[nn.Module, Batches, tuple[int, int]], list[Panel]]
    sha256: str


def fingerprint(images: str, *truth: bytes | str) -> str:
    """SHA-256 of the images' own and what is to be learned of them."""
    digest = hashlib.sha256(images.encode())
    for part in truth:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def tenth_out(n: int, seed: int, where: str | Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of `n` images of the data set `where` those to learn from, and a tenth held out, each in order.

    Raises:
        BadInput: too few images.
    """
    order = np.random.default_rng(seed).permutation(n)
    held = max(1, n // 10)
    if n - held < 2:
        raise BadInput(f"{where}: {n} image(s) are too few to hold some out")
    return np.sort(order[held:]), np.sort(order[:held])


def spread(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `n` indices, evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def stored(
    files: list[Path], size: tuple[int, int], store: Path, what: str, o: TrainOptions, fit: Framing = "middle"
) -> Iterator[Event | tuple[Pixels, NDArray[np.int64], str]]:
    """Progress of decoding, a warning for what was left out, and last (pixels, indices kept, sha256)."""
    work = store_pixels(files, size, o.data, store, fit, skip_broken=o.skip_broken, most_bytes=int(o.store_gb * 1e9))
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            decoded = end.value
            break
        yield Progress("images", done, total, f"decoding {what} images")
    if decoded.broken:
        yield Note(
            "images",
            f"{len(decoded.broken)} of {len(files)} {what} images cannot be decoded and are left out: "
            + "; ".join(decoded.broken[:3]) + ("; ..." if decoded.broken[3:] else ""),
            warning=True,
        )  # fmt: skip
    yield decoded.pixels, decoded.kept, decoded.sha256
