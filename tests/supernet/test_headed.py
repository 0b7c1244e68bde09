"""Shared weights under a head: the path that is trained is the network that is cut out, and its head learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mbv3.events import result
from mbv3.nn import Maps, build
from mbv3.space import Genome, SearchSpace, load_space, scale, under_head
from mbv3.spec import Dense, all_sites, cut
from mbv3.stages import supernet_judge, task_photos
from mbv3.supernet import HeadedSupernet, Supernet, supernet_of
from mbv3.tasks import TASKS, Source

PLAIN = scale(load_space("mnasnet-imagenet"), 0.25, (64, 96))
SEGMENT = under_head(PLAIN, "lraspp-torchvision", 3)
DETECT = under_head(PLAIN, "ssdlite", 4, 32)
AUX = under_head(PLAIN, "pspnet", 3)


def genomes(space: SearchSpace, n: int) -> list[Genome]:
    drawn = [tuple(int(v) for v in g) for g in space.sample(np.random.default_rng(0), n)]
    return [(0,) * len(space.sizes), tuple(k - 1 for k in space.sizes), *drawn]


def tensors(out: Tensor | Maps) -> list[Tensor]:
    return [*out.classes, *out.boxes] if isinstance(out, Maps) else [out]


@pytest.mark.parametrize("space", [SEGMENT, DETECT, AUX], ids=["segment", "detect", "auxiliary"])
def test_the_path_of_a_genome_is_its_extracted_network(space: SearchSpace) -> None:
    supernet = supernet_of(space, 0).double().train()
    assert isinstance(supernet, HeadedSupernet)
    with torch.no_grad():
        for p in supernet.parameters():
            if p.dim() == 1:
                p.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(p.numel()))
    x = torch.randn(3, 3, *space.resolution, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for genome in genomes(space, 2):
        spec = space.deployed(genome)
        net = build(spec).double().train()
        net.load_state_dict(supernet.extract(genome), strict=True)
        with torch.no_grad():
            torch.manual_seed(3)  # dropout
            path = tensors(supernet.forward_path(genome, x))
            torch.manual_seed(3)
            own = tensors(net(x))
        assert len(path) == len(own)
        for a, b in zip(path, own, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-8 * float(b.abs().max()))


def test_gradients_reach_the_head_and_the_taps() -> None:
    supernet = supernet_of(SEGMENT, 0).train()
    smallest = (0,) * len(SEGMENT.sizes)
    supernet.forward_path(smallest, torch.randn(2, 3, *SEGMENT.resolution)).square().sum().backward()
    learned = {name.partition(".")[0] for name, p in supernet.named_parameters() if p.grad is not None}
    assert {"head", "net"} <= learned
    head = {name for name, p in supernet.named_parameters() if name.startswith("head.") and p.grad is None}
    assert not head


def test_a_space_without_a_head_is_as_it_was() -> None:
    assert type(supernet_of(PLAIN, 0)) is Supernet
    assert type(supernet_of(replace(SEGMENT, dense=None, output_stride=None), 0)) is Supernet


def test_boxes_score_a_genome(boxes: Path) -> None:
    """Shared weights of detectors learn boxes, and average precision on held-out images scores them alike each time."""
    example = DETECT.deployed((0,) * len(DETECT.sizes))
    photos = result(task_photos(TASKS["detect"], example, source := Source(path=boxes), TASKS["detect"].peek(source)))
    judge = result(supernet_judge(under_head(PLAIN, "ssdlite", 3, 32), photos.images, steps=2))
    first, *_ = genomes(DETECT, 0)
    scores = [judge.accuracy(first) for _ in range(2)]
    assert scores[0] == scores[1] and 0 <= scores[0] <= 100
    assert "mAP@.5 on 4 held-out images" in judge.note


def test_a_head_that_was_cut_is_deployed_as_it_is() -> None:
    spec = SEGMENT.deployed(tuple(0 for _ in SEGMENT.sizes))
    assert isinstance(spec.head, Dense)
    some = next(s for s in all_sites(spec) if s.of_head)
    less = cut(spec, some, 8)
    assert less is not None and SEGMENT.dress(less) == less != spec
    assert SEGMENT.dress(spec) == spec
