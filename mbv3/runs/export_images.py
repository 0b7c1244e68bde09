"""The images of `mbv3 export --data`: three sets that share none, with classes where the folder has the network's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from mbv3.data import Pixels, class_parts, decode_all, find_class_folder, find_images, normalise
from mbv3.errors import BadInput, plain
from mbv3.export import Examples
from mbv3.nn import Statistics
from mbv3.spec import ArchSpec, Classify

__all__ = ["Inputs", "examples"]

MOST = (64, 96, 512)  # images to calibrate on, to choose on, to report on
FEWEST = 12  # under which none can be kept back
MOST_BYTES = 600_000_000  # of pixels
Sets = tuple[Examples, Examples, Examples]


class Inputs(Sequence[NDArray[np.float32]]):
    """Pixels (N, H, W, 3) as inputs of a network, (1, 3, H, W) each, made when they are asked for."""

    def __init__(self, pixels: Pixels, size: tuple[int, int], rows: NDArray[np.int64], by: Statistics) -> None:
        self.pixels, self.size, self.rows, self.by = pixels, size, rows, by

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> NDArray[np.float32]: ...

    @overload
    def __getitem__(self, i: slice) -> Inputs: ...

    def __getitem__(self, i: int | slice) -> NDArray[np.float32] | Inputs:
        if isinstance(i, slice):
            return Inputs(self.pixels, self.size, self.rows[i], self.by)
        one: NDArray[np.float32] = normalise(self.pixels[self.rows[[i]]], self.size, by=self.by).contiguous().numpy()
        return one


def examples(folder: str, spec: ArchSpec, labels: Sequence[str], seed: int = 0) -> tuple[Sets, tuple[str, ...]]:
    """(images to calibrate on, to choose on, to report on) out of `folder`, and lines on what they cannot say.

    A part `test` reports and a part `val` chooses where they are; what is missing is drawn from the rest, a third each.
    Fewer than 12 images do all three. `labels`: the network's classes in order, as a training writes them; without them
    class folders count that are named by number, or that are as many as the classes, in the order of their names.

    Raises:
        BadInput: no images, images that cannot be decoded (all listed), some class folders that are none of `labels`.
    """
    root = Path(folder)
    parts = class_parts(root)
    known, notes = _classes(parts, spec, labels)
    rng = np.random.default_rng(seed)
    found = {part: _shuffled(find_images(place), rng) for part, place in parts.items()}
    if known is not None:
        found = {part: [p for p in files if p in known] for part, files in found.items()}
    rest = found["training"]
    named = [found.get("validation", []), found.get("test", [])]
    third = len(rest) // (1 + sum(not files for files in named))
    choose, report = (files or [rest.pop() for _ in range(third)] for files in named)
    if len(rest) + len(choose) + len(report) < FEWEST or not rest:
        rest = [*rest, *choose, *report]
        choose = report = []
        notes = (*notes, f"{folder}: {len(rest)} images are too few to keep some back ({FEWEST} at least): what int8 "
                 "answers is judged on those that it was calibrated on")  # fmt: skip
    elif known is not None and "test" not in found:
        notes = (*notes, f"{folder} has no part `test`: top-1 is of images that the network may have learned")
    room = max(MOST_BYTES // (3 * spec.resolution[0] * spec.resolution[1]), sum(MOST) // 16) / sum(MOST)
    sets = [files[: max(int(most * min(room, 1)), 4)] for files, most in zip((rest, choose, report), MOST, strict=True)]
    files = [p for part in sets for p in part]
    decoded = decode_all(files, spec.resolution, folder, "middle" if isinstance(spec.head, Classify) else "stretch")
    made, at = [], 0
    for part in sets:
        index = np.arange(at, at + len(part))
        truth = None if known is None else np.array([known[p] for p in part], np.int64)
        made.append(Examples(Inputs(decoded.pixels, spec.resolution, index, (spec.mean, spec.std)), truth))
        at += len(part)
    learn, chosen, reported = made if choose else (made[0],) * 3
    return (learn, chosen, reported), (*notes, *decoded.notes)


def _shuffled(files: list[Path], rng: np.random.Generator) -> list[Path]:
    return [files[i] for i in rng.permutation(len(files))]


def _classes(
    parts: dict[str, Path], spec: ArchSpec, labels: Sequence[str]
) -> tuple[dict[Path, int] | None, tuple[str, ...]]:
    """The class of each image, where the folders are the network's classes; else a line on why not."""
    if not isinstance(spec.head, Classify):
        return None, ()
    known: dict[Path, int] = {}
    names: tuple[str, ...] | None = None
    for place in parts.values():
        try:
            names, files = find_class_folder(place, names)
        except BadInput as e:
            why = str(e).splitlines()[0]
            return None, (f"answers in int8 are compared with those in fp32, for there are no class folders ({why})",)
        index = _index(place, names, labels, spec.head.classes)
        if index is None:
            return None, (f"{place}: its {len(names)} class folders are not the network's {spec.head.classes} classes, "
                          "so answers in int8 are compared with those in fp32; for top-1 give the folders the names of "
                          f"classes, or their numbers, 0 to {spec.head.classes - 1}",)  # fmt: skip
        known |= {path: index[label] for path, label in files}
    return known, ()


def _index(place: Path, names: Sequence[str], labels: Sequence[str], classes: int) -> list[int] | None:
    """The network's class of each folder. Raises: BadInput where some folders are its classes and others are not."""
    if labels:
        strange = [name for name in names if name not in labels]
        if strange and len(strange) < len(names):
            raise BadInput(f"{place}: class folder(s) {', '.join(map(plain, strange[:5]))} are none of the network's "
                           f"{len(labels)} classes; remove them, or give them the names of classes")  # fmt: skip
        return None if strange else [list(labels).index(name) for name in names]
    if all(name.isascii() and name.isdigit() and int(name) < classes for name in names):
        return [int(name) for name in names]
    return list(range(classes)) if len(names) == classes else None
