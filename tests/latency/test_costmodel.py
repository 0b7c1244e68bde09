"""The fit for layers that nobody measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mbv3.errors import BadInput
from mbv3.latency import fit_cost_model
from mbv3.latency.costmodel import FEATURES, features
from mbv3.space import load_space, scale
from mbv3.space.additive import layer_keys
from mbv3.spec import Classify, Conv, Head, LayerKey, MBConv, lower_key

KEYS = layer_keys(scale(load_space("mnasnet"), 0.5, 96))[::2]
WEIGHTS = np.random.default_rng(3).uniform(0.01, 1.0, len(FEATURES))


def truth(key: LayerKey) -> float:
    return float(features(key) @ WEIGHTS)


def test_a_linear_truth_is_recovered_and_holds_for_layers_not_seen() -> None:
    model = fit_cost_model(KEYS[::2], [truth(k) for k in KEYS[::2]])
    assert model.error < 1e-6
    for key in KEYS[1::2]:
        assert model.ms(key) == pytest.approx(truth(key), rel=1e-6)
    unseen = LayerKey(MBConv(k=7, exp=37, out=19, se=5, nl="HS", s=2), 11, 23, 23)
    assert model.ms(unseen) > 0


def test_no_coefficient_is_negative_whatever_was_measured() -> None:
    times = np.random.default_rng(0).uniform(0.01, 5, len(KEYS))
    model = fit_cost_model(KEYS, list(times))
    assert (model.coefficients >= 0).all() and model.error > 20
    assert all(model.ms(k) >= 1e-4 for k in KEYS)


def test_larger_layers_never_cost_less() -> None:
    times = [truth(k) * f for k, f in zip(KEYS, np.random.default_rng(1).uniform(0.7, 1.4, len(KEYS)), strict=True)]
    model = fit_cost_model(KEYS, times)
    costs = [model.plain_ms(LayerKey(MBConv(k=5, exp=e, out=40, se=8, nl="HS"), 40, 14, 14)) for e in range(48, 480, 8)]
    assert costs == sorted(costs)


def test_the_error_is_held_out() -> None:
    rng = np.random.default_rng(2)
    times = [truth(k) * (1 + 0.1 * rng.standard_normal()) for k in KEYS]
    error = fit_cost_model(KEYS, times).error
    assert error == pytest.approx(10, abs=2.5)


def test_what_the_model_misses_on_a_relative_counts_the_less_the_farther_it_is() -> None:
    key = next(k for k in KEYS if isinstance(k.row, MBConv) and k.row.se)
    assert isinstance(key.row, MBConv)
    model = fit_cost_model(KEYS, [truth(k) * (2 if k == key else 1) for k in KEYS])
    near, far = (replace(key, row=replace(key.row, exp=key.row.exp - cut)) for cut in (1, key.row.exp // 3))
    missed = [model.ms(k) / model.plain_ms(k) for k in (key, near, far)]
    assert missed[0] > missed[1] > missed[2] > 1
    assert missed[0] == pytest.approx(2 * truth(key) / model.plain_ms(key))


def test_the_error_is_that_of_the_estimates_in_use() -> None:
    """Held out by pairs: layers of one input width are slow, and their relatives know it."""
    slow = sorted({k.cin for k in KEYS})[1]
    times = [truth(k) * (2 if k.cin == slow else 1) for k in KEYS]
    model = fit_cost_model(KEYS, times)
    pairs = sorted({(k.cin, 0 if isinstance(k.row, Head) else k.row.out) for k in KEYS})
    held: list[float] = []
    for fold in range(5):
        out = [pairs.index((k.cin, 0 if isinstance(k.row, Head) else k.row.out)) % 5 == fold for k in KEYS]
        rest = [(k, t) for k, t, o in zip(KEYS, times, out, strict=True) if not o]
        fitted = fit_cost_model([k for k, _ in rest], [t for _, t in rest])
        held += [fitted.ms(k) / t - 1 for k, t, o in zip(KEYS, times, out, strict=True) if o]
    assert model.error == pytest.approx(100 * float(np.mean(np.square(held))) ** 0.5, abs=0.01)


def test_too_few_layers() -> None:
    with pytest.raises(BadInput, match=r"a cost model needs at least 20 measured layers \(got 19\)"):
        fit_cost_model(KEYS[:19], [1.0] * 19)
    fit_cost_model(KEYS[:20], [1.0] * 20)


def named(key: LayerKey) -> dict[str, float]:
    return {name: v for name, v in zip(FEATURES, features(key), strict=True) if v}


def test_features_by_hand() -> None:
    found = named(LayerKey(Conv(k=3, out=10, nl="HS", s=2), 4, 20, 20))
    assert found == pytest.approx(
        {
            "layer": 1,
            "ops": 2,
            "full conv MMAdds": 100 * 10 * 4 * 9 / 1e6,
            "h-swish Melements": 1000 / 1e6,
            "moved Melements": (1600 + 1000 + 1000 + 1000) / 1e6,
            "weights MB": (360 + 20) * 4e-6,
        }
    )
    block = named(LayerKey(MBConv(k=5, exp=20, out=8, se=6, nl="RE", s=2), 4, 8, 8))
    assert block["expand MMAdds"] == pytest.approx(64 * 20 * 4 / 1e6)
    assert block["depthwise k5 MMAdds"] == block["strided depthwise MMAdds"] == pytest.approx(16 * 20 * 25 / 1e6)
    assert block["project MMAdds"] == pytest.approx(16 * 8 * 20 / 1e6)
    assert block["SE MMAdds"] == pytest.approx(2 * 20 * 6 / 1e6) and block["SE layer"] == 1
    assert block["small-map MMAdds"] == pytest.approx((64 * 80 + 16 * 160) / 1e6)
    assert "SE layer" not in named(LayerKey(Classify(features=4, classes=2), 4, 2, 2))


def test_all_work_of_a_layer_is_in_its_features() -> None:
    kinds = ["full conv", "expand", "project", "depthwise k3", "depthwise k5", "depthwise k7+", "SE"]
    for key in KEYS:
        f = named(key)
        assert sum(f.get(f"{k} MMAdds", 0) for k in kinds) == pytest.approx(lower_key(key).madds / 1e6)
