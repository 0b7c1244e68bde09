"""Pictures of more than 8 bits a value, or of floats: what their values are, and 0 to 255 of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Extent", "White", "deep_values", "extent", "is_deep", "spread_values", "white_of"]

_BITS = (8, 10, 12, 14, 16)  # that sensors have
_SAMPLE_FORMAT, _PHOTOMETRIC = 339, 262  # TIFF tags
_SIGNED, _WHITE_IS_ZERO = 2, 0
_COLOURS = ("RGB", "RGBA")


@dataclass(frozen=True, slots=True)
class Extent:
    """Smallest and largest value of a deep picture; whether they are floats."""

    low: float
    high: float
    floating: bool


@dataclass(frozen=True, slots=True)
class White:
    """The value that becomes 255, of whole numbers and of floats; None where each picture speaks for itself."""

    whole: float | None = None
    floating: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.whole is not None:
            parts.append(f"{round(np.log2(self.whole + 1))}-bit values (0 to {self.whole:g})")
        if self.floating is not None:
            parts.append(f"float values (0 to {self.floating:g})")
        return " and ".join(parts)


def _tag(image: Image.Image, tag: int) -> Any:
    """A TIFF tag, the first value of several; None where there is none."""
    found = getattr(image, "tag_v2", {}).get(tag)
    return found[0] if isinstance(found, tuple) and found else found


def _rawmode(image: Image.Image) -> str:
    """How the file's first tile is packed: "RGB;16B"."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    found = args[0] if isinstance(args, tuple) and args else args
    return found if isinstance(found, str) else ""


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture, not yet loaded, holds other than unsigned 8-bit values."""
    signed = image.mode == "L" and _tag(image, _SAMPLE_FORMAT) == _SIGNED
    return image.mode.startswith(("I", "F")) or signed or (image.mode in _COLOURS and ";16" in _rawmode(image))


def deep_values(path: Path, upright: Callable[[Image.Image], Image.Image]) -> NDArray[Any] | None:
    """Values (H, W) or (H, W, 3) of a deep picture as the file has them; None of one of 8 bits.

    Raises: whatever Pillow raises of a broken file.
    """
    with Image.open(path) as image:
        if not is_deep(image):
            return None
        raw, inverted = _rawmode(image), _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
        values = np.asarray(upright(image))
    if values.dtype == np.uint8 and values.ndim == 2:
        values = values.view(np.int8)
    elif values.dtype == np.uint8:
        values = _both_bytes(path, values[..., :3], raw, upright)
    if inverted and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    return values


def _both_bytes(
    path: Path, high: NDArray[np.uint8], raw: str, upright: Callable[[Image.Image], Image.Image]
) -> NDArray[np.uint16]:
    """16-bit colours. Pillow gives the high byte of each value; read with its bytes swapped, it gives the low one."""
    with Image.open(path) as image:
        native = "B" if np.little_endian else "L"  # what ";16N" is not
        swapped = raw[:-1] + {"B": "L", "L": "B"}.get(raw[-1], native)
        tiles: Any = image
        tiles.tile = [(*t[:3], (swapped, *t[3][1:]) if isinstance(t[3], tuple) else swapped) for t in tiles.tile]
        try:
            low = np.asarray(upright(image))[..., :3]
        except ValueError:  # no such unpacker: what the high byte says, where it says enough
            if high.max(initial=0) < 64:
                raise ValueError("16-bit colours whose low byte cannot be read; write them with 8 bits") from None
            low = high
    both: NDArray[np.uint16] = (high.astype(np.uint16) << 8) | low
    return both


def extent(path: Path, upright: Callable[[Image.Image], Image.Image]) -> Extent | None:
    """Of a deep picture; None of one of 8 bits. Raises: whatever Pillow raises."""
    values = deep_values(path, upright)
    if values is None or not values.size:
        return None
    return Extent(float(values.min()), float(values.max()), values.dtype.kind == "f")


def white_of(extents: Sequence[Extent]) -> White:
    """The one white of a set of pictures, so that they keep their brightness among each other: the full scale of the
    depth that they use together. Pictures that have no place in 0 to white are left to be refused one by one."""
    whole = [e.high for e in extents if not e.floating and e.low >= 0]
    floats = [e.high for e in extents if e.floating and e.low >= 0 and np.isfinite(e.high)]
    scale = next((2.0**bits - 1 for bits in _BITS if whole and max(whole) < 2**bits), None)
    if floats and max(floats) <= 1:
        return White(scale, 1.0)
    return White(scale, 255.0 if any(128 <= v <= 255 for v in floats) else None)


def spread_values(values: NDArray[Any], white: White) -> NDArray[np.uint8]:
    """Deep values to 0 to 255. Raises: ValueError where nothing says which of them is white."""
    floating = values.dtype.kind == "f"
    low, high = float(values.min()), float(values.max())
    said = f"{values.dtype.itemsize * 8}-bit {'float' if floating else 'whole'} values from {low:g} to {high:g}"
    if not np.isfinite([low, high]).all():
        raise ValueError(f"{said}: they are not all finite")
    scale = white.floating if floating else white.whole
    if scale is None:
        own = white_of([Extent(low, high, floating)])
        scale = own.floating if floating else own.whole
    if low < 0 or scale is None or high > scale:
        known = "0 to 1 or 0 to 255" if floating else "8 to 16 bits without sign"
        raise ValueError(f"{said}: {known} can be read; write them as 8-bit pictures, black and white where you want")
    return np.round(values * (255.0 / scale)).astype(np.uint8)
