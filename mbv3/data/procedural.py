"""A small built-in task for runs without images: textures and shapes, drawn from a seed.

It stands in for photographs only where NetAdapt needs something that a cut can hurt; its accuracies mean nothing
beyond that, and every output that rests on it says so.
"""

from __future__ import annotations

import hashlib

import numpy as np

from mbv3.data.images import ImageSet

__all__ = ["procedural_images"]

_SHAPES = ("disc", "square", "ring", "cross")
_TEXTURES = ("plain", "stripes")


def procedural_images(n: int, size: int, seed: int) -> ImageSet:
    """`n` noisy images of 8 classes: one of four shapes, plain or striped, anywhere, at any scale and angle, in random
    colours."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(_SHAPES) * len(_TEXTURES), n)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    for i, label in enumerate(labels):
        shape, texture = divmod(int(label), len(_TEXTURES))
        cx, cy = rng.uniform(0.35, 0.65, 2)
        r = rng.uniform(0.22, 0.38)
        angle = rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        d = np.hypot(u, v)
        inside = (
            d < r,
            np.maximum(abs(u), abs(v)) < 0.85 * r,
            (d < r) & (d > 0.55 * r),
            (np.minimum(abs(u), abs(v)) < 0.3 * r) & (np.maximum(abs(u), abs(v)) < r),
        )[shape]
        f = rng.uniform(18, 26)
        fill = (np.zeros_like(u), np.sin(f * 2 * u))[texture]
        fore, back = rng.uniform(0, 255, (2, 3))
        drift = rng.uniform(-40, 40, 3) * (x[..., None] - 0.5)
        colour = fore + 60 * fill[..., None]
        image = np.where(inside[..., None], colour, back + drift)
        image = image + rng.normal(0, 14, image.shape)
        images[i] = np.clip(image, 0, 255)
    names = tuple(f"{s} {t}" for s in _SHAPES for t in _TEXTURES)
    return ImageSet(images, labels.astype(np.int64), names, hashlib.sha256(images.tobytes()).hexdigest())
