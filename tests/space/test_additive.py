"""Costs of every network of a space at once, against the networks themselves."""

from __future__ import annotations

import itertools
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3.space import SearchSpace, load_space, parse_space, preset_names, scale, tabulate, under_head
from mbv3.space.additive import layer_keys
from mbv3.spec import LayerKey, count, lower, lower_key, with_head, with_output_stride

from .strategies import genomes

# every kind of gene, widths that reach into the next block, identity, strides, no tail
SMALL = """\
format: mbv3-space/1
name: small
input: {resolution: [24, 17]}
gate: SIGMOID
stem: {k: 3, out: 8, nl: HS, s: 2}
blocks:
  - name: a
    s: 1
    out: 8
    op: [{name: none, op: identity}, {name: ds, op: dsconv}, {name: mb, op: mbconv, e: 2.5}]
    width: [1, 2]
  - {name: b, s: 2, out: 16, e: 3, k: [3, 5], l: [1, 3], se: [0, 1], nl: [RE, HS], skip: [identity, pool]}
  - {name: c, s: 1, out: [16, 24], e: [1, 2]}
head: {features: 32, classes: 5}
"""


def arbitrary(key: LayerKey) -> float:
    """A cost that no two layers share and that follows nothing."""
    return crc32(str(key).encode()) / 2**32


@pytest.fixture(scope="module")
def small() -> SearchSpace:
    return parse_space(SMALL)


SPACES = {name: scale(load_space(name), 0.5, 48) for name in preset_names()} | {"small": parse_space(SMALL)}
HEADED = {  # one tap or two, of a row's output or inside it, in spaces whose widths and expansions vary
    f"{name} under {head}": under_head(SPACES[name], head, 3, stride)
    for name, head, stride in (
        ("mnasnet-imagenet", "lraspp-torchvision", 16),
        ("mobilenetv3", "lraspp", 8),
        ("mnasnet", "lraspp-mmseg", 16),
        ("nas-bench-macro", "lraspp", None),
    )
}
SPACES |= HEADED
COSTS = {name: tabulate(space, arbitrary) for name, space in SPACES.items()}


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(SPACES)), st.data())
def test_the_sum_is_that_over_the_networks_layers(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    genome = data.draw(genomes(space))
    expected = sum(arbitrary(x.key) for x in lower(space.deployed(genome)))
    assert COSTS[name](np.array([genome]))[0] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(HEADED)), st.data())
def test_a_deployed_network_is_the_classifier_changed_by_the_specs_own_functions(
    name: str, data: st.DataObject
) -> None:
    space, plain = HEADED[name], SPACES[name.partition(" ")[0]]
    genome = data.draw(genomes(space))
    assert space.dense is not None and space.output_stride is not None
    expected = with_output_stride(with_head(plain.spec(genome), *space.dense), space.output_stride)
    assert space.deployed(genome) == expected
    assert space.spec(genome) == with_output_stride(plain.spec(genome), space.output_stride)


def test_many_genomes_give_what_each_gives_alone(small: SearchSpace) -> None:
    cost = COSTS["small"]
    drawn = small.sample(np.random.default_rng(0), 50)
    together = cost(drawn)
    assert together.shape == (50,)
    np.testing.assert_array_equal(together, [cost(g)[0] for g in drawn])


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_extreme_is_that_of_brute_force(small: SearchSpace, largest: bool, sign: int) -> None:
    cost = tabulate(small, lambda key: sign * arbitrary(key))
    every = np.array(list(itertools.product(*(range(n) for n in small.sizes))))
    assert len(every) == small.size == 3 * 2 * 2**5 * 2 * 2
    costs = [sum(sign * arbitrary(x.key) for x in lower(small.spec(tuple(g)))) for g in every]
    best, genome = cost.extreme(largest)
    assert best == pytest.approx((max if largest else min)(costs), abs=1e-9)
    assert cost(np.array([genome]))[0] == pytest.approx(best, abs=1e-9)
    assert small.check(genome) == genome


@pytest.mark.parametrize("salt", range(40))
def test_the_extreme_under_many_costs(small: SearchSpace, salt: int) -> None:
    cost = tabulate(small, lambda key: crc32(f"{salt} {key}".encode()) / 2**32)
    every = cost(np.array(list(itertools.product(*(range(n) for n in small.sizes)))))
    assert cost.extreme(False)[0] == pytest.approx(every.min(), abs=1e-9)
    assert cost.extreme(True)[0] == pytest.approx(every.max(), abs=1e-9)


def test_the_smallest_nas_bench_macro_network_is_all_identity() -> None:
    space = load_space("nas-bench-macro")
    madds, genome = tabulate(space, lambda key: lower_key(key).madds).extreme(False)
    assert genome == (0,) * 8
    assert madds == count(space.spec(genome)).madds


def test_the_cost_is_asked_once_a_distinct_layer(small: SearchSpace) -> None:
    asked: list[LayerKey] = []

    def cost(key: LayerKey) -> float:
        asked.append(key)
        return 1.0

    tabulate(small, cost)
    assert len(asked) == len(set(asked))
    assert tuple(asked) == layer_keys(small)


def test_layer_keys_are_the_layers_of_all_networks(small: SearchSpace) -> None:
    every = itertools.product(*(range(n) for n in small.sizes))
    assert set(layer_keys(small)) == {x.key for g in every for x in lower(small.spec(g))}
