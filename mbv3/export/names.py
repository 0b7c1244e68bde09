"""Which module of another framework corresponds to which of ours: one table for each framework, for both directions.

A table lists (our module, their module) in the order in which an image meets them; a module is a convolution, a
fully connected layer or a batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from mbv3.errors import BadInput, plain
from mbv3.nn import state_shapes, unusable
from mbv3.spec import (
    FCN,
    LRASPP,
    PSP,
    UIB,
    ArchSpec,
    Classify,
    DeepLabV3,
    DeepLabV3Plus,
    Dense,
    LayerKey,
    MBConv,
    Row,
    lower_key,
)

__all__ = ["Names", "checked", "classifier", "from_theirs", "stages", "to_theirs"]

_MOST = 20  # entries of a kind that a message lists
TRACKED = "num_batches_tracked"  # batch norm counts its batches; a state dict may leave it out


@dataclass(frozen=True, slots=True)
class Names:
    """(ours, theirs) for every module; `as_conv`: theirs that are 1x1 convolutions where ours are fully connected."""

    modules: tuple[tuple[str, str], ...]
    as_conv: frozenset[str] = frozenset()


def stages(row: Row, cin: int) -> tuple[str, ...]:
    """The parts of a row that hold weights, in order: expand, depthwise, se, project; or conv, se."""
    ops = lower_key(LayerKey(row, cin, 1, 1)).ops
    return tuple(dict.fromkeys(op.name.split(".")[1] for op in ops if op.kind == "conv"))


def classifier(spec: ArchSpec) -> Classify:
    """The classifier of a network that a target of classifiers has accepted."""
    assert isinstance(spec.head, Classify)
    return spec.head


def inverted(spec: ArchSpec, row: Row, cin: int) -> bool:
    """Whether a `uib` row stands for timm's `ir` of ratio 1, which expands to as many channels: among `mbconv` rows."""
    plain = isinstance(row, UIB) and row.k > 0 and not row.a and row.exp == cin
    return plain and any(isinstance(other, MBConv) for other in spec.rows)


