"""Widths and resolutions: the channel rule by hand, each family's rule, no width that breaks a network."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3.errors import BadInput, DocumentError
from mbv3.spec import ArchSpec, Expanding, MBConv, load_spec, make_divisible, scale_spec
from mbv3.spec.scaling import WidthRule

from .strategies import specs


@pytest.mark.parametrize(
    ("v", "rounded"),
    [
        (1, 8),
        (8.8, 8),
        (9, 16),
        (11, 16),
        (16, 16),
        (18, 24),
        (19.9, 24),
        (20, 24),
        (36, 40),
        (84, 88),
        (90, 88),
    ],
)
def test_make_divisible(v: float, rounded: int) -> None:
    assert make_divisible(v) == rounded


@given(st.floats(1, 1e6))
def test_make_divisible_never_loses_a_tenth(v: float) -> None:
    new = make_divisible(v)
    assert new % 8 == 0 and new >= 8
    assert 0.9 * v <= new <= max(8, v + 8)


def test_scale_one_changes_nothing() -> None:
    spec = load_spec("mobilenet_v3_large")
    assert scale_spec(spec) == spec
    assert scale_spec(spec, resolution=(512, 1024)) == replace(spec, resolution=(512, 1024))


def test_table_rule_scales_the_tabulated_expansion() -> None:
    spec = load_spec("mobilenet_v3_large@0.75")  # torchvision: 960 -> 720, tail 6 x 120, head 1280 -> 960
    assert spec.name == "mobilenet_v3_large@0.75"
    assert spec.rows[14] == MBConv(k=5, exp=720, out=120, se=184, nl="HS", skip="identity")
    assert (spec.stem.out, spec.tail and spec.tail.out, spec.head.features) == (16, 720, 960)


def test_ratio_rule_keeps_the_expansion_ratio() -> None:
    spec = load_spec("mobilenet_v2@0.35")
    ratios = [row.exp / cin for path, row, cin in spec.convs() if isinstance(row, MBConv)]
    assert ratios == [1.0] + [6.0] * 16


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("mobilenet_v2@0.5", 1280),
        ("mobilenet_v2@1.4", 1792),
        ("mnasnet_b1@0.5", 1280),
        ("mnasnet_b1@1.4", 1280),
    ],
)
def test_mobilenet_v2_only_grows_its_last_layer_and_mnasnet_keeps_it(name: str, tail: int) -> None:
    spec = load_spec(name)
    assert spec.tail is not None and spec.tail.out == tail


@pytest.mark.parametrize("exp_rule", ["ratio", "table"])
def test_mnasnet_squeezes_a_quarter_of_the_blocks_input(exp_rule: WidthRule) -> None:
    spec = scale_spec(load_spec("mnasnet_a1"), 0.35, exp_rule=exp_rule)
    squeezed = [(row.se, cin // 4) for _, row, cin in spec.convs() if row.se]
    assert len(squeezed) == 8
    assert all(se == quarter for se, quarter in squeezed)


@pytest.mark.parametrize("width", [0.35, 0.75, 1.25])
def test_mobilenet_v3_squeezes_a_quarter_of_the_expansion(width: float) -> None:
    rows = load_spec(f"mobilenet_v3_small@{width}").rows
    assert [row.se for row in rows if isinstance(row, MBConv) and row.se] == [
        make_divisible(row.exp / 4) for row in rows if isinstance(row, MBConv) and row.se
    ]


@settings(max_examples=150, deadline=None)
@given(
    specs(),
    st.floats(0.05, 8),
    st.sampled_from(["table", "ratio"]),
    st.sampled_from(["ratio", "fixed", "fixed-below-1"]),
)
def test_any_width_gives_a_network_or_says_that_it_is_too_wide(
    spec: ArchSpec, width: float, exp_rule: str, tail_rule: str
) -> None:
    try:
        new = scale_spec(spec, width, exp_rule=exp_rule, tail_rule=tail_rule)  # type: ignore[arg-type]
    except DocumentError as e:
        assert {f.rule for f in e.faults} <= {f"must be a whole number from {low} to 16384" for low in (0, 1)}
        assert any(int(f.value) > 16384 for f in e.faults)
        return
    assert [(type(r), r.k, r.s, r.nl, bool(r.se)) for r in new.rows] == [
        (type(r), r.k, r.s, r.nl, bool(r.se)) for r in spec.rows
    ]
    outs = zip([spec.stem, *spec.rows], spec.rows, [new.stem, *new.rows], new.rows, strict=False)
    for before, row, new_before, new_row in outs:
        meets = row.s == 1 and before.out != row.out and new_before.out == new_row.out
        joins = isinstance(row, Expanding) and row.skip == "none" and meets  # two widths rounded to one
        assert new_row.skip == ("identity" if joins else row.skip)


@pytest.mark.parametrize(("exp", "se", "scaled"), [(1, 0, (1, 0)), (31, 8, (4, 4)), (64, 16, (8, 8))])
def test_a_narrow_row_keeps_one_channel_and_never_squeezes_to_more_than_it_has(
    exp: int, se: int, scaled: tuple[int, int]
) -> None:
    spec = load_spec("mobilenet_v2")
    spec = replace(spec, stem=replace(spec.stem, out=64), rows=(MBConv(k=3, exp=exp, out=8, se=se),))
    (row,) = scale_spec(spec, 0.05, exp_rule="ratio").rows
    assert isinstance(row, MBConv) and (row.exp, row.se) == scaled


@pytest.mark.parametrize("width", [0, -1, 0.04, 8.01, float("nan"), float("inf")])
def test_a_bad_width_is_refused(width: float) -> None:
    with pytest.raises(BadInput, match=r"^width: must be a number from 0.05 to 8 \(got "):
        scale_spec(load_spec("mobilenet_v2"), width)


def test_a_bad_resolution_is_refused() -> None:
    with pytest.raises(DocumentError, match=r"input.resolution: must be a whole number from 1 to 8192 \(got 0\)"):
        scale_spec(load_spec("mobilenet_v2"), resolution=(0, 224))


def test_channels_that_become_equal_make_a_residual() -> None:
    """MobileNetV3-Small at 0.35: the row from 40 to 48 channels becomes 16 to 16, where torchvision adds the input."""
    spec = load_spec("mobilenet_v3_small")
    small = load_spec("mobilenet_v3_small@0.35")
    joined = [i for i, (a, b) in enumerate(zip(spec.rows, small.rows, strict=True)) if a.skip != b.skip]
    assert joined == [6] and small.rows[6].skip == "identity" and small.rows[5].out == small.rows[6].out == 16
