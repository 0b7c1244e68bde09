"""A folder of class folders: DIR/<class>/*.jpg."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from mbv3.data.decode import SUFFIXES, image_size
from mbv3.data.images import ImageSet
from mbv3.data.listing import dead_links, is_data, is_image, not_images, twins, walk
from mbv3.data.store import decode_all
from mbv3.errors import BadInput, plain

__all__ = ["class_parts", "find_class_folder", "find_images", "folder_notes", "load_class_folder", "peek_class_folder",
           "stored_size"]  # fmt: skip

MAX_BYTES = 2_000_000_000
_PARTS = {
    "training": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def class_parts(root: Path) -> dict[str, Path]:
    """The folders of class folders of a data set: `training`, and `validation` and `test` where they are, whatever the
    case of their names. A folder train that holds no folders but images is a class of that name.

    Raises:
        BadInput: ROOT cannot be read.
    """
    if not root.is_dir():
        return {"training": root}  # for `find_class_folder` to refuse
    found: dict[str, Path] = {}
    for part, names in _PARTS.items():
        # the first name goes before the second, as it is written before other cases
        places = [d for n in names for d in sorted(_folders(root), key=lambda d: d.name != n) if d.name.lower() == n]
        if places and (part == "training" or "training" in found) and _folders(places[0]):
            found[part] = places[0]
    return found or {"training": root}


def _folders(folder: Path) -> list[Path]:
    """Folders in `folder`, sorted by name. Raises: BadInput for one that cannot be read."""
    try:
        return sorted(p for p in folder.iterdir() if is_data(p) and p.is_dir())
    except OSError as e:
        raise BadInput(f"{folder}: cannot be read ({e.strerror})") from None


def _by_name(folder: Path) -> dict[str, Path]:
    """Class folders by the name of their class, which can be written and compared everywhere: of a name that is no
    UTF-8, as an old Windows zip leaves, the bytes are read as Latin-1. Raises: BadInput where two have one name."""
    found: dict[str, Path] = {}
    for place in _folders(folder):
        try:
            name = place.name.encode().decode()
        except UnicodeEncodeError:
            name = os.fsencode(place.name).decode("latin-1")
        name = unicodedata.normalize("NFC", name)
        if name in found:
            raise BadInput(f"{folder}: two class folders are called {plain(name)} in different spellings; rename one")
        found[name] = place
    return found


def find_class_folder(
    folder: Path, like: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names, and (file, label) of every image at any depth in a class folder; nothing is decoded. What
    `folder_notes` says of the folder is left out.

    Raises:
        BadInput: not a folder of at least two class folders with two images each (one, where `like` is given), or other
            classes than `like`, of which it may lack some; a class folder that is a link to nothing.
    """
    if not folder.exists():
        raise BadInput(f"{folder}: no such data folder")
    if not folder.is_dir():
        raise BadInput(f"{folder}: not a folder; --data takes a folder that holds one folder of images a class")
    places = _by_name(folder)
    names = sorted(places)
    try:
        lost = [p for p in dead_links(folder) if p.suffix.lower() not in SUFFIXES]
        if lost:
            raise BadInput(f"{folder}: {', '.join(plain(p.name) for p in lost[:5])} link(s) to what is not there; "
                           "mend or remove them")  # fmt: skip
        if like is not None:
            names = _known(folder, names, like)
        files: list[tuple[Path, int]] = []
        empty, other = [], Counter[str]()
        for label, name in enumerate(names):
            inside = list(walk(places[name])) if name in places else []
            found = [p for p in inside if is_image(p)]
            files += [(p, label) for p in found]
            if not found:
                empty.append(name)
                other += not_images(inside)
    except OSError as e:
        raise BadInput(f"{e.filename or folder}: cannot be read ({e.strerror})") from None
    _no_parts(folder, names, files)
    if set(names) == {"images", "masks"}:
        raise BadInput(f"{folder}: holds images and masks, and no class folders; add --task segment")
    if len(names) < 2:
        raise BadInput(
            f"{folder}: needs one folder of images for each of at least two classes (found {len(names)}: "
            f"{_some(names) or 'none'}); give the folder that contains the class folders"
        )
    if not files:
        raise BadInput(f"{folder}: its {len(names)} class folders hold no images ({', '.join(sorted(SUFFIXES))})")
    if empty and like is None:
        unread = f" ({_counted(other)} there cannot be read; convert them to JPEG or PNG)" if other else ""
        raise BadInput(f"{folder}: no images in class folder(s) {_some(empty)}{unread}; fill or remove them")
    # one held out, one to learn from; a part to score on needs no more than one
    few = [] if like is not None else [names[c] for c, n in Counter(c for _, c in files).items() if n < 2]
    if few:
        raise BadInput(f"{folder}: only one image in class folder(s) {_some(few)}; at least two are needed")
    return tuple(names), files


