"""Networks with a dense head are shrunk on images with masks: the head's own channels too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mbv3.data import IGNORED, MaskSet
from mbv3.events import result
from mbv3.latency import LatencyTable
from mbv3.nn import build
from mbv3.spec import LRASPP, ArchSpec, Conv, MBConv, Tap, all_sites, channels, named_sites
from mbv3.stages import Joint, Masks, Memory, Single, shrink
from mbv3.tables import Latency
from mbv3.training import Fit, each, evaluate, fit
from tests.drawn import CLASSES, drawn_images

TABLE = Path(__file__).parents[1] / "golden" / "run-0.1.0" / "latency-table.csv"  # of a Pixel 1
SIDE = 32
START = ArchSpec(
    name="start",
    resolution=(SIDE, SIDE),
    stem=Conv(k=3, out=16, nl="HS", s=2),
    rows=(
        MBConv(k=3, exp=64, out=24, s=2),
        MBConv(k=3, exp=96, out=40, nl="HS", s=2),
    ),
    tail=Conv(k=1, out=96, nl="HS"),
    head=LRASPP(high=Tap("tail"), low=(Tap(0),), filters=64, classes=CLASSES),
)


def masks(count: int, seed: int) -> MaskSet:
    """Every pixel has the class of its image; the first and the last line count for nothing."""
    data = drawn_images(count, SIDE, seed)
    truth = np.broadcast_to(data.labels[:, None, None], (count, SIDE, SIDE)).astype(np.uint8)
    truth[:, [0, -1]] = IGNORED
    files = tuple(Path(f"{i}.png") for i in range(count))
    return MaskSet(data.images, truth[..., None], files, data.classes, "")


IMAGES = Masks(masks(128, 0), masks(32, 1), (SIDE, SIDE))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(one_thread: None) -> dict[str, Tensor]:
    net = build(START, 0)
    for _ in fit(net, IMAGES.train, Fit(steps=60, size=IMAGES.size, batch=16, lr=3e-3, optimizer="adamw")):
        pass
    return net.state_dict()


def latency() -> Latency:
    return Latency(LatencyTable.load(TABLE))


@pytest.mark.parametrize("engine", [Joint(), Single(delta=0.15)])
def test_a_segmentation_network_is_cut_to_the_target_with_its_head(
    engine: Joint | Single, trained: dict[str, Tensor]
) -> None:
    lat, keep = latency(), Memory()
    target = 0.75 * lat([START])[0]
    steps = 16 if isinstance(engine, Joint) else 2
    found = result(shrink(START, lat, IMAGES, target, weights=trained, steps=steps, engine=engine, keep=keep))
    assert found.reached and found.predicted_ms <= target
    net = build(found.spec)
    net.load_state_dict(found.state or {})
    score = evaluate(net, IMAGES.held_out, IMAGES.size)
    # the head's weights are those that were learned
    assert score.top1 > 100 / CLASSES + 25 and score.top1 == pytest.approx(found.accuracy, abs=1)
    if isinstance(engine, Joint):
        assert any(row["where"] == "head.filters" for row in keep.tables["cuts.csv"])


def test_only_the_head_is_cut_where_only_it_may_be() -> None:
    lat = latency()
    some = named_sites(START, only="head")
    weights = build(START, 0).state_dict()
    for engine in (Joint(), Single(delta=0.02)):
        target = lat([replace(START, head=replace(START.head, filters=32))])[0]  # type: ignore[arg-type]
        found = result(shrink(START, lat, IMAGES, target, weights=weights, steps=1, engine=engine, some=some))
        assert isinstance(found.spec.head, LRASPP) and 8 <= found.spec.head.filters <= 32
        assert all(channels(found.spec, s) == channels(START, s) for s in set(all_sites(START)) - some)


def test_every_image_of_a_set_has_its_loss_and_its_share_of_right_pixels() -> None:
    data = masks(5, 3)
    truth = data.truth_of(np.arange(5))
    out = torch.randn(5, CLASSES, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    loss, right = each(out, truth)
    for i in range(5):
        counts = truth[i] != IGNORED
        alone = nn.functional.cross_entropy(out[i : i + 1], truth[i : i + 1], ignore_index=IGNORED)
        assert float(loss[i]) == pytest.approx(float(alone), rel=1e-5)
        assert float(right[i]) == pytest.approx(float((out[i].argmax(0) == truth[i])[counts].float().mean()))
    assert torch.equal(data.take(np.array([3, 1])).truth_of(np.array([1])), truth[[1]])
