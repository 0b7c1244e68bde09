"""No cut is ever predicted to help: over random networks of several spaces, and by the shape of the formula."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from mbv3.accuracy import PAPER
from mbv3.accuracy.features import network_sums
from mbv3.accuracy.imagenet import layers_of
from mbv3.accuracy.model import shipped
from mbv3.space import load_space, scale
from mbv3.spec import ArchSpec, Classify, MBConv, channels, cut, load_spec, reference_names, sites

CUTS = 10_000
WALK = 40  # cuts of one network, each on top of the last
KINDS = ("expansion", "bottleneck", "kernel", "squeeze", "block", "resolution", "tail", "features", "stem")


def _smaller(rng: np.random.Generator, n: int, least: int = 1) -> int:
    return int(rng.integers(least, n)) if n > least else n


def _replaced(spec: ArchSpec, i: int, **fields: int) -> ArchSpec:
    rows = list(spec.rows)
    rows[i] = replace(rows[i], **fields)  # type: ignore[arg-type]
    return replace(spec, rows=tuple(rows))


def random_cut(spec: ArchSpec, kind: str, rng: np.random.Generator) -> ArchSpec | None:
    """`spec` smaller in one place; None where it has no such place."""
    if kind in ("expansion", "bottleneck"):
        there = [s for s in sites(spec, "width") if s.kind == kind]
        if not there:
            return None
        site = there[rng.integers(len(there))]
        now = channels(spec, site)
        return cut(spec, site, _smaller(rng, now, 8)) if now > 8 else None
    if kind == "kernel":
        wide = [i for i, row in enumerate(spec.rows) if row.k > 3]
        return _replaced(spec, int(rng.choice(wide)), k=3) if wide else None
    if kind == "squeeze":
        with_se = [i for i, row in enumerate(spec.rows) if row.se]
        if not with_se:
            return None
        i = int(rng.choice(with_se))
        return _replaced(spec, i, se=int(rng.integers(0, spec.rows[i].se)))
    if kind == "block":
        free = [i for i, row in enumerate(spec.rows) if row.skip == "identity"]
        if not free:
            return None
        i = int(rng.choice(free))
        return replace(spec, rows=spec.rows[:i] + spec.rows[i + 1 :])
    if kind == "resolution":
        side = _smaller(rng, spec.resolution[0], 33)
        return replace(spec, resolution=(side, side))
    if kind == "tail":
        return spec.tail and replace(spec, tail=replace(spec.tail, out=_smaller(rng, spec.tail.out)))
    if kind == "features":
        assert isinstance(spec.head, Classify)
        n = spec.head.features
        return replace(spec, head=replace(spec.head, features=_smaller(rng, n))) if n > 1 else None
    first = spec.rows[0]
    if first.skip != "none" or (isinstance(first, MBConv) and first.exp == spec.stem.out):
        return None
    return replace(spec, stem=replace(spec.stem, out=_smaller(rng, spec.stem.out)))


def networks(rng: np.random.Generator) -> Iterator[ArchSpec]:
    """Random networks of four spaces at random scales, and the papers' own."""
    spaces = [load_space(n) for n in ("mnasnet", "mobilenetv3", "mnasnet-imagenet", "nas-bench-macro")]
    named = reference_names()
    while True:
        for space in spaces:
            scaled = scale(space, float(rng.uniform(0.3, 1.6)), int(rng.integers(64, 480)))
            yield scaled.spec(tuple(int(g) for g in scaled.sample(rng, 1)[0]))
        yield load_spec(f"{named[rng.integers(len(named))]}@{rng.uniform(0.3, 1.6):.2f}")


def predicted(specs: list[ArchSpec]) -> np.ndarray:
    sums = [network_sums(layer.ops for layer in layers_of(s)) for s in specs]
    sides = np.array([float(s.resolution[0]) for s in specs])
    return shipped().predict(np.array(sums), sides, PAPER)


def test_no_cut_of_ten_thousand_is_predicted_to_help() -> None:
    rng = np.random.default_rng(0)
    made: Counter[str] = Counter()
    rises: list[str] = []
    for spec in networks(rng):
        walk, kinds = [spec], []
        for _ in range(10 * WALK):
            kind = KINDS[rng.integers(len(KINDS))]
            smaller = random_cut(walk[-1], kind, rng)
            if smaller is not None and smaller != walk[-1]:
                walk.append(smaller)
                kinds.append(kind)
            if len(kinds) == WALK:
                break
        change = np.diff(predicted(walk))
        rises += [f"{kind} of {spec.name}: {d:+.3g}" for kind, d in zip(kinds, change, strict=True) if d > 1e-9]
        made.update(kinds)
        if made.total() >= CUTS:
            break
    assert made.total() >= CUTS and set(made) == set(KINDS)
    assert rises == []


def test_cuts_cost_something() -> None:
    """A model that answers one number for all would pass the test above."""
    rng = np.random.default_rng(1)
    spec = load_spec("mobilenet_v3_large")
    for kind in ("expansion", "bottleneck", "block", "resolution"):
        smaller = [s for s in (random_cut(spec, kind, rng) for _ in range(20)) if s is not None]
        assert np.mean(predicted(smaller)) < predicted([spec])[0] - 0.05, kind


def test_every_weight_is_at_least_zero() -> None:
    model = shipped()
    assert model.weights.min() >= 0 and model.v.min() >= 0 and min(model.c, model.beta) >= 0
    assert all(f > 0 for factors in model.scales.values() for f in factors.values())
    assert all(r.slope > 0 for r in model.recipes.values())


@pytest.mark.parametrize("recipe", ["accel-nasbench", "ofa-dynast", "ofa-gatech"])
def test_other_sources_are_monotone_too(recipe: str) -> None:
    rng = np.random.default_rng(2)
    spec, values = load_spec("mnasnet_a1"), []
    while len(values) < 60:
        kind = KINDS[rng.integers(len(KINDS))]
        spec = random_cut(spec, kind, rng) or spec
        sums = network_sums(layer.ops for layer in layers_of(spec))
        values.append(float(shipped().predict(sums[None], float(spec.resolution[0]), recipe)[0]))
    assert np.diff(values).max() < 1e-9
