"""Metrics against the libraries' other ways to say the same, SSD's matching and loss by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score, recall_score

from mbv3.data import Boxes, BoxSet, Kind, MaskSet
from mbv3.nn import Maps, default_boxes, encode
from mbv3.spec import SSDLite, Tap
from mbv3.training import ClassifyMetric, DetectMetric, SegmentMetric, detect_objective
from mbv3.training.detect import match

HEAD = SSDLite(maps=(Tap("tail"),), extras=(), anchors=(6,), classes=3)


def test_top1_and_top5_count() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 8, 40), rng.random((40, 8)).astype(np.float32)
    metric = ClassifyMetric(labels, 8)
    for i in (0, 25):
        index = np.arange(i, min(i + 25, 40))
        metric.add(torch.from_numpy(scores[index]), index)
    order = (-scores).argsort(1)
    want = {f"top{k}": 100 * float((order[:, :k] == labels[:, None]).any(1).mean()) for k in (1, 5)}
    assert metric.result() == pytest.approx(want) and want["top5"] > want["top1"]
    recalls = recall_score(labels, scores.argmax(1), labels=range(8), average=None)
    assert metric.by_class() == pytest.approx(100 * recalls)
    few = ClassifyMetric(np.array([0, 1, 1]), 2)
    few.add(torch.tensor([[1.0, 0.0], [3.0, 1.0], [0.0, 0.1]]), np.arange(3))
    assert few.by_class() == pytest.approx([100, 50])
    assert few.result() == {"top1": pytest.approx(200 / 3)}


def test_mean_iou_is_scikit_learns_at_the_masks_own_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    truth, said = rng.integers(0, 4, (2, 6, 8)), rng.integers(0, 3, (2, 6, 8))  # class 3 is never said
    truth[0, :2] = 255
    files = []
    for i, mask in enumerate(truth):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(mask.astype(np.uint8)).save(files[-1])
    data = MaskSet(np.zeros((2, 3, 4, 3), np.uint8), np.zeros((2, 3, 4, 1), np.uint8), files, tuple("abcde"), "")
    metric = SegmentMetric(data)
    logits = torch.nn.functional.one_hot(torch.from_numpy(said), 5).permute(0, 3, 1, 2).float()
    metric.add(logits, np.array([0, 1]))
    counts = truth != 255
    want = jaccard_score(truth[counts], said[counts], average="macro", labels=[0, 1, 2, 3])
    assert metric.result()["miou"] == pytest.approx(100 * want)
    each = jaccard_score(truth[counts], said[counts], average=None, labels=[0, 1, 2, 3])
    assert metric.by_class() == pytest.approx([*(100 * each), np.nan], nan_ok=True)  # the fifth class never occurs
    assert metric.result()["pixels"] == pytest.approx(100 * (truth == said)[counts].mean())
    logits[:, 4, 3] = 2.0  # a class that is nowhere: the mean counts it, and it has no score of its own
    wrong = SegmentMetric(data)
    wrong.add(logits, np.array([0, 1]))
    assert np.isnan(wrong.by_class()[4]) and wrong.result()["miou"] == pytest.approx(wrong.by_class()[:4].sum() / 5)
    small = SegmentMetric(data)
    small.add(torch.nn.functional.one_hot(torch.zeros(1, 3, 4, dtype=torch.long), 5).permute(0, 3, 1, 2), np.array([1]))
    assert small.result()["pixels"] == pytest.approx(100 * (truth[1] == 0).mean())  # brought to the mask's size


def boxes(*edges: tuple[float, float, float, float], labels: list[int], kind: Kind = Kind.PLAIN) -> Boxes:
    return Boxes(np.array(edges, np.float32), np.array(labels), np.full(len(labels), kind))


def said(data: BoxSet, truth: list[Boxes], score: float = 9.0) -> Maps:
    """Maps of one 4x4 level that say exactly `truth`."""
    defaults = default_boxes(HEAD, [(4, 4)], (1, 1))
    logits = torch.zeros(len(truth), len(defaults), 3)
    logits[..., 0] = score
    coded = torch.zeros(len(truth), len(defaults), 4)
    for i, b in enumerate(truth):
        edges = torch.from_numpy(b.edges)
        for k, at in enumerate(match(edges, defaults, 2.0).tolist()):
            if at >= 0:
                logits[i, k, 0], logits[i, k, 1 + int(b.labels[at])] = 0.0, score
                coded[i, k] = encode(edges[at : at + 1], defaults[k : k + 1])[0]

    def maps(flat: torch.Tensor, depth: int) -> torch.Tensor:
        return flat.view(len(truth), 4, 4, 6 * depth).permute(0, 3, 1, 2)

    return Maps((maps(logits, 3),), (maps(coded, 4),))


TRUTH = [boxes((0.1, 0.1, 0.4, 0.5), (0.5, 0.5, 0.9, 0.9), labels=[0, 1]), boxes((0.2, 0.3, 0.6, 0.8), labels=[1])]
DATA = BoxSet(np.zeros((2, 8, 8, 3), np.uint8), TRUTH, np.array([[100, 200], [50, 60]]), ("a", "b"), "")


def test_right_boxes_have_all_the_precision_and_wrong_ones_none() -> None:
    metric = DetectMetric(DATA, HEAD)
    metric.add(said(DATA, TRUTH), np.array([0, 1]))
    assert metric.result() == {"map50": pytest.approx(100), "map": pytest.approx(100)}
    alone = DetectMetric(DATA, HEAD)
    alone.add(said(DATA, [TRUTH[0], boxes((0.7, 0.0, 0.9, 0.2), labels=[1])]), np.array([0, 1]))
    first, second = alone.by_class()
    assert first == pytest.approx(100) and 0 < second < 100
    assert alone.result()["map50"] == pytest.approx((first + second) / 2)
    shifted = [Boxes(b.edges * 0.9, b.labels, b.kinds) for b in TRUTH]  # overlaps of 0.5 to 0.75
    metric = DetectMetric(DATA, HEAD)
    metric.add(said(DATA, shifted), np.array([0, 1]))
    assert metric.result()["map50"] > 50 > metric.result()["map"] > 0
    swapped = [Boxes(b.edges, 1 - b.labels, b.kinds) for b in TRUTH]
    metric = DetectMetric(DATA, HEAD)
    metric.add(said(DATA, swapped), np.array([0, 1]))
    assert metric.result()["map50"] == pytest.approx(0, abs=1e-9)
    assert DetectMetric(DATA, HEAD).result() == {"map50": 0.0, "map": 0.0}  # nothing said


def test_a_difficult_object_is_one_and_a_crowd_is_many() -> None:
    """Neither is missed when nothing is said of it. Answers beside the first cost precision, in a crowd none does."""
    plain = boxes((0.5, 0.5, 0.9, 0.9), labels=[0])
    corner = (0.0, 0.0, 0.4, 0.4)
    part = boxes((0.0, 0.0, 0.25, 0.25), (0.5, 0.5, 0.9, 0.9), labels=[0, 0])  # overlaps the corner by 0.39

    def map50(kind: Kind, answers: Boxes) -> float:
        truth = Boxes(np.array([*plain.edges, corner], np.float32), np.array([0, 0]), np.array([Kind.PLAIN, kind]))
        data = BoxSet(np.zeros((1, 8, 8, 3), np.uint8), [truth], np.array([[100, 100]]), ("a", "b"), "")
        metric = DetectMetric(data, HEAD)
        metric.add(said(data, [answers]), np.array([0]))
        return metric.result()["map50"]

    assert map50(Kind.PLAIN, plain) == pytest.approx(100 * 51 / 101)  # half of the objects, at 101 recalls
    assert map50(Kind.DIFFICULT, plain) == map50(Kind.CROWD, plain) == pytest.approx(100)
    assert map50(Kind.CROWD, part) == pytest.approx(100) and map50(Kind.DIFFICULT, part) < 100
    only = boxes(corner, labels=[0], kind=Kind.DIFFICULT)  # its class is in no image, whatever is said
    data = BoxSet(np.zeros((1, 8, 8, 3), np.uint8), [only], np.array([[100, 100]]), ("a", "b"), "")
    assert np.isnan(DetectMetric(data, HEAD).by_class()).all()
    metric = DetectMetric(data, HEAD)
    metric.add(said(data, [plain]), np.array([0]))
    assert np.isnan(metric.by_class()).all()


def test_matching_by_hand() -> None:
    defaults = torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.6], [0.5, 0.5, 1, 1], [0.9, 0.9, 1, 1]])
    truth = torch.tensor([[0, 0, 0.5, 0.5], [0.85, 0.85, 1, 1]])
    # the second object overlaps the last box by 0.44, below one half, and still has it: every object has one
    assert match(truth, defaults).tolist() == [0, 0, -1, 1]
    assert match(truth, defaults, 0.9).tolist() == [0, -1, -1, 1]
    assert match(truth[:0], defaults).tolist() == [-1] * 4


def test_the_loss_of_right_answers_is_small_and_without_objects_finite() -> None:
    target = [(torch.from_numpy(b.edges), torch.from_numpy(b.labels + 1)) for b in TRUTH]
    loss = detect_objective(HEAD)
    defaults = default_boxes(HEAD, [(4, 4)], (1, 1))
    x = torch.zeros(2, 3, 8, 8)
    right = said(DATA, [Boxes(b.edges, b.labels, b.kinds) for b in TRUTH], 30.0)
    wrong = said(DATA, [Boxes(b.edges, 1 - b.labels, b.kinds) for b in TRUTH], 30.0)
    # boxes that overlap an object by half are to answer for it too, and `said` leaves them empty
    assert float(loss(right, target, x)) < float(loss(wrong, target, x))
    nothing = [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))] * 2
    value = loss(right, nothing, x)
    assert float(value) == 0.0 and len(defaults) == 96


def test_three_hard_negatives_an_object_by_hand() -> None:
    defaults = default_boxes(HEAD, [(4, 4)], (1, 1))
    torch.manual_seed(0)
    logits, coded = torch.randn(1, 96, 3), torch.randn(1, 96, 4)
    maps = Maps((logits.view(1, 4, 4, 18).permute(0, 3, 1, 2),), (coded.view(1, 4, 4, 24).permute(0, 3, 1, 2),))
    edges, labels = torch.tensor([[0.1, 0.1, 0.4, 0.5]]), torch.tensor([2])
    got = float(detect_objective(HEAD)(maps, [(edges, labels)], torch.zeros(1, 3, 8, 8)))
    whose = match(edges, defaults)
    mine = whose >= 0
    log_p = logits[0].log_softmax(1)
    hard = sorted((-log_p[~mine, 0]).tolist(), reverse=True)[: 3 * int(mine.sum())]
    apart = (coded[0, mine] - encode(edges[whose[mine]], defaults[mine])).abs()
    smooth = torch.where(apart < 1, 0.5 * apart**2, apart - 0.5).sum()
    want = (float(smooth) - float(log_p[mine, 2].sum()) + sum(hard)) / int(mine.sum())
    assert got == pytest.approx(want, rel=1e-5)
