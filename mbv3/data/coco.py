"""COCO boxes, as COCO itself, CVAT, Label Studio, Roboflow, LabelMe and FiftyOne lay them out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mbv3.data.boxes import Kind
from mbv3.data.listing import is_data, text_of
from mbv3.data.rawboxes import PARTS, Finder, Notes, Raw, part_named
from mbv3.errors import BadInput, plain, shown

__all__ = ["read_coco"]

_ROBOFLOW = "_annotations.coco.json"
_IMAGES = ("images", "JPEGImages", "data")  # folders that programs put images into


def _child(folder: Path, name: str) -> Path:
    """`folder`/`name`, whatever the case of its letters."""
    exact = folder / name
    if exact.exists() or not folder.is_dir():
        return exact
    return next((p for p in sorted(folder.iterdir()) if p.name.lower() == name.lower()), exact)


def _jsons(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix.lower() == ".json" and is_data(p) and p.is_file())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON mapping. Raises: ValueError for a key that is there twice, of which one value would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise ValueError(f"{plain(twice)} is there twice in one mapping")
    return found


class _Documents:
    """Files are read once; those of people's root folder may be anything."""

    def __init__(self) -> None:
        self._read: dict[Path, dict[str, Any]] = {}

    def get(self, file: Path) -> dict[str, Any]:
        """Raises: BadInput for what is no JSON mapping."""
        if file not in self._read:
            try:
                document = json.loads(text_of(file), object_pairs_hook=_once)
            except (OSError, ValueError, RecursionError) as e:
                raise BadInput(f"{file}: no COCO annotations ({type(e).__name__}: {e})") from None
            if not isinstance(document, dict):
                raise BadInput(f"{file}: no COCO annotations (a {type(document).__name__}, not a mapping)")
            self._read[file] = document
        return self._read[file]

    def coco(self, files: Iterable[Path]) -> list[Path]:
        """Those that hold images with annotations."""
        found = []
        for file in files:
            try:
                if {"images", "annotations"} <= self.get(file).keys():
                    found.append(file)
            except BadInput:
                continue
        return found


def read_coco(root: Path, finder: Finder, notes: Notes) -> dict[str, list[Raw]] | None:
    """Images of each part with their boxes; None where there is no file of COCO's kind.

    Raises:
        BadInput: a file cannot be read, several may be meant, or its ids are not unique.
    """
    documents = _Documents()
    folder = _child(root, "annotations")
    everything = _jsons(folder) if folder.is_dir() else []
    everything += documents.coco(_jsons(root))
    found: dict[str, list[Raw]] = {}
    for part, names in PARTS.items():
        files = _of_part(root, names, everything, documents)
        if part == "test":  # COCO's own has no boxes: they are kept from us
            files = [f for f in files if "annotations" in documents.get(f)]
        if files:
            file = _one(files)
            found[part] = _part(file, documents.get(file), _folders(root, file, names), part, finder, notes)
    if not found and everything:
        file = _one(everything)
        found["training"] = _part(file, documents.get(file), _folders(root, file, ()), "training", finder, notes)
    return found or None


def _of_part(root: Path, names: Sequence[str], everything: Sequence[Path], documents: _Documents) -> list[Path]:
    """The files that may be those of a part: in a folder of its name, else with its name as a word of theirs."""
    for name in names:
        place = _child(root, name)
        if (place / _ROBOFLOW).is_file():
            return [place / _ROBOFLOW]
        if place.is_dir() and (own := documents.coco(_jsons(place))):
            return own
    for name in names:
        if files := [f for f in everything if name in re.split("[^a-z]+", f.stem.lower())]:
            return files
    return []


def _one(files: Sequence[Path]) -> Path:
    """The one with boxes: COCO has captions and keypoints beside them. Raises: BadInput."""
    named = [f for f in files if f.name.startswith("instances")] or files
    if len(named) > 1:
        raise BadInput(f"{files[0].parent}: several files may be the boxes of one part: "
                       f"{', '.join(f.name for f in named[:5])}; leave one, or name it instances_...")  # fmt: skip
    return named[0]


