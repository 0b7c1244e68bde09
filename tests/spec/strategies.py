"""Hypothesis strategies for whole networks; everything an ArchSpec allows can come up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mbv3.spec import (
    FCN,
    GATES,
    LRASPP,
    NLS,
    PSP,
    RASPP,
    UIB,
    ArchSpec,
    Classify,
    Conv,
    DeepLabV3,
    DeepLabV3Plus,
    Dense,
    DSConv,
    Fused,
    MBConv,
    Row,
    SSDLite,
    Tap,
)

channels = st.one_of(st.integers(1, 64), st.sampled_from([960, 16384]))
printable = st.characters(exclude_categories=("C", "Z"))
names = st.text(st.one_of(printable, st.just(" ")), min_size=1, max_size=20)
# any text YAML can carry at all: control characters, line ends, quotes, BOM, every plane; no lone surrogates
notes = st.dictionaries(
    st.text(printable, min_size=1, max_size=10),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.sampled_from(["null", "true", "1e5", "0x10", "1:30", "2020-01-01", "<<", "=", "", " ", "*a", "&a", "!t"]),
    ),
    max_size=5,
)


@st.composite
def rows(draw: DrawFn, cin: int) -> Row:
    """One valid row with `cin` input channels."""
    kind = draw(st.sampled_from([Conv, DSConv, MBConv, UIB, Fused]))
    exp = draw(st.one_of(st.just(cin), channels))
    skip = draw(st.sampled_from(["identity", "pool", "none"]))
    common: dict[str, Any] = {
        "k": draw(st.sampled_from([1, 3, 5, 7, 31])),
        "out": draw(channels) if skip == "none" else cin,
        "se": draw(st.one_of(st.just(0), st.integers(1, exp))),
        "nl": draw(st.sampled_from(NLS)),
        "s": 1 if skip == "identity" else draw(st.integers(1, 4)),
        "skip": skip,
        "dilation": draw(st.sampled_from([1, 1, 2, 64])),
        "se_nl": draw(st.sampled_from(["RE", *NLS])),
    }
    if kind is UIB:
        a, k = draw(st.sampled_from([0, 1, 3, 5])), draw(st.sampled_from([0, 3, 5, 31]))
        return UIB(a=a, exp=exp, **{**common, "k": k, "s": common["s"] if a or k else 1})
    if kind is DSConv:
        common["out_nl"] = draw(st.sampled_from(["NONE", *NLS]))
    return kind(exp=exp, **common) if kind in (MBConv, Fused) else kind(**common)


convs = st.builds(Conv, k=st.sampled_from([1, 3]), out=channels, nl=st.sampled_from(NLS), s=st.integers(1, 2))
heads = st.builds(
    Classify,
    features=st.one_of(st.just(0), channels),
    nl=st.sampled_from(NLS),
    dropout=st.floats(0, 0.999),
    classes=st.integers(1, 10**6),
) | st.builds(
    Classify,
    features=channels,
    features_bn=st.booleans(),
    features_bias=st.booleans(),
    nl=st.sampled_from(NLS),
)


@st.composite
def specs(draw: DrawFn) -> ArchSpec:
    """A valid network of 1 to 6 rows."""
    stem = draw(convs)
    body: list[Row] = []
    for _ in range(draw(st.integers(1, 6))):
        body.append(draw(rows(body[-1].out if body else stem.out)))
    return ArchSpec(
        name=draw(names),
        resolution=(draw(st.integers(1, 300)), draw(st.integers(1, 300))),
        in_channels=draw(st.sampled_from([1, 3, 1024])),
        stem=stem,
        rows=tuple(body),
        tail=draw(st.none() | convs),
        head=draw(heads),
        gate=draw(st.sampled_from(GATES)),
        bn_eps=draw(st.floats(1e-12, 1.0)),
        bn_momentum=draw(st.floats(0.0, 1.0)),
        provenance=tuple(draw(notes).items()),
    )


def places(spec: ArchSpec) -> list[Tap]:
    """Every tensor that a head of `spec` may tap, in order."""
    found = []
    for i, (path, row, cin) in enumerate(spec.convs()):
        where: Any = path if path in ("stem", "tail") else i - 1
        if isinstance(row, (UIB, Fused)) or (isinstance(row, MBConv) and row.exp != cin):
            found.append(Tap(where, "expand"))
        if isinstance(row, (DSConv, MBConv)) or (isinstance(row, UIB) and row.k):
            found.append(Tap(where, "depthwise"))
        found.append(Tap(where))
    return found


@st.composite
def heads_on(draw: DrawFn, spec: ArchSpec) -> Dense:
    """A segmentation or detection head that fits `spec`."""
    before = st.sampled_from(places(spec))
    end = places(spec)[-1]
    norm = {"bn_eps": draw(st.floats(1e-12, 1.0)), "bn_momentum": draw(st.floats(0.0, 1.0))}
    classes = draw(st.integers(1, 300))
    kind = draw(st.sampled_from([LRASPP, RASPP, FCN, PSP, DeepLabV3, DeepLabV3Plus, SSDLite]))
    if kind is SSDLite:
        extras = tuple(draw(st.lists(st.integers(2, 64), max_size=3)))
        maps = (draw(before), end)
        anchors = tuple(draw(st.lists(st.integers(1, 6), min_size=2 + len(extras), max_size=2 + len(extras))))
        nl = draw(st.sampled_from(NLS))
        return SSDLite(maps=maps, extras=extras, anchors=anchors, nl=nl, classes=classes + 1, **norm)
    common: dict[str, Any] = {
        "high": end, "filters": draw(channels), "classes": classes, "align_corners": draw(st.booleans()),
        "dropout": draw(st.floats(0, 0.999)), **norm,
    }  # fmt: skip
    if kind is LRASPP:
        branches = tuple(draw(st.lists(channels, max_size=3)))
        low = tuple(draw(st.lists(before, min_size=len(branches) or 1, max_size=len(branches) or 1)))
        pool = draw(st.just(()) | st.tuples(*[st.integers(1, 50)] * 4))
        gate = draw(st.sampled_from(GATES))
        return LRASPP(low=low, branches=branches, pool=pool, gate=gate, gate_bias=draw(st.booleans()), **common)
    if kind is RASPP:
        return RASPP(**common)
    common["aux"] = draw(st.none() | st.builds(FCN, high=before, filters=channels, classes=st.integers(1, 9)))
    if kind is FCN:
        return FCN(convs=draw(st.integers(1, 3)), concat=draw(st.booleans()), **common)
    if kind is PSP:
        return PSP(scales=tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))), **common)
    rates = tuple(draw(st.lists(st.integers(1, 36), min_size=1, max_size=4)))
    if kind is DeepLabV3:
        return DeepLabV3(rates=rates, form=draw(st.sampled_from(["mmseg", "torchvision"])), **common)
    return DeepLabV3Plus(rates=rates, low=(draw(before),), low_filters=draw(channels), **common)


@st.composite
def dense_specs(draw: DrawFn) -> ArchSpec:
    """A valid network with a segmentation or detection head."""
    spec = draw(specs())
    h, w = (max(side, spec.stride) for side in spec.resolution)
    return replace(spec, resolution=(min(h, 8192), min(w, 8192)), head=draw(heads_on(spec)))
