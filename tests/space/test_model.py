"""Genomes: coding, sampling, mutation, scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3.errors import BadInput
from mbv3.space import load_space, preset_names, scale
from mbv3.spec import Conv, count, lower, make_divisible

from .strategies import genomes

SPACES = {name: load_space(name) for name in preset_names()}
names = st.sampled_from(preset_names())


@settings(max_examples=80, deadline=None)
@given(names, st.data())
def test_decode_and_encode_are_inverse(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    genome = data.draw(genomes(space))
    values = space.decode(genome)
    assert tuple(values) == space.names
    assert space.encode(values) == genome
    assert space.encode(dict(reversed(values.items()))) == genome  # names, not their order, decide


@settings(max_examples=80, deadline=None)
@given(names, st.data(), st.integers(0, 2**32 - 1))
def test_a_mutation_changes_one_gene_and_stays_in_the_space(name: str, data: st.DataObject, seed: int) -> None:
    space = SPACES[name]
    parent = data.draw(genomes(space))
    child = space.mutate(parent, np.random.default_rng(seed))
    assert space.check(child) == child
    assert all(type(g) is int for g in child)
    assert sum(a != b for a, b in zip(parent, child, strict=True)) == 1


def test_every_neighbour_is_as_likely_gene_by_gene() -> None:
    space = SPACES["nas-bench-macro"]
    rng = np.random.default_rng(0)
    parent = (0, 1, 2, 0, 1, 2, 0, 1)
    n = 8000
    children = np.array([space.mutate(parent, rng) for _ in range(n)])
    changed = (children != parent).sum(axis=0)
    p = 1 / 8
    assert np.abs(changed - n * p).max() < 5 * (n * p * (1 - p)) ** 0.5  # 5 sigma
    for i in range(8):
        values, counts = np.unique(children[children[:, i] != parent[i], i], return_counts=True)
        assert set(values) == {0, 1, 2} - {parent[i]}
        assert abs(counts[0] - counts.sum() / 2) < 5 * (counts.sum() / 4) ** 0.5


@settings(max_examples=40, deadline=None)
@given(names, st.integers(0, 2**32 - 1), st.integers(0, 200))
def test_samples_stay_within_the_sizes(name: str, seed: int, n: int) -> None:
    space = SPACES[name]
    drawn = space.sample(np.random.default_rng(seed), n)
    assert drawn.shape == (n, len(space.sizes))
    assert (drawn >= 0).all() and (drawn < np.array(space.sizes)).all()
    np.testing.assert_array_equal(drawn, space.sample(np.random.default_rng(seed), n))


def test_every_choice_is_drawn_as_often() -> None:
    space, n = SPACES["mnasnet"], 6000
    drawn = space.sample(np.random.default_rng(1), n)
    for i, size in enumerate(space.sizes):
        counts = np.bincount(drawn[:, i], minlength=size)
        assert len(counts) == size
        assert np.abs(counts - n / size).max() < 5 * (n / size * (1 - 1 / size)) ** 0.5  # 5 sigma


def values(**changes: Any) -> dict[str, Any]:
    space = SPACES["nas-bench-macro"]
    return {**space.decode((0,) * 8), **changes}


def test_encode_takes_numbers_that_are_equal() -> None:
    space = SPACES["mnasnet-imagenet"]
    genome = space.encode({n: np.int64(v) for n, v in space.decode((1,) * 28).items()})
    assert genome == (1,) * 28 and all(type(g) is int for g in genome)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (values(layer0_op="mbconv9"), "layer0_op: 'mbconv9' is not one of "),
        (values(layer9_op="identity"), "layer9_op: no such choice"),
        ({k: v for k, v in values().items() if k != "layer3_op"}, "layer3_op: is missing, one of "),
        (values(layer0_op=None), "layer0_op: None is not one of "),
        (values(layer0_op=[]), r"layer0_op: \[\] is not one of "),
    ],
)
def test_encode_refuses(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=f"^space 'nas-bench-macro': .*{message}"):
        SPACES["nas-bench-macro"].encode(bad)


def test_encode_lists_every_fault() -> None:
    with pytest.raises(BadInput, match="no such choice") as e:
        SPACES["mnasnet-imagenet"].encode({"block7_e": 1, "block0_e": 5})
    text = str(e.value)
    assert text.count("is missing") == 27
    assert "block7_e: no such choice" in text and "block0_e: 5 is not one of [1, 4, 6]" in text


@pytest.mark.parametrize(
    "genome",
    [
        (),
        (0,) * 7,
        (0,) * 9,
        (3, *(0,) * 7),
        (-1, *(0,) * 7),
        (1.5, *(0,) * 7),
        ("a",) * 8,
        (float("nan"),) * 8,
    ],
)
def test_what_is_no_genome_is_refused(genome: Any) -> None:
    space = SPACES["nas-bench-macro"]
    for use in (space.check, space.decode, space.spec):
        with pytest.raises(BadInput, match="is not a genome of space 'nas-bench-macro'"):
            use(genome)


def test_a_row_of_sample_is_a_genome() -> None:
    space = SPACES["mnasnet"]
    genome = space.check(tuple(space.sample(np.random.default_rng(0), 1)[0]))
    assert all(type(g) is int for g in genome)
    assert space.spec(genome) == space.spec(tuple(space.sample(np.random.default_rng(0), 1)[0]))


def test_the_name_of_a_network_tells_its_genome() -> None:
    space = SPACES["nas-bench-macro"]
    assert space.spec((0, 1, 2, 0, 1, 2, 0, 1)).name == "nas-bench-macro-0-1-2-0-1-2-0-1"
    assert space.spec((0,) * 8, name="mine").name == "mine"


# -- scale


def test_scale_multiplies_every_width_and_sets_the_resolution() -> None:
    space = scale(SPACES["mobilenetv3"], 0.5, 96, classes=7)
    genome = tuple(n // 2 for n in space.sizes)
    small, full = space.spec(genome), SPACES["mobilenetv3"].spec(genome)
    assert small.resolution == (96, 96) and small.head.classes == 7
    assert [r.out for r in small.rows] == [make_divisible(r.out / 2) for r in full.rows]
    assert small.stem.out == 8 and small.head.features == 640
    assert small.tail == Conv(k=1, out=480, nl="HS")
    assert space.names == SPACES["mobilenetv3"].names and space.sizes == SPACES["mobilenetv3"].sizes


def test_scales_compose_and_one_changes_nothing() -> None:
    space = SPACES["mnasnet"]
    assert scale(space) == space == scale(space, 1.0, 224)
    assert scale(scale(space, 0.5, (64, 32)), 0.5) == scale(space, 0.25, (64, 32))
    assert scale(space, 0.25, (64, 32)).spec((0,) * len(space.sizes)).resolution == (64, 32)


@settings(max_examples=40, deadline=None)
@given(names, st.floats(0.05, 2.5), st.sampled_from([8, 33, 64, (48, 96)]), st.data())
def test_every_genome_is_a_network_at_every_scale(
    name: str, width: float, resolution: int | tuple[int, int], data: st.DataObject
) -> None:
    space = scale(SPACES[name], width, resolution)
    assert count(space.spec(data.draw(genomes(space)))).params > 0


@pytest.mark.parametrize("width", [0, -1, 0.01, 9, float("nan"), float("inf")])
def test_a_width_out_of_range_is_refused(width: float) -> None:
    with pytest.raises(BadInput, match=r"^width: must be a number from 0.05 to 8 \(got "):
        scale(SPACES["mnasnet"], width)


# -- rows of a block


def test_the_first_layer_carries_the_stride_and_the_rest_repeat() -> None:
    space = SPACES["mnasnet-imagenet"]
    spec = space.spec(space.encode(space.decode((0,) * 28) | {"block1_l": 3, "block1_e": 4}))
    rows = spec.rows[1:4]
    assert [(r.s, r.out, r.exp, r.skip) for r in rows] == [  # type: ignore[union-attr]
        (2, 24, 64, "none"),
        (1, 24, 96, "identity"),
        (1, 24, 96, "identity"),
    ]
    assert spec.rows[4].out == 40


def test_a_pooling_skip_needs_equal_channels_only() -> None:
    space = SPACES["mnasnet"]
    first = space.decode((0,) * len(space.sizes)) | {"block1_l": 2, "block1_skip": "pool", "block1_width": 1}
    rows = space.spec(space.encode(first | {"block0_width": 1})).rows[1:3]  # 16 in, 24 out
    assert [(r.out, r.s, r.skip) for r in rows] == [(24, 2, "none"), (24, 1, "pool")]
    rows = space.spec(space.encode(first | {"block0_width": 1.25})).rows[1:3]  # 24 in, 24 out
    assert [(r.out, r.s, r.skip) for r in rows] == [(24, 2, "pool"), (24, 1, "pool")]


def test_identity_is_nothing_or_a_plain_1x1() -> None:
    space = SPACES["nas-bench-macro"]
    spec = space.spec((0,) * 8)
    assert spec.rows == (
        Conv(k=1, out=64, nl="NONE", s=2),
        Conv(k=1, out=128, nl="NONE", s=2),
        Conv(k=1, out=256, nl="NONE", s=2),
    )
    assert [x.out_shape[1] for x in lower(spec)] == [32, 16, 8, 4, 4, 1]