def _folders(root: Path, file: Path, names: Sequence[str]) -> list[Path]:
    """Where the images of a file may lie, the likeliest first."""
    words = (file.stem.rpartition("_")[2], *names)
    inner = [_child(root, place) for place in _IMAGES]
    found = [file.parent, *(_child(file.parent, place) for place in _IMAGES)] if part_named(file.parent.name) else []
    found += (
        [_child(root, w) for w in words] + [_child(p, w) for p in inner for w in words] + [*inner, root, file.parent]
    )
    return list(dict.fromkeys(p for p in found if p.is_dir()))


def _id(value: Any) -> Any:
    """An id as it is compared: 7, "7" and 7.0 are one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (int, str)) else None


def _named(value: Any) -> str:
    """A class's name; none where it is neither a text nor a number, so that no class is called None."""
    return str(value).strip().encode("utf-8", "replace").decode() if type(value) in (str, int) else ""


def _is_box(value: Any) -> bool:
    """Four finite numbers; no file holds a picture of a million pixels a side."""
    numbers = isinstance(value, list) and len(value) == 4 and all(type(v) in (int, float) for v in value)
    return numbers and all(abs(v) < 1e6 for v in value)  # False for NaN


def _unique(file: Path, what: str, values: Iterable[Any], cure: str) -> None:
    """Raises: BadInput when a value is there twice."""
    twice = [v for v, n in Counter(v for v in values if v is not None).items() if n > 1]
    if twice:
        some = ", ".join(plain(str(v), 400) for v in twice[:10]) + (", ..." if twice[10:] else "")
        raise BadInput(f"{file}: {len(twice)} {what} are not unique: {some}; {cure}")


def _entries(file: Path, document: dict[str, Any]) -> tuple[dict[Any, str], list[tuple[Any, str, tuple[float, float]]]]:
    """Category names by id, and (id, file name, (height, width)) of every image. Raises: BadInput."""
    joined = "files that were joined need new numbers, so that every box has one image"
    try:
        categories = {(_id(c["id"]), _named(c["name"])) for c in document["categories"]}
        images = [
            (_id(i["id"]), str(i["file_name"]), (float(i.get("height") or 0), float(i.get("width") or 0)))
            for i in document["images"]
        ]
        annotations = [_id(a["id"]) for a in document["annotations"] if isinstance(a, dict) and "id" in a]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
        raise BadInput(f"{file}: no COCO annotations ({type(e).__name__}: {e})") from None
    if nameless := [name for key, name, _ in images if key is None]:
        raise BadInput(f"{file}: {len(nameless)} images have no id that is a number or a text, for instance "
                       f"{plain(nameless[0], 200)}; number them")  # fmt: skip
    _unique(file, "image ids", (key for key, _, _ in images), joined)
    _unique(file, "annotation ids", annotations, joined)
    _unique(file, "category ids", (key for key, _ in categories), "give every class one number")
    return dict(categories), images


def _part(
    file: Path, document: dict[str, Any], folders: list[Path], part: str, finder: Finder, notes: Notes
) -> list[Raw]:
    names, listed = _entries(file, document)
    images: dict[Any, Raw] = {}
    missing: set[Any] = set()
    for key, name, declared in listed:
        paths = finder.named(name, folders, part)
        if not paths:
            notes.faults.append(f"{file}: an annotation without its image {plain(name, 200)}")
        elif len(paths) > 1:
            notes.faults.append(f"{file}: {plain(name, 200)} may be {paths[0]} or {paths[1]}; give one another name")
        raw = notes.image(paths[0], declared) if len(paths) == 1 else None
        if raw is None:
            missing.add(key)
        else:
            images[key] = raw
    _unique(file, "image files", (str(i.path) for i in images.values()), "list every image once")
    for a in document["annotations"]:
        key = _id(a.get("image_id")) if isinstance(a, dict) else None
        box: Any = a.get("bbox") if isinstance(a, dict) else None
        category = names.get(_id(a.get("category_id"))) if isinstance(a, dict) else None
        if key in missing:
            continue
        if key not in images or not category or not _is_box(box):
            notes.faults.append(f"{file}: annotation {a.get('id') if isinstance(a, dict) else shown(a)}: "
                                "needs the image_id of an image, a known category_id and a bbox of four")  # fmt: skip
            continue
        x, y, w, h = map(float, box)
        images[key].objects.append((category, x, y, x + w, y + h, Kind.CROWD if a.get("iscrowd") else Kind.PLAIN))
    return list(images.values())
