"""Small images for tests: noise around a grey of the class, a function of the seed."""

from __future__ import annotations

import hashlib

import numpy as np

from mbv3.data import ImageSet

__all__ = ["drawn_images"]

CLASSES = 8


def drawn_images(n: int, size: int, seed: int) -> ImageSet:
    """`n` square images of 8 classes, told apart by how light they are and by stripes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    stripes = np.where(np.arange(size) % 4 < 2, 50.0, -50.0)[None, :, None, None]
    light = (60.0 + 45.0 * (labels // 2))[:, None, None, None]
    noise = rng.normal(0.0, 14.0, (n, size, size, 3))
    images = np.clip(light + (labels % 2)[:, None, None, None] * stripes + noise, 0, 255).astype(np.uint8)
    names = tuple(f"class{i}" for i in range(CLASSES))
    return ImageSet(images, labels.astype(np.int64), names, hashlib.sha256(images.tobytes()).hexdigest())
