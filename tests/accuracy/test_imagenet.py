"""The ImageNet model over specs: known networks, spaces at once, what it refuses, where it stops to know."""

from __future__ import annotations

import csv
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from mbv3.accuracy import PAPER, Estimate, imagenet, imagenet_space, recipes
from mbv3.accuracy.features import SIDE, network_sums
from mbv3.accuracy.imagenet import layers_of, sizes
from mbv3.errors import BadInput
from mbv3.space import load_space, preset_names, scale
from mbv3.spec import count, load_spec, lower

# Howard 2019, Table 3 and slim's model list: MobileNetV3 by its paper's recipe
PUBLISHED = {
    "mobilenet_v3_large": 75.2,
    "mobilenet_v3_large@0.75": 73.3,
    "mobilenet_v3_small": 67.5,
    "mobilenet_v3_small@0.75": 65.4,
    "mobilenet_v3_large_minimalistic": 72.3,
    "mobilenet_v3_small_minimalistic": 61.9,
}


@pytest.mark.parametrize(("name", "top1"), PUBLISHED.items())
def test_published_networks_are_within_two_errors(name: str, top1: float) -> None:
    estimate = imagenet(load_spec(name))
    assert estimate.recipe == PAPER
    assert abs(estimate.value - top1) < 2 * estimate.error


def test_an_estimate_is_a_value_and_says_so() -> None:
    estimate = imagenet(load_spec("mobilenet_v3_large"))
    assert isinstance(estimate, Estimate)
    assert not estimate.extrapolated and estimate.why == ""
    assert str(estimate) == f"{estimate.value:.1f} ± {estimate.error:.1f} % ({PAPER})"
    with pytest.raises(FrozenInstanceError, match="value"):
        estimate.value = 99.0  # type: ignore[misc]


def test_a_recipe_moves_every_network_and_keeps_their_order() -> None:
    names = ("mobilenet_v3_small", "mobilenet_v2", "mnasnet_a1", "mobilenet_v3_large")
    by = {
        r: [imagenet(load_spec(n), recipe=r).value for n in names] for r in (PAPER, "paddleclas", "timm-ra4-e3600-r224")
    }
    order = np.argsort(by[PAPER]).tolist()
    assert all(np.argsort(values).tolist() == order for values in by.values())
    assert len({values[0] for values in by.values()}) == 3


def test_recipes_are_named_with_the_papers_first() -> None:
    names = recipes()
    assert names[0] == PAPER and len(set(names)) == len(names) > 20
    with pytest.raises(BadInput, match=r"recipe: no training is called 'guess'.*mobilenet_v3-paper"):
        imagenet(load_spec("mobilenet_v3_large"), recipe="guess")
    with pytest.raises(BadInput, match="no training is called 'guess'"):
        imagenet_space(load_space("mnasnet"), recipe="guess")


def test_what_is_no_imagenet_classifier_is_refused() -> None:
    with pytest.raises(BadInput, match="LRASPP head"):
        imagenet(load_spec("lraspp_mobilenet_v3_large"))
    with pytest.raises(BadInput, match=r"input\.channels: .*got 1"):
        imagenet(replace(load_spec("mobilenet_v3_large"), in_channels=1))


def test_classes_do_not_matter_to_the_answer() -> None:
    spec = load_spec("mobilenet_v3_large")
    few = replace(spec, head=replace(spec.head, classes=10))  # type: ignore[type-var]
    assert imagenet(few) == imagenet(spec)


@pytest.mark.parametrize(
    ("name", "side", "why"),
    [
        ("mobilenet_v3_large@4", 224, "above the evidence"),
        ("mobilenet_v3_large", 900, "above the evidence"),
        ("mobilenet_v3_small@0.05", 224, "below the evidence"),
        ("mobilenet_v3_large", 32, "below the evidence"),
    ],
)
def test_outside_the_evidence_it_says_so_and_widens_the_error(name: str, side: int, why: str) -> None:
    inside = imagenet(load_spec("mobilenet_v3_large"))
    estimate = imagenet(replace(load_spec(name), resolution=(side, side)))
    assert estimate.extrapolated and why in estimate.why
    assert estimate.error > 1.2 * inside.error
    assert 0 < estimate.value < 100


def test_resolution_helps_less_and_less() -> None:
    spec = load_spec("mobilenet_v3_large")
    logs = np.exp(np.linspace(np.log(96), np.log(480), 30))
    top1 = np.array([imagenet(replace(spec, resolution=(round(r), round(r)))).value for r in logs])
    slopes = np.diff(np.log(top1 / (100 - top1))) / np.diff(np.log(np.round(logs)))
    assert (np.diff(slopes) < 1e-6).all()


def test_resolution_helps_until_the_evidence_ends() -> None:
    spec = load_spec("mobilenet_v3_large")
    values = [imagenet(replace(spec, resolution=(r, r))).value for r in (64, 96, 128, 160, 192, 224, 256, 320, 480)]
    assert values == sorted(values) and values[5] - values[2] > 2
    assert imagenet(replace(spec, resolution=(1000, 1000))).value == pytest.approx(values[-1], abs=1e-9)
    assert imagenet(replace(spec, resolution=(112, 448))).value == pytest.approx(values[5], abs=1e-9)


@pytest.mark.parametrize("name", [*PUBLISHED, "mnasnet_a1", "mobilenet_v2@1.4"])
def test_layers_and_sizes_are_those_of_the_lowering(name: str) -> None:
    spec = load_spec(name)
    direct = [layer.ops for layer in lower(replace(spec, resolution=(SIDE, SIDE)))]
    layers = [layer.ops for layer in layers_of(spec)]
    assert np.array_equal(network_sums(layers), network_sums(direct))
    at, counts = sizes(layers[:-1], 224.0), count(spec)
    head = counts.by_row[-1]
    assert at["parameters (M)"] * 1e6 == pytest.approx(counts.params - head.params)
    assert at["multiply-adds at 224 (M)"] * 1e6 == pytest.approx(counts.madds - head.madds, rel=1e-6)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("recipe", [PAPER, "accel-nasbench"])
def test_a_space_at_once_equals_spec_by_spec(name: str, recipe: str) -> None:
    rng = np.random.default_rng(0)
    for width, side in ((1.0, None), (0.6, 160), (1.35, (256, 192))):
        space = scale(load_space(name), width, side)
        genomes = space.sample(rng, 12)
        fast = imagenet_space(space, recipe=recipe)(genomes)
        slow = [imagenet(space.spec(tuple(g)), recipe=recipe).value for g in genomes]
        assert np.abs(fast - slow).max() < 1e-9


def test_a_space_takes_one_genome_and_many() -> None:
    space = load_space("mobilenetv3")
    genomes = space.sample(np.random.default_rng(1), 1000)
    top1 = imagenet_space(space)
    assert top1(genomes).shape == (1000,)
    assert top1(genomes[7]) == pytest.approx(top1(genomes)[7:8], abs=1e-12)


def test_held_out_trainings_are_ranked(data: Path) -> None:
    """The shipped coefficients have not seen these 1,025 trainings (split 0 of scripts/fit_imagenet_accuracy.py)."""
    space = load_space("mnasnet-imagenet")
    with (data / "accel_nasbench_imagenet.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    held = np.random.default_rng(0).permutation(len(rows))[: len(rows) // 4]
    genomes = np.array([space.encode({n: int(rows[i][n]) for n in space.names}) for i in held])
    true = [float(rows[i]["val_top1"]) for i in held]
    assert kendalltau(imagenet_space(space, recipe="accel-nasbench")(genomes), true).statistic > 0.9
