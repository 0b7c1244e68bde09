"""What the configs for mmpretrain and mmsegmentation say, without their libraries: the fields of the published ones.

Source: mmsegmentation 0.30, configs/_base_/models, mobilenet_v2, mobilenet_v3; mmpretrain 1.2, configs/_base_/models.
"""

from __future__ import annotations

from typing import Any

import pytest

from mbv3.export import FRAMEWORKS
from mbv3.spec import load_spec

PREPROCESSOR = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
V2 = {"type": "MobileNetV2", "widen_factor": 1.0, "strides": (1, 2, 2, 1, 1, 1, 1), "out_indices": (1, 2, 4, 6)}
ON_V2 = {"in_channels": 320, "in_index": 3, "channels": 512, "dropout_ratio": 0.1, "num_classes": 19}
ASPP = {**ON_V2, "dilations": (1, 12, 24, 36)}
ON_V3 = {
    "type": "LRASPPHead", "in_index": (0, 1, 2), "channels": 128, "branch_channels": (32, 64),
    "input_transform": "multiple_select", "dropout_ratio": 0.1, "num_classes": 19,
}  # fmt: skip
AUX = {
    "type": "FCNHead", "in_channels": 96, "in_index": 2, "channels": 256, "num_convs": 1, "concat_input": False,
    "num_classes": 19,
}  # fmt: skip
SEGMENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # backbone, decode head
    "lraspp_m-v3-d8": (
        {"type": "MobileNetV3", "arch": "large", "out_indices": (1, 3, 16)},
        {**ON_V3, "in_channels": (16, 24, 960)},
    ),
    "lraspp_m-v3s-d8": (
        {"type": "MobileNetV3", "arch": "small", "out_indices": (0, 1, 12)},
        {**ON_V3, "in_channels": (16, 16, 576)},
    ),
    "fcn_m-v2-d8": (V2, {**ON_V2, "type": "FCNHead", "num_convs": 2, "concat_input": True}),
    "pspnet_m-v2-d8": (V2, {**ON_V2, "type": "PSPHead", "pool_scales": (1, 2, 3, 6)}),
    "deeplabv3_m-v2-d8": (V2, {**ASPP, "type": "ASPPHead"}),
    "deeplabv3plus_m-v2-d8": (
        V2,
        {**ASPP, "type": "DepthwiseSeparableASPPHead", "c1_in_channels": 24, "c1_channels": 48},
    ),
}
CLASSIFY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # backbone, head
    "mobilenet_v3_large": (
        {"type": "MobileNetV3", "arch": "large"},
        {"type": "StackedLinearClsHead", "in_channels": 960, "mid_channels": [1280], "act_cfg": {"type": "HSwish"}},
    ),
    "mobilenet_v3_small": (
        {"type": "MobileNetV3", "arch": "small"},
        {"type": "StackedLinearClsHead", "in_channels": 576, "mid_channels": [1024], "act_cfg": {"type": "HSwish"}},
    ),
    "mobilenet_v2": ({"type": "MobileNetV2", "widen_factor": 1.0}, {"type": "LinearClsHead", "in_channels": 1280}),
}


def config(name: str, to: str) -> dict[str, Any]:
    """`model` of the config file."""
    found: dict[str, Any] = {}
    exec(FRAMEWORKS[to].source(load_spec(name))["mobilenetv3_config.py"], found)
    return found["model"]  # type: ignore[no-any-return]


def part(given: dict[str, Any], golden: dict[str, Any]) -> dict[str, Any]:
    """The fields of `golden` in `given`."""
    return {key: given.get(key) for key in golden}


@pytest.mark.parametrize("name", SEGMENT)
def test_mmsegmentations_systems(name: str) -> None:
    backbone, head = SEGMENT[name]
    model = config(name, "mmseg")
    assert part(model["data_preprocessor"], PREPROCESSOR) == PREPROCESSOR
    assert part(model["backbone"], backbone) == backbone
    assert part(model["decode_head"], head) == head
    assert model["decode_head"]["align_corners"] is False
    if "v2" not in name:
        assert "auxiliary_head" not in model
        return
    assert part(model["auxiliary_head"], AUX) == AUX
    assert model["auxiliary_head"]["loss_decode"]["loss_weight"] == 0.4


@pytest.mark.parametrize("name", CLASSIFY)
def test_mmpretrains_classifiers(name: str) -> None:
    backbone, head = CLASSIFY[name]
    model = config(name, "mmpretrain")
    expected = {**PREPROCESSOR, "type": "ClsDataPreprocessor", "num_classes": 1000, "to_rgb": True}
    assert part(model["data_preprocessor"], expected) == expected
    assert part(model["backbone"], backbone) == backbone
    assert part(model["head"], head) == head
    assert model["head"]["num_classes"] == 1000


@pytest.mark.parametrize(("name", "replaced"), [("lraspp_m-v3-d8", True), ("fcn_m-v2-d8", False)])
def test_paddings_are_replaced_where_theirs_differ(name: str, replaced: bool) -> None:
    text = FRAMEWORKS["mmseg"].source(load_spec(name))["mobilenetv3.py"]
    compile(text, "mobilenetv3.py", "exec")
    assert ("isinstance(conv, Conv2dAdaptivePadding)" in text) is replaced
