"""Networks that the export tests share, and weights for them."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mbv3.export.names import our_shapes
from mbv3.spec import UIB, ArchSpec, Classify, Conv, DSConv, Fused, MBConv, load_spec, make_divisible

NAMED = tuple(
    f"{name}{width}"
    for name in ("mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2", "mnasnet_a1", "mnasnet_b1")
    for width in ("", "@0.75")
)

# what NetAdapt leaves behind: expansions and bottlenecks of any size, a features layer of its own
ADAPTED = ArchSpec(
    name="adapted",
    resolution=(64, 64),
    stem=Conv(k=3, out=13, nl="HS", s=2),
    rows=(
        MBConv(k=3, exp=13, out=13, nl="RE", skip="identity"),
        MBConv(k=5, exp=50, out=19, nl="RE", s=2),
        MBConv(k=3, exp=61, out=19, se=16, nl="RE", skip="identity"),
        MBConv(k=7, exp=101, out=27, se=24, nl="HS", s=2),
        DSConv(k=3, out=27, se=8, nl="HS", skip="identity"),
        MBConv(k=5, exp=77, out=27, nl="HS", skip="identity"),
    ),
    tail=Conv(k=1, out=123, nl="HS"),
    head=Classify(features=201, nl="HS", dropout=0.1, classes=7),
    bn_eps=1e-5,
)
# the same idea in the shapes that timm's rounding can reach: expansions of 8, everything else free
FRACTIONAL = ArchSpec(
    name="fractional",
    resolution=(64, 64),
    stem=Conv(k=3, out=13, nl="HS", s=2),
    rows=(
        MBConv(k=3, exp=13, out=13, nl="RE"),
        MBConv(k=5, exp=56, out=19, nl="RE", s=2),
        MBConv(k=3, exp=64, out=19, se=5, nl="RE", skip="identity"),
        Conv(k=3, out=19, nl="RE6", skip="identity"),
        MBConv(k=7, exp=104, out=27, se=11, nl="HS", s=2),
        DSConv(k=3, out=27, se=7, nl="HS", skip="identity"),
        MBConv(k=5, exp=80, out=27, nl="HS"),
    ),
    tail=Conv(k=1, out=123, nl="RE"),
    head=Classify(features=201, nl="HS", dropout=0.1, classes=7),
)
# MobileNetV2's rows with other channels, a features layer and no tail
THIN_V2 = ArchSpec(
    name="thin_v2",
    resolution=(64, 64),
    stem=Conv(k=5, out=10, nl="RE", s=1),
    rows=(
        MBConv(k=3, exp=10, out=12, nl="RE6"),
        MBConv(k=3, exp=67, out=20, nl="RE6", s=2),
        MBConv(k=3, exp=71, out=20, nl="RE6", skip="identity"),
    ),
    tail=None,
    head=Classify(features=31, nl="RE6", classes=5),
    bn_eps=1e-5,
)
# dilated rows, with and without a sum
DILATED = ArchSpec(
    name="dilated",
    resolution=(65, 65),
    stem=Conv(k=3, out=16, nl="RE", s=2),
    rows=(
        MBConv(k=3, exp=32, out=24, nl="RE", s=2),
        MBConv(k=5, exp=64, out=24, se=16, nl="HS", dilation=2),
        MBConv(k=3, exp=64, out=24, nl="HS", skip="identity", dilation=4),
    ),
    tail=None,
    head=Classify(nl="HS", classes=4),
)
# a stride more than the published ones
DEEP = ArchSpec(
    name="deep",
    resolution=(128, 128),
    stem=Conv(k=3, out=8, nl="RE", s=2),
    rows=(
        *(MBConv(k=3, exp=16, out=16, nl="RE", s=2) for _ in range(5)),
        MBConv(k=5, exp=32, out=16, nl="HS", skip="identity"),
    ),
    tail=None,
    head=Classify(nl="HS", classes=4),
)
# MobileNetV4's rows and head, with channels that NetAdapt leaves, a plain row among them
UNIVERSAL = ArchSpec(
    name="universal",
    resolution=(64, 64),
    stem=Conv(k=3, out=11, nl="RE", s=2),
    rows=(
        Fused(k=3, exp=40, out=13, nl="RE", s=2),
        UIB(a=3, k=5, exp=48, out=19, nl="RE", s=2),
        UIB(k=3, exp=40, out=19, nl="RE", skip="identity"),
        UIB(a=5, k=0, exp=72, out=19, nl="RE", skip="identity"),
        MBConv(k=3, exp=40, out=19, nl="RE", skip="identity"),
        UIB(k=0, exp=40, out=19, nl="RE"),
    ),
    tail=Conv(k=1, out=61, nl="RE"),
    head=Classify(features=37, features_bn=True, nl="RE", classes=7),
    bn_eps=1e-5,
)
OWN = {spec.name: spec for spec in (ADAPTED, FRACTIONAL, THIN_V2, DILATED, DEEP, UNIVERSAL)}
# a classifier for every named network that is quick to run
CASES = (*NAMED, "mobilenetv4_conv_small", *OWN)


def network(name: str) -> ArchSpec:
    return OWN[name] if name in OWN else load_spec(name)


def weights(spec: ArchSpec, seed: int = 0) -> dict[str, Tensor]:
    """Weights with which every entry shows in the output: batch norms far from the identity that they start as."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in our_shapes(spec).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = 0.5 + 1.5 * torch.rand(shape, generator=g)
        elif name.endswith("bn.weight"):
            state[name] = 0.5 + torch.rand(shape, generator=g)
        elif len(shape) > 1:
            state[name] = torch.randn(shape, generator=g) * (2 / math.prod(shape[1:])) ** 0.5
        else:
            state[name] = 0.2 * torch.randn(shape, generator=g)
    return state


