"""The shipped ImageNet predictor: its held-out rank correlation, and the sum it stands for."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from mbv3.errors import BadInput
from mbv3.search import ImagenetPredictor, imagenet_top1
from mbv3.search.predictor import _shipped, fit_ridge, one_hot_pairs
from mbv3.space import load_space, scale

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SPACE = load_space("mnasnet-imagenet")


@pytest.mark.skipif(not (SHARED / "accel_nasbench_imagenet.csv").exists(), reason="../shared/data is absent")
def test_rank_correlation_on_the_held_out_fifth() -> None:
    with (SHARED / "accel_nasbench_imagenet.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    genomes = [SPACE.encode({n: int(r[n]) for n in SPACE.names}) for r in rows]
    top1 = np.array([float(r["val_top1"]) for r in rows])
    held = np.random.default_rng(0).permutation(len(rows))[: len(rows) // 5]  # as scripts/fit_imagenet_predictor.py
    predicted = imagenet_top1(SPACE, [genomes[i] for i in held])
    assert len(held) > 700
    assert kendalltau(predicted, top1[held]).statistic >= 0.90
    assert np.sqrt(np.mean((predicted - top1[held]) ** 2)) < 1.0


def test_it_is_the_sum_of_singles_and_pairs() -> None:
    genomes = SPACE.sample(np.random.default_rng(0), 50)
    shipped = _shipped(SPACE.sizes)
    x = one_hot_pairs(SPACE.sizes, genomes)
    np.testing.assert_allclose(shipped(genomes), shipped.intercept + x @ shipped.coefficients, rtol=1e-9)
    np.testing.assert_array_equal(imagenet_top1(SPACE, genomes), shipped(genomes))
    np.testing.assert_allclose(imagenet_top1(SPACE, [tuple(genomes[3])]), shipped(genomes)[3:4])
    assert ((shipped(genomes) > 50) & (shipped(genomes) < 85)).all()


def test_a_sum_by_hand() -> None:
    #        a=0 a=1  b=0 b=1 b=2   (0,0) (0,1) (0,2) (1,0) (1,1) (1,2)
    w = np.array([1.0, 2, 10, 20, 30, 100, 200, 300, 400, 500, 600])
    predictor = ImagenetPredictor((2, 3), 0.5, w)
    np.testing.assert_array_equal(predictor(np.array([[0, 0], [1, 2], [0, 1]])), [111.5, 632.5, 221.5])
    np.testing.assert_array_equal(one_hot_pairs((2, 3), np.array([1, 2])), [[0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1]])


def test_it_holds_at_every_scale_of_its_space_and_for_no_other() -> None:
    genomes = SPACE.sample(np.random.default_rng(0), 3)
    np.testing.assert_array_equal(imagenet_top1(scale(SPACE, 0.5, 128), genomes), imagenet_top1(SPACE, genomes))
    with pytest.raises(BadInput, match=r"^--accuracy imagenet knows only the space mnasnet-imagenet \(got mnasnet\)"):
        imagenet_top1(load_space("mnasnet"), [(0,) * 10])
    impostor = replace(load_space("nas-bench-macro"), name=SPACE.name, source="mine.yaml")
    with pytest.raises(
        BadInput, match=r"^--accuracy imagenet: the blocks of mine.yaml are not those of the mnasnet-im"
    ):
        imagenet_top1(impostor, [(0,) * 8])


@pytest.mark.parametrize("n", [6, 40], ids=["wide", "tall"])
def test_ridge_by_its_normal_equations(n: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 9)).astype(np.float32), rng.normal(5, 1, n)
    b, w = fit_ridge(x, y, 2.0)
    x64 = x.astype(np.float64)
    residual = b + x64 @ w - y
    assert abs(residual.sum()) < 1e-8  # the intercept is not penalised
    np.testing.assert_allclose(x64.T @ residual + 2.0 * w, 0, atol=1e-6)
