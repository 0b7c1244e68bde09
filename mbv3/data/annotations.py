"""Box annotations as Pascal VOC and COCO write them, and what is wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from mbv3.data.boxes import Boxes, Kind
from mbv3.data.decode import SUFFIXES, image_header, listed
from mbv3.errors import BadInput

__all__ = ["Annotated", "find_boxes"]

PARTS = {"training": ("train", "trainval"), "validation": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Annotated:
    """Images with their boxes, in order; class names; what was mended or left out, as lines for a warning."""

    files: tuple[Path, ...]
    boxes: tuple[Boxes, ...]
    sizes: NDArray[np.int64]
    classes: tuple[str, ...]
    mended: tuple[str, ...] = ()


@dataclass
class _Raw:
    """One image before its classes are numbered: boxes in pixels as (name, left, top, right, bottom, kind)."""

    path: Path
    size: tuple[int, int]
    objects: list[tuple[str, float, float, float, float, Kind]] = field(default_factory=list)


@dataclass
class _Notes:
    faults: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)

    def image(self, path: Path, declared: tuple[float, float]) -> _Raw | None:
        """The image, unless it cannot be opened or is of another (height, width) than its annotation says; 0 says
        nothing. Boxes of another size or turn would be wrong, and nobody would see it."""
        found = image_header(path)
        if found is None:
            self.faults.append(f"{path}: cannot be opened as an image")
            return None
        size, turned = found
        if all(declared) and declared != size:
            said, shown = (f"{w:g}x{h:g}" for h, w in (declared, size))
            self.faults.append(f"{path}: its annotation is of {said}, the image as it is shown {shown}")
            return None
        if turned:
            self.turned.append(str(path))
        return _Raw(path, size)


def find_boxes(root: Path, *, skip_broken: bool = False) -> dict[str, Annotated]:
    """The parts (`training`, and `validation` and `test` where they are) of a VOC or COCO data set.

    Boxes that reach out of their image are cut to it, and those without area are left out, as every loader of the field
    does; both are told in `mended`.

    Raises:
        BadInput: neither kind of data set; annotations without their image or that cannot be read (all listed), unless
            `skip_broken`.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such data folder")
    notes = _Notes()
    raw = _coco(root, notes) or _voc(root, notes)
    if raw is None:
        raise BadInput(f"{root}: neither COCO (annotations/*.json, or train/_annotations.coco.json) nor Pascal VOC "
                       "(Annotations/*.xml beside JPEGImages) was found in it")  # fmt: skip
    if notes.faults and not skip_broken:
        raise BadInput(f"{root}: {len(notes.faults)} fault(s) in its annotations; repair or remove them, or go on "
                       f"without them: --skip-broken\n{listed(notes.faults)}")  # fmt: skip
    _apart(root, raw)
    names = sorted({o[0] for image in raw.get("training", ()) for o in image.objects})
    if not names:
        raise BadInput(f"{root}: its training part has no box")
    unknown = sorted({o[0] for part in raw.values() for image in part for o in image.objects} - set(names))
    if unknown:
        raise BadInput(f"{root}: class(es) {', '.join(unknown[:5])} have no training image")
    parts = {part: _numbered(images, names, notes) for part, images in raw.items() if images}
    mended = [f"{len(lines)} {what}, for instance {lines[0]}" for lines, what in (
        (notes.faults, "faulty annotations left out"), (notes.outside, "boxes cut to their image"),
        (notes.empty, "boxes without area left out"),
        (notes.turned, "photographs turned upright, whose boxes are taken to be of what is then seen"),
    ) if lines]  # fmt: skip
    first = parts["training"]
    parts["training"] = Annotated(first.files, first.boxes, first.sizes, first.classes, tuple(mended))
    return parts


def _apart(root: Path, raw: dict[str, list[_Raw]]) -> None:
    """Raises: BadInput when an image is in two parts: a score over training images says nothing."""
    for one, other in combinations(raw, 2):
        both = sorted({i.path for i in raw[one]} & {i.path for i in raw[other]})
        if both:
            raise BadInput(f"{root}: {len(both)} image(s) are in its {one} part and in its {other} part, for instance "
                           f"{both[0]}; take them out of one")  # fmt: skip


