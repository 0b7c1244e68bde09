"""mmpretrain: a config for its MobileNetV3 or MobileNetV2, whose rows are fixed.

Source: mmpretrain 1.2 (mmcls 0.25 has the same rows and module names), models/backbones and models/heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from mbv3.errors import Fault
from mbv3.export.names import Names, classifier, mmpretrain_names
from mbv3.export.target import STEM, Source, Target, intro, loader, of_bytes, row_text, unfit_head
from mbv3.spec import ArchSpec, load_spec

__all__ = ["MMPRETRAIN", "Backbone", "nearest"]

_ACT = {"RE": "ReLU", "RE6": "ReLU6", "HS": "HSwish"}


@dataclass(frozen=True, slots=True)
class Backbone:
    """A backbone that mmpretrain has, and the network that it is."""

    cfg: str
    spec: ArchSpec
    v2: bool = False


@lru_cache(maxsize=1)
def _backbones() -> tuple[Backbone, ...]:
    """MobileNetV3 in its two sizes; MobileNetV2 in every width from 0.1 to 2 in steps of 0.05."""
    v3 = [
        Backbone(f"type='MobileNetV3', arch='{arch}'", load_spec(f"mobilenet_v3_{arch}")) for arch in ("large", "small")
    ]
    v2 = []
    for width in (round(0.05 * n, 2) for n in range(2, 41)):
        spec = load_spec(f"mobilenet_v2@{width:g}")
        assert spec.tail is not None
        spec = replace(spec, tail=replace(spec.tail, out=int(1280 * max(1.0, width))))  # mmpretrain does not round it
        v2.append(Backbone(f"type='MobileNetV2', widen_factor={width}", spec, True))
    return (*v3, *v2)


def _rows(spec: ArchSpec) -> list[tuple[str, str]]:
    """(path, text) of every layer except the head; equal texts are equal layers."""
    rows = [(path, row_text(row, cin)) for path, row, cin in spec.convs()]
    return [*rows, *([] if spec.tail else [("tail", "none")])]


def _differing(spec: ArchSpec, backbone: Backbone, framework: str) -> Iterator[Fault]:
    ours, theirs = dict(_rows(spec)), dict(_rows(backbone.spec))
    for path in [*theirs, *(p for p in ours if p not in theirs)]:
        if ours.get(path) != theirs.get(path):
            rule = f"{framework} has fixed rows; {backbone.cfg} has here {theirs.get(path, 'none')}"
            yield Fault(path, rule, ours.get(path, "none"))
    if any(row.se for row in spec.rows) and spec.gate != "HSIGMOID":
        yield Fault("gate", f"{framework}'s MobileNetV3 has the gate HSIGMOID", spec.gate)
    if spec.in_channels != 3:
        yield Fault("input.channels", f"{framework}'s MobileNets take 3 channels", str(spec.in_channels))


def nearest(spec: ArchSpec, backbones: Iterable[Backbone], framework: str) -> tuple[Backbone, list[Fault]]:
    """The backbone that differs in the fewest rows, and those rows."""
    found = [(backbone, list(_differing(spec, backbone, framework))) for backbone in backbones]
    return min(found, key=lambda pair: len(pair[1]))


def _nearest(spec: ArchSpec) -> tuple[Backbone, list[Fault]]:
    return nearest(spec, _backbones(), "mmpretrain")


def _faults(spec: ArchSpec) -> Iterator[Fault]:
    yield from _nearest(spec)[1]
    yield from unfit_head(spec)


def _source(spec: ArchSpec) -> Source:
    backbone, _ = _nearest(spec)
    head = classifier(spec)
    if head.features:
        act = f"dict(type='{_ACT[head.nl]}')" if head.nl in _ACT else "None"
        fields = [
            "type='StackedLinearClsHead'", f"num_classes={head.classes}", f"in_channels={spec.features}",
            f"mid_channels=[{head.features}]", f"dropout_rate={head.dropout}", f"act_cfg={act}",
        ]  # fmt: skip
    else:
        fields = ["type='LinearClsHead'", f"num_classes={head.classes}", f"in_channels={spec.features}"]
    fields += ["loss=dict(type='CrossEntropyLoss', loss_weight=1.0)", f"topk=({', '.join(_topk(head.classes))},)"]
    listed = "\n".join(f"        {field}," for field in fields)
    config = f"""# {spec.name} for mmpretrain. Written by mbv3-search.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes={head.classes},
        mean={of_bytes(spec.mean)},
        std={of_bytes(spec.std)},
        to_rgb=True,
    ),
    backbone=dict(
        {backbone.cfg},
        norm_cfg=dict(type='BN', eps={spec.bn_eps}, momentum={spec.bn_momentum}),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
{listed}
    ),
)
"""
    imports = """from pathlib import Path

from mmpretrain import get_model
from safetensors.torch import load_file
"""
    build = f'net = get_model(str(Path(__file__).with_name("{STEM}_config.py")))'
    return {f"{STEM}_config.py": config, f"{STEM}.py": intro(spec, "mmpretrain") + imports + loader(build)}


def _topk(classes: int) -> tuple[str, ...]:
    return ("1", "5") if classes >= 5 else ("1",)


def _names(spec: ArchSpec) -> Names:
    return mmpretrain_names(spec, _nearest(spec)[0].v2)


def _notes(spec: ArchSpec) -> tuple[str, ...]:
    head = classifier(spec)
    if head.features or not head.dropout:
        return ()
    return (f"mmpretrain's LinearClsHead has no dropout (the network has {head.dropout}): it matters in training only",)


MMPRETRAIN = Target("mmpretrain", _faults, _names, _source, _notes)
