"""Splits and batches are functions of their seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mbv3.data import ImageSet, batch_order, make_batch, split
from tests.drawn import drawn_images


def test_a_split_is_stratified_disjoint_and_repeatable() -> None:
    n = 100
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1).repeat(3, 3)
    data = ImageSet(images, np.repeat([0, 1, 2], [60, 38, 2]), ("a", "b", "c"), "")
    train, held = split(data, 0.1, 1000, 0)
    assert np.bincount(held.labels).tolist() == [6, 3, 1] and len(train) == 90
    ids = {int(v) for v in held.images[:, 0, 0, 0]}, {int(v) for v in train.images[:, 0, 0, 0]}
    assert not ids[0] & ids[1] and ids[0] | ids[1] == set(range(n))
    np.testing.assert_array_equal(held.images, split(data, 0.1, 1000, 0)[1].images)
    assert not np.array_equal(held.images, split(data, 0.1, 1000, 1)[1].images)
    assert len(split(data, 0.5, 9, 0)[1]) == 7  # three of each class at most, and c keeps one


@pytest.mark.parametrize("start", [0, 1, 3, 4, 9, 10])
def test_batches_go_on_at_any_step(start: int) -> None:
    whole = list(itertools.islice(batch_order(35, 10, 7), 14))
    rest = list(itertools.islice(batch_order(35, 10, 7, start), 14 - start))
    assert all(np.array_equal(a, b) for a, b in zip(whole[start:], rest, strict=True))
    for epoch in range(4):
        seen = np.concatenate(whole[3 * epoch : 3 * epoch + 3])
        assert len(set(seen.tolist())) == 30  # no image twice in an epoch
    assert not np.array_equal(whole[0], whole[3])


def test_batches_are_normalised_and_resized() -> None:
    data = drawn_images(6, 16, 0)
    x, y = make_batch(data, np.array([4, 1]), 16)
    assert x.shape == (2, 3, 16, 16) and y.tolist() == data.labels[[4, 1]].tolist()
    assert x.is_contiguous(memory_format=torch.channels_last)
    want = (data.images[4] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), want, rtol=1e-4, atol=1e-5)
    assert make_batch(data, np.array([0]), (8, 24))[0].shape == (1, 3, 8, 24)


def test_augmentation_is_a_function_of_its_generator() -> None:
    data, index = drawn_images(16, 16, 0), np.arange(16)
    one, again, other = (make_batch(data, index, 16, np.random.default_rng(s))[0] for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (16, 3, 16, 16) and not torch.equal(one, make_batch(data, index, 16)[0])
