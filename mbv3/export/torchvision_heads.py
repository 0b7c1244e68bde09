"""torchvision's segmentation and detection systems around the features of its MobileNets.

Source of what they can express: torchvision 0.28, models/segmentation/{lraspp,deeplabv3,fcn}.py and
models/detection/ssdlite.py. Their heads have batch norms of torch's own settings.
"""

from __future__ import annotations

from collections.abc import Iterator

from mbv3.errors import Fault
from mbv3.export.target import residual, width_at
from mbv3.spec import FCN, LRASPP, ArchSpec, DeepLabV3, Dense, SSDLite, Tap, aux_of, lower, taps_of

__all__ = ["head_faults", "head_imports", "head_lines", "head_notes", "torchvision_head", "torchvision_place"]

_BN = (1e-5, 0.1)  # eps and momentum of nn.BatchNorm2d
_EXTRAS = (512, 256, 256, 128)
_DROPOUT: dict[type[Dense], float] = {LRASPP: 0.0, DeepLabV3: 0.5, FCN: 0.1}  # fixed


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
        for i, rate in enumerate(head.rates):
            if i and rate == 1:  # ours is a 1x1 layer, theirs 3x3
                yield Fault(f"{path}.rates[{i}]", "torchvision has one rate of 1, the first", "1")
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
    if residual(row, cin):
        yield Fault("head.maps", "torchvision taps the expansion of a row without a sum", f"row {first.row}")


def _heads(head: Dense) -> list[tuple[str, Dense]]:
    """(path, head) of the head and its auxiliary one."""
    aux = aux_of(head)
    return [("head", head), *([("head.aux", aux)] if aux is not None else [])]


def head_notes(head: Dense) -> Iterator[str]:
    """What differs in a system without a change of its outputs."""
    if isinstance(head, SSDLite):
        yield (
            "build() normalises images by the network's mean and std, ImageNet's where it has none of its own, as mbv3 "
            "train does: for weights that came from torchvision's own detector set image_mean and image_std in the "
            "file to 0.5"
        )
        return
    for path, each in _heads(head):
        theirs, ours = _DROPOUT[type(each)], getattr(each, "dropout", 0.0)
        if theirs != ours:
            yield f"torchvision's {path} has a dropout of {theirs} (here {ours}): it matters in training only"


def head_faults(spec: ArchSpec, v2: bool) -> Iterator[Fault]:
    """Everything in a head that torchvision's systems do not have."""
    head = spec.head
    if isinstance(head, SSDLite):
        yield from _ssdlite_faults(head, spec, v2)
        return
    if not isinstance(head, (LRASPP, DeepLabV3)):
        yield Fault("head", "torchvision has no such head", type(head).__name__.lower())
        return
    for path, each in _heads(head):
        yield from _segment_faults(path, each, spec)
    places = [_index(spec, tap) for _, each in _heads(head) for _, tap in taps_of(each)]
    if len(set(places)) < len(places):
        yield Fault("head", "torchvision takes each tensor of the backbone once", f"features {places}")


# ---- names ----------------------------------------------------------------------------------------------------


def _unit(ours: str, theirs: str, first: int = 0) -> Iterator[tuple[str, str]]:
    """A convolution and its batch norm, one after the other in a sequence."""
    yield f"{ours}.conv", f"{theirs}.{first}"
    yield f"{ours}.bn", f"{theirs}.{first + 1}"


def torchvision_head(spec: ArchSpec) -> Iterator[tuple[str, str]]:
    """(ours, theirs) of every convolution and batch norm of a head without faults, the auxiliary one included."""
    head = spec.head
    if isinstance(head, LRASPP):
        yield from _unit("head.main", "classifier.cbr")
        yield "head.gate", "classifier.scale.1"
        yield "head.high", "classifier.high_classifier"
        yield "head.low", "classifier.low_classifier"
    elif isinstance(head, DeepLabV3):
        for i in range(len(head.rates)):
            yield from _unit(f"head.rates.{i}", f"classifier.0.convs.{i}")
        yield from _unit("head.pool", f"classifier.0.convs.{len(head.rates)}", 1)
        yield from _unit("head.project", "classifier.0.project")
        yield from _unit("head.refine", "classifier", 1)
        yield "head.classifier", "classifier.4"
        if isinstance(head.aux, FCN):
            yield from _unit("aux.convs.0", "aux_classifier")
            yield "aux.classifier", "aux_classifier.4"
    else:
        assert isinstance(head, SSDLite)
        for i in range(len(head.extras)):
            for j, part in enumerate(("squeeze", "depthwise", "project")):
                yield from _unit(f"head.extras.{i}.{part}", f"backbone.extra.{i}.{j}")
        for ours, theirs in (("classes", "classification_head"), ("boxes", "regression_head")):
            for i in range(len(head.anchors)):
                yield from _unit(f"head.{ours}.{i}.depthwise", f"head.{theirs}.module_list.{i}.0")
                yield f"head.{ours}.{i}.predict", f"head.{theirs}.module_list.{i}.1"


def torchvision_place(spec: ArchSpec, module: str) -> str:
    """Where a module of torchvision's classifier, `features.13.block.0.0`, is in the system around it."""
    first, index, *rest = module.split(".")
    assert first == "features"
    i = int(index)
    if not isinstance(spec.head, SSDLite):
        return ".".join(("backbone", index, *rest))
    row = spec.head.maps[0].row
    c4 = row + 1 if isinstance(row, int) else 0  # the block cut in two: its expansion ends the first half
    if i < c4 or (i == c4 and rest[:2] == ["block", "0"]):
        return ".".join(("backbone.features.0", index, *(rest if i < c4 else rest[2:])))
    if i == c4:
        return ".".join(("backbone.features.1.0", *rest[1:]))
    return ".".join(("backbone.features.1", str(i - c4), *rest))


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
        [low] = head.low
        widths = f"{width_at(spec, low)}, {width_at(spec, head.high)}"
        return [
            f'taps = {{"{_index(spec, low)}": "low", "{_index(spec, head.high)}": "high"}}',
            "backbone = IntermediateLayerGetter(net.features, taps)",
            f"net = LRASPP(backbone, {widths}, {head.classes}, {head.filters})",
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
    assert isinstance(c4, int)
    outs = [lower(spec)[-1].key.cin, spec.features, *head.extras]
    h, w = spec.resolution
    return [
        f"norm = partial(nn.BatchNorm2d, eps={head.bn_eps}, momentum={head.bn_momentum})",
        f"backbone = SSDLiteFeatureExtractorMobileNet(net.features, {c4 + 1}, norm)",
        "boxes = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)",
        f"head = SSDLiteHead({outs}, boxes.num_anchors_per_location(), {head.classes}, norm)",
        "net = SSD(",
        f"    backbone, boxes, ({w}, {h}), {head.classes}, head=head, score_thresh=0.001, nms_thresh=0.55,",
        f"    detections_per_img=300, topk_candidates=300, image_mean={list(spec.mean)}, image_std={list(spec.std)},",
        ")",
    ]
