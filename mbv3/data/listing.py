"""What lies in a user's folder: images, and what systems and programs leave beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mbv3.data.decode import SUFFIXES

__all__ = ["dead_links", "is_data", "is_image", "not_images", "text_of", "twins", "walk"]

# Windows, macOS zips, NAS, file systems; what begins with a dot is hidden everywhere
_SYSTEM = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "lost+found",
    "system volume information", "icon\r",
}  # fmt: skip
# lists, licences and annotations that lie beside images: nobody wants them read as images
_BESIDE = {"", ".txt", ".md", ".csv", ".json", ".xml", ".yaml", ".yml", ".html", ".pdf", ".log", ".npz", ".db"}


def is_data(path: Path) -> bool:
    """Whether somebody put it there: no hidden file such as macOS's `._` twins, no folder of a system."""
    return not path.name.startswith(".") and path.name.lower() not in _SYSTEM


def is_image(path: Path) -> bool:
    """A file with an image's suffix, or a link that bears one and leads nowhere, which is not to be lost unseen."""
    return path.suffix.lower() in SUFFIXES and is_data(path) and (path.is_file() or _dead(path))


def _dead(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def dead_links(folder: Path) -> list[Path]:
    """Links in `folder` that lead nowhere. Raises: OSError."""
    return sorted(p for p in folder.iterdir() if is_data(p) and _dead(p))


def walk(folder: Path) -> Iterator[Path]:
    """Every file and dead link below `folder`, links followed, sorted within each folder. Raises: OSError."""
    seen: set[str] = set()

    def raised(e: OSError) -> None:
        raise e

    for here, folders, files in os.walk(folder, followlinks=True, onerror=raised):
        real = os.path.realpath(here)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        place = Path(here)
        links = [n for n in folders if _dead(place / n)]
        folders[:] = sorted(n for n in folders if is_data(place / n) and n not in links)
        yield from (place / n for n in sorted([*files, *links]) if is_data(place / n))


def not_images(files: Iterable[Path]) -> Counter[str]:
    """How many of each suffix are neither images that can be read nor texts that lie beside images: ".heic"."""
    return Counter(p.suffix.lower() for p in files if p.suffix.lower() not in SUFFIXES | _BESIDE)


def twins(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by their stem, of stems that several have."""
    by: dict[str, list[Path]] = {}
    for file in files:
        by.setdefault(file.stem, []).append(file)
    return {stem: found for stem, found in by.items() if len(found) > 1}


def text_of(path: Path) -> str:
    """A text as editors write it: UTF-8 with or without its mark, UTF-16 with one. Raises: OSError, ValueError."""
    raw = path.read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    return raw.decode("utf-8-sig")
