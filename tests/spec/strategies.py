"""Hypothesis strategies for whole networks; everything an ArchSpec allows can come up."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mbv3.spec import GATES, NLS, ArchSpec, Classify, Conv, DSConv, MBConv, Row

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
    kind = draw(st.sampled_from([Conv, DSConv, MBConv]))
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
    }
    return MBConv(exp=exp, **common) if kind is MBConv else kind(**common)


convs = st.builds(Conv, k=st.sampled_from([1, 3]), out=channels, nl=st.sampled_from(NLS), s=st.integers(1, 2))
heads = st.builds(
    Classify,
    features=st.one_of(st.just(0), channels),
    nl=st.sampled_from(NLS),
    dropout=st.floats(0, 0.999),
    classes=st.integers(1, 10**6),
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
