"""Cutting channels: what is kept, what stays equal, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mbv3.errors import BadInput
from mbv3.nn import build, channel_sets, cut_state, state_shapes
from mbv3.spec import (
    LRASPP,
    ArchSpec,
    Classify,
    Conv,
    DSConv,
    MBConv,
    Row,
    all_sites,
    channels,
    cut_many,
    load_spec,
    with_head,
)

RandomState = Callable[[dict[str, tuple[int, ...]], int], dict[str, NDArray[np.float32]]]

# the residual groups: stem with rows 0-1, row 2 with 3, row 4 with 5
BEFORE = ArchSpec(
    name="before",
    resolution=(24, 24),
    stem=Conv(k=3, out=16, nl="HS", s=2),
    rows=(
        DSConv(k=3, out=16, se=8, nl="RE", skip="identity"),
        MBConv(k=3, exp=16, out=16, nl="HS", skip="identity"),
        MBConv(k=5, exp=48, out=24, se=12, nl="RE", s=2),
        MBConv(k=3, exp=72, out=24, se=16, nl="HS", skip="identity"),
        Conv(k=3, out=32, nl="RE", se=8),
        MBConv(k=3, exp=64, out=32, nl="RE", s=2, skip="pool"),
        DSConv(k=3, out=40, nl="RE"),
    ),
    tail=Conv(k=1, out=48, nl="HS"),
    head=Classify(features=56, nl="HS", classes=10),
)
AFTER = replace(
    BEFORE,
    name="after",
    stem=replace(BEFORE.stem, out=12),
    rows=(
        DSConv(k=3, out=12, se=5, nl="RE", skip="identity"),
        MBConv(k=3, exp=12, out=12, nl="HS", skip="identity"),
        MBConv(k=5, exp=40, out=20, se=12, nl="RE", s=2),
        MBConv(k=3, exp=50, out=20, se=10, nl="HS", skip="identity"),
        Conv(k=3, out=24, nl="RE", se=4),
        MBConv(k=3, exp=40, out=24, nl="RE", s=2, skip="pool"),
        DSConv(k=3, out=32, nl="RE"),
    ),
    tail=Conv(k=1, out=41, nl="HS"),
    head=Classify(features=30, nl="HS", classes=10),
)
# each set of channels that is cut: the convolutions that produce it, its size before and after
GROUPS: list[tuple[tuple[str, ...], int, int]] = [
    (("stem.conv", "rows.0.project.conv", "rows.1.project.conv"), 16, 12),
    (("rows.0.se.reduce",), 8, 5),
    (("rows.2.expand.conv",), 48, 40),
    (("rows.2.project.conv", "rows.3.project.conv"), 24, 20),
    (("rows.3.expand.conv",), 72, 50),
    (("rows.3.se.reduce",), 16, 10),
    (("rows.4.conv", "rows.5.project.conv"), 32, 24),
    (("rows.4.se.reduce",), 8, 4),
    (("rows.5.expand.conv",), 64, 40),
    (("rows.6.project.conv",), 40, 32),
    (("tail.conv",), 48, 41),
    (("head.features",), 56, 30),
]
# batch norms of depthwise layers, which pass a zero channel on as zero only without shift
DEPTHWISE = {
    "rows.0.depthwise": 0, "rows.1.depthwise": 0, "rows.2.depthwise": 2, "rows.3.depthwise": 4,
    "rows.5.depthwise": 8, "rows.6.depthwise": 6,
}  # fmt: skip


def tensors(random_state: RandomState, spec: ArchSpec = BEFORE, seed: int = 0) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in random_state(state_shapes(spec), seed).items()}


def net_of(spec: ArchSpec, state: dict[str, Tensor]) -> torch.nn.Module:
    net = build(spec)
    faults = net.load_state_dict(state, strict=False)
    assert not faults.unexpected_keys and all(k.endswith("num_batches_tracked") for k in faults.missing_keys)
    return net.eval()


def bn_of(conv: str) -> str:
    return conv.removesuffix("conv") + "bn"


@pytest.fixture
def state(random_state: RandomState) -> dict[str, Tensor]:
    return tensors(random_state)


@pytest.fixture
def zeroed(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Weights whose channels beyond the size after the cut, at random places, are zero everywhere."""
    g = torch.Generator().manual_seed(5)
    kept = []
    for convs, before, after in GROUPS:
        order = torch.randperm(before, generator=g)
        drop = order[after:]
        kept.append(order[:after].sort().values)
        for conv in convs:
            state[f"{conv}.weight"][drop] = 0
            norms = [bn_of(conv)] if f"{bn_of(conv)}.running_mean" in state else []
            for name in [*(f"{bn}.{p}" for bn in norms for p in ("bias", "running_mean")), f"{conv}.bias"]:
                if name in state:
                    state[name][drop] = 0
        for depthwise, group in DEPTHWISE.items():
            if GROUPS[group][0] == convs:
                for part in ("bias", "running_mean"):
                    state[f"{depthwise}.bn.{part}"][drop] = 0
    return state, kept


