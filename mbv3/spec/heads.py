"""What stands on a backbone, as values: classifiers, segmentation heads, SSDLite.

A head takes named tensors of the backbone (`Tap`). `Classify` is in classify.py: it takes what comes last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from mbv3.spec.classify import Classify
from mbv3.spec.rows import GATES, MAX_CHANNELS, NL, NLS, Gate, Point

__all__ = [
    "FCN",
    "FLAGS",
    "FORMS",
    "LISTS",
    "LRASPP",
    "NUMBERS",
    "POINTS",
    "PSP",
    "RASPP",
    "REALS",
    "TAPS",
    "TYPES",
    "WIDTHS",
    "WORDS",
    "DeepLabV3",
    "DeepLabV3Plus",
    "Dense",
    "Head",
    "Point",
    "SSDLite",
    "Tap",
    "Where",
    "aux_of",
    "plain_head",
    "taps_of",
    "widths_of",
    "with_widths",
]

Where = int | Literal["stem", "tail"]
Form = Literal["mmseg", "torchvision"]
POINTS: tuple[str, ...] = get_args(Point)
FORMS: tuple[str, ...] = get_args(Form)


@dataclass(frozen=True, slots=True)
class Tap:
    """A tensor of the backbone: the output of a row, or what its expansion or its depthwise convolution hands on
    (activated, before squeeze-and-excitation)."""

    row: Where
    point: Point = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class FCN:
    """`convs` 3x3 layers, with `concat` one more on their output beside their input, the classifier (Long 2015)."""

    high: Tap
    filters: int
    convs: int = 2
    concat: bool = True
    classes: int
    dropout: float = 0.1
    align_corners: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    aux: FCN | None = None  # trained beside it with its own loss, absent from what is deployed


@dataclass(frozen=True, slots=True, kw_only=True)
class LRASPP:
    """Lite R-ASPP (Howard 2019, section 6.4): a 1x1 layer, gated by a pooled copy of its input, and finer maps.

    Its three published forms differ in pooling (the paper and mmsegmentation average 49x49 windows, torchvision the
    whole map), in the gate, and in how finer maps come in: without `branches` one of them is classified by itself and
    the two results are added; with `branches` (mmsegmentation) each becomes that many channels and is concatenated.
    """

    high: Tap
    low: tuple[Tap, ...]
    filters: int = 128
    branches: tuple[int, ...] = ()
    pool: tuple[int, ...] = ()  # window height and width, stride down and across; () is the whole map
    gate: Gate = "HSIGMOID"
    gate_bias: bool = True
    classes: int
    dropout: float = 0.0
    align_corners: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RASPP:
    """Reduced ASPP (Sandler 2018, section 6.3): a 1x1 layer beside a pooled one, concatenated, 1x1."""

    high: Tap
    filters: int = 256
    classes: int
    dropout: float = 0.0
    align_corners: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PSP:
    """Pyramid pooling to `scales` cells a side (Zhao 2017), a 3x3 layer over all of them."""

    high: Tap
    filters: int = 512
    scales: tuple[int, ...] = (1, 2, 3, 6)
    classes: int
    dropout: float = 0.1
    align_corners: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    aux: FCN | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepLabV3:
    """Atrous spatial pyramid pooling (Chen 2017): a 3x3 layer a rate (1x1 for rate 1) beside a pooled one.

    mmsegmentation's form concatenates the pooled one first and ends in a 3x3 layer; torchvision's puts it last and
    ends in a 1x1 and a 3x3 layer.
    """

    high: Tap
    filters: int
    rates: tuple[int, ...] = (1, 12, 24, 36)
    form: Form = "mmseg"
    classes: int
    dropout: float = 0.1
    align_corners: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    aux: FCN | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepLabV3Plus:
    """DeepLabV3 with depthwise-separable rates and a decoder on a finer map (Chen 2018), as mmsegmentation has it."""

    high: Tap
    low: tuple[Tap, ...]
    filters: int = 512
    low_filters: int = 48
    rates: tuple[int, ...] = (1, 12, 24, 36)
    classes: int
    dropout: float = 0.1
    align_corners: bool = False
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    aux: FCN | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SSDLite:
    """Single-shot detector of depthwise-separable layers (Sandler 2018, section 6.2): class and box maps of
    `maps` and of one further map, half as large, for each of `extras`.

    `anchors`: boxes per place of every map, 3 then 6 in the paper's form, 6 throughout in torchvision's.
    `classes` counts the background.
    """

    maps: tuple[Tap, ...]
    extras: tuple[int, ...] = (512, 256, 256, 128)
    anchors: tuple[int, ...] = (3, 6, 6, 6, 6, 6)
    nl: NL = "RE6"
    classes: int
    bn_eps: float = 1e-3
    bn_momentum: float = 0.03


Dense = LRASPP | RASPP | FCN | PSP | DeepLabV3 | DeepLabV3Plus | SSDLite
Head = Classify | Dense
TYPES: dict[str, type[Dense]] = {t.__name__.lower(): t for t in get_args(Dense)}

# What the fields may hold, by name: lowest and highest.
NUMBERS = {
    "classes": (1, 10**6),
    "filters": (1, MAX_CHANNELS),
    "low_filters": (1, MAX_CHANNELS),
    "convs": (1, 16),
}
REALS = {"dropout": (0.0, 0.999), "bn_eps": (1e-12, 1.0), "bn_momentum": (0.0, 1.0)}
LISTS = {  # and most entries
    "branches": (1, MAX_CHANNELS, 8),
    "pool": (1, 8192, 4),
    "scales": (1, 64, 8),
    "rates": (1, 64, 8),
    "extras": (2, MAX_CHANNELS, 8),
    "anchors": (1, 64, 16),
}
WORDS: dict[str, tuple[str, ...]] = {"gate": GATES, "form": FORMS, "nl": NLS}
FLAGS = ("concat", "gate_bias", "align_corners")
WIDTHS = ("filters", "low_filters", "branches", "extras")  # channels of a head's own; lists of them in the last two
TAPS = ("low", "maps")  # tuples of them; `high` is one


def aux_of(head: Head) -> FCN | None:
    """The auxiliary head inside a head."""
    aux = getattr(head, "aux", None)
    return aux if isinstance(aux, FCN) else None


def taps_of(head: Dense) -> tuple[tuple[str, Tap], ...]:
    """(path inside the head, tap) of what it takes, in the order of its inputs."""
    one = (("high", head.high),) if not isinstance(head, SSDLite) else ()
    many = [(name, getattr(head, name)) for name in TAPS if hasattr(head, name)]
    return (*one, *((f"{name}[{i}]", tap) for name, taps in many for i, tap in enumerate(taps)))


def widths_of(head: Dense) -> dict[tuple[str, int], int]:
    """(field, index) to channels of every width of the head's own; the index of a field of one number is 0."""
    found: dict[tuple[str, int], int] = {}
    for name in (name for name in WIDTHS if hasattr(head, name)):
        value = getattr(head, name)
        found |= {(name, i): n for i, n in enumerate(value if isinstance(value, tuple) else (value,))}
    return found


def with_widths(head: Dense, counts: Mapping[tuple[str, int], int]) -> Dense:
    """`head` with other channels, named as in `widths_of`; widths that are not named stay."""
    every = {**widths_of(head), **counts}
    changed: dict[str, Any] = {}
    for name in {name for name, _ in counts}:
        many = isinstance(getattr(head, name), tuple)
        changed[name] = tuple(n for (of, _), n in every.items() if of == name) if many else every[name, 0]
    return replace(head, **changed)


def plain_head(head: Dense) -> Dense:
    """`head` with what does not reach its graph set to one value: where its inputs come from, dropout, batch norm's
    numbers, what is only trained."""
    same: dict[str, Any] = {}
    for f in fields(head):
        if f.name in REALS:
            same[f.name] = 0.0 if f.name == "dropout" else f.default
        elif f.name in TAPS:
            same[f.name] = (Tap("tail"),) * len(getattr(head, f.name))
        elif f.name == "high":
            same[f.name] = Tap("tail")
        elif f.name == "aux":
            same[f.name] = None
    return replace(head, **same)
