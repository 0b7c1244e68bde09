"""mmsegmentation: a config for one of its heads on one of its MobileNet backbones, whose rows are fixed.

Source: mmsegmentation 1.2 (0.30 has the same rows, fields and module names), models/backbones, models/decode_heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from mbv3.errors import Fault
from mbv3.export.mmpretrain import Backbone, nearest
from mbv3.export.names import V2_STAGES, Names, mm_backbone, mmseg_head
from mbv3.export.target import STEM, Source, Target, intro, loader, of_bytes, width_at
from mbv3.spec import FCN, LRASPP, PSP, ArchSpec, DeepLabV3, DeepLabV3Plus, Dense, Tap, load_spec, taps_of

__all__ = ["MMSEG"]

POOL = (49, 49, 16, 20)  # of its LR-ASPP head, fixed


@lru_cache(maxsize=1)
def _backbones() -> tuple[Backbone, ...]:
    """MobileNetV3 in its two sizes and MobileNetV2, at output stride 8."""
    v2 = "type='MobileNetV2', widen_factor=1.0, strides=(1, 2, 2, 1, 1, 1, 1), dilations=(1, 1, 1, 2, 2, 4, 4)"
    return (
        Backbone("type='MobileNetV3', arch='large'", load_spec("lraspp_m-v3-d8")),
        Backbone("type='MobileNetV3', arch='small'", load_spec("lraspp_m-v3s-d8")),
        Backbone(v2, load_spec("fcn_m-v2-d8"), True),
    )


def _index(spec: ArchSpec, tap: Tap, v2: bool) -> int | None:
    """The index of a tapped map among the backbone's outputs; None where it has no such output."""
    if tap.point != "out":
        return None
    layers = {"stem": 0, "tail": len(spec.rows) + 1}
    at = layers[tap.row] if isinstance(tap.row, str) else tap.row + 1
    if not v2:
        return at
    ends = [sum(V2_STAGES[: i + 1]) for i in range(len(V2_STAGES))]  # its outputs are those of whole stages
    return ends.index(at) if at in ends else None


def _heads(spec: ArchSpec) -> list[tuple[str, Dense]]:
    """(path, head) of the head and its auxiliary one."""
    assert isinstance(spec.head, Dense)
    aux = getattr(spec.head, "aux", None)
    return [("head", spec.head), *([("head.aux", aux)] if aux is not None else [])]


def _head_faults(path: str, head: Dense, spec: ArchSpec, v2: bool) -> Iterator[Fault]:
    if isinstance(head, LRASPP):
        if len(head.branches) != 2:
            yield Fault(f"{path}.branches", "mmsegmentation's LR-ASPP has two", str(len(head.branches)))
        if head.pool != POOL:
            yield Fault(f"{path}.pool", f"mmsegmentation's LR-ASPP has {list(POOL)}", str(list(head.pool)))
        if head.gate != "SIGMOID" or head.gate_bias:
            has = f"{head.gate}, gate_bias {str(head.gate_bias).lower()}"
            yield Fault(f"{path}.gate", "mmsegmentation's LR-ASPP has SIGMOID without a bias", has)
    elif isinstance(head, DeepLabV3) and head.form != "mmseg":
        yield Fault(f"{path}.form", "mmsegmentation has its own form", head.form)
    elif not isinstance(head, (FCN, PSP, DeepLabV3, DeepLabV3Plus)):
        yield Fault(path, "mmsegmentation has no such head on a MobileNet", type(head).__name__.lower())
    for name, tap in taps_of(head):
        if _index(spec, tap, v2) is None:
            rule = "mmsegmentation's MobileNetV2 gives the outputs of whole stages" if v2 else "rows give their output"
            yield Fault(f"{path}.{name}", rule, f"row {tap.row}, {tap.point}")
    if isinstance(head, DeepLabV3Plus):
        low, first = _index(spec, head.low[0], v2), _outs(spec, v2)[0]
        if low is not None and low != first:
            rule = f"mmsegmentation's DeepLabV3+ takes its finer map from the backbone's first output, {first} here"
            yield Fault(f"{path}.low[0]", rule, f"output {low}")


def _faults(spec: ArchSpec) -> Iterator[Fault]:
    if not isinstance(spec.head, Dense):
        yield Fault("head", "mmsegmentation takes segmentation heads; a classifier goes to mmpretrain", "classify")
        return
    backbone, faults = nearest(spec, _backbones(), "mmsegmentation")
    yield from faults
    if not faults:
        for path, head in _heads(spec):
            yield from _head_faults(path, head, spec, backbone.v2)


# ---- the files -----------------------------------------------------------------------------------------------