def test_dropping_channels_that_are_zero_changes_no_output(
    zeroed: tuple[dict[str, Tensor], list[Tensor]],
) -> None:
    state, kept = zeroed
    cut = cut_state(state, BEFORE, AFTER)
    x = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        full, small = net_of(BEFORE, state)(x), net_of(AFTER, cut)(x)
    torch.testing.assert_close(small, full, rtol=1e-4, atol=1e-5)
    assert full.std() > 1e-3
    for (convs, _, _), rows in zip(GROUPS, kept, strict=True):
        for conv in convs:
            if conv != "stem.conv" and f"{bn_of(conv)}.weight" in state:  # equal indices in a residual group
                assert torch.equal(cut[f"{bn_of(conv)}.weight"], state[f"{bn_of(conv)}.weight"][rows])


def test_that_test_can_fail(zeroed: tuple[dict[str, Tensor], list[Tensor]]) -> None:
    state, kept = zeroed
    dropped = next(i for i in range(24) if i not in kept[3])
    state["rows.2.project.conv.weight"][dropped, 0, 0, 0] = 1e3  # now the largest, and needed
    x = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        full, small = net_of(BEFORE, state)(x), net_of(AFTER, cut_state(state, BEFORE, AFTER))(x)
    assert (full - small).abs().max() > 1e-3


def test_the_result_is_a_state_of_the_smaller_network(state: dict[str, Tensor]) -> None:
    cut = cut_state(state, BEFORE, AFTER)
    assert {k: tuple(v.shape) for k, v in cut.items()} == state_shapes(AFTER)
    assert list(cut) == list(state)
    net_of(AFTER, cut)(torch.randn(1, 3, 24, 24))


def test_counters_of_a_real_state_dict_come_along() -> None:
    state = build(BEFORE, seed=0).state_dict()
    state["stem.bn.num_batches_tracked"] += 7
    cut = cut_state(state, BEFORE, AFTER)
    build(AFTER).load_state_dict(cut, strict=True)
    assert cut["stem.bn.num_batches_tracked"] == 7


@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_kept_are_the_filters_of_largest_norm_in_their_order(group: int, state: dict[str, Tensor]) -> None:
    convs, _, after = GROUPS[group]
    total = sum(state[f"{conv}.weight"].flatten(1).square().sum(1) for conv in convs)
    assert isinstance(total, Tensor)
    rows = total.argsort(descending=True)[:after].sort().values
    cut = cut_state(state, BEFORE, AFTER)
    for conv in convs:
        vector = f"{bn_of(conv)}.weight" if f"{bn_of(conv)}.weight" in state else f"{conv}.bias"
        assert torch.equal(cut[vector], state[vector][rows])
        full = state[f"{conv}.weight"][rows]
        # of each kept filter, what is left is part of it: every value stands in the full filter
        assert len(full) == len(cut[f"{conv}.weight"]) == after
        for small, whole in zip(cut[f"{conv}.weight"], full, strict=True):
            assert torch.isin(small, whole).all()


def test_nothing_cut_is_a_copy(state: dict[str, Tensor]) -> None:
    cut = cut_state(state, BEFORE, replace(BEFORE, name="other"))
    assert list(cut) == list(state)
    assert all(torch.equal(cut[k], state[k]) and cut[k].data_ptr() != state[k].data_ptr() for k in cut)


