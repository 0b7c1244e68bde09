"""Images with boxes: the parts of a VOC or COCO data set, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbv3.data.boxes import Boxes
from mbv3.data.coco import read_coco
from mbv3.data.decode import listed
from mbv3.data.listing import is_data
from mbv3.data.rawboxes import Finder, Notes, Raw
from mbv3.data.voc import read_voc
from mbv3.errors import BadInput, plain

__all__ = ["Annotated", "find_boxes", "split_boxes"]


@dataclass(frozen=True)
class Annotated:
    """Images with their boxes, in order; class names; what was mended or left out, as lines for a warning."""

    files: tuple[Path, ...]
    boxes: tuple[Boxes, ...]
    sizes: NDArray[np.int64]
    classes: tuple[str, ...]
    mended: tuple[str, ...] = ()

    def take(self, index: NDArray[np.int64]) -> Annotated:
        """The images at `index`."""
        files, boxes = (tuple(values[i] for i in index) for values in (self.files, self.boxes))
        return replace(self, files=files, boxes=boxes, sizes=self.sizes[index])

    @property
    def seen(self) -> list[frozenset[str]]:
        """The classes of each image."""
        return [frozenset(self.classes[c] for c in boxes.labels.tolist()) for boxes in self.boxes]


def find_boxes(root: Path, *, skip_broken: bool | None = False) -> dict[str, Annotated]:
    """The parts (`training`, and `validation` and `test` where they are) of a VOC or COCO data set.

    Boxes that reach out of their image are cut to it, and those without area are left out, as every loader of the field
    does; both are reported in `mended`, and so are classes without a box to learn from.

    Raises:
        BadInput: neither kind of data set; ids that are not unique; annotations without their image or that cannot be
            read (all listed), unless `skip_broken`.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such data folder")
    notes = Notes()
    place, raw = root, None
    while raw is None:
        raw = read_coco(place, Finder(place), notes) or read_voc(place, notes)
        inside = [p for p in sorted(place.iterdir()) if is_data(p) and p.is_dir()]
        if raw is None and len(inside) != 1:
            raise BadInput(f"{root}: neither COCO (annotations/*.json, or train/_annotations.coco.json) nor Pascal VOC "
                           "(Annotations/*.xml beside JPEGImages) was found in it; export the boxes as one of "
                           "these")  # fmt: skip
        place = inside[0] if raw is None else place  # what an archive was packed in
    if notes.faults and not skip_broken:
        more = ", or go on without them: --skip-broken" if skip_broken is False else ""
        raise BadInput(f"{root}: {len(notes.faults)} fault(s) in its annotations; repair or remove them{more}\n"
                       f"{listed(notes.faults)}")  # fmt: skip
    _apart(root, raw)
    _in_pixels(root, raw)
    learned = {o[0] for image in raw.get("training", ()) for o in image.objects}
    names = sorted(learned | {o[0] for part in raw.values() for image in part for o in image.objects})
    parts = {part: _numbered(images, names, notes) for part, images in raw.items() if images}
    if "training" not in parts or not any(map(len, parts["training"].boxes)):
        raise BadInput("\n  ".join([f"{root}: its training part has no box", *notes.lines()]))
    mended = list(notes.lines())
    if set(names) - learned:
        rare = ", ".join(plain(n) for n in sorted(set(names) - learned)[:5])
        mended.append(f"class(es) {rare} have no training box: they cannot be learned and lower the score; move an "
                      "image that shows one into the training part, or take their boxes out")  # fmt: skip
    parts["training"] = replace(parts["training"], mended=tuple(mended))
    return parts


def split_boxes(data: Annotated, seed: int, where: Path | str) -> tuple[Annotated, Annotated]:
    """(training, held out): a tenth of the images, drawn so that every class keeps an image to learn from, and one of
    them at least has a box.

    Raises:
        BadInput: too few images of the data set `where`.
    """
    n = len(data.files)
    if n < 3:
        raise BadInput(f"{where}: {n} image(s) are too few to hold some out")
    left = Counter(label for boxes in data.boxes for label in set(boxes.labels.tolist()))
    held: list[int] = []
    boxed = False
    most = max(1, n // 10)
    for i in np.random.default_rng(seed).permutation(n).tolist():
        mine = set(data.boxes[i].labels.tolist())
        room = len(held) < most - (not boxed and not mine)  # the last place is for an image with a box
        if room and all(left[label] > 1 for label in mine):
            left.subtract(mine)
            held.append(i)
            boxed = boxed or bool(mine)
    if not boxed:
        raise BadInput(f"{where}: every image with a box is the only one of some class, so none can be held out; add "
                       "images, or a validation part")  # fmt: skip
    index = np.sort(np.array(held, dtype=np.int64))
    return data.take(np.setdiff1d(np.arange(n), index)), data.take(index)


def _apart(root: Path, raw: dict[str, list[Raw]]) -> None:
    """Raises: BadInput when an image is in two parts, as a score over training images says nothing, or twice in one."""
    files = {part: Counter(i.path.resolve() for i in images) for part, images in raw.items()}
    for part, found in files.items():
        twice = sorted(path for path, n in found.items() if n > 1)
        if twice:
            raise BadInput(f"{root}: {len(twice)} image(s) of its {part} part have two annotations, for instance "
                           f"{twice[0]}; keep one of each")  # fmt: skip
    for one, other in combinations(files, 2):
        both = sorted(files[one].keys() & files[other].keys())
        if both:
            raise BadInput(f"{root}: {len(both)} image(s) are in its {one} part and in its {other} part, for instance "
                           f"{both[0]}; take them out of one")  # fmt: skip


def _in_pixels(root: Path, raw: dict[str, list[Raw]]) -> None:
    """Raises: BadInput for boxes that are shares of their image: in pixels they would all lie in its first corner."""
    ends = [max(abs(v) for v in o[1:5]) for images in raw.values() for image in images for o in image.objects]
    if ends and max(ends) <= 1:
        raise BadInput(f"{root}: all of its boxes lie between 0 and 1, as shares of an image do; COCO and Pascal VOC "
                       "have pixels: multiply by width and height")  # fmt: skip


def _numbered(images: list[Raw], names: list[str], notes: Notes) -> Annotated:
    at = {name: i for i, name in enumerate(names)}
    boxes = []
    for image in images:
        h, w = image.size
        edges, labels, kinds = [], [], []
        for name, left, top, right, bottom, kind in image.objects:
            (x0, x1), (y0, y1) = sorted((left, right)), sorted((top, bottom))
            shown = f"{image.path}: {name} ({x0:g}, {y0:g}, {x1:g}, {y1:g}) in {w}x{h}"
            inside = min(max(x0, 0), w), min(max(y0, 0), h), min(max(x1, 0), w), min(max(y1, 0), h)
            if inside[2] - inside[0] <= 0 or inside[3] - inside[1] <= 0:
                notes.empty.append(shown)
                continue
            if (x0, y0) != (left, top):
                notes.flipped.append(shown)
            if inside != (x0, y0, x1, y1):
                notes.outside.append(shown)
            edges.append([inside[0] / w, inside[1] / h, inside[2] / w, inside[3] / h])
            labels.append(at[name])
            kinds.append(kind)
        boxes.append(
            Boxes(np.array(edges, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(kinds, np.int64))
        )
    sizes = np.array([i.size for i in images], dtype=np.int64)
    return Annotated(tuple(i.path for i in images), tuple(boxes), sizes, tuple(names))