def _fields(spec: ArchSpec, head: Dense, outs: list[int], v2: bool, weight: float) -> Iterator[str]:
    """The fields of a decode or auxiliary head."""
    taps = [tap for _, tap in taps_of(head)]
    high = taps[0]

    def at(tap: Tap) -> int:
        return outs.index(_index(spec, tap, v2) or 0)

    assert isinstance(head, (LRASPP, FCN, PSP, DeepLabV3, DeepLabV3Plus))
    if isinstance(head, LRASPP):
        taps = [*taps[1:], high]  # from fine to coarse
        yield "type='LRASPPHead'"
        yield f"in_channels={tuple(width_at(spec, tap) for tap in taps)}"
        yield f"in_index={tuple(at(tap) for tap in taps)}"
        yield f"branch_channels={head.branches}"
        yield "input_transform='multiple_select'"
        yield "act_cfg=dict(type='ReLU')"
    else:
        yield f"type='{'DepthwiseSeparableASPPHead' if isinstance(head, DeepLabV3Plus) else _TYPE[type(head)]}'"
        yield f"in_channels={width_at(spec, high)}"
        yield f"in_index={at(high)}"
    if isinstance(head, FCN):
        yield f"num_convs={head.convs}"
        yield f"concat_input={head.concat}"
    elif isinstance(head, PSP):
        yield f"pool_scales={head.scales}"
    elif isinstance(head, (DeepLabV3, DeepLabV3Plus)):
        yield f"dilations={head.rates}"
    if isinstance(head, DeepLabV3Plus):
        yield f"c1_in_channels={width_at(spec, head.low[0])}"
        yield f"c1_channels={head.low_filters}"
    yield f"channels={head.filters}"
    yield f"num_classes={head.classes}"
    yield f"dropout_ratio={head.dropout}"
    yield f"align_corners={head.align_corners}"
    yield f"norm_cfg=dict(type='BN', eps={head.bn_eps}, momentum={head.bn_momentum})"
    yield f"loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight={weight})"


_TYPE: dict[type[Dense], str] = {FCN: "FCNHead", PSP: "PSPHead", DeepLabV3: "ASPPHead"}


# Conv2dAdaptivePadding has no weights of its own: names and shapes stay
_PADDING = """
for block in list(net.backbone.modules()):
    conv = getattr(block, "conv", None)
    if isinstance(conv, Conv2dAdaptivePadding):  # pads as TensorFlow does, at the far side; these weights need both
        pad = [d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size)]
        block.conv = nn.Conv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, pad, conv.dilation, conv.groups,
            bias=conv.bias is not None,
        )
"""


def _outs(spec: ArchSpec, v2: bool) -> list[int]:
    """The backbone's outputs: those that the heads take, and the four that published configs of MobileNetV2 name."""
    found = {_index(spec, tap, v2) or 0 for _, head in _heads(spec) for _, tap in taps_of(head)}
    return sorted(found | ({1, 2, 4, 6} if v2 and min(found) >= 1 else set()))


def _source(spec: ArchSpec) -> Source:
    backbone, _ = nearest(spec, _backbones(), "mmsegmentation")
    outs = _outs(spec, backbone.v2)

    def listed(key: str, head: Dense, weight: float) -> str:
        fields = "".join(f"        {field},\n" for field in _fields(spec, head, outs, backbone.v2, weight))
        return f"    {key}=dict(\n{fields}    ),\n"

    (_, main), *more = _heads(spec)
    heads = listed("decode_head", main, 1.0) + "".join(listed("auxiliary_head", aux, 0.4) for _, aux in more)
    config = f"""# {spec.name} for mmsegmentation. Written by mbv3-search.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean={of_bytes(spec.mean)},
        std={of_bytes(spec.std)},
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size={spec.resolution},
    ),
    backbone=dict(
        {backbone.cfg},
        out_indices={tuple(outs)},
        norm_cfg=dict(type='BN', eps={spec.bn_eps}, momentum={spec.bn_momentum}),
    ),
{heads}    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
"""
    imports = ["from mmseg.apis import init_model", "from safetensors.torch import load_file"]
    build = f'net = init_model(str(Path(__file__).with_name("{STEM}_config.py")), device="cpu")'
    if not backbone.v2:
        imports = ["from mmcv.cnn.bricks import Conv2dAdaptivePadding", *imports, "from torch import nn"]
        build += _PADDING
    text = "\n".join(["from pathlib import Path", "", *imports, ""])
    return {f"{STEM}_config.py": config, f"{STEM}.py": intro(spec, "mmsegmentation") + text + loader(build)}


def _names(spec: ArchSpec) -> Names:
    v2 = nearest(spec, _backbones(), "mmsegmentation")[0].v2
    modules = [*mm_backbone(spec, v2)]
    for prefix, (_, head) in zip(("head", "aux"), _heads(spec), strict=False):
        modules += mmseg_head(prefix, head)
    return Names(tuple(modules))


def _notes(spec: ArchSpec) -> tuple[str, ...]:
    notes = []
    if any(getattr(head, "dropout", 0.0) for _, head in _heads(spec)):
        notes.append(
            "mmsegmentation's dropout is of whole channels, ours of single values: it matters in training only"
        )
    if not nearest(spec, _backbones(), "mmsegmentation")[0].v2:
        notes.append(
            "mmsegmentation's MobileNetV3 pads strided convolutions as TensorFlow does, ours on both sides: build() "
            "puts ours in; the config by itself gives its outputs only where height and width are 8 n + 1 (513x1025)"
        )
    return tuple(notes)


MMSEG = Target("mmseg", _faults, _names, _source, _notes)
