"""The contract of every kind of row, and what MobileNetV4's two are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3.errors import BadInput, DocumentError
from mbv3.spec import (
    ROWS,
    UIB,
    ArchSpec,
    Classify,
    Conv,
    Fused,
    LayerKey,
    Row,
    Tap,
    dump_spec,
    lower,
    lower_key,
    parse_key,
    parse_spec,
    scale_spec,
    with_head,
)

from .strategies import rows, specs


def of(row: Row, *more: Row, cin: int = 16, head: Classify | None = None) -> ArchSpec:
    return ArchSpec(
        name="one", resolution=(64, 64), stem=Conv(k=3, out=cin, s=2), rows=(row, *more), tail=None,
        head=head or Classify(classes=3),
    )  # fmt: skip


def convs(row: Row, cin: int = 16) -> list[tuple[str, int, int, int, int, bool]]:
    """(name, out, kernel, stride, groups, activated) of a row's convolutions."""
    ops = lower_key(LayerKey(row, cin, 28, 28)).ops
    activated = {op.inputs[0] for op in ops if op.kind == "act"}
    return [
        (op.name.removeprefix("layer.").removesuffix(".conv"), op.cout, op.k, op.s, op.groups, op.output in activated)
        for op in ops
        if op.kind == "conv"
    ]


# ---- every kind --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(data=st.data(), cin=st.integers(1, 40), new=st.integers(1, 40), out=st.integers(1, 40))
def test_a_cut_row_is_sound_and_has_the_channels_asked_for(data: Any, cin: int, new: int, out: int) -> None:
    row = data.draw(rows(cin))
    new, out = min(cin, new), min(row.out, out)
    if row.skip != "none":
        out = new
    smaller = row.cut(cin, new, out)
    if smaller is not None:
        assert (smaller.out, type(smaller), smaller.frame()) == (out, type(row), row.frame())
        assert smaller.expands(new) == row.expands(cin)
        assert [f for f in smaller.faults("row", new) if not f.path.endswith(".se")] == []
    if row.expands(cin) and row.inner(cin) > 1:
        inner = row.cut_inner(cin, row.inner(cin) - 1)
        assert inner is None or (inner.inner(cin), inner.frame()) == (row.inner(cin) - 1, row.frame())


@settings(deadline=None)
@given(data=st.data(), cin=st.integers(1, 40))
def test_taps_are_tensors_of_the_lowering(data: Any, cin: int) -> None:
    row = data.draw(rows(cin))
    layer = lower_key(LayerKey(row, cin, 64, 64))
    for point in row.points(cin):
        named = [op for op in layer.ops if op.name.startswith(f"layer.{point}.")] if point != "out" else layer.ops
        assert named[-1].hout == -(-64 // row.stride_at(point))
        if point != "out":
            assert named[-1].cout == row.inner(cin)


@given(spec=specs())
def test_scaling_keeps_kinds_and_rules(spec: ArchSpec) -> None:
    try:
        smaller = scale_spec(spec, 0.5, exp_rule="rounded-ratio", tail_rule="tensorflow")
    except DocumentError:
        return  # a squeeze that no longer fits
    assert [type(r) for r in smaller.rows] == [type(r) for r in spec.rows]


def test_the_word_of_a_kind_is_its_name_in_yaml_and_keys() -> None:
    assert list(ROWS) == ["mbconv", "dsconv", "conv", "uib", "fused"]
    assert all(kind.word() == word for word, kind in ROWS.items())


# ---- MobileNetV4 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "k", "expected"),
    [
        (5, 3, [("start", 16, 5, 1, 16, False), ("expand", 64, 1, 1, 1, True), ("depthwise", 64, 3, 2, 64, True)]),
        (0, 3, [("expand", 64, 1, 1, 1, True), ("depthwise", 64, 3, 2, 64, True)]),
        (3, 0, [("start", 16, 3, 2, 16, False), ("expand", 64, 1, 1, 1, True)]),
    ],
    ids=["ExtraDW", "IB", "ConvNext"],
)
def test_where_kernels_strides_and_activations_of_a_uib_are(a: int, k: int, expected: Any) -> None:
    assert convs(UIB(a=a, k=k, exp=64, out=24, s=2)) == [*expected, ("project", 24, 1, 1, 1, False)]


