"""A user's photos in three disjoint sets: to learn from, to choose on, to report on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbv3.data import (
    ImageSet,
    White,
    class_parts,
    decode_all,
    find_class_folder,
    folder_notes,
    peek_class_folder,
    set_white,
    split_labels,
    store_pixels,
    stored_size,
)
from mbv3.errors import BadInput
from mbv3.events import Event, Note, counted
from mbv3.spec import ArchSpec
from mbv3.stages.images import Images
from mbv3.stages.keep import Keep, Memory
from mbv3.tasks import Peek, Source, Task
from mbv3.training import ImageData

__all__ = ["Photos", "peek_photos", "photos_sha256", "read_photos", "task_photos"]

CHOOSING, MOST_CHOOSING = 0.1, 5000  # held out of the images to learn from; the same share again without test images
MOST_BYTES = 20_000_000_000

_Files = tuple[list[Path], NDArray[np.int64]]  # and the index of their class


@dataclass(frozen=True, slots=True)
class Photos:
    """`images.train` is learned from, `images.held_out` chooses, `report` is answered once, at the end. `reported`:
    what it is, "test" or "held-out". `sha256`: of all of them."""

    images: Images
    report: ImageData
    reported: str
    sha256: str


def peek_photos(folder: Path, test: Path | None) -> int:
    """The number of classes; a few images are opened. Raises: BadInput: folders that cannot be used."""
    classes, _ = _parts(folder, test, 0)
    peek_class_folder(class_parts(folder)["training"])
    return len(classes)


def read_photos(
    folder: Path, size: tuple[int, int], *, test: Path | None = None, seed: int = 0, keep: Keep | None = None
) -> Generator[Event, None, Photos]:
    """The class folders of FOLDER, or of its parts train, val and test, decoded at `size` (height, width) or at their
    own if that is smaller. What is not there is held out of the training images: a tenth to choose on, and a tenth to
    report on.

    Raises:
        BadInput: a folder that is missing, has under two classes, a class of one image, or images that cannot be
            decoded (all listed).
    """
    keep = keep or Memory()
    classes, parts = _parts(folder, test, seed)
    yield from (Note("images", line, warning=True) for line in folder_notes(folder, test))
    white = set_white([p for files, _ in parts.values() for p in files])
    sets = {}
    for name, (files, labels) in parts.items():
        sets[name] = yield from _decoded(name, files, labels, classes, size, folder, keep, white)
    reported = "held-out" if test is None and "test" not in class_parts(folder) else "test"
    digest = _digest(classes, [(s.sha256, s.labels) for s in sets.values()])
    yield Note(
        "images",
        f"{len(sets['learn'])} images of {len(classes)} classes to learn from, {len(sets['choose'])} to choose on, "
        f"{len(sets['report'])} {reported} images to report on, once",
    )
    return Photos(Images(sets["learn"], sets["choose"], size), sets["report"], reported, digest)


def photos_sha256(folder: Path, test: Path | None = None, seed: int = 0) -> str:
    """The `sha256` that `read_photos` gives, from the files alone: nothing is decoded. Raises: BadInput."""
    classes, parts = _parts(folder, test, seed)
    sets = []
    for files, labels in parts.values():
        whole = hashlib.sha256()
        for file in files:
            try:
                whole.update(hashlib.sha256(file.read_bytes()).digest())
            except OSError as e:
                raise BadInput(f"{file}: cannot be read ({e.strerror})") from None
        sets.append((whole.hexdigest(), labels))
    return _digest(classes, sets)


def _digest(classes: Sequence[str], sets: Sequence[tuple[str, NDArray[np.int64]]]) -> str:
    """SHA-256 of classes, and of the files' SHA-256 and the labels of each set."""
    digest = hashlib.sha256("".join(sha256 for sha256, _ in sets).encode() + "\n".join(classes).encode())
    for _, labels in sets:
        digest.update(labels.tobytes())
    return digest.hexdigest()


def task_photos(task: Task, spec: ArchSpec, source: Source, peek: Peek) -> Generator[Event, None, Photos]:
    """The images of `source` with what `task` learns about them, at the input size of `spec`, a network of the task.
    What of the three sets is not there is held out of the training images, drawn by class. `peek`: of the same.

    Raises:
        BadInput: images or truth that cannot be used, all listed.
    """
    data = yield from task.load(spec, replace(source, apart=True))
    assert data.test is not None
    reported = "test" if peek.tested else "held-out"
    yield Note(
        "images",
        f"{len(data.train)} images of {len(data.classes)} classes to learn from, {len(data.validation)} to choose on, "
        f"{len(data.test)} {reported} images to report on, once",
    )
    images = Images(data.train, data.validation, spec.resolution, given=data.work)
    return Photos(images, data.test, reported, data.sha256)


def _parts(folder: Path, test: Path | None, seed: int) -> tuple[tuple[str, ...], dict[str, _Files]]:
    """(classes, files of each set). Raises: BadInput."""
    where = class_parts(folder)
    classes, files = find_class_folder(where["training"])
    labels = np.array([label for _, label in files], dtype=np.int64)
    paths = [path for path, _ in files]
    left = np.arange(len(paths))
    parts: dict[str, _Files] = {}
    places = {"report": test or where.get("test"), "choose": where.get("validation")}
    for number, (name, place) in enumerate(places.items()):
        if place is not None:
            found = find_class_folder(place, classes)[1]
            parts[name] = [p for p, _ in found], np.array([label for _, label in found], dtype=np.int64)
            continue
        few = [classes[c] for c, n in sorted(Counter(labels[left].tolist()).items()) if n < 2]
        if few and name == "choose":
            raise BadInput(f"{where['training']}: too few images in class folder(s) {', '.join(few[:5])}: one each is "
                           "learned from, chosen on and reported on; give --test DIR or more images")  # fmt: skip
        rest, held = split_labels(labels[left], len(classes), CHOOSING, MOST_CHOOSING, seed + number)
        parts[name] = [paths[left[i]] for i in held], labels[left[held]]
        left = left[rest]
    parts["learn"] = [paths[i] for i in left], labels[left]
    return classes, parts


def _decoded(
    name: str, files: list[Path], labels: NDArray[np.int64], classes: tuple[str, ...], size: tuple[int, int],
    folder: Path, keep: Keep, white: White,
) -> Generator[Event, None, ImageSet]:  # fmt: skip
    side = stored_size(files, size)
    store = keep.file(f"pixels-{name}.u8")
    if store is None:
        decoded = decode_all(files, side, folder, white=white)
    else:
        work = store_pixels(files, side, folder, store, white=white, most_bytes=MOST_BYTES)
        decoded = yield from counted(work, "images", f"decoding the images to {name}")
    yield from (Note("images", line, warning=True) for line in decoded.notes)
    return ImageSet(decoded.pixels, labels[decoded.kept], classes, decoded.sha256)
