"""Images with a mask each: DIR/images/* and DIR/masks/*, matched by name; a pixel of a mask is a class index."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mbv3.data.augment import Augment, colours
from mbv3.data.decode import BROKEN, IGNORED, SUFFIXES, image_header, listed, read_mask
from mbv3.data.images import Chosen, Pixels
from mbv3.data.listing import is_image, text_of, walk
from mbv3.errors import BadInput

__all__ = ["MaskFiles", "MaskSet", "find_masks", "read_class_names"]


@dataclass(frozen=True)
class MaskFiles:
    """Pairs of files, what is wrong with those left out, the indices that each mask holds, and whether its image is
    turned before it is used."""

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    faults: tuple[str, ...]
    seen: tuple[frozenset[int], ...]
    turned: tuple[bool, ...]

    def take(self, index: Sequence[int] | NDArray[np.int64], faults: tuple[str, ...] = ()) -> MaskFiles:
        """The pairs at `index`."""
        images, masks = (tuple(paths[i] for i in index) for paths in (self.images, self.masks))
        return MaskFiles(
            images, masks, faults, tuple(self.seen[i] for i in index), tuple(self.turned[i] for i in index)
        )

    def names(self, classes: Sequence[str] = ()) -> list[frozenset[str]]:
        """The classes that each mask holds, by name where they have names."""
        return [frozenset(classes[i] if i < len(classes) else str(i) for i in s - {IGNORED}) for s in self.seen]


def read_class_names(root: Path) -> tuple[str, ...]:
    """Names of DIR/classes.txt, one a line; () where there is none. Raises: BadInput."""
    file = root / "classes.txt"
    if not file.exists():
        return ()
    try:
        names = [line.strip() for line in text_of(file).splitlines() if line.strip()]
    except (OSError, ValueError) as e:
        raise BadInput(f"{file}: cannot be read ({e})") from None
    if not 2 <= len(names) <= IGNORED or len(set(names)) != len(names):
        raise BadInput(f"{file}: needs 2 to {IGNORED} different class names, one a line (got {len(names)})")
    return tuple(names)


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Images of a folder, and of folders in it, by their path there without its suffix: several where it is not enough.

    Raises:
        BadInput: the folder is missing or cannot be read.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; masks are trained on from DIR/images and DIR/masks, in DIR/train, "
                       "DIR/val and DIR/test where there are parts")  # fmt: skip
    found: dict[str, list[Path]] = {}
    try:
        for path in sorted(p for p in walk(folder) if is_image(p)):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    except OSError as e:
        raise BadInput(f"{e.filename or folder}: cannot be read ({e.strerror})") from None
    return found


def find_masks(folder: Path, classes: int | None, *, skip_broken: bool | None = False) -> MaskFiles:
    """Every image of `folder` with its mask, all masks looked through.

    Raises:
        BadInput: images without masks, masks without images, of another size, with indices of no class (all listed);
            with `skip_broken` only if nothing is left.
    """
    all_images, all_masks = _by_stem(folder / "images"), _by_stem(folder / "masks")
    several = [paths for found in (all_images, all_masks) for paths in found.values() if len(paths) > 1]
    faults = [f"{paths[0]}: {paths[1].name} has the same name except for its suffix; keep one" for paths in several]
    images, masks = ({stem: paths[0] for stem, paths in found.items()} for found in (all_images, all_masks))
    faults += [f"{images[s]}: no mask {folder / 'masks' / s}.png" for s in images if s not in masks]
    faults += [f"{masks[s]}: an annotation without its image in {folder / 'images'}" for s in masks if s not in images]
    both = [s for s in images if s in masks and len(all_images[s]) == len(all_masks[s]) == 1]

    none: frozenset[int] = frozenset()

    def look(stem: str) -> tuple[frozenset[int], bool, str]:
        try:
            mask = read_mask(masks[stem])
        except BROKEN as e:
            return none, False, f"{masks[stem]}: {e or type(e).__name__}"
        found = image_header(images[stem])
        if found is None:
            return none, False, f"{images[stem]}: cannot be opened as an image"
        size, turned = found
        if mask.shape != size:
            return none, False, (f"{masks[stem]}: is {mask.shape[1]}x{mask.shape[0]}, "
                        f"its image is {size[1]}x{size[0]}; make them equal")  # fmt: skip
        seen = frozenset(np.unique(mask).tolist())
        wrong = sorted(i for i in seen - {IGNORED} if not 0 <= i < (IGNORED if classes is None else classes))
        if wrong:
            shown = ", ".join(map(str, wrong[:5]))
            most = IGNORED - 1 if classes is None else classes - 1
            why = f"class indices {shown} are out of range 0 to {most} ({IGNORED} is ignored)"
            return none, False, f"{masks[stem]}: {why}"
        return seen, turned, ""

    with ThreadPoolExecutor() as pool:
        looked = list(pool.map(look, both))
    faults += [fault for _, _, fault in looked if fault]
    good = [s for s, (_, _, fault) in zip(both, looked, strict=True) if not fault]
    if faults and (not skip_broken or not good):
        cure = "repair or remove them" + (", or go on without them: --skip-broken" if skip_broken is False else "")
        raise BadInput(f"{folder}: {len(faults)} fault(s) in images and masks; {cure}\n{listed(faults)}")
    if not good:
        raise BadInput(f"{folder}: no images ({', '.join(sorted(SUFFIXES))}) in {folder / 'images'}")
    seen = tuple(indices for indices, _, fault in looked if not fault)
    turned = tuple(lies for _, lies, fault in looked if not fault)
    return MaskFiles(tuple(images[s] for s in good), tuple(masks[s] for s in good), tuple(faults), seen, turned)


@dataclass(frozen=True)
class MaskSet:
    """`images` (N, H, W, 3) and `masks` (N, H, W, 1) at the training's size; `files` are the masks as they are."""

    images: Pixels
    masks: Pixels
    files: Sequence[Path]
    classes: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.files)

    def truth(self, i: int) -> NDArray[np.int64]:
        """The mask of image `i` at its own size."""
        return read_mask(self.files[i])

    def take(self, index: NDArray[np.int64]) -> MaskSet:
        """The images at `index`."""
        files = [self.files[i] for i in index]
        images, masks = Chosen(self.images, index), Chosen(self.masks, index)
        return MaskSet(images, masks, files, self.classes, self.sha256)

    def batch(
        self, index: NDArray[np.int64], size: tuple[int, int], augment: Augment, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Tensor]:
        """Pixels (B, H, W, 3) as they are kept, and class indices (B, height, width) of `size`."""
        pixels, masks = self.images[index], self.masks[index][..., 0]
        if augment != "none":
            pairs = [_scaled(image, mask, rng) for image, mask in zip(pixels, masks, strict=True)]
            pixels, masks = np.stack([p for p, _ in pairs]), np.stack([m for _, m in pairs])
        if masks.shape[1:] != size:
            at = (size[1], size[0])
            masks = np.stack([np.asarray(Image.fromarray(m).resize(at, Image.Resampling.NEAREST)) for m in masks])
        return np.ascontiguousarray(pixels), torch.from_numpy(masks.astype(np.int64))


