"""Which images: those held out, and those that are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbv3.errors import BadInput
from mbv3.events import Event, Note

__all__ = ["apart", "spread", "tenth_out", "unjudged"]

LEAST = 3  # images a set


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


def apart(seen: Sequence[frozenset[str]], parts: int, seed: int, where: str | Path) -> list[NDArray[np.int64]]:
    """Indices of the images to learn from, and of `parts` sets that are held out, a tenth of all each. Every class is
    in every set: images of rare classes are drawn first.

    `seen`: the classes of each image.

    Raises:
        BadInput: classes that are in too few images, all listed; too few images.
    """
    order = np.random.default_rng(seed).permutation(len(seen)).tolist()
    free, held = set(range(len(seen))), []
    for _ in range(parts):
        left = Counter(c for i in free for c in seen[i])
        mine: list[int] = []
        for c, _ in sorted(left.items(), key=lambda item: (item[1], item[0])):
            able = [i for i in order if i in free and c in seen[i]]
            if not any(c in seen[i] for i in mine) and able:
                mine.append(min(able, key=lambda i: sum(left[k] <= parts for k in seen[i])))
                free.remove(mine[-1])
                left.subtract(seen[mine[-1]])
        for i in order:
            if len(mine) < max(1, len(seen) // 10) and i in free and all(left[k] > parts for k in seen[i]):
                mine.append(i)
                free.remove(i)
                left.subtract(seen[i])
        held.append(np.sort(np.array(mine, dtype=np.int64)))
    sets = [np.array(sorted(free), dtype=np.int64), *held]
    times = Counter(c for classes in seen for c in classes)
    lacking = sorted({c for s in sets for c in set(times) - {c for i in s for c in seen[i]}})
    if lacking or len(seen) < LEAST * len(sets):
        text = ", ".join(f"{c} ({times[c]})" for c in lacking[:5])
        what = f"class(es) in too few of its images: {text}" if lacking else f"{len(seen)} images are too few"
        raise BadInput(f"{where}: {what}; some are learned from, some choose and some are reported on. Give more "
                       "images, or parts of your own: train, val and test")  # fmt: skip
    return sets


def unjudged(seen: Mapping[str, Sequence[frozenset[str]]], what: str) -> Iterator[Event]:
    """A warning for the classes that are learned and that no image of the validation or test part has. `seen`: the
    classes of each image of a part; `what`: that shows them."""
    learned = frozenset[str]().union(*seen["training"])
    for part, use in (("validation", "chosen"), ("test", "reported")):
        absent = sorted(learned - frozenset[str]().union(*seen[part]))
        if absent:
            text = f"no {part} {what} holds class(es) {', '.join(absent[:5])}: what is {use} knows nothing of them"
            yield Note("images", text, warning=True)


def spread(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `n` indices, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
