"""torchvision's segmentation and detection systems around the features of its MobileNets.

Source of what they can express: torchvision 0.28, models/segmentation/{lraspp,deeplabv3,fcn}.py and
models/detection/ssdlite.py. Their heads have batch norms of torch's own settings.
"""

from __future__ import annotations

from collections.abc import Iterator

from mbv3.errors import Fault
from mbv3.export.target import residual, width_at
from mbv3.spec import FCN, LRASPP, ArchSpec, DeepLabV3, Dense, MBConv, SSDLite, Tap, taps_of

__all__ = ["head_faults", "head_imports", "head_lines"]

_BN = (1e-5, 0.1)  # eps and momentum of nn.BatchNorm2d
_EXTRAS = (512, 256, 256, 128)


def _index(spec: ArchSpec, tap: Tap) -> int:
    """The number of a tapped row among the class's features."""
    layers = {"stem": 0, "tail": len(spec.rows) + 1}
    return layers[tap.row] if isinstance(tap.row, str) else tap.row + 1


def _must(path: str, got: object, expected: object) -> Iterator[Fault]:
    if got != expected:
        yield Fault(path, f"torchvision has {expected} here", str(got))


def _segment_faults(path: str, head: Dense, spec: ArchSpec) -> Iterator[Fault]:
    if isinstance(head, LRASPP):
        yield from _must(f"{path}.branches", head.branches, ())
        yield from _must(f"{path}.pool", head.pool, ())
        yield from _must(f"{path}.gate", head.gate, "SIGMOID")
        yield from _must(f"{path}.gate_bias", head.gate_bias, False)
    elif isinstance(head, DeepLabV3):
        yield from _must(f"{path}.form", head.form, "torchvision")
        yield from _must(f"{path}.filters", head.filters, 256)
        yield from _must(f"{path}.rates[0]", head.rates[0], 1)
    elif isinstance(head, FCN):  # the auxiliary one
        yield from _must(f"{path}.convs", head.convs, 1)
        yield from _must(f"{path}.concat", head.concat, False)
        yield from _must(f"{path}.filters", head.filters, width_at(spec, head.high) // 4)
    assert isinstance(head, (LRASPP, DeepLabV3, FCN))
    yield from _must(f"{path}.align_corners", head.align_corners, False)
    yield from _must(f"{path}.bn", (head.bn_eps, head.bn_momentum), _BN)
    for name, tap in taps_of(head):
        yield from _must(f"{path}.{name}", tap.point, "out")


def _ssdlite_faults(head: SSDLite, spec: ArchSpec, v2: bool) -> Iterator[Fault]:
    if v2:
        yield Fault("head", "torchvision's SSDLite stands on its MobileNetV3", "RE6 rows")
    yield from _must("head.extras", head.extras, _EXTRAS)
    yield from _must("head.anchors", head.anchors, (6,) * 6)
    yield from _must("head.nl", head.nl, "RE6")
    wanted = f"an expansion and the tail (got {', '.join(f'{t.row} {t.point}' for t in head.maps)})"
    first = head.maps[0]
    if head.maps != (Tap(first.row, "expand"), Tap("tail")) or not isinstance(first.row, int):
        yield Fault("head.maps", f"torchvision's SSDLite takes {wanted}")
        return
    row, cin = spec.rows[first.row], width_at(spec, Tap(first.row - 1 if first.row else "stem"))
    if isinstance(row, MBConv) and residual(row, cin):
        yield Fault("head.maps", "torchvision taps the expansion of a row without a sum", f"row {first.row}")


def head_faults(spec: ArchSpec, v2: bool) -> Iterator[Fault]:
    """Everything in a head that torchvision's systems do not have."""
    head = spec.head
    if isinstance(head, SSDLite):
        yield from _ssdlite_faults(head, spec, v2)
        return
    if not isinstance(head, (LRASPP, DeepLabV3)):
        yield Fault("head", "torchvision has no such head", type(head).__name__.lower())
        return
    heads: list[tuple[str, Dense]] = [("head", head)]
    if isinstance(head, DeepLabV3) and head.aux is not None:
        heads.append(("head.aux", head.aux))
    for path, each in heads:
        yield from _segment_faults(path, each, spec)
    places = [_index(spec, tap) for _, each in heads for _, tap in taps_of(each)]
    if len(set(places)) < len(places):
        yield Fault("head", "torchvision takes each tensor of the backbone once", f"features {places}")


# ---- lines ---------------------------------------------------------------------------------------------------


def head_imports(head: Dense) -> list[str]:
    """Import lines of the system's classes."""
    if isinstance(head, LRASPP):
        return [
            "from torchvision.models._utils import IntermediateLayerGetter",
            "from torchvision.models.segmentation.lraspp import LRASPP",
        ]
    if isinstance(head, DeepLabV3):
        return [
            "from torchvision.models._utils import IntermediateLayerGetter",
            "from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3",
            *(["from torchvision.models.segmentation.fcn import FCNHead"] if head.aux is not None else []),
        ]
    return [
        "from torchvision.models.detection.anchor_utils import DefaultBoxGenerator",
        "from torchvision.models.detection.ssd import SSD",
        "from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead",
    ]


def head_lines(spec: ArchSpec) -> list[str]:
    """Lines that put the system around `net`, whose features are the backbone."""
    head = spec.head
    if isinstance(head, LRASPP):
        [low] = head.low  # high is the last row or tail: a deeper one would be computed for nothing
        return [
            f'taps = {{"{_index(spec, low)}": "low", "{_index(spec, head.high)}": "high"}}',
            "backbone = IntermediateLayerGetter(net.features, taps)",
            f"net = LRASPP(backbone, {width_at(spec, low)}, {spec.features}, {head.classes}, {head.filters})",
        ]
    if isinstance(head, DeepLabV3):
        taps, aux = {_index(spec, head.high): "out"}, "None"
        if head.aux is not None:
            taps[_index(spec, head.aux.high)] = "aux"
            aux = f"FCNHead({width_at(spec, head.aux.high)}, {head.aux.classes})"
        listed = ", ".join(f'"{i}": "{name}"' for i, name in sorted(taps.items()))
        return [
            f"backbone = IntermediateLayerGetter(net.features, {{{listed}}})",
            f"head = DeepLabHead({width_at(spec, head.high)}, {head.classes}, {head.rates[1:]})",
            f"net = DeepLabV3(backbone, head, {aux})",
        ]
    assert isinstance(head, SSDLite)
    c4 = head.maps[0].row
    row = spec.rows[c4] if isinstance(c4, int) else None
    assert isinstance(row, MBConv) and isinstance(c4, int)
    widths = [row.exp, spec.features, *head.extras]
    h, w = spec.resolution
    return [
        f"norm = partial(nn.BatchNorm2d, eps={head.bn_eps}, momentum={head.bn_momentum})",
        f"backbone = SSDLiteFeatureExtractorMobileNet(net.features, {c4 + 1}, norm)",
        "boxes = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)",
        f"head = SSDLiteHead({widths}, boxes.num_anchors_per_location(), {head.classes}, norm)",
        "net = SSD(",
        f"    backbone, boxes, ({w}, {h}), {head.classes}, head=head, score_thresh=0.001, nms_thresh=0.55,",
        "    detections_per_img=300, topk_candidates=300, image_mean=[0.5] * 3, image_std=[0.5] * 3,",
        ")",
    ]
