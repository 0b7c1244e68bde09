"""The tables behind the fit: parameter counts of the libraries that published the networks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# timm's counts (huggingface/pytorch-image-models@aa4b5850)
V1 = {1.0: 4231976, 1.25: 6270840}
V2 = {0.5: 1968680, 1.0: 3504872, 1.4: 6108776}
LCNET = {0.5: 1880856, 0.75: 2358288, 1.0: 2953800}
EFFICIENT = {
    (1.0, 1.0): 5288548, (1.0, 1.1): 7794184, (1.1, 1.2): 9109994, (1.2, 1.4): 12233232, (1.4, 1.8): 19341616,
}  # fmt: skip
TINY = {(1.0, 1.2): 6187972, (0.75, 1.1): 3730562, (0.54, 0.85): 2457234, (0.54, 0.695): 2338446, (0.51, 0.6): 2042972}
V4_HEAD_NORM = 1280  # its last 1x1 has a batch norm in place of a bias: one number more a channel
V4 = {("s", 1.0): 3774024, ("m", 1.0): 9715512, ("l", 1.0): 32590864, ("s", 0.5): 2238952}


@pytest.fixture(scope="module")
def nets() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))
    yield import_module("imagenet_networks")
    sys.path.remove(str(SCRIPTS))


def test_parameter_counts(nets: ModuleType) -> None:
    assert {w: nets.params(nets.v1(w)) for w in V1} == V1
    assert nets.params(nets.v1(1.0, 1024)) == 5282600
    assert {w: nets.params(nets.v2(w)) for w in V2} == V2
    assert {w: nets.params(nets.lcnet(w)) for w in LCNET} == LCNET
    assert {wd: nets.params(nets.efficientnet(*wd)) for wd in EFFICIENT} == EFFICIENT
    assert {wd: nets.params(nets.tinynet(*wd)) for wd in TINY} == TINY
    assert {k: nets.params(nets.v4(*k)) + V4_HEAD_NORM for k in V4} == V4


def test_evidence_rows(nets: ModuleType, data: Path) -> None:
    evidence = import_module("imagenet_evidence")
    rows, left = evidence.published(data / "imagenet_mobile_top1.csv")
    assert (len(rows), len(left)) == (273, 115)
    assert sum(r.recipe == "mobilenet_v3-paper" for r in rows) == 6
    large = next(r for r in rows if r.name == "v3_large_1.0")
    assert nets.params(large.layers) == 5483032 and large.top1 == 75.2
    assert len(evidence.ofa(data / "ofa_mbv3_subnets_imagenet.csv")) == 2081


def test_the_evidence_and_the_zoo_have_the_same_networks(nets: ModuleType, data: Path) -> None:
    """What the model is fitted on is what it sees of a spec."""
    from mbv3.accuracy import zoo
    from mbv3.accuracy.features import network_sums
    from mbv3.accuracy.imagenet import layers_of

    evidence = import_module("imagenet_evidence")
    rows, _ = evidence.published(data / "imagenet_mobile_top1.csv")
    known = {(f"timm_{p.weights.removeprefix('timm:')}", p.resolution): p for p in zoo()}
    met = 0
    for row in rows:
        name, _, side = row.name.partition("@")
        if (p := known.get((name, int(side or 0)))) is None:
            continue
        met += 1
        ours = network_sums([layer.ops for layer in layers_of(p.spec())])
        assert ours == pytest.approx(network_sums(row.layers), rel=1e-9), row.name
        assert row.recipe == p.recipe and abs(row.top1 - p.top1) < 0.006
    assert met > 60
