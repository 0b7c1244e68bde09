"""Pascal VOC boxes, as VOC itself, labelImg, CVAT, Label Studio, Roboflow and LabelMe lay them out."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mbv3.data.boxes import Kind
from mbv3.data.decode import SUFFIXES
from mbv3.data.listing import is_data, text_of, walk
from mbv3.data.rawboxes import PARTS, Finder, Notes, Raw, part_named
from mbv3.errors import BadInput, plain

__all__ = ["read_voc"]

_XML_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels")
Stem = tuple[str, ...]  # folders and name of an annotation, without its suffix


def read_voc(root: Path, notes: Notes) -> dict[str, list[Raw]] | None:
    """Images of each part with their boxes; None where there are no annotations of VOC's kind.

    Raises:
        BadInput: it holds several data sets, or a list cannot be read.
    """
    places = _places(root)
    if len(places) < 2:
        return _place(places[0], notes) if places else None
    parts = {part: [d for d in places if part_named(d.name) == part] for part in PARTS}
    if sum(map(len, parts.values())) < len(places) or max(map(len, parts.values())) > 1 or not parts["training"]:
        raise BadInput(f"{root}: holds {len(places)} Pascal VOC data sets: {', '.join(map(str, places[:5]))}; give one "
                       "of them, or name them train, val and test")  # fmt: skip
    return {part: _Place(d, part, notes).all() for part, found in parts.items() for d in found}


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if is_data(p) and p.is_dir())


def _has_xml(folder: Path) -> bool:
    return any(p.suffix.lower() == ".xml" and is_data(p) for p in folder.iterdir())


def _xml_folder(place: Path) -> Path | None:
    """Where the annotations of a data set lie: a folder for them, or beside the images."""
    for folder in _folders(place):
        if folder.name.lower() in _XML_FOLDERS and any(p.suffix.lower() == ".xml" for p in walk(folder)):
            return folder
    return place if _has_xml(place) else None


def _places(root: Path) -> list[Path]:
    """Folders that are a data set each, at most two below `root`. Raises: BadInput."""
    try:
        found: list[Path] = []
        level = [root]
        for _ in range(3):
            own = [d for d in level if _xml_folder(d) is not None]
            found += own
            level = [d for place in level if place not in own for d in _folders(place)]
        return sorted(found)
    except OSError as e:
        raise BadInput(f"{e.filename or root}: cannot be read ({e.strerror})") from None


def _place(place: Path, notes: Notes) -> dict[str, list[Raw]]:
    """The lists in ImageSets, else folders of the parts' names; without one for training all that the others lack."""
    data = _Place(place, "training", notes)
    parts: dict[str, list[Stem]] = {}
    for part, names in PARTS.items():
        folders = (place / "ImageSets" / "Main", place / "ImageSets")
        file = next((f for d in folders for n in names if (f := d / f"{n}.txt").is_file()), None)
        if file is not None:
            parts[part] = data.listed(file)
    inside = {stem: part_named(stem[0]) if stem[1:] else None for stem in data.stems}
    if not parts and all(inside.values()):
        parts = {part: [s for s, mine in inside.items() if mine == part] for part in PARTS if part in inside.values()}
    if "training" not in parts:
        others = {stem for stems in parts.values() for stem in stems}
        parts = {"training": [stem for stem in data.stems if stem not in others], **parts}
    data.tell_alone()
    return {part: data.read(stems, part) for part, stems in parts.items()}


