"""Limits: closed forms over a space equal what is counted on one network, and a weights file has the size they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mbv3.nn import build
from mbv3.space import Limits, SpaceLimits, load_space, scale
from mbv3.spec import count, load_spec
from mbv3.training import save_weights

ALL = Limits(params=4_000_000, madds=200_000_000, mb=16.0)


@pytest.mark.parametrize("name", ["mobilenetv3", "mnasnet-imagenet"])
def test_a_space_has_what_its_networks_have(name: str) -> None:
    space = scale(load_space(name), 0.75, 160)
    limits = ALL.on(space)
    for genome in space.sample(np.random.default_rng(0), 20):
        g = tuple(int(v) for v in genome)
        spec, has = space.deployed(g), ALL.of(space.deployed(g))
        assert (has["params"], has["madds"]) == (count(spec).params, count(spec).madds)
        assert {x.name: float(x.cost(genome[None])[0]) for x in limits.every} == pytest.approx(has)
        assert limits.hold(g) == ALL.hold(spec) == bool(limits.within(genome[None])[0])
        over = [has[name] / most for name, most in ALL if has[name] > most]
        assert limits.share(g) == pytest.approx(1 / np.prod(over))


def test_megabytes_are_those_of_the_weights_file(tmp_path: Path) -> None:
    spec = load_spec("mobilenet_v3_large")
    save_weights(tmp_path / "w.safetensors", build(spec, 0).state_dict())
    said = Limits(mb=1.0).of(spec)["mb"]
    assert said == pytest.approx((tmp_path / "w.safetensors").stat().st_size / 1e6, rel=0.003)


def test_no_limit_holds_always_and_each_limit_is_named() -> None:
    spec, space = load_spec("mobilenet_v3_small"), load_space("mnasnet-imagenet")
    assert not Limits() and Limits().hold(spec) and Limits().of(spec) == {}
    assert SpaceLimits().within(np.zeros((3, 4), dtype=np.int64)).all() and SpaceLimits().share((0,)) == 1
    assert str(ALL) == "--max-params 4 M parameters, --max-madds 200 M MAdds, --max-mb 16 MB of weights"
    [line] = Limits(params=100_000, madds=10**10).on(space).unmet()
    least, most = (Limits(params=1).on(space).every[0].cost.extreme(big)[0] / 1e6 for big in (False, True))
    assert line == f"--max-params 0.1 M parameters: they have {least:.3g} M parameters to {most:.3g} M parameters"
