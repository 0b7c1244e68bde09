"""Output stride, reductions, heads by name: what changes, what stays, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbv3.errors import BadInput, DocumentError
from mbv3.spec import (
    LRASPP,
    ArchSpec,
    DeepLabV3,
    MBConv,
    Tap,
    count,
    head_names,
    load_spec,
    lower,
    rf2,
    slim_detection,
    torchvision_reduced_tail,
    with_head,
    with_output_stride,
    without_tail,
)

LARGE, V2 = load_spec("mobilenet_v3_large"), load_spec("mobilenet_v2")


def laid(spec: ArchSpec) -> list[tuple[int, int]]:
    return [(row.s, row.dilation) for row in spec.rows]


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2", "mnasnet_a1"])
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("dilation", ["torchvision", "slim", "mmseg_v2"])
def test_output_stride_changes_the_map_and_no_parameter(name: str, stride: int, dilation: str) -> None:
    before = load_spec(name)
    after = with_output_stride(before, stride, dilation)  # type: ignore[arg-type]
    assert lower(after)[-1].in_shape[1:] == (224 // stride, 224 // stride) and after.stride == stride
    assert count(after).params == count(before).params
    assert (after == before) is (stride == 32)


def test_torchvision_dilates_from_the_row_that_strides_no_more() -> None:
    assert laid(with_output_stride(LARGE, 16))[11:] == [(1, 1), (1, 2), (1, 2), (1, 2)]
    assert laid(with_output_stride(LARGE, 8))[5:] == [(1, 1)] + [(1, 2)] * 6 + [(1, 4)] * 3
    assert with_output_stride(LARGE, 8).tail == LARGE.tail


def test_slim_dilates_after_it() -> None:
    assert laid(with_output_stride(LARGE, 16, "slim"))[11:] == [(1, 1), (1, 1), (1, 2), (1, 2)]


def test_mmsegmentations_v2_dilates_the_first_row_of_a_run() -> None:
    got = laid(with_output_stride(V2, 8, "mmseg_v2"))[5:]
    assert got == [(1, 1), (1, 2), (1, 1), (1, 1), (1, 1), (1, 2), (1, 1), (1, 1), (1, 4), (1, 1), (1, 1), (1, 4)]


@pytest.mark.parametrize("stride", [64, 12, 0, True, 1])
def test_an_output_stride_that_the_network_cannot_take(stride: int) -> None:
    with pytest.raises(BadInput, match=r"^output stride: mobilenet_v3_large cannot take .*; its rows end at"):
        with_output_stride(LARGE, stride)


def test_a_dilated_network_does_not_stride_again() -> None:
    with pytest.raises(BadInput, match=r"cannot take 32; its rows end at strides 2, 4, 8, 16$"):
        with_output_stride(with_output_stride(LARGE, 16), 32)


def test_an_unknown_way_to_dilate() -> None:
    with pytest.raises(BadInput, match=r"dilation: must be one of torchvision, slim, mmseg_v2 \(got 'keras'\)"):
        with_output_stride(LARGE, 8, "keras")  # type: ignore[arg-type]


# -- the three reductions


def block(spec: ArchSpec) -> list[tuple[int, int]]:
    return [(row.exp, row.out) for row in spec.rows if isinstance(row, MBConv)][12:]


def test_the_three_reductions_differ() -> None:
    paper, torchvision, slim = rf2(LARGE), torchvision_reduced_tail(LARGE), slim_detection(LARGE)
    assert block(paper) == [(336, 80), (480, 80), (480, 80)]
    assert block(torchvision) == block(slim) == [(672, 80), (480, 80), (480, 80)]
    assert {spec.tail.out for spec in (paper, torchvision, slim) if spec.tail} == {480}
    assert [spec.head.features for spec in (paper, torchvision, slim)] == [1280, 640, 1280]  # type: ignore[union-attr]
    assert [row.se for row in paper.rows[12:]] == [88, 120, 120]


def test_a_dilated_network_is_not_reduced() -> None:
    with pytest.raises(BadInput, match="has no last block to reduce: it is dilated; reduce it first"):
        rf2(with_output_stride(LARGE, 16))


# -- heads


@pytest.mark.parametrize("name", head_names())
@pytest.mark.parametrize("backbone", ["mobilenet_v3_large", "mobilenet_v3_small@0.5", "mobilenet_v2", "mnasnet_b1"])
def test_every_head_goes_on_every_backbone(name: str, backbone: str) -> None:
    spec = with_head(load_spec(backbone), name, 7)
    assert spec.head.classes == 7
    assert with_head(with_head(spec, "classify"), name).head == spec.head
    if name != "classify" and not name.startswith("ssdlite"):
        assert lower(spec)[-1].out_shape == (7, 224, 224)
        dilated = with_output_stride(spec, 8)
        assert count(dilated).params == count(spec).params
        assert with_head(dilated, name, 7).head == spec.head  # the taps are found on a dilated backbone too


def test_taps_are_those_of_the_sources() -> None:
    def low(name: str, head: str) -> tuple[Tap, ...]:
        found = with_head(load_spec(name), head).head
        assert isinstance(found, LRASPP)
        return found.low

    assert low("mobilenet_v3_large", "lraspp") == (Tap(5, "depthwise"),)  # layer_7/depthwise_output
    assert low("mobilenet_v3_small", "lraspp") == (Tap(2, "depthwise"),)  # layer_4/depthwise_output
    assert low("mobilenet_v3_large", "lraspp-torchvision") == (Tap(3),)
    assert low("mobilenet_v3_large", "lraspp-mmseg") == (Tap(0), Tap(2))  # layers 1 and 3
    assert low("mobilenet_v3_small", "lraspp-mmseg") == (Tap("stem"), Tap(0))  # layers 0 and 1
    head = with_head(without_tail(V2), "deeplabv3").head
    assert isinstance(head, DeepLabV3) and head.aux is not None
    assert (head.high, head.aux.high) == (Tap(16), Tap(12))


def test_classes_alone_reach_the_auxiliary_head_too() -> None:
    head = with_head(with_head(V2, "fcn", 3), with_head(V2, "fcn", 3).head, 5).head
    assert (head.classes, head.aux.classes) == (5, 5)  # type: ignore[union-attr]


@pytest.mark.parametrize("classes", [0, -1, True, 1.5])
def test_no_class_is_none(classes: int) -> None:
    with pytest.raises(BadInput, match="head: classes must be a whole number from 1"):
        with_head(LARGE, "lraspp", classes)


def test_an_unknown_head() -> None:
    with pytest.raises(BadInput, match=r"head: must be one of classify, lraspp, .* \(got 'unet'\)"):
        with_head(LARGE, "unet", 2)


@pytest.mark.parametrize(("head", "stride"), [("lraspp", 8), ("deeplabv3", 16), ("ssdlite", 32), ("lraspp-mmseg", 4)])
def test_a_backbone_too_shallow(head: str, stride: int) -> None:
    shallow = replace(LARGE, rows=LARGE.rows[:1], tail=None)
    with pytest.raises(BadInput, match=f"head {head}: needs a map at stride {stride}; .* end at 2; take a deeper"):
        with_head(shallow, head, 3)


def test_an_image_smaller_than_the_stride() -> None:
    with pytest.raises(DocumentError, match=r"input.resolution: may not be smaller than the network's stride, 32"):
        with_head(replace(LARGE, resolution=(31, 64)), "lraspp", 3)
