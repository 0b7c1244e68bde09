"""Published networks as data: each has the parameters of the weights that are downloaded."""

from __future__ import annotations

import pytest

from mbv3.accuracy import Published, recipes, zoo
from mbv3.spec import count


def test_the_zoo_is_complete_and_names_are_unique() -> None:
    networks = zoo()
    assert len(networks) >= 39 and len({p.name for p in networks}) == len(networks)
    assert len({p.weights for p in networks}) == len(networks)
    assert {p.weights.partition(":")[0] for p in networks} == {"timm", "torchvision"}
    assert all(p.recipe in recipes() for p in networks)
    assert all(50 < p.top1 < 85 for p in networks)


@pytest.mark.parametrize("published", zoo(), ids=lambda p: p.name)
def test_parameters_are_those_of_the_weights(published: Published) -> None:
    spec = published.spec()
    assert count(spec).params == published.params
    assert spec.resolution == (published.resolution, published.resolution) and spec.name == published.name