def _numbered(images: list[_Raw], names: list[str], notes: _Notes) -> Annotated:
    at = {name: i for i, name in enumerate(names)}
    boxes = []
    for image in images:
        h, w = image.size
        edges, labels, kinds = [], [], []
        for name, x0, y0, x1, y1, kind in image.objects:
            shown = f"{image.path}: {name} ({x0:g}, {y0:g}, {x1:g}, {y1:g}) in {w}x{h}"
            inside = min(max(x0, 0), w), min(max(y0, 0), h), min(max(x1, 0), w), min(max(y1, 0), h)
            if inside[2] - inside[0] <= 0 or inside[3] - inside[1] <= 0:
                notes.empty.append(shown)
                continue
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


# ---- Pascal VOC ----------------------------------------------------------------------------------------------


def _voc(root: Path, notes: _Notes) -> dict[str, list[_Raw]] | None:
    places = [d for d in (root, *sorted(root.glob("*")), *sorted(root.glob("*/*"))) if (d / "Annotations").is_dir()]
    if len(places) < 2:
        return _voc_parts(places[0], notes) if places else None
    parts = {part: [d for d in places if d.name in names] for part, names in PARTS.items()}
    if sum(map(len, parts.values())) < len(places) or max(map(len, parts.values())) > 1 or not parts["training"]:
        raise BadInput(f"{root}: holds {len(places)} Pascal VOC data sets: {', '.join(map(str, places[:5]))}; give one "
                       "of them, or name them train, val and test")  # fmt: skip
    return {part: _voc_images(d, _stems(d), notes) for part, found in parts.items() for d in found}


def _stems(place: Path) -> list[str]:
    return sorted(p.stem for p in (place / "Annotations").glob("*.xml"))


def _voc_parts(place: Path, notes: _Notes) -> dict[str, list[_Raw]]:
    """The lists in ImageSets/Main; without one for training all that the others do not name."""
    parts: dict[str, list[str]] = {}
    for part, names in PARTS.items():
        file = next((f for n in names if (f := place / "ImageSets" / "Main" / f"{n}.txt").is_file()), None)
        if file is not None:
            # VOC's own lists carry a flag behind the name
            parts[part] = [line.split()[0] for line in file.read_text("utf-8").splitlines() if line.strip()]
    if "training" not in parts:
        others = {stem for stems in parts.values() for stem in stems}
        parts = {"training": [stem for stem in _stems(place) if stem not in others], **parts}
    return {part: _voc_images(place, stems, notes) for part, stems in parts.items()}


def _voc_images(place: Path, stems: list[str], notes: _Notes) -> list[_Raw]:
    images = {p.stem: p for p in sorted((place / "JPEGImages").glob("*")) if p.suffix.lower() in SUFFIXES}
    found = [_voc_image(place / "Annotations" / f"{stem}.xml", images.get(stem), notes) for stem in stems]
    return [image for image in found if image is not None]


def _voc_image(file: Path, image: Path | None, notes: _Notes) -> _Raw | None:
    if image is None:
        notes.faults.append(f"{file}: an annotation without its image {file.stem} in JPEGImages")
        return None
    try:
        root = ElementTree.parse(file).getroot()
        raw = notes.image(image, (float(root.findtext("size/height") or 0), float(root.findtext("size/width") or 0)))
        if raw is None:
            return None
        for thing in root.iter("object"):
            edges = [float(thing.findtext(f"bndbox/{k}") or "nan") for k in ("xmin", "ymin", "xmax", "ymax")]
            name = (thing.findtext("name") or "").strip()
            if not name or not np.isfinite(edges).all():
                raise ValueError("an object without name or box")
            # VOC counts pixels from 1, its last one included; who writes 0 counts from there
            x0, y0, x1, y1 = edges
            x0, y0 = (v - 1 if v >= 1 else v for v in (x0, y0))
            difficult = (thing.findtext("difficult") or "0").strip() == "1"
            raw.objects.append((name, x0, y0, x1, y1, Kind.DIFFICULT if difficult else Kind.PLAIN))
    except FileNotFoundError:
        notes.faults.append(f"{file}: no such annotation, though a list names it")
        return None
    except (ElementTree.ParseError, ValueError, OSError) as e:
        notes.faults.append(f"{file}: {e}")
        return None
    return raw


