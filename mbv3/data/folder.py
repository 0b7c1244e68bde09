"""A folder of class folders: DIR/<class>/*.jpg."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mbv3.data.images import ImageSet
from mbv3.errors import BadInput

__all__ = ["load_class_folder", "peek_class_folder"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}
MAX_BYTES = 2_000_000_000
_BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def _find(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    if not folder.exists():
        raise BadInput(f"{folder}: no such data folder")
    if not folder.is_dir():
        raise BadInput(f"{folder}: not a folder; --data takes a folder that holds one folder of images a class")
    try:
        names = sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
        files: list[tuple[Path, int]] = []
        empty = []
        for label, name in enumerate(names):
            found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
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
    if empty:
        raise BadInput(f"{folder}: no images in class folder(s) {', '.join(empty[:5])}; fill or remove them")
    few = [names[c] for c, n in Counter(c for _, c in files).items() if n < 2]
    if few:
        raise BadInput(f"{folder}: only one image in class folder(s) {', '.join(few[:5])}; at least two are needed")
    return tuple(names), files


def _side(path: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF data and the like do no harm
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                return min(image.size)
        except _BROKEN:
            return 0


def _same_classes(folder: Path, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    if names != classes:
        raise BadInput(
            f"{folder}: its classes differ from the training folder's; here only: "
            f"{sorted(set(names) - set(classes))[:5]}, there only: {sorted(set(classes) - set(names))[:5]}"
        )


def peek_class_folder(folder: Path, like: Path | None = None) -> tuple[int, int, int]:
    """(classes, images, typical short side in pixels) from the file headers.

    Raises:
        BadInput: not a folder of class folders, or other classes than those of the folder `like`.
    """
    names, files = _find(folder)
    if like is not None:
        _same_classes(folder, names, _find(like)[0])
    some = files[:: max(1, len(files) // 64)]
    sides = [s for s in (_side(p) for p, _ in some) if s]
    if not sides:
        raise BadInput(f"{folder}: none of its images can be opened, for instance {files[0][0]}")
    return len(names), len(files), int(np.median(sides))


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit greyscale by its high byte: PIL would clip it, nearly all to white."""
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image).astype(np.int64)
    if image.mode != "I" or grey.max() > 255:
        grey = grey >> 8
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def _decode(path: Path, size: int) -> tuple[NDArray[np.uint8] | None, bytes, str]:
    try:
        raw = path.read_bytes()
        digest = hashlib.sha256(raw).digest()
        with Image.open(path) as image:
            image.draft("RGB", (size, size))
            rgb = _eight_bits(ImageOps.exif_transpose(image)).convert("RGB")  # a phone's photo lies on its side
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        if (rgb.width, rgb.height) != (size, size):
            box = (left, top, left + side, top + side)
            rgb = rgb.resize((size, size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(rgb, dtype=np.uint8), digest, ""
    except _BROKEN as e:
        return None, b"", f"{path}: {e or type(e).__name__}"


def load_class_folder(
    folder: Path, size: int, *, seed: int = 0, classes: tuple[str, ...] | None = None, most: int | None = None
) -> ImageSet:
    """Decode every image to RGB, its middle square, at `size` pixels or its own size if that is smaller.

    `classes`: the class names that must be there (a test folder's must equal the training folder's).
    `most`: at most so many images, drawn evenly over the classes; also bounded by 2 GB of pixels.

    Raises:
        BadInput: the folder is missing, has under two classes, or has images that cannot be decoded (all listed).
    """
    names, files = _find(folder)
    if classes is not None:
        _same_classes(folder, names, classes)
    sides = [_side(p) for p, _ in files[:: max(1, len(files) // 64)]]
    size = min(size, int(np.median([s for s in sides if s] or [size])))
    limit = min(most or len(files), MAX_BYTES // (3 * size * size))
    if len(files) > limit:
        order = np.random.default_rng(seed).permutation(len(files))[: max(limit, 2 * len(names))]
        chosen = {int(i) for i in order}
        for c in range(len(names)):  # every class keeps at least two
            chosen.update([i for i, (_, label) in enumerate(files) if label == c][:2])
        files = [files[i] for i in sorted(chosen)]
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)
    digest = hashlib.sha256()
    faults: list[str] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(2) as pool:
        warnings.simplefilter("ignore")
        for i, (pixels, fingerprint, fault) in enumerate(pool.map(lambda f: _decode(f[0], size), files, chunksize=64)):
            if pixels is None:
                faults.append(fault)
            else:
                images[i] = pixels
                digest.update(fingerprint)
    if faults:
        shown = "\n".join(f"  {f}" for f in faults[:10]) + (f"\n  and {len(faults) - 10} more" if faults[10:] else "")
        raise BadInput(
            f"{folder}: {len(faults)} of {len(files)} images cannot be decoded; repair or remove them\n{shown}"
        )
    labels = np.array([label for _, label in files], dtype=np.int64)
    return ImageSet(images, labels, names, digest.hexdigest())
