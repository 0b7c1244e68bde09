"""Which module of torchvision's segmentation and detection systems is which of ours."""

from __future__ import annotations

from collections.abc import Iterator

from mbv3.errors import BadInput
from mbv3.spec import FCN, LRASPP, ArchSpec, DeepLabV3, SSDLite

__all__ = ["torchvision_head", "torchvision_place"]


def _unit(ours: str, theirs: str, first: int = 0) -> Iterator[tuple[str, str]]:
    """A convolution and its batch norm, one after the other in a sequence."""
    yield f"{ours}.conv", f"{theirs}.{first}"
    yield f"{ours}.bn", f"{theirs}.{first + 1}"


def torchvision_head(spec: ArchSpec) -> Iterator[tuple[str, str]]:
    """(ours, theirs) of every convolution and batch norm of the head, the auxiliary one included.

    Raises:
        BadInput: torchvision has no such head.
    """
    head = spec.head
    if isinstance(head, LRASPP) and not head.branches:
        yield from _unit("head.main", "classifier.cbr")
        yield "head.gate", "classifier.scale.1"
        yield "head.high", "classifier.high_classifier"
        yield "head.low", "classifier.low_classifier"
    elif isinstance(head, DeepLabV3) and head.form == "torchvision":
        for i in range(len(head.rates)):
            yield from _unit(f"head.rates.{i}", f"classifier.0.convs.{i}")
        yield from _unit("head.pool", f"classifier.0.convs.{len(head.rates)}", 1)
        yield from _unit("head.project", "classifier.0.project")
        yield from _unit("head.refine", "classifier", 1)
        yield "head.classifier", "classifier.4"
        if isinstance(head.aux, FCN):
            yield from _unit("aux.convs.0", "aux_classifier")
            yield "aux.classifier", "aux_classifier.4"
    elif isinstance(head, SSDLite):
        for i in range(len(head.extras)):
            for j, part in enumerate(("squeeze", "depthwise", "project")):
                yield from _unit(f"head.extras.{i}.{part}", f"backbone.extra.{i}.{j}")
        for ours, theirs in (("classes", "classification_head"), ("boxes", "regression_head")):
            for i in range(len(head.anchors)):
                yield from _unit(f"head.{ours}.{i}.depthwise", f"head.{theirs}.module_list.{i}.0")
                yield f"head.{ours}.{i}.predict", f"head.{theirs}.module_list.{i}.1"
    else:
        raise BadInput(f"head: torchvision has no {type(head).__name__.lower()} of this form")


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
