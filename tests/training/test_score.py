"""Scoring and recalibration against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mbv3.data import ImageSet, make_batch
from mbv3.nn import build
from mbv3.spec import load_spec, with_head
from mbv3.training import ClassifyMetric, Diverged, Score, evaluate, measure, recalibrate
from tests.drawn import drawn_images


class Linear(nn.Module):
    """Logits from the mean colour, and dropout that must be off."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 8)
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.dropout(x.mean((2, 3))))
        return out


def test_evaluate_by_hand() -> None:
    torch.manual_seed(0)
    data, net = drawn_images(50, 12, 0), Linear()
    score = evaluate(net, data, (12, 12), batch=16)  # the last batch holds two
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((data.images / 255 - mean) / std).mean((1, 2))
    logits = x @ net.fc.weight.detach().numpy().T + net.fc.bias.detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = int((logits.argmax(1) == data.labels).sum())
    assert (score.top1, score.n) == (100 * right / 50, 50) and 0 < right < 50
    assert score.loss == pytest.approx(float(-np.log(p[np.arange(50), data.labels]).mean()), rel=1e-5)
    assert evaluate(net, data, (12, 12), batch=64).top1 == score.top1


def test_standard_error_by_hand() -> None:
    assert Score(80.0, 1.0, 400).sigma == pytest.approx(100 * (0.8 * 0.2 / 400) ** 0.5)
    assert Score(100.0, 0.0, 50).sigma == pytest.approx(100 * (0.01 * 0.99 / 50) ** 0.5)  # never zero
    assert Score(0.0, 9.0, 50).sigma == pytest.approx(Score(100.0, 0.0, 50).sigma)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=0.01), nn.Dropout(0.5),
        nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5, momentum=0.2),
    )  # fmt: skip


def test_recalibration_is_the_average_over_batches_by_hand() -> None:
    net = network()
    with torch.no_grad():
        for bn in (net[1], net[4]):
            bn.running_mean.fill_(50)  # type: ignore[operator, union-attr]
            bn.running_var.fill_(9)  # type: ignore[operator, union-attr]
    data: ImageSet = drawn_images(30, 8, 0)
    batches = [make_batch(data, np.arange(i, j), 8)[0] for i, j in ((0, 10), (10, 18), (18, 30))]
    with torch.no_grad():
        first = [net[0](x) for x in batches]
        normal = [
            (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), False, keepdim=True) + 1e-5).sqrt() for y in first
        ]
        second = [net[3](y) for y in normal]  # without dropout
    recalibrate(net, iter(batches))
    for bn, seen in ((net[1], first), (net[4], second)):
        assert isinstance(bn, nn.BatchNorm2d)
        torch.testing.assert_close(bn.running_mean, torch.stack([y.mean((0, 2, 3)) for y in seen]).mean(0))
        torch.testing.assert_close(bn.running_var, torch.stack([y.var((0, 2, 3)) for y in seen]).mean(0))
    assert [m.momentum for m in (net[1], net[4])] == [0.01, 0.2]
    assert not any(m.training for m in net.modules())


def test_recalibration_forgets_what_was_before() -> None:
    net, x = network(), torch.randn(6, 3, 8, 8)
    recalibrate(net, [x, 2 * x])
    once = {k: v.clone() for k, v in net.state_dict().items()}
    recalibrate(net, [5 * x])
    assert not torch.equal(once["1.running_mean"], net.state_dict()["1.running_mean"])
    recalibrate(net, [x, 2 * x])
    assert all(torch.equal(once[k], v) for k, v in net.state_dict().items())


def test_recalibration_reaches_an_auxiliary_head() -> None:
    spec = with_head(replace(load_spec("mobilenet_v3_small@0.35"), resolution=(32, 32)), "fcn", 3)
    net = build(spec, 0)
    recalibrate(net, [torch.randn(2, 3, 32, 32)])
    norms = {k: v for k, v in net.state_dict().items() if k.startswith("aux.") and k.endswith("running_mean")}
    assert norms and all(v.any() for v in norms.values())


def test_answers_that_are_not_finite_are_no_score() -> None:
    data, net = drawn_images(8, 12, 0), Linear()
    with torch.no_grad():
        net.fc.bias.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"scoring: the network's answers are not finite"):
        measure(net, data, ClassifyMetric(data.labels, 8), (12, 12))
