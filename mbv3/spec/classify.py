"""`classify`: the head that takes what comes last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from mbv3.errors import Fault, shown
from mbv3.spec.document import Reader, scalar_text
from mbv3.spec.ops import Walk
from mbv3.spec.rows import MAX_CHANNELS, NL, NLS
from mbv3.spec.values import real, whole

__all__ = ["Classify"]

_CLASSES = (1, 10**6)
_DROPOUT = (0.0, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify:
    """Global average pool, an optional 1x1 layer of `features`, the classifier.

    The layer has a bias in MobileNetV3, a batch norm in its place in MobileNetV4 (`features_bn`), neither in FBNetV3
    (`features_bias` false).
    """

    features: int = 0  # 0: pool straight into the classifier (MobileNetV2, MnasNet)
    features_bn: bool = False
    features_bias: bool = True  # of a layer without a batch norm
    nl: NL = "HS"
    dropout: float = 0.2
    classes: int = 1000

    def faults(self, path: str) -> Iterator[Fault]:
        """Every broken invariant."""
        yield from whole(f"{path}.classes", self.classes, *_CLASSES)
        yield from whole(f"{path}.features", self.features, 0, MAX_CHANNELS)
        if type(self.features_bn) is not bool:
            yield Fault(f"{path}.features_bn", "must be true or false", shown(self.features_bn))
        elif self.features_bn and self.features == 0:
            yield Fault(f"{path}.features_bn", "there are no features to normalise", "true", "leave it out")
        if type(self.features_bias) is not bool:
            yield Fault(f"{path}.features_bias", "must be true or false", shown(self.features_bias))
        if self.nl not in NLS:
            yield Fault(f"{path}.nl", f"must be one of {', '.join(NLS)}", shown(self.nl))
        yield from real(f"{path}.dropout", self.dropout, *_DROPOUT)

    def walk(self, x: Walk) -> None:
        """Write the ops from the last map, where `x` is."""
        x.average("pool")
        if self.features_bn:
            x.unit("features", self.features, self.nl)
        elif self.features:
            x.conv("features", self.features, bn=False, bias=self.features_bias)
            x.act("features", self.nl)
        x.conv("classifier", self.classes, bn=False)

    def frame(self) -> tuple[object, ...]:
        """What may not differ between a network and one cut out of it."""
        return (self.features > 0, self.features_bn, self.features_bias, self.nl, self.classes)

    def plain(self) -> Classify:
        """With what does not reach the graph set to one value."""
        bias = self.features_bias or not self.features or self.features_bn
        return replace(self, dropout=0.0, nl=self.nl if self.features else "NONE", features_bias=bias)

    def parts(self) -> tuple[str, ...]:
        """What a layer key says of it, each with a letter."""
        bn = ("b1",) if self.features_bn else () if self.features_bias else ("b0",)
        return (f"f{self.features}", *bn, f"n{self.nl}", f"c{self.classes}")

    @classmethod
    def of_parts(cls, f: Mapping[str, str]) -> Classify:
        """The inverse of `parts`, from letter to text. Raises: KeyError, ValueError."""
        bn = {"1": {"features_bn": True}, "0": {"features_bias": False}, "": {}}[f.get("b", "")]
        return cls(features=int(f["f"]), nl=cast(NL, f["n"]), classes=int(f["c"]), **bn)

    @classmethod
    def read(cls, r: Reader) -> Classify:
        """The head of a mapping, its type aside; faults go to the reader."""
        return cls(
            features=r.integer("features", 0, MAX_CHANNELS, 0),
            features_bn=r.flag("features_bn", False),
            features_bias=r.flag("features_bias", True),
            nl=cast(NL, r.word("nl", NLS, "HS")),
            dropout=r.number("dropout", *_DROPOUT, 0.2),
            classes=r.integer("classes", *_CLASSES),
        )

    def pairs(self) -> Iterator[tuple[str, Any]]:
        """(name, text) of what YAML says."""
        yield "type", "classify"
        yield "features", self.features
        if self.features_bn:
            yield "features_bn", "true"
        if not self.features_bias:
            yield "features_bias", "false"
        yield "nl", self.nl
        yield "dropout", scalar_text(self.dropout)
        yield "classes", self.classes