def test_the_given_state_is_left_alone(state: dict[str, Tensor]) -> None:
    copy = {k: v.clone() for k, v in state.items()}
    cut_state(state, BEFORE, AFTER)
    assert all(torch.equal(copy[k], state[k]) for k in copy)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_smaller_network_gets_its_shapes(data: st.DataObject) -> None:
    groups: dict[int, int] = {}

    def less(most: int, group: int | None = None) -> int:
        if group is None:
            return data.draw(st.integers(1, most))
        return groups.setdefault(group, data.draw(st.integers(1, most)))

    stem = replace(BEFORE.stem, out=less(16, 0))
    rows: list[Row] = []
    cin, old_cin = stem.out, 16
    for row, group in zip(BEFORE.rows, [0, 0, 1, 1, 2, 2, 3], strict=True):
        out = less(row.out, group)
        change: dict[str, Any] = {"out": out}
        inner = out if isinstance(row, Conv) else cin
        if isinstance(row, MBConv):
            inner = cin
            if row.exp != old_cin:
                inner = less(row.exp)
                if inner == cin:  # no expansion: another structure
                    inner += 1 if inner < row.exp else -1
            change["exp"] = inner
        if row.se:
            change["se"] = less(min(row.se, inner))
        rows.append(replace(row, **change))
        cin, old_cin = out, row.out
    after = replace(BEFORE, stem=stem, rows=tuple(rows), head=replace(BEFORE.head, features=less(56)))
    state = build(BEFORE, seed=0).state_dict()
    cut = cut_state(state, BEFORE, after)
    build(after).load_state_dict(cut, strict=True)


# -- refused


def rows_with(index: int, **change: Any) -> ArchSpec:
    rows = list(BEFORE.rows)
    rows[index] = replace(rows[index], **change)
    return replace(BEFORE, rows=tuple(rows))


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (rows_with(2, exp=49), r"rows\.2\.exp grows from 48 to 49"),
        (rows_with(2, se=13), r"rows\.2\.se grows from 12 to 13"),
        (rows_with(6, out=41), r"rows\.6 grows from 40 to 41"),
        (replace(BEFORE, tail=Conv(k=1, out=49, nl="HS")), "tail grows from 48 to 49"),
        (replace(BEFORE, head=replace(BEFORE.head, features=57)), r"head\.features grows from 56 to 57"),
        (replace(BEFORE, head=replace(BEFORE.head, classes=11)), "head differs in more than its channels"),
        (replace(BEFORE, head=replace(BEFORE.head, classes=9)), "head differs in more than its channels"),
        (rows_with(2, k=3), r"rows\.2 differs in more than its channels"),
        (rows_with(2, s=1), r"rows\.2 differs"),
        (rows_with(2, nl="HS"), r"rows\.2 differs"),
        (rows_with(2, dilation=2), r"rows\.2 differs"),
        (rows_with(3, skip="none"), r"rows\.3 differs"),
        (rows_with(2, se=0), r"rows\.2 differs"),
        (rows_with(5, se=8), r"rows\.5 differs"),
        (rows_with(2, exp=16), r"rows\.2 has an expansion in one network only"),
        (rows_with(1, exp=8), r"rows\.1 has an expansion in one network only"),
        (replace(BEFORE, stem=replace(BEFORE.stem, k=5)), "stem differs"),
        (replace(BEFORE, tail=None), "the networks have different rows"),
        (replace(BEFORE, rows=BEFORE.rows[:-1]), "the networks have different rows"),
        (replace(BEFORE, head=replace(BEFORE.head, features=0)), "head differs"),
        (replace(BEFORE, head=replace(BEFORE.head, nl="RE")), "head differs"),
        (replace(BEFORE, in_channels=1), "the networks differ in in_channels"),
        (replace(BEFORE, gate="SIGMOID"), "the networks differ in gate"),
        (replace(BEFORE, bn_eps=1e-5), "the networks differ in bn_eps"),
    ],
)
def test_growing_or_other_structure_is_refused(after: ArchSpec, message: str, state: dict[str, Tensor]) -> None:
    with pytest.raises(BadInput, match=rf"^cut_state: {message}"):
        cut_state(state, BEFORE, after)


def test_features_where_there_were_none_are_refused(random_state: RandomState) -> None:
    before = replace(BEFORE, head=Classify(features=0, nl="HS", classes=10))
    with pytest.raises(BadInput, match=r"^cut_state: head differs"):
        cut_state(tensors(random_state, before), before, BEFORE)


def test_weights_of_another_network_are_refused_with_every_fault(state: dict[str, Tensor]) -> None:
    del state["stem.conv.weight"], state["rows.3.project.bn.running_var"]
    state["tail.bn.bias"] = state["tail.bn.bias"][:3]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(BadInput, match=r"^cut_state: the weights are not those of the network: ") as e:
        cut_state(state, BEFORE, AFTER)
    assert str(e.value).partition("network: ")[2].split("; ") == [
        "stem.conv.weight is missing",
        "rows.3.project.bn.running_var is missing",
        "tail.bn.bias has shape (3,), not (48,)",
        "extra.weight is no part of it",
    ]


