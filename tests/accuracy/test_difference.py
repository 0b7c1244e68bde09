"""The error of a difference: from pairs of published networks, smaller for alike networks than for strangers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mbv3.accuracy import difference, imagenet
from mbv3.accuracy.model import shipped
from mbv3.errors import BadInput
from mbv3.spec import channels, cut, load_spec, sites

RESULTS = Path(__file__).parents[2] / "results" / "imagenet_accuracy.json"


def test_a_network_is_no_better_than_itself() -> None:
    spec = load_spec("mobilenet_v3_large")
    same = difference(spec, spec)
    assert same.value == 0 and not same.above and same.error == pytest.approx(math.sqrt(shipped().difference[0]))


def test_alike_networks_are_told_apart_more_surely() -> None:
    large = load_spec("mobilenet_v3_large")
    site = max(sites(large), key=lambda s: channels(large, s))
    narrower = cut(large, site, channels(large, site) - 64)
    assert narrower is not None
    errors = [difference(large, load_spec(n)).error for n in ("mobilenet_v3_large@0.75", "mobilenet_v3_small")]
    near = difference(large, narrower)
    assert near.value > 0 and near.error < errors[0] <= errors[1]
    back = difference(narrower, large)
    assert (back.value, back.error) == pytest.approx((-near.value, near.error))
    assert back.recipe == imagenet(large).recipe


def test_an_error_is_never_more_than_that_of_two_strangers_and_grows_outside_the_evidence() -> None:
    names = ["mobilenet_v3_large", "mobilenet_v3_small@0.35", "mobilenet_v3_large@1.25", "mobilenetv4_conv_small"]
    specs = [load_spec(n) for n in names]
    for a in specs:
        for b in specs:
            own = difference(a, b)
            assert 0 < own.error <= math.hypot(imagenet(a).error, imagenet(b).error) + 1e-12
            assert own.value == pytest.approx(imagenet(a).value - imagenet(b).value)
    huge = load_spec("mobilenet_v3_large@4")
    assert imagenet(huge).extrapolated and difference(huge, huge).error > difference(specs[0], specs[0]).error


def test_an_unknown_recipe_is_refused() -> None:
    spec = load_spec("mobilenet_v3_small")
    with pytest.raises(BadInput, match="no training is called 'guess'"):
        difference(spec, spec, recipe="guess")


def test_the_variance_is_what_the_script_fitted() -> None:
    found = json.loads(RESULTS.read_text())["families_left_out"]["pairs_of_one_recipe"]
    assert tuple(found["variance"]) == shipped().difference and found["n"] > 1000
    said = np.array([b["said"] for b in found["bins"]])
    seen = np.array([b["rmse"] for b in found["bins"]])
    assert (np.diff(said) > 0).all() and np.abs(seen / said - 1).max() < 0.35
    assert 0.6 < found["within_one_error"] < 0.8  # 0.68 of a normal distribution
