"""Answers of a set of images: the scores are those of the metrics, and pairs are compared on the same images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mbv3.events import result
from mbv3.nn import build
from mbv3.spec import ArchSpec, with_head
from mbv3.tasks import TASKS, Source, TaskData
from mbv3.training import Answers, ClassAnswers, ResampledAnswers, answers_of, measure


def given(task: str, spec: ArchSpec, folder: Path) -> tuple[ArchSpec, TaskData]:
    made = TASKS[task].headed(replace(spec, resolution=(64, 64)))
    data = result(TASKS[task].load(made, Source(path=folder)))
    return with_head(made, made.head, data.outputs), data


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_scores_are_those_of_the_metrics(task: str, tiny_spec: ArchSpec, masks: Path, boxes: Path) -> None:
    spec, data = given(task, tiny_spec, {"segment": masks, "detect": boxes}[task])
    net = build(spec, 0).eval()
    for images in (data.train, data.validation):
        found = data.work.answers(net, images, spec.resolution)
        wanted = measure(net, images, data.metric(images), spec.resolution)[data.main_metric]
        assert found.score == pytest.approx(wanted, abs=1e-9) and len(found) == len(images)
        assert np.isfinite(found.loss).all() and (found.loss > 0).all()
        assert found.by_score == (task == "detect")
        again = answers_of(found.tensors())
        assert again.better_by(found) == (0.0, 0.0) and again.rank == found.rank


def test_the_precision_of_planted_boxes(tiny_spec: ArchSpec, boxes: Path) -> None:
    """All right, half of the images without an answer, and sure answers that are wrong, as COCO's evaluation has it."""
    from mbv3.training.detect import DetectMetric

    _, data = given("detect", tiny_spec, boxes)
    truth = data.train
    for kind in ("right", "half", "wrong"):
        metric = data.metric(truth)
        assert isinstance(metric, DetectMetric)
        rng = np.random.default_rng(0)
        for i in range(len(truth)):
            h, w = metric.data.sizes[i]
            for edges, label in zip(metric.data.boxes[i].edges, metric.data.boxes[i].labels, strict=True):
                x0, y0, x1, y1 = edges * np.array([w, h, w, h])
                box = [i + 1, x0, y0, x1 - x0, y1 - y0, rng.uniform(0.1, 0.9), label + 1]
                if kind != "half" or i % 2:
                    metric.found.append(np.array([box]))
                if kind == "wrong":
                    metric.found.append(np.array([[i + 1, 0, 0, 2, 2, rng.uniform(0.5, 0.99), label + 1]]))
        ones = np.ones((1, len(truth)), dtype=np.int64)
        mean = 100 * np.mean([c.precision(ones)[0] for c in metric.by_image()])
        assert mean == pytest.approx(metric.result()["map50"], abs=1e-9)
        assert {"right": mean == pytest.approx(100), "half": 40 < mean < 60, "wrong": 20 < mean < 95}[kind]


def test_a_better_network_is_better_beyond_the_error() -> None:
    """Two networks that share their hard images differ by less than either's error, and the pair shows it."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.2, 0.9, 60)
    share = rng.integers(50, 150, 60)

    def answers(bonus: float) -> Answers:
        right = share * np.clip(hard + bonus, 0, 1)
        return ResampledAnswers.of(lambda w: 100 * (w @ right) / (w @ share), 1 - hard - bonus)

    one, other = answers(0.03), answers(0.0)
    by, error = one.better_by(other)
    assert by == pytest.approx(3, abs=0.1) and error < 0.3 < 1.5 < one.error
    exact = 100 * float(np.std(hard) / np.sqrt(60))  # of a mean over images, about
    assert one.error == pytest.approx(exact, rel=0.25)
    assert one.lower_by(other)[0] == pytest.approx(0.03)


def test_class_answers_are_kept(tmp_path: Path) -> None:
    one = ClassAnswers(np.array([0.1, 2.0]), np.array([True, False]))
    again = answers_of(one.tensors())
    assert isinstance(again, ClassAnswers) and again.score == 50.0 and again.better_by(one) == (0.0, 0.0)
    assert torch.equal(one.tensors()["loss"], torch.tensor([0.1, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_a_part_of_the_images_answers_as_they_do(task: str, tiny_spec: ArchSpec, masks: Path, boxes: Path) -> None:
    """A part is read where it lies; masks follow the size of the input, boxes are shares of it."""
    spec, data = given(task, tiny_spec, {"segment": masks, "detect": boxes}[task])
    index = np.array([5, 1, 9])
    part, rng = data.train.take(index), np.random.default_rng(0)
    pixels, _ = part.batch(np.array([2, 0]), (64, 64), "none", rng)
    whole, _ = data.train.batch(np.array([9, 5]), (64, 64), "none", rng)
    assert len(part) == 3 and np.array_equal(pixels, whole)
    net = build(spec, 0).eval()
    every, some = (data.work.answers(net, d, spec.resolution).loss for d in (data.train, part))
    assert some == pytest.approx(every[index], rel=1e-4)
    if task == "segment":
        _, target = part.batch(np.array([0]), (32, 48), "none", rng)
        assert target.shape == (1, 32, 48) and set(target.unique().tolist()) <= {0, 1, 2}
