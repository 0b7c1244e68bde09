"""Augmentation of a batch of pixels, as a function of a generator. numpy and PIL only: it runs beside the training."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["AUGMENTS", "Augment", "augmented", "colours", "random_part", "trivial"]

# "scale" belongs to masks (data/masks.py), "ssd" to boxes (data/boxes.py)
Augment = Literal[
    "none", "shift", "inception", "inception+trivial", "inception-mild", "inception-mild+trivial", "scale", "ssd"
]
AUGMENTS: tuple[str, ...] = get_args(Augment)


def augmented(
    pixels: NDArray[np.uint8], size: tuple[int, int], augment: Augment, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Pixels (B, H, W, 3) changed at random.

    "shift": a mirror image for half of them and a shift by up to an eighth of the side, edges mirrored; the size stays.
    "inception": a random part of 8 to 100 % of the area, 3:4 to 4:3, brought to `size`, half of them mirrored
    (Szegedy 2015, section 6, arXiv:1409.4842). "inception-mild": 35 to 100 %.
    "+trivial": TrivialAugment on top (Muller 2021, arXiv:2103.10158).
    """
    if augment == "none":
        return np.ascontiguousarray(pixels)
    if augment == "shift":
        return _flip_and_shift(pixels, rng)
    out = np.empty((len(pixels), *size, 3), dtype=np.uint8)
    least = 0.35 if augment.startswith("inception-mild") else 0.08
    for i, image in enumerate(pixels):
        picture = Image.fromarray(image)
        part = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=random_part(picture.size, rng, least))
        if rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if augment.endswith("+trivial"):
            part = trivial(part, rng)
        out[i] = np.asarray(part)
    return out


def _flip_and_shift(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    n, h, w = pixels.shape[:3]
    flip = rng.random((n,)) < 0.5
    ph, pw = h // 8, w // 8
    dy, dx = rng.integers(0, 2 * ph + 1, n), rng.integers(0, 2 * pw + 1, n)
    padded = np.pad(pixels, ((0, 0), (ph, ph), (pw, pw), (0, 0)), mode="reflect")
    out = np.empty((n, h, w, 3), dtype=np.uint8)
    for i in range(n):
        image = padded[i, :, ::-1] if flip[i] else padded[i]
        out[i] = image[dy[i] : dy[i] + h, dx[i] : dx[i] + w]
    return out


def random_part(
    size: tuple[int, int], rng: np.random.Generator, least: float = 0.08
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a part of at least `least` of the area, 3:4 to 4:3; all of it if ten draws do not
    fit."""
    w, h = size
    for _ in range(10):
        area = rng.uniform(least, 1.0) * w * h
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        pw, ph = (area * ratio) ** 0.5, (area / ratio) ** 0.5
        if pw <= w and ph <= h:
            left, top = rng.uniform(0, w - pw), rng.uniform(0, h - ph)
            return float(left), float(top), float(left + pw), float(top + ph)
    return 0.0, 0.0, float(w), float(h)


def trivial(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One operation at one strength, both drawn evenly: TrivialAugment's `wide` list without its geometric doubles."""
    from PIL import ImageEnhance, ImageOps

    strength, sign = rng.random(), rng.choice([-1.0, 1.0])
    factor = max(0.01, 1 + sign * 0.99 * strength)
    shift = sign * 0.99 * strength
    w, h = image.size
    warp = Image.Transform.AFFINE
    operations = (
        lambda: image,
        lambda: image.transform((w, h), warp, (1, shift, 0, 0, 1, 0), Image.Resampling.BILINEAR),
        lambda: image.transform((w, h), warp, (1, 0, 0, shift, 1, 0), Image.Resampling.BILINEAR),
        lambda: image.transform((w, h), warp, (1, 0, sign * strength * 32, 0, 1, 0)),
        lambda: image.transform((w, h), warp, (1, 0, 0, 0, 1, sign * strength * 32)),
        lambda: image.rotate(sign * strength * 135, Image.Resampling.BILINEAR),
        lambda: ImageEnhance.Brightness(image).enhance(factor),
        lambda: ImageEnhance.Color(image).enhance(factor),
        lambda: ImageEnhance.Contrast(image).enhance(factor),
        lambda: ImageEnhance.Sharpness(image).enhance(factor),
        lambda: ImageOps.posterize(image, 8 - round(6 * strength)),
        lambda: ImageOps.solarize(image, round(255 * (1 - strength))),
        lambda: ImageOps.autocontrast(image),
        lambda: ImageOps.equalize(image),
    )
    return operations[rng.integers(len(operations))]()


def colours(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast and saturation, each changed for half of the images: SSD's photometric distortion (Liu 2016,
    arXiv:1512.02325) without its hue."""
    out = image.astype(np.float32)
    if rng.random() < 0.5:
        out += rng.uniform(-32, 32)
    if rng.random() < 0.5:
        out *= rng.uniform(0.5, 1.5)
    if rng.random() < 0.5:
        grey = out.mean(2, keepdims=True)
        out = grey + (out - grey) * rng.uniform(0.5, 1.5)
    return out.clip(0, 255).astype(np.uint8)