def test_an_ffn_has_no_kernel_and_no_stride() -> None:
    assert convs(UIB(k=0, exp=64, out=24)) == [("expand", 64, 1, 1, 1, True), ("project", 24, 1, 1, 1, False)]
    with pytest.raises(
        DocumentError, match=r"rows\[0\].s: a row without a depthwise convolution cannot stride .*got 2"
    ):
        of(UIB(k=0, exp=64, out=24, s=2))


def test_a_fused_row_is_a_full_convolution_and_a_linear_one() -> None:
    assert convs(Fused(k=3, exp=64, out=24, s=2)) == [("expand", 64, 3, 2, 1, True), ("project", 24, 1, 1, 1, False)]


def test_an_expansion_to_as_many_channels_stays_a_convolution() -> None:
    for row in (UIB(k=3, exp=16, out=24), Fused(k=3, exp=16, out=24)):
        assert row.expands(16) and convs(row)[0][:2] == ("expand", 16)
        assert row.cut_inner(24, 24) == replace(row, exp=24)


def test_kernels_are_odd_or_absent_where_they_may_be() -> None:
    with pytest.raises(DocumentError, match=r"rows\[0\].a: must be odd .got 4"):
        of(UIB(a=4, k=0, exp=64, out=24))
    with pytest.raises(DocumentError, match=r"rows\[0\].k: must be a whole number from 1 to 31 .got 0"):
        of(Fused(k=0, exp=64, out=24))


def test_texts_of_both_and_of_the_head() -> None:
    head = Classify(features=32, features_bn=True, nl="RE", classes=3)
    spec = of(UIB(a=3, k=0, exp=64, out=16, skip="identity"), Fused(k=3, exp=32, out=24, s=2), head=head)
    text = dump_spec(spec)
    assert "{op: uib, k: 0, a: 3, exp: 64, out: 16, se: 0, nl: RE, s: 1, skip: identity}" in text
    assert "{op: fused, k: 3, exp: 32, out: 24, se: 0, nl: RE, s: 2, skip: none}" in text
    assert "{type: classify, features: 32, features_bn: true, nl: RE, dropout: 0.2, classes: 3}" in text
    assert parse_spec(text) == spec
    keys = [str(layer.key) for layer in lower(spec)]
    assert keys[1] == "uib_h32w32_i16_k0_s1_d1_a3_e64_o16_q0_gNONE_nRE_ridentity"
    assert keys[3] == "classify_h16w16_i24_f32_b1_nRE_c3"
    assert [parse_key(k) for k in keys] == [layer.key for layer in lower(spec)]
    with pytest.raises(BadInput, match="not a layer key"):
        parse_key("classify_h16w16_i24_f32_b2_nRE_c3")


def test_features_with_a_batch_norm_have_no_bias() -> None:
    params = {
        bn: lower(of(Conv(k=1, out=8), head=Classify(features=32, features_bn=bn)))[-1].params for bn in (False, True)
    }
    assert params[True] - params[False] == 32  # a scale and a shift for a bias
    with pytest.raises(DocumentError, match=r"head.features_bn: there are no features to normalise"):
        of(Conv(k=1, out=8), head=Classify(features_bn=True))


def test_a_detector_taps_before_the_stride() -> None:
    """A fused row's expansion has strided already: the map before it is the one at stride 16."""
    rows_ = (UIB(k=3, exp=32, out=16, s=2), UIB(k=3, exp=32, out=16, s=2), UIB(k=3, exp=32, out=16, s=2))
    deep = with_head(of(*rows_, Fused(k=3, exp=32, out=16, s=2)), "ssdlite", 3)
    assert deep.head.maps[0] == Tap(2)  # type: ignore[union-attr]
    deep = with_head(of(*rows_, UIB(a=3, k=3, exp=32, out=16, s=2)), "ssdlite", 3)
    assert deep.head.maps[0] == Tap(3, "expand")  # type: ignore[union-attr]