# ---- COCO ----------------------------------------------------------------------------------------------------


def _coco(root: Path, notes: _Notes) -> dict[str, list[_Raw]] | None:
    found: dict[str, list[_Raw]] = {}
    everything = sorted((root / "annotations").glob("*.json"))
    for part, names in PARTS.items():
        own = [f for n in names if (f := root / n / "_annotations.coco.json").is_file()]
        shared = [[f for f in everything if n in re.split("[^a-z]+", f.stem.lower())] for n in names]
        files = own[:1] or next((fs for fs in shared if fs), [])
        if part == "test":  # COCO's own has no boxes: they are kept from us
            files = [f for f in files if "annotations" in _document(f)]
        if files:
            file = _one(files)
            year = file.stem.rpartition("_")[2]
            folders = [file.parent, *(root / n for n in (year, *names)), *(root / "images" / n for n in (year, *names)),
                       root / "images", root]  # fmt: skip
            found[part] = _coco_part(file, folders, notes)
    if not found and everything:
        found["training"] = _coco_part(_one(everything), [root / "images", root], notes)
    return found or None


def _one(files: list[Path]) -> Path:
    """The one with boxes: COCO has captions and keypoints beside them. Raises: BadInput."""
    named = [f for f in files if f.name.startswith("instances")] or files
    if len(named) > 1:
        raise BadInput(f"{files[0].parent}: several files may be the boxes of one part: "
                       f"{', '.join(f.name for f in named[:5])}; leave one, or name it instances_...")  # fmt: skip
    return named[0]


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise BadInput(f"{file}: no COCO annotations ({type(e).__name__}: {e})") from None
    if not isinstance(document, dict):
        raise BadInput(f"{file}: no COCO annotations (a {type(document).__name__}, not a mapping)")
    return document


def _coco_part(file: Path, folders: list[Path], notes: _Notes) -> list[_Raw]:
    document = _document(file)
    try:
        names = {c["id"]: str(c["name"]) for c in document["categories"]}
        listed_images = [
            (i["id"], str(i["file_name"]), (float(i.get("height") or 0), float(i.get("width") or 0)))
            for i in document["images"]
        ]
        annotations: list[dict[str, Any]] = document["annotations"]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadInput(f"{file}: no COCO annotations ({type(e).__name__}: {e})") from None
    find: Callable[[str], Path | None] = lambda n: next((p for f in folders if (p := f / n).is_file()), None)  # noqa: E731
    images: dict[Any, _Raw] = {}
    missing: set[Any] = set()
    for key, name, declared in listed_images:
        path = find(name)
        if path is None:
            notes.faults.append(f"{file}: an annotation without its image {name}")
        raw = notes.image(path, declared) if path is not None else None
        if raw is None:
            missing.add(key)
        else:
            images[key] = raw
    for a in annotations:
        key = a.get("image_id") if isinstance(a, dict) else None
        box = a.get("bbox") if isinstance(a, dict) else None
        category = names.get(a.get("category_id")) if isinstance(a, dict) else None
        if key in missing:
            continue
        whole = isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)
        if key not in images or category is None or not whole or not np.isfinite(box).all():  # type: ignore[arg-type]
            notes.faults.append(f"{file}: annotation {a.get('id') if isinstance(a, dict) else a}: "
                                "needs the image_id of an image, a known category_id and a bbox of four")  # fmt: skip
            continue
        x, y, w, h = map(float, box)  # type: ignore[arg-type]
        images[key].objects.append((category, x, y, x + w, y + h, Kind.CROWD if a.get("iscrowd") else Kind.PLAIN))
    return list(images.values())