@st.composite
def near(draw: DrawFn) -> ArchSpec:
    """Small networks of what frameworks express, now and then with something that they do not."""

    def pick(*usual: Any, rare: tuple[Any, ...] = ()) -> Any:
        return draw(st.sampled_from([*usual * 12, *rare]))

    v2 = draw(st.booleans())
    nl = pick("RE6") if v2 else pick("RE", "HS", rare=("RE6", "NONE"))
    stem = Conv(k=3, out=pick(8, 16, 11), nl=pick("HS", "RE"), s=2)
    rows: list[MBConv | DSConv | Conv] = []
    cin = stem.out
    strides = draw(st.sampled_from([(1, 1, 2), (2, 2, 2)]))  # five or six of 2 end beyond stride 32
    for _ in range(draw(st.integers(1, 6))):
        out, s = pick(8, 16, 13), pick(*strides, rare=(3,))
        if s == 1 and draw(st.booleans()):
            out = cin
        exp = pick(cin, 8, 24, 40, rare=(33,))
        skip = "identity" if s == 1 and out == cin and pick(True, rare=(False,)) else "none"
        se = 0 if v2 else pick(0, make_divisible(exp // 4), rare=(3,))
        k = 3 if v2 else pick(3, 5, 7)
        nl = nl if v2 else pick("RE", "HS", rare=("RE6", "NONE"))
        rows.append(MBConv(k=k, exp=exp, out=out, se=min(se, exp), nl=nl, s=s, skip=skip))
        cin = out
    features = pick(0, 24)
    tail = pick(None, Conv(k=1, out=40, nl="RE"), Conv(k=1, out=6 * cin, nl="HS"))
    head = Classify(features=features, nl=stem.nl if features else "HS", classes=3)
    gate = pick("HSIGMOID", rare=("SIGMOID",))
    return ArchSpec(
        name="near", resolution=(32, 32), stem=stem, rows=tuple(rows), tail=tail, head=head, gate=gate, bn_eps=1e-5
    )