def _no_parts(folder: Path, names: Sequence[str], files: Sequence[tuple[Path, int]]) -> None:
    """Raises: BadInput where what would be classes are parts of a data set, each with the class folders in it."""
    inside: dict[str, set[str]] = {}
    depth = len(folder.parts) + 1  # of a class folder
    flat = {label for path, label in files if len(path.parts) == depth + 1}
    for path, label in files:
        if label not in flat:
            inside.setdefault(names[label], set()).add(path.parts[depth])
    for one, other in combinations(inside, 2):
        if len(both := sorted(inside[one] & inside[other])) > 1:
            raise BadInput(f"{folder}: {plain(one)} and {plain(other)} both hold the folders {_some(both)}, so they "
                           "are no classes; name them train, val and test, or give one of them")  # fmt: skip


def _some(names: Sequence[str]) -> str:
    return ", ".join(plain(name) for name in names[:5])


def _counted(suffixes: Counter[str]) -> str:
    return ", ".join(f"{n} {plain(suffix)}" for suffix, n in suffixes.most_common(5))


def folder_notes(root: Path, test: Path | None = None) -> tuple[str, ...]:
    """Lines on what is left out of a data set, of its parts and of `test`, or is read though it lies deeper than usual.

    Raises:
        BadInput: a folder cannot be read.
    """
    parts = class_parts(root)
    places = [*parts.values(), *([test] if test is not None else [])]
    notes = [line for place in places for line in _part_notes(place)]
    if parts["training"] != root:
        beside = [p for p in _folders(root) if p not in parts.values() and any(map(is_image, walk(p)))]
        if beside:
            notes.append(f"{root}: has a folder {parts['training'].name}, so what lies beside it is left out: "
                         f"{_some([p.name for p in beside])}")  # fmt: skip
    return tuple(notes)


def _part_notes(folder: Path) -> tuple[str, ...]:
    """Lines on one folder of class folders. Raises: BadInput."""
    notes, deep, same, other = [], list[Path](), list[Path](), Counter[str]()
    try:
        stray = [p for p in sorted(folder.iterdir()) if is_image(p)]
        for place in _folders(folder):
            files = list(walk(place))
            same += [pair[0] for pair in twins(p for p in files if is_image(p) and p.parent == place).values()]
            deep += [p for p in files if is_image(p) and p.parent != place]
            other += not_images(files)
    except OSError as e:
        raise BadInput(f"{e.filename or folder}: cannot be read ({e.strerror})") from None
    if stray:
        notes.append(f"{len(stray)} images lie in no class folder and are left out, for instance {stray[0]}")
    if deep:
        notes.append(f"{len(deep)} images lie in folders within a class folder and count as its class, for instance "
                     f"{deep[0]}")  # fmt: skip
    if same:
        notes.append(f"{len(same)} images have the name of another except for the suffix, such as {same[0]}; where "
                     "they are the same picture, remove one of them")  # fmt: skip
    if other:
        notes.append(f"{folder}: {sum(other.values())} files cannot be read as images and are left out: "
                     f"{_counted(other)}; "
                     "convert them to JPEG or PNG")  # fmt: skip
    return tuple(notes)


