"""Which images: those held out, and those that are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput

__all__ = ["spread", "tenth_out"]


def tenth_out(n: int, seed: int, where: str | Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(indices to learn from, a tenth held out) of the `n` images of the data set `where`, each in order.

    Raises:
        BadInput: too few images.
    """
    order = np.random.default_rng(seed).permutation(n)
    held = max(1, n // 10)
    if n - held < 2:
        raise BadInput(f"{where}: {n} image(s) are too few to hold some out")
    return np.sort(order[held:]), np.sort(order[:held])


def spread(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `n` indices, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
