"""What the model reads of a layer: from its operations alone, whatever the kind of row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mbv3.accuracy.features import (
    ATOMS,
    LOGS,
    RESOLUTION,
    SIDE,
    WIDTH,
    group,
    layer_sums,
    log_columns,
    network_sums,
    rises,
)  # fmt: skip
from mbv3.accuracy.model import INPUTS, expand
from mbv3.spec import load_spec, lower
from mbv3.spec.ops import Tensor, Walk


def walked(write: Callable[[Walk], None], c: int = 64, side: int = SIDE // 16) -> dict[str, float]:
    """The parts of one layer at stride 16 by name."""
    x = Walk("row", Tensor("input", c, side, side))
    write(x)
    sums = layer_sums(x.ops)
    assert sums.shape == (WIDTH,)
    first = 3 * len(ATOMS)
    assert not sums[:first].any() and not sums[first + len(ATOMS) :].any()
    return dict(zip(ATOMS, sums[first : first + len(ATOMS)].tolist(), strict=True))


def bottleneck(x: Walk, exp: int = 256, out: int = 64, k: int = 3, se: int = 0) -> None:
    x.unit("expand", exp, "HS")
    x.unit("depthwise", exp, "HS", k=k, groups=exp)
    x.squeeze_excite(se, "HSIGMOID")
    x.conv("project.conv", out)


def test_a_bottleneck_by_hand() -> None:
    v = walked(bottleneck)
    assert v["n"] == 1 and v["inside"] == 256 / 16 and v["outside"] == 64 / 8
    assert v["mix"] == (64 * 256 + 256 * 64) / 256
    assert v["inner128"] == 1 and v["inner256"] == 0  # 256 is the end of the octave from 128
    assert v["k5"] == v["se"] == v["first n"] == v["pointwise"] == 0 and v["smooth"] == 1


def test_kernels_squeezes_and_first_layers_are_seen() -> None:
    v = walked(lambda x: bottleneck(x, out=80, k=7, se=24))
    assert v["k5"] == v["k7"] == 1 and v["se"] == 24 / 32
    assert v["first n"] == 1 and v["first se"] == v["se"]


def test_rows_that_do_not_exist_yet_have_the_same_numbers() -> None:
    def extra_depthwise(x: Walk) -> None:  # MobileNetV4's (Qin 2024, arXiv:2404.10518)
        x.conv("start.conv", 64, k=5, groups=64)
        bottleneck(x)

    def fused(x: Walk) -> None:
        x.unit("expand", 256, "HS", k=3)
        x.conv("project.conv", 64)

    plain, more, full = walked(bottleneck), walked(extra_depthwise), walked(fused)
    assert more["n"] == 2 and more["k5"] == 1 and more["inside"] == plain["inside"]
    assert full["n"] == 1 and full["inside"] == plain["inside"] and full["mix"] > plain["mix"]
    feed_forward = walked(lambda x: (x.unit("expand", 256), x.conv("project.conv", 64))[0])
    assert feed_forward["n"] == 0 and feed_forward["pointwise"] == plain["mix"]


def test_sums_and_inputs_of_a_network() -> None:
    layers = [layer.ops for layer in lower(load_spec("mobilenet_v3_large"))]
    sums = network_sums(layers)
    inputs = expand(sums[None], 224.0)
    assert inputs.shape == (1, len(INPUTS)) and inputs.min() >= 0
    assert sums[WIDTH - 2] == 1280
    assert log_columns().min() == 0 and log_columns().shape == (WIDTH, len(LOGS)) and (log_columns().sum(0) > 0).all()


def test_resolution_inputs_rise_and_then_rest() -> None:
    r = np.array([16.0, 24.0, 200.0, 480.0, 900.0])
    at = rises(r)
    assert at.shape == (5, len(RESOLUTION)) and (np.diff(at, axis=0) >= 0).all()
    assert not at[:2].any() and (at[3] == at[4]).all()
    assert at[2] == pytest.approx(np.log(np.array([128, 160, 192, 200, 200, 200, 200, 200]) / 24))


def test_groups_are_one_kind_of_one_stage() -> None:
    assert group("k5_mid /8") == group("first k7 /8") == "k /8"
    assert group("first inner64 /32") == "first /32" and group("log mix /2") == "layers /2"
    assert group("log all mix") == group("px up to 224") == ""
