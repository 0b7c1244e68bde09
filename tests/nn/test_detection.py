"""Default boxes, their coding and the choice among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mbv3.errors import BadInput
from mbv3.nn import Maps, decode, default_boxes, detections, encode, flatten_maps, iou, nms
from mbv3.spec import SSDLite, load_spec

SIZES = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]


def head_of(name: str) -> SSDLite:
    head = load_spec(name).head
    assert isinstance(head, SSDLite)
    return head


def boxes(n: int, seed: int = 0) -> torch.Tensor:
    low, size = torch.rand(2, n, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat((low * 200, low * 200 + 1 + size * 100), 1)


def test_default_boxes_and_coding_are_torchvisions(torchvision: Any) -> None:
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    maps = [torch.zeros(1, 1, h, w) for h, w in SIZES]
    generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    [expected] = generator(ImageList(torch.zeros(1, 3, 320, 300), [(320, 300)]), maps)
    ours = default_boxes(head_of("ssdlite320_mobilenet_v3_large"), SIZES, (320, 300))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-3)
    coder, some = BoxCoder((10.0, 10.0, 5.0, 5.0)), boxes(len(ours))
    coded = coder.encode_single(some, ours)
    torch.testing.assert_close(encode(some, ours), coded, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decode(coded * 3, ours), coder.decode_single(coded * 3, ours), rtol=1e-4, atol=1e-2)


def test_the_papers_form_has_three_boxes_on_its_first_map() -> None:
    ours = default_boxes(head_of("table6_v3_large"), SIZES, (320, 320))
    assert len(ours) == 3 * 400 + 6 * (100 + 25 + 9 + 4 + 1)
    width, height = (ours[:, 2] - ours[:, 0])[:3], (ours[:, 3] - ours[:, 1])[:3]
    torch.testing.assert_close(width / height, torch.tensor([1.0, 2.0, 0.5]))


def test_boxes_for_another_number_a_place_or_of_levels() -> None:
    head = head_of("table6_v3_large")
    with pytest.raises(BadInput, match=r"maps: the detector has 6 levels \(got 2\)"):
        default_boxes(head, SIZES[:2], (320, 320))
    odd = SSDLite(maps=head.maps, extras=(), anchors=(4, 6), classes=2)
    with pytest.raises(BadInput, match=r"head.anchors\[0\]: default boxes are known for 3 and 6 a place \(got 4\)"):
        default_boxes(odd, SIZES[:2], (320, 320))


def test_coding_comes_back() -> None:
    some, defaults = boxes(50), boxes(50, 1)
    torch.testing.assert_close(decode(encode(some, defaults), defaults), some, rtol=1e-4, atol=1e-2)


def test_flat_maps_go_place_by_place() -> None:
    level = torch.arange(2 * 3 * 2 * 2).reshape(1, 6, 2, 2)  # 2 boxes a place, 3 classes, 2x2 places
    logits, coded = flatten_maps(
        Maps((level, level[:, :, :1, :1]), (torch.zeros(1, 8, 2, 2), torch.zeros(1, 8, 1, 1))), 3
    )
    assert logits.shape == (1, 10, 3) and coded.shape == (1, 10, 4)
    assert logits[0, 0].tolist() == [0, 4, 8] and logits[0, 1].tolist() == [12, 16, 20]  # first place, both boxes
    assert logits[0, 2].tolist() == [1, 5, 9]  # the place to its right


def test_overlap_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    torch.testing.assert_close(iou(a, torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6]])), torch.tensor([[1 / 3, 0], [0, 0]]))


def test_suppression_keeps_the_best_of_those_that_overlap() -> None:
    three = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
    assert nms(three, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]
    # what is suppressed suppresses nothing itself
    chain = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert nms(chain, torch.tensor([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]


def test_an_object_is_found_with_its_class_and_place() -> None:
    defaults = boxes(40)
    logits = torch.zeros(40, 3)
    logits[:, 0] = 9.0
    logits[7] = torch.tensor([0.0, 0.0, 8.0])
    found = detections(logits, torch.zeros(40, 4), defaults, (320, 320), least=0.1)
    assert found.labels.tolist() == [2] and float(found.scores[0]) > 0.99
    torch.testing.assert_close(found.boxes[0], defaults[7], rtol=1e-4, atol=1e-2)
    assert len(detections(logits, torch.zeros(40, 4), defaults, (320, 320), least=0.9999).labels) == 0


def test_objects_are_found_on_the_device_of_the_maps() -> None:
    logits, coded, defaults = torch.zeros(40, 3), torch.zeros(40, 4), boxes(40)
    with torch.device("meta"):  # where everything would be that is made on no device in particular
        found = detections(logits, coded, defaults, (320, 320))
    assert {part.device.type for part in found} == {"cpu"} and len(found.labels) > 0
