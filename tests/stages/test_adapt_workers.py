"""Proposals that are fine-tuned in processes: the same choice, whatever their count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mbv3.data import split
from mbv3.events import result
from mbv3.latency import LatencyTable
from mbv3.netadapt import Scored, Start, largest
from mbv3.nn import build
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, all_sites, channels, cut
from mbv3.stages import FineTune, Images, Memory, Read, Single, shrink
from mbv3.stages.adapt_workers import workers
from mbv3.tables import Latency
from mbv3.training import Fit, fit
from tests.drawn import CLASSES, drawn_images

from .test_shrink import TABLE

SMALL = ArchSpec(
    name="small",
    resolution=(32, 32),
    stem=Conv(k=3, out=16, nl="HS", s=2),
    rows=(MBConv(k=3, exp=64, out=24, s=2), MBConv(k=3, exp=96, out=24, skip="identity")),
    tail=Conv(k=1, out=64, nl="HS"),
    head=Classify(features=0, classes=CLASSES),
)
IMAGES = Images(*split(drawn_images(96, 32, 0), 0.3, 32, 0), (32, 32))


def test_as_many_processes_as_one_like_choose_alike() -> None:
    latency = Latency(LatencyTable.load(TABLE))
    target = 0.8 * latency([SMALL])[0]
    found = []
    for processes in (1, 2):
        keep = Memory()
        stage = shrink(SMALL, latency, IMAGES, target, weights=build(SMALL, 0).state_dict(), steps=2, keep=keep,
                       engine=Single(delta=0.1, rank="loss", processes=processes))  # fmt: skip
        found.append((result(stage), keep.tables["netadapt.csv"]))
    (one, rows), (two, others) = found
    assert one.spec == two.spec and one.spec != SMALL and rows == others and len(rows) > 4
    assert one.state is not None and two.state is not None
    assert all(torch.equal(one.state[k], two.state[k]) for k in one.state)


def test_what_is_cut_is_made_up_for_before_the_first_step() -> None:
    net = build(SMALL, 0)
    for _ in fit(net, IMAGES.train, Fit(steps=40, size=(32, 32), batch=16, lr=3e-3, optimizer="adamw")):
        pass
    begin = Start(0, SMALL, net.state_dict(), Scored(1.0, 0.0, 0.0))
    tune, mended = FineTune(IMAGES, 1, 0), Read(IMAGES).mended
    for site in (s for s in all_sites(SMALL) if s.kind in ("tail", "expansion")):
        after = cut(SMALL, site, channels(SMALL, site) // 3)
        assert after is not None
        losses = [tune(after, inherit(begin, after), 1, 0).losses.mean() for inherit in (largest, mended)]
        assert losses[1] < losses[0]


def test_results_come_in_order_and_are_those_of_this_process() -> None:
    tune = FineTune(IMAGES, 2, 0)
    state = build(SMALL, 0).state_dict()
    jobs = [(SMALL, state, step, 1) for step in (1, 2, 3)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = [tune(*job) for job in jobs]
    finally:
        torch.set_num_threads(threads)
    with workers(tune, 2) as many:
        there = list(many(jobs))
        with pytest.raises(RuntimeError, match="size mismatch"):
            list(many([(SMALL, build(SMALL, 0).state_dict() | {"stem.conv.weight": torch.zeros(1)}, 1, 1)]))
    assert len({float(t.losses.mean()) for t in here}) == 3
    for a, b in zip(here, there, strict=True):
        assert np.array_equal(a.losses, b.losses) and np.array_equal(a.right, b.right)
        assert all(torch.equal(a.state[k], b.state[k]) for k in a.state)
