"""Every named network: parameters and multiply-adds as published or counted by definition (facts A7-A9, D1, D2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbv3.errors import BadInput
from mbv3.spec import (
    SSDLite,
    Tap,
    count,
    dump_spec,
    load_spec,
    lower,
    lower_key,
    network_names,
    parse_key,
    parse_spec,
    with_head,
)


@pytest.mark.parametrize("name", network_names())
def test_yaml_and_layer_keys_of_every_name_come_back(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    assert parse_spec(dump_spec(spec)) == spec
    for layer in lower(spec):
        assert parse_key(str(layer.key)) == layer.key
        alone = lower_key(layer.key)
        assert (alone.params, alone.madds, alone.out_shape) == (layer.params, layer.madds, layer.out_shape)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mobilenet_v3_large", 5_483_032),
        ("mobilenet_v3_large@0.35", 997_064),
        ("mobilenet_v3_large@0.5", 1_734_576),
        ("mobilenet_v3_large@0.75", 3_377_576),
        ("mobilenet_v3_large@1.25", 8_164_744),
        ("mobilenet_v3_small", 2_542_856),
        ("mobilenet_v3_small@0.35", 558_744),
        ("mobilenet_v3_small@0.5", 917_264),
        ("mobilenet_v3_small@0.75", 1_653_920),
        ("mobilenet_v3_small@1.25", 3_644_912),
        ("mobilenet_v2", 3_504_872),
        ("mnasnet_b1", 4_383_312),
        ("lraspp_mobilenet_v3_large", 3_221_538),
        ("ssdlite320_mobilenet_v3_large", 3_440_060),
        ("table6_v3_large", 5_006_735),
        ("table6_v3_large_halved", 3_248_255),
        ("table6_v3_small", 2_518_271),
        ("table6_v3_small_halved", 1_785_743),
    ],
)
def test_parameters_to_the_digit(name: str, params: int) -> None:
    counts = count(load_spec(name))
    assert (counts.params, counts.aux_params) == (params, 0)


def test_the_papers_head_of_v3_small() -> None:
    small = load_spec("mobilenet_v3_small")
    assert count(replace(small, head=replace(small.head, features=1280))).params == 2_946_568  # type: ignore[call-arg]


def test_torchvisions_deeplabv3_counts_its_auxiliary_head() -> None:
    counts = count(load_spec("deeplabv3_mobilenet_v3_large"))
    assert counts.params + counts.aux_params == 11_029_328 and counts.aux_params == 3_851


MMSEG = [
    ("lraspp_m-v3-d8", 2_971_952, 312_595, 0),
    ("lraspp_m-v3s-d8", 927_008, 213_779, 0),
    ("fcn_m-v2-d8", 1_811_712, 7_680_531, 226_579),
    ("pspnet_m-v2-d8", 1_811_712, 11_581_971, 226_579),
    ("deeplabv3_m-v2-d8", 1_811_712, 16_563_731, 226_579),
    ("deeplabv3plus_m-v2-d8", 1_811_712, 13_206_083, 226_579),
    ("fcn_m-v2-d8_ade20k", 1_811_712, 7_747_734, 260_246),
    ("pspnet_m-v2-d8_ade20k", 1_811_712, 11_649_174, 260_246),
    ("deeplabv3_m-v2-d8_ade20k", 1_811_712, 16_630_934, 260_246),
    ("deeplabv3plus_m-v2-d8_ade20k", 1_811_712, 13_273_286, 260_246),
]


@pytest.mark.parametrize(("name", "backbone", "decode", "aux"), MMSEG)
def test_mmsegmentations_rows(name: str, backbone: int, decode: int, aux: int) -> None:
    counts = count(load_spec(name))
    assert counts.by_row[-1].path == "head"
    assert (counts.params - counts.by_row[-1].params, counts.by_row[-1].params, counts.aux_params) == (
        backbone,
        decode,
        aux,
    )


@pytest.mark.parametrize(
    ("row", "millions"),
    [(1, "2.113"), (5, "3.601"), (6, "1.762"), (7, "1.633"), (8, "1.507"), (10, "0.161"), (11, "0.469")],
)
def test_table_7(row: int, millions: str) -> None:
    assert f"{count(load_spec(f'table7_row{row}')).params / 1e6:.3f}" == millions


@pytest.mark.parametrize(
    ("name", "billions", "digits"),
    [
        ("lraspp_mobilenet_v3_large", "2.086", 3),
        ("ssdlite320_mobilenet_v3_large", "0.583", 3),
        ("table6_v2", "0.80", 2),
        ("table6_mnasnet", "0.84", 2),
        ("table6_v3_large_halved", "0.51", 2),
        ("table6_v3_small", "0.21", 2),
        ("table6_v3_small_halved", "0.16", 2),
    ],
)
def test_multiply_adds_to_the_printed_digits(name: str, billions: str, digits: int) -> None:
    assert f"{count(load_spec(name)).madds / 1e9:.{digits}f}" == billions


@pytest.mark.parametrize(("name", "params"), [("mobilenet_v3_large", "3.9"), ("mobilenet_v3_small", "2.0")])
def test_the_minimalistic_variants_are_slims(name: str, params: str) -> None:
    spec = load_spec(f"{name}_minimalistic")
    assert f"{count(spec).params / 1e6:.1f}" == params
    assert {(row.se, row.nl, row.k) for _, row, _ in spec.convs()} <= {(0, "RE", 3), (0, "RE", 1)}


def test_tensorflows_rounding_is_another_than_torchvisions() -> None:
    tensorflow, torchvision = (load_spec(f"mobilenet_v3_large{v}@0.75") for v in ("_tensorflow", ""))
    assert f"{count(tensorflow).params / 1e6:.1f}" == "4.0"  # the paper's, Table 3
    assert tensorflow.head.features == 1280 and torchvision.head.features == 960  # type: ignore[union-attr]
    assert load_spec("mobilenet_v3_large_tensorflow").rows == load_spec("mobilenet_v3_large").rows


@pytest.mark.parametrize(("name", "millions"), [("table6_v2@0.35", 0.93), ("table6_v2@0.5", 1.54)])
def test_table_6_at_smaller_widths_is_near_the_papers_parameters(name: str, millions: float) -> None:
    assert count(load_spec(name)).params / 1e6 == pytest.approx(millions, rel=0.02)


def test_the_forms_of_ssdlite() -> None:
    paper, torchvision = load_spec("table6_v3_large").head, load_spec("ssdlite320_mobilenet_v3_large").head
    assert isinstance(paper, SSDLite) and isinstance(torchvision, SSDLite)
    assert paper.anchors == (3, 6, 6, 6, 6, 6) and torchvision.anchors == (6,) * 6
    assert paper.maps == torchvision.maps
    assert [t.point for t in paper.maps] == ["expand", "out"] and paper.maps[0].row == 12  # the 13th bottleneck


def test_ssdlite_on_a_row_that_does_not_widen() -> None:
    """It begins with what the row before gave, which its expansion would have been made of."""
    large = load_spec("mobilenet_v3_large")
    at = next(i for i, r in enumerate(large.rows) if r.out == 160)
    cin = large.rows[at - 1].out
    rows = (*large.rows[:at], replace(large.rows[at], exp=cin, se=0), *large.rows[at + 1 :])
    head = with_head(replace(large, rows=rows), "ssdlite", 4).head
    assert isinstance(head, SSDLite) and head.maps[0] == Tap(at - 1)
    assert with_head(large, "ssdlite", 4).head.maps[0] == Tap(at, "expand")  # type: ignore[union-attr]


def test_a_name_that_is_none_lists_those_that_are() -> None:
    with pytest.raises(BadInput, match=r"'lraspp' is neither a YAML file .*lraspp_m-v3-d8.*table7_row11"):
        load_spec("lraspp")