def find_images(folder: Path) -> list[Path]:
    """Every image below a folder, sorted; none of a folder `masks` that lies beside a folder `images`, nor of Pascal
    VOC's drawn segmentations beside `JPEGImages`.

    Raises:
        BadInput: there are none, or a folder cannot be read.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    try:
        images = sorted(p for p in walk(folder) if is_image(p) and not _of_mask(p.relative_to(folder), folder))
    except OSError as e:
        raise BadInput(f"{e.filename or folder}: cannot be read ({e.strerror})") from None
    if not images:
        raise BadInput(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))})")
    return images


_MASKS = {"masks": "images", "SegmentationClass": "JPEGImages", "SegmentationObject": "JPEGImages"}  # beside it


def _of_mask(relative: Path, folder: Path) -> bool:
    parts = relative.parts[:-1]
    return any(name in _MASKS and folder.joinpath(*parts[:i], _MASKS[name]).is_dir() for i, name in enumerate(parts))


def _known(folder: Path, names: list[str], classes: tuple[str, ...]) -> list[str]:
    """`classes`, of which `folder` may lack some. Raises: BadInput when it has others."""
    others = sorted(set(names) - set(classes))
    if others:
        raise BadInput(
            f"{folder}: class folder(s) {_some(others)} are none of the training folder's "
            f"({_some(classes)}{', ...' if classes[5:] else ''})"
        )
    return list(classes)


def peek_class_folder(folder: Path, like: Path | None = None) -> tuple[int, int, int]:
    """(classes, images, typical short side in pixels) from the file headers.

    Raises:
        BadInput: not a folder of class folders, or other classes than those of the folder `like`.
    """
    names, files = find_class_folder(folder, None if like is None else find_class_folder(like)[0])
    some = files[:: max(1, len(files) // 64)]
    sides = [min(s) for s in (image_size(p) for p, _ in some) if s]
    if not sides:
        raise BadInput(f"{folder}: none of its images can be opened, for instance {files[0][0]}")
    return len(names), len(files), int(np.median(sides))


def load_class_folder(
    folder: Path,
    size: int | tuple[int, int],
    *,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    most: int | None = None,
) -> ImageSet:
    """Decode every image to RGB, its largest middle part of the shape of `size` (height, width; one number: a square),
    at that size or its own if that is smaller.

    `classes`: the training folder's, where this is a folder to score on; it may lack some.
    `most`: at most so many images, drawn evenly over the classes; also bounded by 2 GB of pixels.

    Raises:
        BadInput: the folder is missing, has under two classes, or has images that cannot be decoded (all listed).
    """
    names, files = find_class_folder(folder, classes)
    side = stored_size([p for p, _ in files], (size, size) if isinstance(size, int) else size)
    limit = min(most or len(files), MAX_BYTES // (3 * side[0] * side[1]))
    if len(files) > limit:
        order = np.random.default_rng(seed).permutation(len(files))[: max(limit, 2 * len(names))]
        chosen = {int(i) for i in order}
        for c in range(len(names)):  # every class keeps at least two
            chosen.update([i for i, (_, label) in enumerate(files) if label == c][:2])
        files = [files[i] for i in sorted(chosen)]
    decoded = decode_all([p for p, _ in files], side, folder)
    labels = np.array([label for _, label in files], dtype=np.int64)
    return ImageSet(decoded.pixels, labels, names, decoded.sha256, decoded.notes)


def stored_size(files: list[Path], size: tuple[int, int]) -> tuple[int, int]:
    """`size`, or what fits into the typical image: nothing is enlarged before the network's door."""
    found = [s for s in map(image_size, files[:: max(1, len(files) // 64)]) if s]
    share = min(1.0, float(np.median([min(h / size[0], w / size[1]) for h, w in found]))) if found else 1.0
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))
