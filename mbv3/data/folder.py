"""A folder of class folders: DIR/<class>/*.jpg."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from mbv3.data.decode import SUFFIXES, image_size
from mbv3.data.images import ImageSet
from mbv3.data.store import decode_all
from mbv3.errors import BadInput

__all__ = ["find_class_folder", "find_images", "load_class_folder", "peek_class_folder", "stored_size"]

MAX_BYTES = 2_000_000_000


def find_class_folder(
    folder: Path, like: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names, and (file, label) of every image; nothing is decoded.

    Raises:
        BadInput: not a folder of at least two class folders with two images each (one, where `like` is given), or other
            classes than `like`, of which it may lack some.
    """
    if not folder.exists():
        raise BadInput(f"{folder}: no such data folder")
    if not folder.is_dir():
        raise BadInput(f"{folder}: not a folder; --data takes a folder that holds one folder of images a class")
    try:
        names = sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
        if like is not None:
            names = _known(folder, names, like)
        files: list[tuple[Path, int]] = []
        empty = []
        for label, name in enumerate(names):
            inside = (folder / name).iterdir() if (folder / name).is_dir() else ()
            found = sorted(p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file())
            files += [(p, label) for p in found]
            if not found:
                empty.append(name)
    except OSError as e:
        raise BadInput(f"{folder}: cannot be read ({e.strerror})") from None
    if len(names) < 2:
        raise BadInput(
            f"{folder}: needs one folder of images for each of at least two classes (found {len(names)}: "
            f"{', '.join(names) or 'none'}); give the folder that contains the class folders"
        )
    if not files:
        raise BadInput(f"{folder}: its {len(names)} class folders hold no images ({', '.join(sorted(SUFFIXES))})")
    if empty and like is None:
        raise BadInput(f"{folder}: no images in class folder(s) {', '.join(empty[:5])}; fill or remove them")
    # one held out, one to learn from; a part to score on needs no more than one
    few = [] if like is not None else [names[c] for c, n in Counter(c for _, c in files).items() if n < 2]
    if few:
        raise BadInput(f"{folder}: only one image in class folder(s) {', '.join(few[:5])}; at least two are needed")
    return tuple(names), files


def find_images(folder: Path) -> list[Path]:
    """Every image below a folder, sorted; what lies in a folder `masks` is none. Raises: BadInput."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    images = [p for p in found if "masks" not in p.relative_to(folder).parts]
    if not images:
        why = "holds no images (" + ", ".join(sorted(SUFFIXES)) + ")" if folder.is_dir() else "no such folder"
        raise BadInput(f"{folder}: {why}")
    return images


def _side(path: Path) -> int:
    return min(image_size(path) or (0,))


def _known(folder: Path, names: list[str], classes: tuple[str, ...]) -> list[str]:
    """`classes`, of which `folder` may lack some. Raises: BadInput when it has others."""
    others = sorted(set(names) - set(classes))
    if others:
        raise BadInput(
            f"{folder}: class folder(s) {', '.join(others[:5])} are none of the training folder's "
            f"({', '.join(classes[:5])}{', ...' if classes[5:] else ''})"
        )
    return list(classes)


def peek_class_folder(folder: Path, like: Path | None = None) -> tuple[int, int, int]:
    """(classes, images, typical short side in pixels) from the file headers.

    Raises:
        BadInput: not a folder of class folders, or other classes than those of the folder `like`.
    """
    names, files = find_class_folder(folder, None if like is None else find_class_folder(like)[0])
    some = files[:: max(1, len(files) // 64)]
    sides = [s for s in (_side(p) for p, _ in some) if s]
    if not sides:
        raise BadInput(f"{folder}: none of its images can be opened, for instance {files[0][0]}")
    return len(names), len(files), int(np.median(sides))


def load_class_folder(
    folder: Path, size: int, *, seed: int = 0, classes: tuple[str, ...] | None = None, most: int | None = None
) -> ImageSet:
    """Decode every image to RGB, its middle square, at `size` pixels or its own size if that is smaller.

    `classes`: the training folder's, where this is a folder to score on; it may lack some.
    `most`: at most so many images, drawn evenly over the classes; also bounded by 2 GB of pixels.

    Raises:
        BadInput: the folder is missing, has under two classes, or has images that cannot be decoded (all listed).
    """
    names, files = find_class_folder(folder, classes)
    size = stored_size([p for p, _ in files], (size, size))[0]
    limit = min(most or len(files), MAX_BYTES // (3 * size * size))
    if len(files) > limit:
        order = np.random.default_rng(seed).permutation(len(files))[: max(limit, 2 * len(names))]
        chosen = {int(i) for i in order}
        for c in range(len(names)):  # every class keeps at least two
            chosen.update([i for i, (_, label) in enumerate(files) if label == c][:2])
        files = [files[i] for i in sorted(chosen)]
    decoded = decode_all([p for p, _ in files], (size, size), folder)
    labels = np.array([label for _, label in files], dtype=np.int64)
    return ImageSet(decoded.pixels, labels, names, decoded.sha256)


def stored_size(files: list[Path], size: tuple[int, int]) -> tuple[int, int]:
    """`size`, or what fits into the typical image: nothing is enlarged before the network's door."""
    sides = [s for s in map(_side, files[:: max(1, len(files) // 64)]) if s]
    share = min(1.0, float(np.median(sides)) / min(size)) if sides else 1.0
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))