# -- heads


@pytest.mark.parametrize("head", ["lraspp", "lraspp-mmseg", "raspp", "deeplabv3plus", "pspnet", "ssdlite"])
def test_a_backbone_is_cut_under_its_head(head: str, random_state: RandomState) -> None:
    """Channels of the tapped rows that are zero, dropped: nothing changes."""
    before = with_head(replace(load_spec("mobilenet_v3_small@0.35"), resolution=(64, 64)), head, 3)
    state = tensors(random_state, before)
    rows = list(before.rows)
    for i in (2, 8):  # tapped behind their depthwise convolution and their expansion
        row = rows[i]
        assert isinstance(row, MBConv)
        drop = torch.randperm(row.exp, generator=torch.Generator().manual_seed(i))[: row.exp // 4]
        state[f"rows.{i}.expand.conv.weight"][drop] = 0
        for part in ("expand", "depthwise"):
            for entry in ("bias", "running_mean"):
                state[f"rows.{i}.{part}.bn.{entry}"][drop] = 0
        if head == "ssdlite" and i == 8:
            for part, entry in product(("classes", "boxes"), ("bias", "running_mean")):
                state[f"head.{part}.0.depthwise.bn.{entry}"][drop] = 0
        rows[i] = replace(row, exp=row.exp - len(drop))
    after = replace(before, rows=tuple(rows))
    cut = cut_state(state, before, after)
    assert {k: tuple(v.shape) for k, v in cut.items()} == state_shapes(after)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        full, small = net_of(before, state)(x), net_of(after, cut)(x)
    for a, b in zip(*((y.classes + y.boxes if head == "ssdlite" else (y,)) for y in (small, full)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


HEADS = ["lraspp", "lraspp-mmseg", "raspp", "fcn", "pspnet", "deeplabv3", "deeplabv3-torchvision", "deeplabv3plus",
         "ssdlite"]  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_cut(head: str, random_state: RandomState) -> None:
    """Channels of every width of the head that are zero, dropped: nothing changes."""
    before = with_head(replace(load_spec("mobilenet_v3_small@0.35"), resolution=(64, 64)), head, 3)
    own = [s for s in all_sites(before) if s.of_head]
    after = cut_many(before, {s: channels(before, s) // 8 * 6 for s in own})
    assert own and after is not None
    state = tensors(random_state, before)
    for name in (n for n in state if "depthwise.bn" in n and n.endswith(("bias", "running_mean"))):
        state[name].zero_()  # a zero stays one through a depthwise layer, over a concatenation too
    for i, (mine, less) in enumerate(zip(channel_sets(before), channel_sets(after), strict=True)):
        drop = torch.randperm(mine.size, generator=torch.Generator().manual_seed(i))[less.size :]
        for conv in mine.makers if len(drop) else ():
            state[f"{conv}.weight"][drop] = 0
        vectors = [f"{bn}.{part}" for bn in mine.norms for part in ("bias", "running_mean")]
        for name in (*vectors, *(f"{conv}.bias" for conv in mine.makers)):
            if len(drop) and name in state:
                state[name][drop] = 0
    cut = cut_state(state, before, after)
    assert {k: tuple(v.shape) for k, v in cut.items()} == state_shapes(after)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        full, small = net_of(before, state)(x), net_of(after, cut)(x)
    for a, b in zip(*((y.classes + y.boxes if head == "ssdlite" else (y,)) for y in (small, full)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        assert b.std() > 1e-3


def test_a_head_of_another_form_is_refused() -> None:
    before = with_head(replace(load_spec("mobilenet_v3_small@0.35"), resolution=(64, 64)), "lraspp", 3)
    assert isinstance(before.head, LRASPP)
    state = build(before).state_dict()
    for other in (replace(before.head, gate_bias=False), replace(before.head, classes=4), Classify(classes=3)):
        with pytest.raises(BadInput, match="cut_state: head differs in more than its channels"):
            cut_state(state, before, replace(before, head=other))
    with pytest.raises(BadInput, match=r"cut_state: head\.main grows from 128 to 136 channels"):
        cut_state(state, before, replace(before, head=replace(before.head, filters=136)))