def rows_of(spec: ArchSpec, theirs: Callable[[int, Row, int], Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """(ours, theirs) of all rows, from `theirs(index, row, input channels)`: part of a row to their module."""
    cin = spec.stem.out
    for i, row in enumerate(spec.rows):
        yield from ((f"rows.{i}.{part}", module) for part, module in theirs(i, row, cin).items())
        cin = row.out


def conv_bn(ours: str, theirs: str, conv: str, bn: str) -> Iterator[tuple[str, str]]:
    """A convolution and its batch norm; `ours` is a prefix like `stem` or `expand`."""
    yield f"{ours}.conv", f"{theirs}{conv}"
    yield f"{ours}.bn", f"{theirs}{bn}"


# ---- state dicts ---------------------------------------------------------------------------------------------


def _entries(spec: ArchSpec, names: Names) -> Iterator[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    """(our entry, their entry, our shape, their shape) of every entry of a state dict."""
    theirs = dict(names.modules)
    for ours, shape in state_shapes(spec).items():
        module, _, leaf = ours.rpartition(".")
        at = theirs[module]
        yield ours, f"{at}.{leaf}", shape, (*shape, 1, 1) if at in names.as_conv and leaf == "weight" else shape
        if leaf == "running_var":
            yield f"{module}.{TRACKED}", f"{at}.{TRACKED}", (), ()


def checked(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """`state` as float32 where it has exactly the entries `shapes`; counters of batch norms may lack or be zero-filled.

    Raises:
        BadInput: entries are missing, unknown, mis-shaped, no floating-point numbers or not finite; all are counted,
            and the first of each kind listed.
    """
    counters = {name for name in shapes if name.endswith(f".{TRACKED}")}
    missing = [name for name in shapes if name not in state and name not in counters]
    extra = [name for name in state if name not in shapes]
    misshaped = [
        f"{name} is {tuple(state[name].shape)}, not {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    mistyped = [
        f"{name} is {state[name].dtype}"
        for name in shapes
        if name in state and name not in counters and not state[name].is_floating_point()
    ]
    broken = unusable({name: state[name] for name in shapes if name in state})
    kinds = {
        "missing": missing, "unknown": extra, "mis-shaped": misshaped, "not floating point": mistyped,
        "not finite or no variance": broken,
    }  # fmt: skip
    if any(kinds.values()):
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in kinds.items() if found)
        lines = [
            line for kind, found in kinds.items()
            for line in [*(f"  {kind}: {plain(name, 200)}" for name in found[:_MOST]),
                         *([f"  {kind}: and {len(found) - _MOST} more"] if found[_MOST:] else [])]
        ]  # fmt: skip
        what = "not the weights of this network" if any([missing, extra, misshaped, mistyped]) else "broken weights"
        raise BadInput("\n".join([f"{plain(source, 4096)}: {what}; entries: {counts}", *lines]))
    filled = {name: state.get(name, torch.zeros((), dtype=torch.int64)) for name in shapes if name in counters}
    return {name: filled[name] if name in filled else state[name].detach().float() for name in shapes}


def our_shapes(spec: ArchSpec) -> dict[str, tuple[int, ...]]:
    """Every entry of our own state dict with its shape, counters included."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in state_shapes(spec).items():
        shapes[name] = shape
        if name.endswith(".running_var"):
            shapes[name.removesuffix("running_var") + TRACKED] = ()
    return shapes


def to_theirs(spec: ArchSpec, names: Names, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under their names and in their shapes. `state` has passed `checked`."""
    return {theirs: state[ours].reshape(shape) for ours, theirs, _, shape in _entries(spec, names)}


def from_theirs(spec: ArchSpec, names: Names, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Their weights under our names and in our shapes; the inverse of `to_theirs`.

    Raises:
        BadInput: `state` is of another architecture; every missing, unknown and mis-shaped entry is listed.
    """
    entries = list(_entries(spec, names))
    whole = checked({theirs: shape for _, theirs, _, shape in entries}, state, source)
    return {ours: whole[theirs].reshape(shape) for ours, theirs, shape, _ in entries}


# ---- torchvision ---------------------------------------------------------------------------------------------


def torchvision_names(spec: ArchSpec, v2: bool) -> Names:
    """torchvision's MobileNetV3, or its MobileNetV2 where `v2`."""

    def row(i: int, row: Row, cin: int) -> dict[str, str]:
        out: dict[str, str] = {}
        at = f"features.{i + 1}.{'conv' if v2 else 'block'}"
        for j, stage in enumerate(stages(row, cin)):
            if stage == "se":
                out |= {"se.reduce": f"{at}.{j}.fc1", "se.expand": f"{at}.{j}.fc2"}
            elif stage == "project" and v2:  # a bare convolution and a batch norm in the same sequence
                out |= conv_bn(stage, at, f".{j}", f".{j + 1}")
            else:
                out |= conv_bn(stage, f"{at}.{j}", ".0", ".1")
        return out

    head = classifier(spec)
    modules = [*conv_bn("stem", "features.0", ".0", ".1"), *rows_of(spec, row)]
    if spec.tail is not None:
        modules += conv_bn("tail", f"features.{len(spec.rows) + 1}", ".0", ".1")
    if head.features:
        modules += [("head.features", "classifier.0"), ("head.classifier", "classifier.3")]
    else:
        modules.append(("head.classifier", "classifier.1"))
    return Names(tuple(modules))


# ---- timm ----------------------------------------------------------------------------------------------------


def timm_names(spec: ArchSpec, places: tuple[tuple[int, int], ...], tail_block: bool) -> Names:
    """timm's MobileNetV3 (features behind the pool) or EfficientNet (none).

    `places`: (stage, block) of every row; `tail_block`: the tail is one more stage, not the head's convolution.
    """

    def row(i: int, row: Row, cin: int) -> dict[str, str]:
        at = "blocks.{}.{}".format(*places[i])
        found = stages(row, cin)
        expanded = "expand" in found
        if row.word() == "uib" and not inverted(spec, row, cin):
            parts = {"start": "dw_start", "expand": "pw_exp", "depthwise": "dw_mid", "project": "pw_proj"}
            return dict(pair for part in found for pair in conv_bn(part, f"{at}.{parts[part]}", ".conv", ".bn"))
        if row.word() == "fused":
            return dict([*conv_bn("expand", at, ".conv_exp", ".bn1"), *conv_bn("project", at, ".conv_pwl", ".bn2")])
        last = {"depthwise": "conv_dw", "expand": "conv_pw", "project": "conv_pwl" if expanded else "conv_pw"}
        out: dict[str, str] = {}
        bn = count(1)
        for stage in found:
            if stage == "se":
                out |= {"se.reduce": f"{at}.se.conv_reduce", "se.expand": f"{at}.se.conv_expand"}
            elif stage == "conv":
                out |= {"conv": f"{at}.conv", "bn": f"{at}.bn{next(bn)}"}
            else:
                out |= conv_bn(stage, at, f".{last[stage]}", f".bn{next(bn)}")
        return out

    head = classifier(spec)
    modules = [*conv_bn("stem", "", "conv_stem", "bn1"), *rows_of(spec, row)]
    if spec.tail is not None and tail_block:
        modules += conv_bn("tail", f"blocks.{places[-1][0] + 1 if places else 0}.0", ".conv", ".bn1")
    elif spec.tail is not None:
        modules += conv_bn("tail", "", "conv_head", "bn2")
    if head.features_bn:
        modules += conv_bn("head.features", "", "conv_head", "norm_head")
    elif head.features:
        modules.append(("head.features", "conv_head"))
    modules.append(("head.classifier", "classifier"))
    return Names(tuple(modules), frozenset({"conv_head"}) if head.features else frozenset())


# ---- mmpretrain, mmsegmentation ------------------------------------------------------------------------------

V2_STAGES = (1, 2, 3, 4, 3, 3, 1)  # rows of their MobileNetV2's stages
_MM = {"expand": "expand_conv", "depthwise": "depthwise_conv", "project": "linear_conv"}


def mm_backbone(spec: ArchSpec, v2: bool) -> Iterator[tuple[str, str]]:
    """The backbone of either: MobileNetV3, or MobileNetV2 whose rows stand in stages. Rows that theirs lacks (further
    ones, bare convolutions) are left out: a classifier's weights may begin the others."""
    places = [f"backbone.layer{i + 1}.{j}.conv" for i, n in enumerate(V2_STAGES) for j in range(n)]

    def row(i: int, row: Row, cin: int) -> dict[str, str]:
        out: dict[str, str] = {}
        at = f"backbone.layer{i + 1}"
        if row.word() not in ("mbconv", "dsconv") or (v2 and i >= len(places)):
            return out
        for j, stage in enumerate(stages(row, cin)):
            if v2:
                out |= conv_bn(stage, f"{places[i]}.{j}", ".conv", ".bn")
            elif stage == "se":
                out |= {"se.reduce": f"{at}.se.conv1.conv", "se.expand": f"{at}.se.conv2.conv"}
            else:
                out |= conv_bn(stage, f"{at}.{_MM[stage]}", ".conv", ".bn")
        return out

    yield from conv_bn("stem", f"backbone.{'conv1' if v2 else 'layer0'}", ".conv", ".bn")
    yield from rows_of(spec, row)
    if spec.tail is not None:
        yield from conv_bn("tail", f"backbone.{'conv2' if v2 else f'layer{len(spec.rows) + 1}'}", ".conv", ".bn")


def mmpretrain_names(spec: ArchSpec, v2: bool) -> Names:
    """mmpretrain's MobileNetV3, or its MobileNetV2 where `v2`, with a classifier."""
    head = classifier(spec)
    modules = [*mm_backbone(spec, v2)]
    if head.features:
        modules += [("head.features", "head.layers.0.fc"), ("head.classifier", "head.layers.1.fc")]
    else:
        modules.append(("head.classifier", "head.fc"))
    return Names(tuple(modules))


def mmseg_head(prefix: str, head: Dense) -> Iterator[tuple[str, str]]:
    """mmsegmentation's decode head (`prefix` head) or auxiliary head (aux)."""
    at = "decode_head" if prefix == "head" else "auxiliary_head"

    def unit(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
        return conv_bn(f"{prefix}.{ours}", f"{at}.{theirs}", ".conv", ".bn")

    def separable(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
        yield from unit(f"{ours}.depthwise", f"{theirs}.depthwise_conv")
        yield from unit(f"{ours}.pointwise", f"{theirs}.pointwise_conv")

    if isinstance(head, LRASPP):
        yield from unit("main", "aspp_conv")
        yield f"{prefix}.gate", f"{at}.image_pool.1.conv"
        yield f"{prefix}.up", f"{at}.conv_up_input"
        for i in range(len(head.branches)):
            yield f"{prefix}.branches.{i}.low", f"{at}.convs.conv{i}"
            yield from unit(f"branches.{i}.merge", f"conv_ups.conv_up{i}")
    elif isinstance(head, FCN):
        for i in range(head.convs):
            yield from unit(f"convs.{i}", f"convs.{i}")
        if head.concat:
            yield from unit("merge", "conv_cat")
    elif isinstance(head, PSP):
        for i in range(len(head.scales)):
            yield from unit(f"levels.{i}", f"psp_modules.{i}.1")
        yield from unit("project", "bottleneck")
    elif isinstance(head, (DeepLabV3, DeepLabV3Plus)):
        for i, rate in enumerate(head.rates):
            each = separable if isinstance(head, DeepLabV3Plus) and rate > 1 else unit
            yield from each(f"rates.{i}", f"aspp_modules.{i}")
        yield from unit("pool", "image_pool.1")
        yield from unit("project", "bottleneck")
        if isinstance(head, DeepLabV3Plus):
            yield from unit("low", "c1_bottleneck")
            for i in range(2):
                yield from separable(f"refine.{i}", f"sep_bottleneck.{i}")
    yield f"{prefix}.classifier", f"{at}.conv_seg"
