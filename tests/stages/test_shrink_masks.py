"""Networks with a dense head are shrunk on images with masks: the head's own channels too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mbv3.data import IGNORED, MaskSet
from mbv3.events import result
from mbv3.latency import LatencyTable
from mbv3.nn import build
from mbv3.spec import LRASPP, ArchSpec, Conv, MBConv, Tap, all_sites, channels, named_sites
from mbv3.stages import Images, Joint, Memory, shrink
from mbv3.tables import Latency
from mbv3.tasks import TASKS
from mbv3.training import Fit, fit
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


def masks(count: int, seed: int, folder: Path) -> MaskSet:
    """Every pixel has the class of its image; the first and the last line count for nothing."""
    data = drawn_images(count, SIDE, seed)
    truth = np.broadcast_to(data.labels[:, None, None], (count, SIDE, SIDE)).astype(np.uint8)
    truth[:, [0, -1]] = IGNORED
    files = tuple(folder / f"{seed}-{i}.png" for i in range(count))
    for file, mask in zip(files, truth, strict=True):
        Image.fromarray(mask).save(file)
    return MaskSet(data.images, truth[..., None], files, data.classes, "")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("masks")
    work = TASKS["segment"].work(START.head)
    return Images(masks(128, 0, folder), masks(32, 1, folder), (SIDE, SIDE), given=work)


@pytest.fixture(scope="module")
def trained(one_thread: None, images: Images) -> dict[str, Tensor]:
    net = build(START, 0)
    recipe = Fit(steps=60, size=images.size, batch=16, lr=3e-3, optimizer="adamw")
    for _ in fit(net, images.train, recipe, objective=images.work.objective(recipe)):
        pass
    return net.state_dict()


def latency() -> Latency:
    return Latency(LatencyTable.load(TABLE))


def test_a_segmentation_network_is_cut_to_the_target_with_its_head(images: Images, trained: dict[str, Tensor]) -> None:
    lat, keep = latency(), Memory()
    target = 0.75 * lat([START])[0]
    found = result(shrink(START, lat, images, target, weights=trained, steps=16, engine=Joint(), keep=keep))
    assert found.reached and found.predicted_ms <= target
    net = build(found.spec)
    net.load_state_dict(found.state or {})
    score = images.work.answers(net, images.held_out, images.size).score
    # the head's weights are those that were learned
    assert score > 100 / CLASSES + 15 and score == pytest.approx(found.accuracy, abs=1)
    assert any(row["where"] == "head.filters" for row in keep.tables["cuts.csv"])


def test_only_the_head_is_cut_where_only_it_may_be(images: Images) -> None:
    lat = latency()
    some = named_sites(START, only="head")
    weights = build(START, 0).state_dict()
    target = lat([replace(START, head=replace(START.head, filters=32))])[0]  # type: ignore[arg-type]
    found = result(shrink(START, lat, images, target, weights=weights, steps=1, engine=Joint(), some=some))
    assert isinstance(found.spec.head, LRASPP) and 8 <= found.spec.head.filters <= 32
    assert all(channels(found.spec, s) == channels(START, s) for s in set(all_sites(START)) - some)
