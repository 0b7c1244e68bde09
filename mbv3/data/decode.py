"""One image file to pixels, whatever it is: greyscale, palette, CMYK, deep, turned, broken, huge."""

from __future__ import annotations

import hashlib
import struct
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mbv3.data.depth import Extent, White, deep_values, extent, is_deep, spread_values

__all__ = [
    "BROKEN", "IGNORED", "SUFFIXES", "Framing", "decode_image", "decode_mask", "deep_extent", "has_pages",
    "image_header", "image_size", "listed", "looks_deep", "read_mask",
]  # fmt: skip

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".pnm", ".gif", ".tif", ".tiff", ".jp2",
}  # fmt: skip
# struct.error: of metadata that end too early
BROKEN = (
    OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

# the largest middle part of the wanted shape; the whole image; a map of class indices
Framing = Literal["middle", "stretch", "mask"]
IGNORED = 255  # a mask's index that belongs to no class


def listed(faults: list[str], most: int = 10) -> str:
    """Faults as indented lines, the first few of many."""
    more = [f"and {len(faults) - most} more"] if faults[most:] else []
    return "\n".join(f"  {f}" for f in faults[:most] + more)


def _orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF has it; 1, upright, where that part of the file is torn."""
    try:
        found = image.getexif().get(0x0112, 1)
    except BROKEN:
        return 1
    return found if found in range(1, 9) else 1


def image_size(path: Path) -> tuple[int, int] | None:
    """(height, width) as shown, from the header; None for what is no image or too large to be one."""
    found = image_header(path)
    return None if found is None else found[0]


def image_header(path: Path) -> tuple[tuple[int, int], bool] | None:
    """`image_size`, and whether the file says that its pixels are to be turned or mirrored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF data and the like do no harm
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                orientation = _orientation(image)
                size = image.size if orientation > 4 else (image.height, image.width)
                return size, orientation != 1
        except BROKEN:
            return None


def _upright(image: Image.Image) -> Image.Image:
    """A phone's photo lies on its side, and says so."""
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def looks_deep(path: Path) -> bool:
    """Whether a file's header says that it holds other than 8-bit values; False for what is no image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                return is_deep(image)
        except BROKEN:
            return False


def has_pages(path: Path) -> bool:
    """Whether a file holds more pictures than the one that is read: pages of a TIFF, frames of an animation."""
    if path.suffix.lower() not in (".tif", ".tiff", ".gif", ".webp"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as image:
                return bool(getattr(image, "is_animated", False))
        except BROKEN:
            return False


def deep_extent(path: Path) -> Extent | None:
    """Smallest and largest value of a deep picture; None for others, and for what cannot be decoded."""
    try:
        return extent(path, _upright)
    except BROKEN:
        return None


def _rgb(path: Path, size: tuple[int, int], white: White) -> Image.Image:
    """8-bit RGB, upright; a JPEG no smaller than `size` (height, width), for speed."""
    with Image.open(path) as image:
        if not is_deep(image):
            image.draft("RGB", (size[1], size[0]))
            return _upright(image).convert("RGB")
    values = deep_values(path, _upright)
    assert values is not None
    return Image.fromarray(spread_values(values, white)).convert("RGB")


def decode_image(
    path: Path, size: tuple[int, int], fit: Framing, white: White | None = None
) -> tuple[NDArray[np.uint8] | None, bytes, str]:
    """Pixels (*size, 3), the SHA-256 of the file, ""; or None and what is wrong with it. `white` is that of the set
    which a deep picture belongs to."""
    if fit == "mask":
        return decode_mask(path, size)
    height, width = size
    try:
        raw = path.read_bytes()
        rgb = _rgb(path, size, white or White())
        if rgb.size != (width, height):
            w, h = float(rgb.width), float(rgb.height)
            if fit == "middle":
                w, h = min(rgb.width, rgb.height * width / height), min(rgb.height, rgb.width * height / width)
            left, top = (rgb.width - w) // 2, (rgb.height - h) // 2
            rgb = rgb.resize((width, height), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
        return np.asarray(rgb, dtype=np.uint8), hashlib.sha256(raw).digest(), ""
    except BROKEN as e:
        return None, b"", _fault(path, e)


def _fault(path: Path, e: Exception) -> str:
    if path.is_symlink() and not path.exists():
        return f"{path}: a link to {path.readlink()}, which is not there"
    return f"{path}: {e or type(e).__name__}"


def read_mask(path: Path) -> NDArray[np.int64]:
    """Class indices (H, W), upright. Raises: one of BROKEN."""
    with Image.open(path) as image:
        if image.format in ("JPEG", "WEBP"):
            raise ValueError(f"a mask as {image.format}, which blurs class indices into each other; write masks as PNG")
        values = np.asarray(_upright(image))
        if image.mode in ("RGB", "RGBA", "LA"):  # an index may be written as a grey
            grey = values[..., : 1 if image.mode == "LA" else 3]
            values = grey[..., 0] if (grey == grey[..., :1]).all() else values
        if values.ndim != 2 or values.dtype.kind == "f":
            raise ValueError(f"a mask holds one class index a pixel; this one has colours ({image.mode})")
        return values.astype(np.int64)


def decode_mask(path: Path, size: tuple[int, int]) -> tuple[NDArray[np.uint8] | None, bytes, str]:
    """Class indices (*size, 1), the nearest of each place; else as `decode_image`."""
    try:
        mask = Image.fromarray(read_mask(path).clip(0, IGNORED).astype(np.uint8))
        if mask.size != (size[1], size[0]):
            mask = mask.resize((size[1], size[0]), Image.Resampling.NEAREST)
        array = np.asarray(mask)[..., None]
        return array, hashlib.sha256(array.tobytes()).digest(), ""
    except BROKEN as e:
        return None, b"", _fault(path, e)
