"""Decoded images of a task, kept on disk while it is trained."""

from __future__ import annotations

import atexit
import hashlib
import math
import shutil
import tempfile
from collections.abc import Generator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbv3.data import Framing, Pixels, White, image_header, store_pixels
from mbv3.errors import BadInput
from mbv3.events import Event, Note, counted
from mbv3.tasks.task import Source

__all__ = ["Stored", "fingerprint", "input_of", "stored", "typical_shape"]

OPENED = 32  # images whose size is looked at
# of an input whose size nobody asked for: the root of its area, as torchvision's SSDLite has it and as mmsegmentation
# crops photographs, and the step of its sides
LEAST, MOST, STEP = 320, 512, 32


class Stored(NamedTuple):
    """Decoded images (N, H, W, C), the indices of the files that they are of, and their SHA-256."""

    pixels: Pixels
    kept: NDArray[np.int64]
    sha256: str


def fingerprint(images: str, *truth: bytes | str) -> str:
    """SHA-256 of the images' own and of what is learned about them."""
    digest = hashlib.sha256(images.encode())
    for part in truth:
        digest.update(part.encode("utf-8", "backslashreplace") if isinstance(part, str) else part)
    return digest.hexdigest()


def stored(
    files: list[Path], size: tuple[int, int], source: Source, name: str, what: str = "", fit: Framing = "middle",
    white: White | None = None,
) -> Generator[Event, None, Stored]:  # fmt: skip
    """Decode `files` at `size` (height, width) into `pixels-NAME.u8` of the store. `what`: their name in messages.
    `white`: of all parts of the data set.

    Raises:
        BadInput: images cannot be decoded (all listed), unless broken ones are skipped.
    """
    what = what or name
    folder = source.store or _temporary()
    work = store_pixels(
        files, size, str(source.path), folder / f"pixels-{name}.u8", fit,
        skip_broken=source.skip_broken, white=white, most_bytes=int(source.store_gb * 1e9),
    )  # fmt: skip
    decoded = yield from counted(work, "images", f"decoding {what} images")
    if decoded.broken:
        yield Note(
            "images",
            f"{len(decoded.broken)} of {len(files)} {what} images cannot be decoded and are left out: "
            + "; ".join(decoded.broken[:3]) + ("; ..." if decoded.broken[3:] else ""),
            warning=True,
        )  # fmt: skip
    yield from (Note("images", f"{what}: {line}", warning=True) for line in decoded.notes)
    return Stored(decoded.pixels, decoded.kept, decoded.sha256)


@cache
def _temporary() -> Path:
    """A folder that lives as long as the interpreter."""
    folder = Path(tempfile.mkdtemp(prefix="mbv3-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def typical_shape(files: Sequence[Path]) -> tuple[int, int]:
    """Median height and width of a few of the images. Raises: BadInput: none of them can be opened."""
    some = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, OPENED).astype(np.int64))]
    sizes = [found[0] for path in some if (found := image_header(path)) is not None]
    if not sizes:
        raise BadInput(f"{files[0]}: cannot be opened as an image, nor can {len(some) - 1} others")
    h, w = np.median(np.array(sizes), axis=0)
    return int(h), int(w)


def input_of(shape: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
    """An input of the `shape` of the images: `scale` times as high and wide, with an area from LEAST to MOST."""
    side = math.sqrt(shape[0] * shape[1])
    scale = min(max(scale, LEAST / side), MOST / side)
    h, w = (STEP * max(1, round(v * scale / STEP)) for v in shape)
    return h, w
