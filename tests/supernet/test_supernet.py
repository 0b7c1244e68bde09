"""Shared weights: the path that is trained is the network that is cut out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mbv3.errors import BadInput
from mbv3.nn import build, state_shapes
from mbv3.space import Genome, SearchSpace, load_space, parse_space, scale
from mbv3.supernet import (
    Paths,
    Supernet,
    SupernetAccuracy,
    many_answers,
    path_forward,
    shared_fit,
    shared_paths,
    steps_within,
    throughput,
    train_shared,
)
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
MNASNET = scale(load_space("mnasnet"), 0.25, 32, classes=5)
UIB = scale(load_space("mobilenetv4"), 0.25, 32, classes=5)
MACRO = scale(load_space("nas-bench-macro"), 0.25, 16, classes=5)
KINDS = parse_space(
    SPACE.replace("name: tiny", "name: kinds")
    .replace("e: [1, 2], k: [3, 5], se: [0, 1]}", "e: 2, k: 5, op: [identity, dsconv, fused], skip: [identity, none]}")
    .replace("out: 16, e: [1, 1.5, 3], k: [3, 5], l: [2, 1], width: [1, 0.5]",
             "out: 16, op: [{name: none, op: identity}, {name: thin, op: mbconv, e: 2, k: 5}, "
             "{name: fat, op: mbconv, e: 4, k: 3}, {name: full, op: conv, k: 3}], l: [2, 1]")
)  # fmt: skip
ABSENT = parse_space(SPACE.replace("name: a, s: 1, out: 8,", "name: a, s: 1, out: 8, l: [0, 1, 2],"))


def randomised(space: SearchSpace, seed: int = 0, apart: bool = False) -> Supernet:
    """In double precision, with no weight at a value that hides a mistake (0 biases, 1 scales, tiny classifiers)."""
    supernet = Supernet(space, seed, apart=apart).double()
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
    ("space", "n", "apart"),
    [
        (TINY, 40, False), (FLAT, 15, False), (POOLED, 15, False), (PRESET, 3, False), (IMAGENET, 3, False),
        (MNASNET, 2, False), (MNASNET, 1, True), (UIB, 2, False), (MACRO, 5, True), (MACRO, 3, False),
        (KINDS, 15, False), (KINDS, 15, True), (ABSENT, 10, False),
    ],
    ids=[
        "tiny", "flat", "pooled", "mobilenetv3", "mnasnet-imagenet", "mnasnet", "mnasnet-apart", "mobilenetv4",
        "macro-apart", "macro", "kinds", "kinds-apart", "absent",
    ],
)  # fmt: skip
def test_the_path_of_a_genome_is_its_extracted_network(space: SearchSpace, n: int, apart: bool) -> None:
    supernet = randomised(space, apart=apart).train()
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


@pytest.mark.parametrize("space", [TINY, FLAT, PRESET, IMAGENET, KINDS], ids=lambda s: s.name)
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


def test_kinds_have_weights_of_their_own_and_sizes_share_them() -> None:
    """In KINDS block a is nothing, a dsconv or a fused row; c nothing, two sizes of mbconv, or a convolution."""
    one, own = Supernet(KINDS), Supernet(KINDS, apart=True)
    base = KINDS.decode((0,) * len(KINDS.sizes)) | {"b_l": 1, "b_width": 1, "c_l": 2}

    def rows(supernet: Supernet, **values: str) -> list[int]:
        return supernet.rows_of(KINDS.encode(base | values))

    assert rows(one, a_op="identity", c_op="none") == [1]  # b's first row alone
    assert [len(rows(one, a_op=op, c_op="none")) for op in ("dsconv", "fused")] == [2, 2]
    assert rows(one, a_op="dsconv", c_op="none")[0] != rows(one, a_op="fused", c_op="none")[0]
    thin, fat, full = (rows(one, c_op=op)[-2:] for op in ("thin", "fat", "full"))
    assert thin == fat and not set(thin) & set(full)
    thin, fat, full = (rows(own, c_op=op)[-2:] for op in ("thin", "fat", "full"))
    assert not set(thin) & set(fat) and not set(fat) & set(full)
    largest = one.net.rows[rows(one, c_op="thin")[-2]]
    assert largest.get_submodule("depthwise.conv").weight.shape[2] == 5  # of thin, with the expansion of fat
    assert one.net.rows[rows(one, c_op="thin")[-1]].get_submodule("expand.conv").weight.shape[0] == 4 * 16


def test_a_narrow_network_has_the_1x1_that_the_widest_does_without() -> None:
    text = SPACE.replace(
        "name: c, s: 1, out: 16, e: [1, 1.5, 3]", "name: c, s: 1, out: 24, op: [identity, mbconv], e: 2"
    )
    space = parse_space(text)
    supernet = Supernet(space)
    wide = space.decode((0,) * len(space.sizes)) | {"b_width": 1.5, "b_l": 1, "c_op": "identity", "c_width": 1}
    assert len(supernet.rows_of(space.encode(wide))) == 2  # 24 channels all the way
    narrow = space.encode(wide | {"b_width": 1})
    assert len(supernet.rows_of(narrow)) == 3
    shapes = {k: tuple(v.shape) for k, v in supernet.extract(narrow).items()}
    assert shapes["rows.2.conv.weight"] == (24, 16, 1, 1)


def test_a_space_that_expands_only_small_networks_is_refused() -> None:
    text = SPACE.replace("e: [1, 1.5, 3], k: [3, 5], l: [2, 1]", "e: [0.5, 1], k: [3, 5], l: [2, 1]")
    with pytest.raises(BadInput, match="space 'tiny': block c has no expansion in its largest network"):
        Supernet(parse_space(text))


def test_the_path_is_a_function_of_seed_and_step() -> None:
    supernet = Supernet(TINY)
    seen: list[Genome] = []
    supernet.forward_path = lambda genome, x: seen.append(genome) or x  # type: ignore[method-assign, func-returns-value, assignment]
    x = torch.zeros(1)
    for at in (path_forward(supernet, 0), path_forward(supernet, 0), path_forward(supernet, 1)):
        for step in (0, 1, 2, 40):
            at(step)(x)
    assert seen[:4] == seen[4:8] and seen[:4] != seen[8:]
    assert len(set(seen[:4])) > 1
    assert all(TINY.check(g) == g for g in seen)


def test_fair_paths_take_every_choice_once() -> None:
    paths = Paths(count=6, fair=True)
    for step in range(20):
        drawn = np.array(paths.of(TINY, 3, step))
        for column, n in zip(drawn.T, TINY.sizes, strict=True):
            counts = np.bincount(column, minlength=n)
            assert counts.max() - counts.min() <= (0 if 6 % n == 0 else 1)
    assert len({tuple(paths.of(TINY, 3, step)) for step in range(20)}) == 20


def test_paths_near_a_target_come_from_the_pool() -> None:
    pool = TINY.sample(np.random.default_rng(5), 3)
    near = {tuple(int(v) for v in g) for g in pool}
    for share, low, high in ((0.0, 0.0, 0.02), (0.5, 0.4, 0.6), (1.0, 1.0, 1.0)):
        paths = Paths(count=4, pool=pool, near=share)
        drawn = [g for step in range(100) for g in paths.of(TINY, 0, step)]
        assert low <= np.mean([g in near for g in drawn]) <= high  # 400 draws: sd 0.025


def test_a_step_divides_its_images_among_its_paths() -> None:
    supernet = randomised(TINY)
    x = torch.randn(7, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    paths = Paths(count=3)
    out = path_forward(supernet, 1, paths)(4)(x)
    parts = [supernet.forward_path(g, p) for g, p in zip(paths.of(TINY, 1, 4), x.chunk(3), strict=True)]
    torch.testing.assert_close(out, torch.cat(parts))
    assert len(path_forward(supernet, 1, Paths(count=12))(4)(x)) == 7


def test_small_images_first() -> None:
    supernet = Supernet(TINY)
    seen: list[tuple[int, ...]] = []
    supernet.forward_path = lambda genome, x: seen.append(tuple(x.shape)) or x  # type: ignore[method-assign, func-returns-value, assignment]
    at = path_forward(supernet, 0, Paths(small=0.625, small_part=0.8), 5)
    for step in range(5):
        at(step)(torch.zeros(2, 3, 16, 16))
    assert seen == [(2, 3, 10, 10)] * 4 + [(2, 3, 16, 16)]


@pytest.mark.parametrize("space", [TINY, KINDS, MACRO], ids=lambda s: s.name)
@pytest.mark.parametrize("norms", ["batch", "running"])
def test_many_answers_are_those_of_the_networks_alone(space: SearchSpace, norms: str) -> None:
    supernet = randomised(space).float()
    generator = torch.Generator().manual_seed(2)
    batches = [
        (torch.randn(8, 3, *space.resolution, generator=generator), torch.randint(0, 5, (8,), generator=generator))
        for _ in range(2)
    ]
    drawn = genomes(space, 5)
    for g in drawn[:3]:  # statistics that are not those of the start
        supernet.forward_path(g, batches[0][0])
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    supernet.train()
    found = many_answers(supernet, drawn, batches, norms)  # type: ignore[arg-type]
    assert all(m.training for m in supernet.modules())
    assert all(torch.equal(before[k], v) for k, v in supernet.state_dict().items() if "num_batches" not in k)
    for i, g in enumerate(drawn):
        net = build(space.spec(g))
        net.load_state_dict(supernet.extract(g))
        net.train(norms == "batch")
        with torch.no_grad():
            out = torch.cat([net(x) for x, _ in batches])
        y = torch.cat([y for _, y in batches])
        wanted = nn.functional.cross_entropy(out, y, reduction="none").numpy()
        np.testing.assert_allclose(found.loss[i], wanted, rtol=1e-3, atol=1e-4)
        assert np.array_equal(found.right[i], (out.argmax(1) == y).numpy())


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


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_throughput_leaves_the_weights_alone(schedule: Any) -> None:
    """Nor does a schedule end before the trial does."""
    supernet = Supernet(parse_space(SPACE.replace("classes: 5", "classes: 8")))
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    recipe = Fit(steps=1, size=(16, 16), batch=8, schedule=schedule)
    assert throughput(supernet, TestSupernetAccuracy.data, recipe, 0.05, Paths()) > 0
    assert all(torch.equal(before[k], v) for k, v in supernet.state_dict().items())


def test_the_steps_of_a_time_are_those_of_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    supernet, recipe = Supernet(TINY), Fit(steps=1, size=(16, 16), batch=8)
    rates = {1.0: 8.0, 0.0: 2.0}  # steps a second on small images, and on the others
    monkeypatch.setattr("mbv3.supernet.train.throughput", lambda *_, paths, **__: rates[paths.small_part])
    data = TestSupernetAccuracy.data
    assert steps_within(10, supernet, data, recipe, Paths()) == 20
    # 40 steps, of which 32 on small images
    assert steps_within(8, supernet, data, recipe, Paths(small=0.625, small_part=0.8)) == pytest.approx(40)


def test_a_step_of_few_images_has_fewer_paths() -> None:
    assert [shared_paths(n).count for n in (96, 32, 31, 4)] == [3, 2, 1, 1]


def test_shared_weights_learn_the_paths_that_are_asked_for() -> None:
    data, recipe = TestSupernetAccuracy.data, replace(shared_fit(60, (16, 16)), steps=5, batch=48)
    seen: list[tuple[Genome, int]] = []
    supernet = Supernet(parse_space(SPACE.replace("classes: 5", "classes: 8")))
    forward = supernet.forward_path
    supernet.forward_path = lambda genome, x: seen.append((genome, x.shape[2])) or forward(genome, x)  # type: ignore[method-assign, func-returns-value]
    before = {k: v.clone() for k, v in supernet.state_dict().items()}
    paths = shared_paths(48)
    list(train_shared(supernet, data, recipe, paths))
    wanted = [(g, 10 if step < 4 else 16) for step in range(5) for g in paths.of(supernet.space, 0, step)]
    assert seen == wanted
    assert not all(torch.equal(before[k], v) for k, v in supernet.state_dict().items())
