"""Definite faults, planted in valid inputs: of each, why a correct tool has to refuse the input or to warn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from fuzz.cases import KINDS, Case
from fuzz.planted_files import CHECKPOINT, IMAGES, MASKS
from fuzz.planted_texts import ANNOTATIONS, SPACE, SPEC, TABLE

__all__ = ["planted"]

Plant = Callable[[random.Random], Case]
_ALL: dict[str, tuple[tuple[str, Plant], ...]] = {
    "spec": SPEC, "space": SPACE, "table": TABLE, "annotations": ANNOTATIONS, "images": IMAGES, "masks": MASKS,
    "checkpoint": CHECKPOINT,
}  # fmt: skip


def planted(each: int, seed: int) -> Iterator[Case]:
    """Faults of every kind, each drawn anew `each` times."""
    for kind in KINDS:
        for why, plant in _ALL[kind]:
            rng = random.Random(f"{seed} {kind} {why}")
            for _ in range(each):
                yield replace(plant(rng), fault=why)
