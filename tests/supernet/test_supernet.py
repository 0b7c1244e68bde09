"""Shared weights: the path that is trained is the network that is cut out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mbv3.errors import BadInput
from mbv3.nn import build, state_shapes
from mbv3.space import Genome, SearchSpace, load_space, parse_space, scale
from mbv3.supernet import Supernet, SupernetAccuracy, path_forward, throughput
from mbv3.training import Fit
from tests.drawn import drawn_images

SPACE = """\
format: mbv3-space/1
name: tiny
input: {resolution: 16}
gate: HSIGMOID
stem: {k: 3, out: 8, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 8, e: [1, 2], k: [3, 5], se: [0, 1]}
  - {name: b, s: 2, out: 16, e: [2, 3], k: [7, 3, 5], l: [1, 2, 3], se: [0, 1], width: [0.5, 1, 1.5], nl: [RE, HS]}
  - {name: c, s: 1, out: 16, e: [1, 1.5, 3], k: [3, 5], l: [2, 1], width: [1, 0.5], nl: [HS, RE6, NONE]}
tail: {k: 1, out: 32, nl: HS}
head: {features: 24, classes: 5, dropout: 0}
"""
TINY = parse_space(SPACE)
FLAT = parse_space(
    SPACE.replace("tail: {k: 1, out: 32, nl: HS}\n", "")
    .replace("features: 24", "features: 0")
    .replace("gate: HSIGMOID", "gate: SIGMOID")
    .replace("name: tiny", "name: flat")
)
POOLED = parse_space(SPACE.replace("name: b, s: 2,", "name: b, s: 1, skip: pool,"))
PRESET = scale(load_space("mobilenetv3"), 0.25, 32, classes=5)
IMAGENET = scale(load_space("mnasnet-imagenet"), 0.25, 32, classes=5)


def randomised(space: SearchSpace, seed: int = 0) -> Supernet:
    """In double precision, with no weight at a value that hides a mistake (0 biases, 1 scales, tiny classifiers)."""
    supernet = Supernet(space, seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in supernet.modules():
            for p in module.parameters(recurse=False):
                if p.dim() == 1:
                    p.uniform_(0.5, 1.5, generator=generator)
                    p *= torch.where(torch.rand(p.shape, generator=generator) < 0.3, -1, 1)
                elif isinstance(module, nn.Linear):
                    p.normal_(0, 0.5, generator=generator)
    return supernet


def genomes(space: SearchSpace, n: int, seed: int = 0) -> list[Genome]:
    largest = tuple(k - 1 for k in space.sizes)
    drawn = [tuple(int(v) for v in g) for g in space.sample(np.random.default_rng(seed), n)]
    return [(0,) * len(space.sizes), largest, *drawn]


@pytest.mark.parametrize(
    ("space", "n"), [(TINY, 40), (FLAT, 15), (POOLED, 15), (PRESET, 3), (IMAGENET, 3)],
    ids=["tiny", "flat", "pooled", "mobilenetv3", "mnasnet-imagenet"],
)  # fmt: skip
def test_the_path_of_a_genome_is_its_extracted_network(space: SearchSpace, n: int) -> None:
    supernet = randomised(space).train()
    x = torch.randn(6, 3, *space.resolution, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = []
    for genome in genomes(space, n):
        net = build(space.spec(genome)).double()
        net.load_state_dict(supernet.extract(genome), strict=True)
        net.train()  # batch statistics
        with torch.no_grad():
            torch.manual_seed(3)  # dropout
            path = supernet.forward_path(genome, x)
            torch.manual_seed(3)
            own = net(x)
        assert own.abs().max() > 1e-2
        torch.testing.assert_close(
            path, own, rtol=0, atol=1e-8 * float(own.abs().max()), msg=lambda m, g=genome: f"{g}: {m}"
        )
        outputs.append(own)
    assert torch.unique(torch.stack(outputs), dim=0).shape[0] >= 0.9 * len(set(genomes(space, n)))


@pytest.mark.parametrize("space", [TINY, FLAT, PRESET, IMAGENET], ids=lambda s: s.name)
def test_extract_has_the_shapes_of_the_spec(space: SearchSpace) -> None:
    supernet = Supernet(space)
    for genome in genomes(space, 6):
        state = supernet.extract(genome)
        shapes = {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}
        assert shapes == state_shapes(space.spec(genome))


def test_extract_takes_leading_channels_first_layers_and_kernel_centres() -> None:
    supernet = randomised(TINY)
    full = supernet.net.state_dict()
    first = TINY.decode((0,) * len(TINY.sizes))
    genome = TINY.encode(first | {"b_l": 2, "b_k": 3, "b_e": 2, "b_width": 1, "c_k": 3, "c_e": 3})
    state = supernet.extract(genome)
    assert supernet.depths == (1, 3, 2)
    assert supernet.rows_of(genome) == [0, 1, 2, 4, 5]  # the first two of b's three layers
    spec = TINY.spec(genome)
    assert spec.rows[2].exp == 32 and spec.rows[2].out == 16  # type: ignore[union-attr]
    assert torch.equal(state["rows.2.depthwise.conv.weight"], full["rows.2.depthwise.conv.weight"][:32, :, 2:5, 2:5])
    assert torch.equal(state["rows.2.project.conv.weight"], full["rows.2.project.conv.weight"][:16, :32])
    assert torch.equal(state["rows.3.depthwise.conv.weight"], full["rows.4.depthwise.conv.weight"][:48, :, 1:4, 1:4])


def test_extract_is_a_copy() -> None:
    supernet = Supernet(TINY)
    before = {k: v.clone() for k, v in supernet.net.state_dict().items()}
    for value in supernet.extract(tuple(n - 1 for n in TINY.sizes)).values():
        value.add_(1)
    assert all(torch.equal(before[k], v) for k, v in supernet.net.state_dict().items())


def test_gradients_reach_the_slice_and_nothing_else() -> None:
    numbered = Supernet(TINY).double()
    start, spans = 0, {}
    with torch.no_grad():
        for name, p in numbered.net.named_parameters():
            p.copy_(torch.arange(start, start + p.numel(), dtype=torch.float64).view(p.shape))
            spans[name] = start
            start += p.numel()
    supernet = randomised(TINY)
    x = torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for genome in genomes(TINY, 8):
        supernet.zero_grad()
        supernet.forward_path(genome, x).square().sum().backward()
        parameters = {n for n, _ in build(TINY.spec(genome)).named_parameters()}
        lent = torch.zeros(start, dtype=torch.bool)
        for name, ids in numbered.extract(genome).items():
            if name in parameters:
                lent[ids.flatten().long()] = True
        touched = torch.zeros(start, dtype=torch.bool)
        for name, p in supernet.net.named_parameters():
            if p.grad is not None:
                touched[spans[name] : spans[name] + p.numel()] = (p.grad != 0).flatten()
        assert not (touched & ~lent).any(), genome
        assert (touched & lent).sum() > 0.5 * lent.sum(), genome  # dead ReLUs and padded kernel rims get none


def test_a_space_with_a_choice_that_is_no_size_is_refused() -> None:
    with pytest.raises(BadInput, match="space 'nas-bench-macro': layer0_op is no size, so weights cannot be shared"):
        Supernet(load_space("nas-bench-macro"))
    with pytest.raises(BadInput, match="a_skip is no size"):
        Supernet(parse_space(SPACE.replace("k: [3, 5], se: [0, 1]}", "k: [3, 5], skip: [identity, none]}")))


def test_a_space_of_other_rows_is_refused() -> None:
    with pytest.raises(BadInput, match="space 'tiny': weight sharing needs mbconv blocks only"):
        Supernet(parse_space(SPACE.replace("name: a, s: 1, out: 8, e: [1, 2],", "name: a, s: 1, out: 8, op: dsconv,")))


def test_a_space_that_expands_only_small_networks_is_refused() -> None:
    text = SPACE.replace("e: [1, 1.5, 3], k: [3, 5], l: [2, 1]", "e: [0.5, 1], k: [3, 5], l: [2, 1]")
    with pytest.raises(BadInput, match="space 'tiny': block c has no expansion in its largest network"):
        Supernet(parse_space(text))


def test_the_path_is_a_function_of_seed_and_step() -> None:
    supernet = Supernet(TINY)
    seen: list[Genome] = []
    supernet.forward_path = lambda genome, x: seen.append(genome)  # type: ignore[method-assign, assignment]
    x = torch.zeros(1)
    for at in (path_forward(supernet, 0), path_forward(supernet, 0), path_forward(supernet, 1)):
        for step in (0, 1, 2, 40):
            at(step)(x)
    assert seen[:4] == seen[4:8] and seen[:4] != seen[8:]
    assert len(set(seen[:4])) > 1
    assert all(TINY.check(g) == g for g in seen)


class TestSupernetAccuracy:
    data = drawn_images(60, 16, 0)

    def make(self) -> SupernetAccuracy:
        supernet = randomised(parse_space(SPACE.replace("classes: 5", "classes: 8"))).float()
        return SupernetAccuracy(supernet, self.data, drawn_images(40, 16, 1), (16, 16), 3, 16)

    def test_it_is_a_function_of_the_genome(self) -> None:
        score = self.make()
        one, other = genomes(score.supernet.space, 2)[2:]
        before = {k: v.clone() for k, v in score.supernet.state_dict().items()}
        first = score(one)
        score(other)
        torch.manual_seed(99)
        assert score(one) == first == self.make()(one)
        assert score(other) != first
        assert all(torch.equal(before[k], v) for k, v in score.supernet.state_dict().items())
        assert first.n == 40 and 0 <= first.top1 <= 100

    def test_its_network_has_statistics_of_the_images(self) -> None:
        score = self.make()
        genome = genomes(score.supernet.space, 1)[2]
        net = score.network(genome)
        assert not net.training
        inherited = score.supernet.extract(genome)
        for name, value in net.state_dict().items():
            if name.endswith("running_mean"):
                assert not torch.equal(value, inherited[name]), name
            elif name.endswith("num_batches_tracked"):
                assert int(value) == 3
            elif not name.endswith("running_var"):
                assert torch.equal(value, inherited[name]), name


def test_throughput_leaves_the_weights_alone(tmp_path: Path) -> None:
    supernet = Supernet(parse_space(SPACE.replace("classes: 5", "classes: 8")))
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    assert throughput(supernet, TestSupernetAccuracy.data, Fit(steps=10, size=(16, 16), batch=8), 0.05) > 0
    assert all(torch.equal(before[k], v) for k, v in supernet.state_dict().items())
