"""Images held out apart: disjoint sets of about a tenth each, and every class in every set."""

from __future__ import annotations

import numpy as np
import pytest

from mbv3.errors import BadInput
from mbv3.events import Note
from mbv3.tasks.draws import apart, unjudged


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_in_every_set(parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rare = set(rng.choice(100, 4, replace=False).tolist())
    seen = [
        frozenset({"road"} | ({"bus"} if i in rare else set()) | ({"tree"} if i % 3 else set())) for i in range(100)
    ]
    sets = apart(seen, parts, seed, "here")
    assert sorted(np.concatenate(sets).tolist()) == list(range(100))
    assert all(frozenset().union(*(seen[i] for i in s)) == {"road", "bus", "tree"} for s in sets)
    assert [len(s) for s in sets[1:]] == [10] * parts
    again = apart(seen, parts, seed, "here")
    assert all(np.array_equal(a, b) for a, b in zip(sets, again, strict=True))


def test_a_class_in_too_few_images_is_refused() -> None:
    seen = [frozenset({"road"} | ({"bus"} if i < 2 else set())) for i in range(30)]
    with pytest.raises(BadInput, match=r"here: class\(es\) in too few of its images: bus \(2\); some are learned from"):
        apart(seen, 2, 0, "here")
    with pytest.raises(BadInput, match=r"here: 8 images are too few"):
        apart([frozenset({"road"})] * 8, 2, 0, "here")


def test_what_no_choosing_image_shows_is_told() -> None:
    road, bus = frozenset({"road"}), frozenset({"bus"})
    [note] = unjudged({"training": [road, bus], "validation": [road], "test": [bus, road]}, "mask")
    assert isinstance(note, Note) and note.warning
    assert note.text == "no validation mask holds class(es) bus: what is chosen knows nothing of them"
