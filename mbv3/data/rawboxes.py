"""What readers of annotations share: an image with its boxes in pixels, faults, and where images lie."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from mbv3.data.boxes import Kind
from mbv3.data.decode import image_header
from mbv3.data.listing import is_image, walk
from mbv3.errors import BadInput

__all__ = ["PARTS", "Finder", "Notes", "Raw", "alike", "part_named"]

PARTS = {
    "training": ("train", "trainval", "training", "default"),  # default: a CVAT task without subsets
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# pictures of annotations, not of what was annotated
_DRAWN = {"segmentationclass", "segmentationobject", "annotationsvisualization", "masks"}


def alike(name: str) -> str:
    """A file name as people compare it: without case, accents composed (macOS decomposes them)."""
    return unicodedata.normalize("NFC", name).casefold()


def part_named(name: str) -> str | None:
    """The part of a data set that a folder's name or a word means."""
    return next((part for part, names in PARTS.items() if name.lower() in names), None)


@dataclass
class Raw:
    """One image before its classes are numbered: boxes in pixels as (name, left, top, right, bottom, kind)."""

    path: Path
    size: tuple[int, int]
    objects: list[tuple[str, float, float, float, float, Kind]] = field(default_factory=list)


@dataclass
class Notes:
    """Faults, which end the reading unless they are skipped, and what is only reported."""

    faults: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    flipped: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def image(self, path: Path, declared: tuple[float, float]) -> Raw | None:
        """The image, unless it cannot be opened or is of another (height, width) than its annotation says; 0 says
        nothing. Boxes of another size or turn would be wrong, and nobody would see it."""
        found = image_header(path)
        if found is None:
            self.faults.append(f"{path}: cannot be opened as an image")
            return None
        size, turned = found
        if all(declared) and declared != size:
            said, shown = (f"{w:g}x{h:g}" for h, w in (declared, size))
            cure = "; write the image upright, or take its EXIF orientation out" if turned else ""
            self.faults.append(f"{path}: its annotation is of {said}, the image as it is shown {shown}{cure}")
            return None
        if turned:
            self.turned.append(str(path))
        return Raw(path, size)

    def lines(self) -> Iterator[str]:
        """What a reader should know though the reading went on."""
        for found, what in (
            (self.faults, "faulty annotations left out"), (self.outside, "boxes cut to their image"),
            (self.empty, "boxes without area left out"),
            (self.flipped, "boxes whose right is left of their left, or whose bottom is above their top, put in order"),
            (self.turned, "photographs turned upright, whose boxes are taken to be of what is then seen"),
            (self.alone, "images without an annotation left out"),
            (self.repeated, "images named twice by a list, taken once"),
        ):  # fmt: skip
            if found:
                yield f"{len(found)} {what}, for instance {found[0]}"


def _components(name: str) -> list[str]:
    """The parts of a file's name as any program on any system writes it: C:\\a\\b.png, file:///a/b.png, ./a/b.png."""
    name = re.sub(r"^[A-Za-z][\w+.-]+://", "", name.strip()).replace("\\", "/")
    return [p for p in name.split("/") if p not in ("", ".", "..") and not re.fullmatch("[A-Za-z]:", p)]


class Finder:
    """Images below a folder by the name that an annotation gives them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def images(self) -> list[Path]:
        """Every image that may have been annotated. Raises: BadInput."""
        try:
            return [p for p in walk(self.root) if is_image(p) and not self._drawn(p)]
        except OSError as e:
            raise BadInput(f"{e.filename or self.root}: cannot be read ({e.strerror})") from None

    def _drawn(self, path: Path) -> bool:
        return any(p.lower() in _DRAWN for p in path.relative_to(self.root).parts[:-1])

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _index(self.images, lambda p: p.name)

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return _index(self.images, lambda p: p.stem)

    def named(self, name: str, folders: Iterable[Path], part: str) -> list[Path]:
        """The image of a file name: as it stands in one of `folders`, else the one below the root whose path ends most
        like it and that lies in no other part's folder; several where that does not decide."""
        spelled = [_components(name), _components(unquote(name))]
        places = list(folders)
        for parts in spelled:
            for i in range(len(parts)):
                for folder in places:
                    if (path := folder.joinpath(*parts[i:])).is_file():
                        return [path]
        for parts in spelled:
            if parts and (found := self._closest(self._by_name.get(alike(parts[-1]), []), parts, part)):
                return found
        return []

    def stem(self, stem: Sequence[str], part: str) -> list[Path]:
        """The image whose path ends most like `stem`, folders and a name without suffix."""
        return self._closest(self._by_stem.get(alike(stem[-1]), []), stem, part)

    def _closest(self, candidates: list[Path], parts: Sequence[str], part: str) -> list[Path]:
        def shared(path: Path) -> int:
            mine = [alike(p) for p in path.relative_to(self.root).parts[:-1]]
            theirs = [alike(p) for p in parts[:-1]]
            n = 0
            while n < min(len(mine), len(theirs)) and mine[-1 - n] == theirs[-1 - n]:
                n += 1
            return n

        own = [p for p in candidates if self._part(p) in (None, part)]
        best = max(map(shared, own), default=0)
        near = [p for p in own if shared(p) == best]
        exact = [p for p in near if parts[-1] in (p.name, p.stem)]
        return exact or near

    def _part(self, path: Path) -> str | None:
        named = [part_named(p) for p in path.relative_to(self.root).parts[:-1]]
        return next((p for p in named if p), None)


def _index(paths: Iterable[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(alike(key(path)), []).append(path)
    return found