def _scaled(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """At 0.5 to 2 times its size, a part of at most 75 % one class, mirrored or not, colours changed: mmsegmentation's
    training pipeline. What lies outside the image is grey and ignored."""
    h, w = mask.shape
    scale = rng.uniform(0.5, 2.0)
    picture, indices = Image.fromarray(image), Image.fromarray(mask)
    if scale >= 1:
        ph, pw = h / scale, w / scale
        for _ in range(10):
            left, top = rng.uniform(0, w - pw), rng.uniform(0, h - ph)
            box = (left, top, left + pw, top + ph)
            part = np.asarray(indices.resize((w, h), Image.Resampling.NEAREST, box=box))
            counts = np.bincount(part[part != IGNORED], minlength=1)
            if counts.max() < 0.75 * max(1, counts.sum()):
                break
        new = np.asarray(picture.resize((w, h), Image.Resampling.BILINEAR, box=box))
    else:
        ph, pw = max(1, round(h * scale)), max(1, round(w * scale))
        top, left = rng.integers(0, h - ph + 1), rng.integers(0, w - pw + 1)
        new, part = np.full_like(image, 127), np.full_like(mask, IGNORED)
        new[top : top + ph, left : left + pw] = np.asarray(picture.resize((pw, ph), Image.Resampling.BILINEAR))
        part[top : top + ph, left : left + pw] = np.asarray(indices.resize((pw, ph), Image.Resampling.NEAREST))
    if rng.random() < 0.5:
        new, part = new[:, ::-1], part[:, ::-1]
    return colours(new, rng), part
