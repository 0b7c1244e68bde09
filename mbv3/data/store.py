"""Many image files to pixels: in memory, in a file on disk that is mapped, or decoded each time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3.data.decode import Framing, decode_image, deep_extent, has_pages, listed, looks_deep
from mbv3.data.depth import White, white_of
from mbv3.data.images import Pixels
from mbv3.errors import BadInput
from mbv3.files import write_atomic

__all__ = ["Decoded", "OnDemand", "decode_all", "set_white", "store_pixels"]

# what is odd about an image that can be decoded
FLAT = "one value only, as black ones do"
PAGES = "several pages or frames, of which the first is read"


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels of the files at `kept`, the SHA-256 over what was read, what is wrong with the others, and lines on
    what is odd about those that were kept."""

    pixels: Pixels
    kept: NDArray[np.int64]
    sha256: str
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class OnDemand:
    """Files decoded whenever they are asked for, on every core (PIL lets go of Python's lock while it decodes)."""

    def __init__(self, files: Sequence[Path], size: tuple[int, int], fit: Framing, white: White) -> None:
        self.files, self.size, self.fit, self.white = files, size, fit, white
        self.shape: tuple[int, ...] = (len(files), *size, _depth(fit))
        self.pool = ThreadPoolExecutor(os.cpu_count() or 2)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Raises: BadInput for files that cannot be decoded."""
        done = list(self.pool.map(lambda i: decode_image(self.files[i], self.size, self.fit, self.white), index))
        faults = [fault for pixels, _, fault in done if pixels is None]
        if faults:
            raise BadInput(f"{len(faults)} image(s) cannot be decoded; repair or remove them\n{listed(faults)}")
        return np.stack([pixels for pixels, _, _ in done if pixels is not None])


def _depth(fit: Framing) -> int:
    return 1 if fit == "mask" else 3


def set_white(files: Sequence[Path], fit: Framing = "middle") -> White:
    """What is white in a set of deep pictures, from all of them; a look at a few tells whether there are any. Parts of
    a data set that are decoded one by one need the white of all parts: what is bright in one is bright in the other."""
    if fit == "mask" or not any(map(looks_deep, files[:: max(1, len(files) // 64)])):
        return White()
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        return white_of([e for e in pool.map(deep_extent, files) if e is not None])


def _is_flat(image: NDArray[np.uint8]) -> bool:
    """Whether every pixel is as the first: black, or of one colour. A look at the first row tells for most."""
    first = image[:1, :1]
    return bool((image[:1] == first).all() and (image == first).all())


def _in_order(
    files: Sequence[Path], size: tuple[int, int], fit: Framing, white: White
) -> Iterator[tuple[NDArray[np.uint8] | None, bytes, str, str]]:
    """`decode_image` of every file, and what is odd about it, on all cores, a few hundred ahead of whoever takes
    them."""

    def decoded(file: Path) -> tuple[NDArray[np.uint8] | None, bytes, str, str]:
        image, fingerprint, fault = decode_image(file, size, fit, white)
        if image is None:
            return image, fingerprint, fault, ""
        # a mask of one class is an image without others
        flat = FLAT if fit != "mask" and _is_flat(image) else ""
        return image, fingerprint, fault, PAGES if has_pages(file) else flat

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        warnings.simplefilter("ignore")
        waiting: list[Future[tuple[NDArray[np.uint8] | None, bytes, str, str]]] = []
        for i in range(0, len(files) + 256, 256):
            ahead = [pool.submit(decoded, f) for f in files[i : i + 256]]
            for future in waiting:
                yield future.result()
            waiting = ahead


def _notes(files: Sequence[Path], odd: Mapping[str, Sequence[int]], white: White) -> tuple[str, ...]:
    """What is odd about images that can be decoded."""
    found = []
    if str(white) and white.whole != 65535:
        found.append(f"images hold {white}, which are spread over 0 to 255; give the network such images later, too")
    for what, which in odd.items():
        if what:
            found.append(f"{len(which)} of {len(files)} images hold {what}, for instance {files[which[0]]}")
    return tuple(found)


def _stat(file: Path) -> tuple[str, int, int]:
    """What changes when a file does; zeros for a link that leads nowhere, which is listed with the broken ones."""
    try:
        found = file.stat()
    except OSError:
        return str(file), 0, 0
    return str(file), found.st_size, found.st_mtime_ns


def _refuse(broken: list[str], n: int, where: Path | str, skip_broken: bool | None) -> None:
    if broken and (not skip_broken or len(broken) == n):
        cure = "repair or remove them" + (", or go on without them: --skip-broken" if skip_broken is False else "")
        raise BadInput(f"{where}: {len(broken)} of {n} images cannot be decoded; {cure}\n{listed(broken)}")


def decode_all(
    files: Sequence[Path],
    size: tuple[int, int],
    where: Path | str,
    fit: Framing = "middle",
    *,
    skip_broken: bool | None = None,
    white: White | None = None,
) -> Decoded:
    """Every file at `size`, in memory. `white`: of the data set that the files are a part of; None where they are all.
    `skip_broken`: leave out what cannot be decoded; None where whoever asks has no such option.

    Raises:
        BadInput: images cannot be decoded (all listed), unless `skip_broken`.
    """
    pixels = np.empty((len(files), *size, _depth(fit)), dtype=np.uint8)
    kept: list[int] = []
    broken: list[str] = []
    odd: dict[str, list[int]] = {}
    digest = hashlib.sha256()
    white = set_white(files, fit) if white is None else white
    for i, (image, fingerprint, fault, oddity) in enumerate(_in_order(files, size, fit, white)):
        if image is None:
            broken.append(fault)
            continue
        pixels[len(kept)] = image
        kept.append(i)
        odd.setdefault(oddity, []).append(i)
        digest.update(fingerprint)
    _refuse(broken, len(files), where, skip_broken)
    index = np.array(kept, dtype=np.int64)
    notes = _notes(files, odd, white)
    return Decoded(pixels[: len(kept)], index, digest.hexdigest(), tuple(broken), notes)


def store_pixels(
    files: Sequence[Path],
    size: tuple[int, int],
    where: Path | str,
    store: Path,
    fit: Framing = "middle",
    *,
    skip_broken: bool | None = None,
    white: White | None = None,
    most_bytes: int,
) -> Generator[tuple[int, int], None, Decoded]:
    """Like `decode_all`, into the file `store`, which is then mapped: memory holds what is in use. Found whole, it is
    used again. Yields (done, total) now and then. Over `most_bytes`, or where the disk has no such room, files are
    decoded each time they are needed, and once before, to find those that cannot be.

    Raises:
        BadInput: images cannot be decoded (all listed), unless `skip_broken`; the disk refuses.
    """
    stats = [_stat(f) for f in files]
    key = hashlib.sha256(json.dumps([stats, size, fit, str(white)]).encode()).hexdigest()
    about = store.with_suffix(".json")

    def found(kept: dict[str, Any]) -> Decoded:
        _refuse(kept["broken"], len(files), where, skip_broken)
        index = np.array(kept["kept"], dtype=np.int64)
        pixels: Pixels
        if kept["stored"]:
            pixels = np.memmap(store, dtype=np.uint8, mode="r", shape=(len(index), *size, _depth(fit)))
        else:
            pixels = OnDemand([files[i] for i in index], size, fit, White(*kept["white"]))
        return Decoded(pixels, index, kept["sha256"], tuple(kept["broken"]), tuple(kept["notes"]))

    if about.exists():
        kept = json.loads(about.read_text("utf-8"))
        if kept["key"] == key and "white" in kept and (store.exists() or not kept["stored"]):
            return found(kept)
    needed = len(files) * size[0] * size[1] * _depth(fit)
    store.parent.mkdir(parents=True, exist_ok=True)
    fits = needed <= most_bytes and needed <= 0.9 * shutil.disk_usage(store.parent).free
    good: list[int] = []
    broken: list[str] = []
    odd: dict[str, list[int]] = {}
    digest = hashlib.sha256()
    white = set_white(files, fit) if white is None else white
    about.unlink(missing_ok=True)
    try:
        # written, not mapped: a full disk is then an error and no signal
        with store.open("wb") if fits else nullcontext() as out:
            for i, (image, fingerprint, fault, oddity) in enumerate(_in_order(files, size, fit, white)):
                if image is None:
                    broken.append(fault)
                else:
                    if out is not None:
                        out.write(image.tobytes())
                    good.append(i)
                    odd.setdefault(oddity, []).append(i)
                    digest.update(fingerprint)
                if i % 256 == 255:
                    yield i + 1, len(files)
    except OSError as e:
        store.unlink(missing_ok=True)
        raise BadInput(f"{store}: the decoded images cannot be written ({e.strerror or e})") from None
    kept = {
        "key": key, "kept": good, "broken": broken, "sha256": digest.hexdigest(), "stored": fits,
        "white": [white.whole, white.floating], "notes": _notes(files, odd, white),
    }  # fmt: skip
    write_atomic(about, json.dumps(kept))
    return found(kept)
