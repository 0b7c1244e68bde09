"""The file of coefficients, and the region of evidence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mbv3.accuracy.features import group
from mbv3.accuracy.model import INPUTS, PAPER, PUBLISHED, Model, Region, shipped
from mbv3.errors import BadInput


def changed(**values: object) -> str:
    return json.dumps({**json.loads(shipped().to_json()), **values})


def test_the_file_comes_back_as_it_is() -> None:
    text = shipped().to_json()
    again = Model.from_json(text)
    assert again.to_json() == text
    assert np.array_equal(again.weights, shipped().weights) and again.recipes[PAPER].networks == 6


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(BadInput, match="format must be mbv3-imagenet/3"):
        Model.from_json(changed(format="mbv3-imagenet/2"))
    with pytest.raises(BadInput, match="no input is called 'depth'"):
        Model.from_json(changed(weights={"depth": [0.0] * (len(shipped().v) + 2)}))
    with pytest.raises(BadInput, match="a weight is below 0"):
        Model.from_json(changed(beta=-1.0))


def test_a_region_is_smaller_than_its_box() -> None:
    n = np.array([1.0, 2.0, 4.0, 8.0])
    region = Region.around({"width": n, "depth": n})
    assert region.outside({"width": 3.0, "depth": 3.0}) == (0.0, "")
    far, why = region.outside({"width": 1.0, "depth": 8.0})
    assert far == pytest.approx(3.0) and "width / depth 0.125 is below the evidence (1)" in why
    far, why = region.outside({"width": 16.0, "depth": 16.0})
    assert far == pytest.approx(2.0) and why == "width 16 is above the evidence (8)"  # not the product of the two


def test_the_errors_are_measured_ones() -> None:
    core, outer = shipped().errors
    assert 0.3 < core < 2.5 and core < outer < 5


def test_the_law_is_part_of_published_trainings_alone() -> None:
    model = shipped()
    assert (model.law >= 0).all() and model.law.any()
    factors = [model.scales["ofa_dynast"].get(group(name), 1.0) for name in INPUTS]
    assert np.allclose(model.scaled(PUBLISHED)[:, -1], model.weights[:, -1] + model.law)
    assert np.allclose(model.scaled("ofa_dynast")[:, -1], model.weights[:, -1] * factors)
    with pytest.raises(BadInput, match="no input is called 'size'"):
        Model.from_json(changed(law={"size": 0.1}))
    with pytest.raises(BadInput, match="a weight is below 0"):
        Model.from_json(changed(law={"log all work": -0.1}))