class _Place:
    """A folder with images and annotations of VOC's kind."""

    def __init__(self, place: Path, part: str, notes: Notes) -> None:
        self.notes, self.part = notes, part
        self.finder = Finder(place)
        folder = _xml_folder(place)
        assert folder is not None
        self.folder = folder
        files = [p for p in walk(folder) if p.suffix.lower() == ".xml"] if folder != place else [
            p for p in sorted(folder.iterdir()) if p.suffix.lower() == ".xml" and is_data(p)
        ]  # fmt: skip
        self.stems: dict[Stem, Path] = {p.relative_to(folder).with_suffix("").parts: p for p in sorted(files)}

    def all(self) -> list[Raw]:
        self.tell_alone()
        return self.read(list(self.stems), self.part)

    def tell_alone(self) -> None:
        """Images that nothing is written about."""
        known = {stem[-1] for stem in self.stems}
        self.notes.alone += [str(p) for p in self.finder.images if p.stem not in known]

    def listed(self, file: Path) -> list[Stem]:
        """What a list names, each once. Raises: BadInput."""
        try:
            lines = [line.strip() for line in text_of(file).splitlines() if line.strip()]
        except (OSError, ValueError) as e:
            raise BadInput(f"{file}: cannot be read as a list of images ({e}); save it as UTF-8") from None
        found: dict[Stem, None] = {}
        for line in lines:
            stem = self._named(line)
            if stem in found:
                self.notes.repeated.append(f"{plain(line)} in {file}")
            found[stem] = None
        return list(found)

    def _named(self, line: str) -> Stem:
        """A line's annotation: a name with blanks or suffix, with a path before it or VOC's flag behind it."""
        bare = re.sub(r"\s+-?[01]$", "", line)
        for text in (line, bare):
            parts = [p for p in text.replace("\\", "/").split("/") if p not in ("", ".")]
            for stem in (tuple(parts), (*parts[:-1], _without_suffix(parts[-1]))) if parts else ():
                for i in range(len(stem)):
                    if stem[i:] in self.stems:
                        return stem[i:]
        return (bare,)

    def read(self, stems: list[Stem], part: str) -> list[Raw]:
        found = [self._image(stem, part) for stem in stems]
        return [image for image in found if image is not None]

    def _image(self, stem: Stem, part: str) -> Raw | None:
        file = self.stems.get(stem, self.folder.joinpath(*stem[:-1], f"{stem[-1]}.xml"))
        images = self.finder.stem(stem, part)
        try:
            root = _parse(file) if stem in self.stems else None
            if root is not None and root.tag != "annotation":
                raise ValueError(f"no Pascal VOC annotation (<{plain(root.tag)}>); export it as Pascal VOC or COCO")
            said = "" if root is None else (root.findtext("filename") or "")
            if said and (len(images) != 1):
                images = self.finder.named(said, (), part) or images
            if not images:
                self.notes.faults.append(f"{file}: an annotation without its image {stem[-1]} in JPEGImages")
                return None
            if len(images) > 1:
                raise ValueError(f"may be of {images[0]} or of {images[1]}; keep one, or name it in <filename>")
            if root is None:
                self.notes.faults.append(f"{file}: no such annotation, though a list names it")
                return None
            size = float(root.findtext("size/height") or 0), float(root.findtext("size/width") or 0)
            raw = self.notes.image(images[0], size)
            if raw is not None:
                raw.objects += map(_object, root.iter("object"))
            return raw
        except (ElementTree.ParseError, ValueError, LookupError, OSError) as e:
            self.notes.faults.append(f"{file}: {e}")
            return None


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in SUFFIXES | {".xml"} else name


def _parse(file: Path) -> ElementTree.Element:
    """The root element; of an encoding that the parser lacks (GB2312, Shift-JIS), by Python's own decoder."""
    raw = file.read_bytes()
    try:
        return ElementTree.fromstring(raw)
    except (ValueError, ElementTree.ParseError):
        declared = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)["'][^>]*\?>""", raw)
        if declared is None:
            raise
        return ElementTree.fromstring(raw[declared.end() :].decode(declared[1].decode()))


def _object(thing: ElementTree.Element) -> tuple[str, float, float, float, float, Kind]:
    """(class, left, top, right, bottom, kind). Raises: ValueError."""
    x0, y0, x1, y1 = (float(thing.findtext(f"bndbox/{k}") or "nan") for k in ("xmin", "ymin", "xmax", "ymax"))
    name = (thing.findtext("name") or "").strip()
    if not name or not np.isfinite([x0, y0, x1, y1]).all():
        raise ValueError("an object without name or box")
    # VOC counts pixels from 1, its last one included; who writes 0 counts from there
    x0, y0 = (v - 1 if v >= 1 else v for v in (x0, y0))
    difficult = (thing.findtext("difficult") or "0").strip() == "1"
    return name, x0, y0, x1, y1, Kind.DIFFICULT if difficult else Kind.PLAIN
