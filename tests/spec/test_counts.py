"""Parameters and multiply-adds: the published figures, and closed formulas by hand for every kind of row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbv3.spec import Classify, Conv, DSConv, LayerKey, MBConv, Row, count, load_spec, lower_key, scale_spec

# facts A7 and D1: torchvision's published parameter counts, and multiply-adds in millions by definition
PUBLISHED = [
    ("mobilenet_v3_large@0.35", 997_064, 35.3),
    ("mobilenet_v3_large@0.5", 1_734_576, 65.0),
    ("mobilenet_v3_large@0.75", 3_377_576, 140.0),
    ("mobilenet_v3_large", 5_483_032, 216.6),
    ("mobilenet_v3_large@1.25", 8_164_744, 343.5),
    ("mobilenet_v3_small@0.35", 558_744, 11.2),
    ("mobilenet_v3_small@0.5", 917_264, 19.0),
    ("mobilenet_v3_small@0.75", 1_653_920, 39.1),
    ("mobilenet_v3_small", 2_542_856, 56.5),
    ("mobilenet_v3_small@1.25", 3_644_912, 88.2),
]


@pytest.mark.parametrize(("name", "params", "madds"), PUBLISHED)
def test_mobilenet_v3_at_every_published_width(name: str, params: int, madds: float) -> None:
    counts = count(load_spec(name))
    assert counts.params == params
    assert round(counts.madds / 1e6, 1) == madds


@pytest.mark.parametrize(
    ("name", "params", "gmadds"),
    [
        ("mobilenet_v2", 3_504_872, 0.301),
        ("mnasnet_b1", 4_383_312, 0.314),
        ("mnasnet_b1@1.3", 6_282_256, 0.526),
    ],
)
def test_torchvisions_published_figures(name: str, params: int, gmadds: float) -> None:
    counts = count(load_spec(name))
    assert counts.params == params
    assert round(counts.madds / 1e9, 3) == gmadds


def test_mnasnet_a1_as_its_paper_prints_it() -> None:
    counts = count(load_spec("mnasnet_a1"))  # Tan 2019: 3.9M parameters, 312M multiply-adds
    assert round(counts.params / 1e6, 1) == 3.9
    assert round(counts.madds / 1e6) == 312


def test_mobilenet_v3_small_with_the_papers_head() -> None:
    spec = load_spec("mobilenet_v3_small")  # Table 2 prints 1280 features, every released network has 1024
    counts = count(replace(spec, head=replace(spec.head, features=1280)))
    assert counts.params == 2_946_568
    assert round(counts.madds / 1e6, 1) == 56.9


@pytest.mark.parametrize(("width", "madds"), [(0.35, 59), (0.5, 97), (0.75, 209), (1.4, 582)])
def test_mobilenet_v2_widths_of_the_slim_readme(width: float, madds: int) -> None:
    assert round(count(load_spec(f"mobilenet_v2@{width}")).madds / 1e6) == madds  # facts A6


@pytest.mark.parametrize(
    ("side", "large", "small"),
    [
        (96, 43.1, 12.1),
        (128, 73.4, 19.8),
        (160, 112.5, 29.8),
        (192, 160.2, 42.1),
        (224, 216.6, 56.5),
        (256, 281.7, 73.2),
    ],
)
def test_resolutions(side: int, large: float, small: float) -> None:
    for name, madds in (("mobilenet_v3_large", large), ("mobilenet_v3_small", small)):
        spec = load_spec(name)
        counts = count(scale_spec(spec, resolution=(side, side)))
        assert round(counts.madds / 1e6, 1) == madds
        assert counts.params == count(spec).params


# A layer on 16 channels of 9 x 14; stride 2 leaves 5 x 7. A batch norm has two parameters a channel.
FORMULAS: list[tuple[str, Row | Classify, int, int]] = [
    ("conv", Conv(k=3, out=24), 126 * 24 * 16 * 9, 24 * 16 * 9 + 48),
    ("conv, stride 2", Conv(k=5, out=24, s=2), 35 * 24 * 16 * 25, 24 * 16 * 25 + 48),
    (
        "conv, SE",
        Conv(k=1, out=24, se=6),
        126 * 24 * 16 + 2 * 24 * 6,
        24 * 16 + 48 + (24 * 6 + 6) + (6 * 24 + 24),
    ),
    ("dsconv", DSConv(k=3, out=24), 126 * (16 * 9 + 24 * 16), 16 * 9 + 32 + 24 * 16 + 48),
    (
        "dsconv, stride 2, SE",
        DSConv(k=5, out=24, s=2, se=4),
        35 * (16 * 25 + 24 * 16) + 2 * 16 * 4,
        16 * 25 + 32 + (16 * 4 + 4) + (4 * 16 + 16) + 24 * 16 + 48,
    ),
    (
        "mbconv",
        MBConv(k=3, exp=64, out=24),
        126 * (64 * 16 + 64 * 9 + 24 * 64),
        (64 * 16 + 128) + (64 * 9 + 128) + (24 * 64 + 48),
    ),
    (
        "mbconv without expansion",
        MBConv(k=3, exp=16, out=24),
        126 * (16 * 9 + 24 * 16),
        (16 * 9 + 32) + (24 * 16 + 48),
    ),
    (
        "mbconv, stride 2, SE: expansion before the stride, projection after it",
        MBConv(k=7, exp=64, out=24, s=2, se=16, nl="HS"),
        126 * 64 * 16 + 35 * (64 * 49 + 24 * 64) + 2 * 64 * 16,
        (64 * 16 + 128) + (64 * 49 + 128) + (64 * 16 + 16) + (16 * 64 + 64) + (24 * 64 + 48),
    ),
    ("classify", Classify(classes=10), 16 * 10, 16 * 10 + 10),
    ("classify, features", Classify(features=32, classes=10), 16 * 32 + 32 * 10, 16 * 32 + 32 + 32 * 10 + 10),
]


@pytest.mark.parametrize(("row", "madds", "params"), [f[1:] for f in FORMULAS], ids=[f[0] for f in FORMULAS])
def test_formula(row: Row | Classify, madds: int, params: int) -> None:
    layer = lower_key(LayerKey(row, 16, 9, 14))
    assert (layer.madds, layer.params) == (madds, params)


@pytest.mark.parametrize("kind", [Conv(k=3, out=16), DSConv(k=3, out=16), MBConv(k=3, exp=64, out=16)])
def test_skips_dilation_and_nonlinearities_count_nothing(kind: Row) -> None:
    plain = lower_key(LayerKey(kind, 16, 9, 14))
    for change in ({"skip": "identity"}, {"skip": "pool"}, {"dilation": 2}, {"nl": "NONE"}, {"nl": "HS"}):
        other = lower_key(LayerKey(replace(kind, **change), 16, 9, 14))
        assert (other.madds, other.params) == (plain.madds, plain.params)


def test_rows_add_up_and_carry_their_shapes() -> None:
    spec = load_spec("mobilenet_v3_small")
    counts = count(spec)
    assert [r.path for r in counts.by_row] == ["stem", *(f"rows[{i}]" for i in range(11)), "tail", "head"]
    assert sum(r.params for r in counts.by_row) == counts.params
    assert sum(r.madds for r in counts.by_row) == counts.madds
    assert counts.by_row[0].in_shape == (3, 224, 224)
    assert counts.by_row[0].madds == 112 * 112 * 16 * 3 * 9
    # Table 2: the input column of the next row is the output of this one
    sides = [112, 56, 28, 28, 14, 14, 14, 14, 14, 7, 7, 7, 7]
    assert [r.out_shape[1:] for r in counts.by_row[:-1]] == [(s, s) for s in sides]
    assert counts.by_row[-1].out_shape == (1000, 1, 1)
