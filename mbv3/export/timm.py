"""timm: arch_def strings for its MobileNetV3 (features behind the pool) or EfficientNet class (none).

Source of what the strings can express: timm 1.0.31, models/_efficientnet_builder.py and _efficientnet_blocks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from mbv3.errors import Fault
from mbv3.export.names import Names, classifier, inverted, timm_names
from mbv3.export.target import STEM, Source, Target, intro, kind, loader, plain_conv, residual, unfit_head
from mbv3.spec import ArchSpec, Classify, Expanding, Row, make_divisible

__all__ = ["TIMM"]

_CODE = {"RE": "re", "RE6": "r6", "HS": "hs", "SILU": "sw"}
_LAYER = {"RE": "relu", "RE6": "relu6", "HS": "hard_swish", "SILU": "silu"}
_CLASS = {"RE": "nn.ReLU", "RE6": "nn.ReLU6", "HS": "nn.Hardswish", "SILU": "nn.SiLU"}
_GATE = {"HSIGMOID": "hard_sigmoid", "SIGMOID": "sigmoid"}
Squeeze = Callable[[Row, int, float], str | None]  # row, input channels, expansion ratio: `_se0.25`, or nothing
STAGES = "timm stages"  # in a network's provenance: how many blocks each has, as `1 2 3`
_STRIDE = 32  # beyond its `output_stride` timm's builder dilates where a string strides


def _tail_is_head(spec: ArchSpec) -> bool:
    """EfficientNet ends in a 1x1 convolution with the stem's activation before the pool."""
    tail = spec.tail
    return tail is not None and not classifier(spec).features and (tail.k, tail.s, tail.nl) == (1, 1, spec.stem.nl)


def _row_faults(path: str, row: Row, cin: int) -> Iterator[Fault]:
    if row.nl not in _CODE:
        yield Fault(f"{path}.nl", f"timm's strings know {', '.join(_CODE)}", row.nl)
    if row.s not in (1, 2):
        yield Fault(f"{path}.s", "timm's blocks have strides 1 and 2", str(row.s))
    if row.dilation != 1:
        yield Fault(f"{path}.dilation", "timm's strings know no dilation", str(row.dilation))
    if row.skip == "pool":
        yield Fault(f"{path}.skip", "timm has no pooled skip", kind(row))
    if kind(row) not in _BLOCKS:
        yield Fault(path, f"timm's strings are written for {', '.join(_BLOCKS)}", kind(row))
    elif row.se and _BLOCKS[kind(row)] is not _residual:
        name = {"conv": "convolution"}.get(kind(row), kind(row))
        yield Fault(f"{path}.se", f"timm's {name} has no squeeze-and-excitation", str(row.se))
    out_nl = dict(row.extras()).get("out_nl", row.nl)
    if out_nl != row.nl:
        yield Fault(f"{path}.out_nl", f"timm's `dsa` has one activation, here {row.nl}", out_nl)
    elif "out_nl" in dict(row.extras()) and row.skip != "none":
        yield Fault(f"{path}.skip", "timm's `dsa`, with an activation after the 1x1, has no skip", row.skip)
    if isinstance(row, Expanding) and row.expands(cin) and make_divisible(row.exp) != row.exp:
        near = make_divisible(row.exp)
        yield Fault(f"{path}.exp", f"timm rounds an expansion to multiples of 8, here to {near}", str(row.exp))


def _faults(spec: ArchSpec) -> Iterator[Fault]:
    stem, head, tail = spec.stem, spec.head, spec.tail
    if not spec.rows:
        yield Fault("rows", "timm's classes need at least one row")
    yield from plain_conv("stem", stem)
    if stem.s != 2:
        yield Fault("stem.s", "timm's stem has stride 2", str(stem.s))
    if stem.dilation != 1:
        yield Fault("stem.dilation", "timm's stem has no dilation", str(stem.dilation))
    if stem.nl not in _LAYER:
        yield Fault("stem.nl", f"timm's stem has {', '.join(_LAYER)}", stem.nl)
    yield from unfit_head(spec, norm=True)
    if isinstance(head, Classify) and head.features:
        if stem.k != 3:
            yield Fault("stem.k", "timm's MobileNetV3 has a stem of 3x3", str(stem.k))
        if head.nl != stem.nl:
            yield Fault("head.nl", f"timm's MobileNetV3 has one activation for stem and head, here {stem.nl}", head.nl)
        if spec.stride > _STRIDE:
            rule = f"timm's MobileNetV3 dilates beyond stride {_STRIDE}; its EfficientNet, without features, strides"
            yield Fault("head.features", rule, f"stride {spec.stride}")
    cin = stem.out
    for i, row in enumerate(spec.rows):
        yield from _row_faults(f"rows[{i}]", row, cin)
        cin = row.out
    if _inside(spec) is None:
        rule = f"timm has one activation inside squeeze-and-excitation, of {', '.join(_CLASS)}, or the rows' own"
        yield Fault("rows.se_nl", rule, ", ".join(sorted({row.se_nl for row in spec.rows if row.se})))
    if tail is not None:
        yield from plain_conv("tail", tail)
        yield from _row_faults("tail", replace(tail, se=0, skip="none"), cin)


def _inside(spec: ArchSpec) -> str | None:
    """timm's argument for the activation inside squeeze-and-excitation; None where it has none that fits."""
    squeezed = [row for row in spec.rows if row.se]
    found = {row.se_nl for row in squeezed}
    if len(found) == 1 and (one := _CLASS.get(min(found))):
        return f", force_act_layer={one}"
    return "" if all(row.se_nl == row.nl for row in squeezed) else None


# ---- strings -------------------------------------------------------------------------------------------------


def _decimal(value: float, lands: Callable[[float], bool]) -> str | None:
    """`value` with as few decimals as land where they must; None where none do."""
    texts = (f"{value:.{n}f}" for n in range(9))
    return next((text for text in texts if float(text) > 0 and lands(float(text))), None)


def _conv(row: Row, cin: int, squeeze: Squeeze) -> str:
    skip = "_skip" if row.skip == "identity" else ""
    return f"cn_r1_k{row.k}_s{row.s}_c{row.out}_n{_CODE[row.nl]}{skip}"


def _residual(row: Row, cin: int, squeeze: Squeeze) -> str | None:
    """timm's `ir` always expands: a row that does not is its `ds`."""
    name, e = "ds", "1"
    if row.expands(cin):
        name, e = "ir", _ratio(row.inner(cin), cin)
    elif "out_nl" in dict(row.extras()):
        name = "dsa"  # never adds its input
    se = squeeze(row, cin, float(e))
    if se is None:
        return None
    noskip = "" if name == "dsa" else _noskip(row, cin)
    return f"{name}_r1_k{row.k}_s{row.s}_e{e}_c{row.out}{se}_n{_CODE[row.nl]}{noskip}"


def _universal(row: Row, cin: int, squeeze: Squeeze) -> str:
    first, second = row.kernels
    e, start = _ratio(row.inner(cin), cin), f"uir_r1_a{first}_k{second}"
    return f"{start}_s{row.s}_e{e}_c{row.out}_n{_CODE[row.nl]}{_noskip(row, cin)}"


def _edge(row: Row, cin: int, squeeze: Squeeze) -> str:
    return f"er_r1_k{row.k}_s{row.s}_e{_ratio(row.inner(cin), cin)}_c{row.out}_n{_CODE[row.nl]}{_noskip(row, cin)}"


# kind of row: its block's string; None where no ratio gives the squeeze channels
_BLOCKS: dict[str, Callable[[Row, int, Squeeze], str | None]] = {
    "conv": _conv, "dsconv": _residual, "mbconv": _residual, "uib": _universal, "fused": _edge,
}  # fmt: skip


def _ratio(exp: int, cin: int) -> str:
    return _decimal(exp / cin, lambda r: make_divisible(cin * r) == exp) or ""


def _noskip(row: Row, cin: int) -> str:
    return "_noskip" if row.skip == "none" and residual(row, cin) else ""


def _squeeze(from_exp: bool, rule: Callable[[float], int]) -> Squeeze:
    """`from_exp`: a squeeze ratio is of the expansion, else of the block's input; `rule` rounds its channels."""

    def text(row: Row, cin: int, e: float) -> str | None:
        if not row.se:
            return ""
        exp, over = row.inner(cin), 1.0 if from_exp else e

        # the builder divides a ratio of the input by the expansion, then takes that share of the expanded channels
        def lands(r: float) -> bool:
            return rule(exp * (r / over)) == row.se

        share = "0.25" if lands(0.25) else _decimal(row.se / exp * over, lands)
        return None if share is None else f"_se{share}"

    return text


def _block(spec: ArchSpec, row: Row, cin: int, squeeze: Squeeze) -> str | None:
    return (_residual if inverted(spec, row, cin) else _BLOCKS[kind(row)])(row, cin, squeeze)


def _blocks(spec: ArchSpec) -> tuple[list[str], bool]:
    """A string for every row, and whether squeeze channels are rounded as MobileNetV3 rounds them."""
    from_exp = bool(classifier(spec).features)  # EfficientNet's ratio is of the block's input
    ins = [spec.stem.out, *(row.out for row in spec.rows)]
    for rule in (make_divisible, round):
        texts = [_block(spec, row, cin, _squeeze(from_exp, rule)) for row, cin in zip(spec.rows, ins, strict=False)]
        found = [text for text in texts if text is not None]
        if len(found) == len(texts):
            break
    return found, rule is make_divisible


def _places(spec: ArchSpec) -> tuple[tuple[int, int], ...]:
    """(stage, block) of every row: a stage begins with a stride or with a change of channels, as timm's own do, but
    for the 1x1 convolutions of MobileNetV4-S that follow a strided one; where the provenance says how many blocks
    timm's stages have, as it says."""
    said = [int(n) for n in str(dict(spec.provenance).get(STAGES, "")).split() if n.isdecimal()]
    if said and sum(said) == len(spec.rows):
        return tuple((stage, block) for stage, n in enumerate(said) for block in range(n))
    places: list[tuple[int, int]] = []
    cin, before = spec.stem.out, None
    for row in spec.rows:
        stage, block = places[-1] if places else (-1, 0)
        pair = before is not None and kind(before) == kind(row) == "conv" and before.s > row.k == row.s == 1
        begins = not places or row.s > 1 or (row.out != cin and not pair)
        places.append((stage + 1, 0) if begins else (stage, block + 1))
        cin, before = row.out, row
    return tuple(places)


def arch_def(spec: ArchSpec) -> tuple[list[list[str]], bool]:
    """(stages of block strings, whether squeeze channels are rounded); equal blocks of a stage are repeats."""
    strings, rounded = _blocks(spec)
    out: list[list[str]] = []
    last = ""
    for row, text, (stage, block) in zip(spec.rows, strings, _places(spec), strict=True):
        same = text.replace(f"_s{row.s}_", "_s_", 1)  # only a stage's first block strides
        if block == 0:
            out.append([text])
        elif same == last:
            head, _, rest = out[stage][-1].partition("_r")
            n, _, rest = rest.partition("_")
            out[stage][-1] = f"{head}_r{int(n) + 1}_{rest}"
        else:
            out[stage].append(text)
        last = same
    if spec.tail is not None and not _tail_is_head(spec):
        out.append([str(_block(spec, spec.tail, spec.rows[-1].out, _squeeze(True, round)))])
    return out, rounded


def _source(spec: ArchSpec) -> Source:
    head, stem, tail = classifier(spec), spec.stem, spec.tail
    strings, rounded = arch_def(spec)
    stages_text = "\n".join("    [" + ", ".join(f'"{s}"' for s in stage) + "]," for stage in strings)
    builder, layers, se = "decode_arch_def", "", ""
    own = [f"num_features={tail.out if tail is not None and _tail_is_head(spec) else 0}"]
    if head.features:
        own = [f"num_features={head.features}"]
        if head.features_bn:
            own += ["head_bias=False", "head_norm=True"]
        elif not head.features_bias:
            own.append("head_bias=False")
        if "uib" in map(kind, spec.rows):
            own.append("layer_scale_init_value=None")
    elif stem.k != 3:
        own.append(f"stem_kernel_size={stem.k}")
    if spec.stride > _STRIDE:  # of the EfficientNet class alone: the other's faults say so
        own.append(f"output_stride={spec.stride}")
    if any(row.se for row in spec.rows):
        builder += ", round_channels" if rounded else ""
        layers = "from timm.models._efficientnet_blocks import SqueezeExcite\n"
        rule = ", rd_round_fn=round_channels" if rounded else ""
        se = f'se = partial(SqueezeExcite, gate_layer="{_GATE[spec.gate]}"{_inside(spec)}{rule})\n'
        own.append("se_layer=se")
    file, name = ("mobilenetv3", "MobileNetV3") if head.features else ("efficientnet", "EfficientNet")
    settings = "".join(f"    {setting},\n" for setting in own)
    module = f"""from functools import partial
from pathlib import Path

from safetensors.torch import load_file
from timm.layers import get_act_layer
{layers}from timm.models._efficientnet_builder import {builder}
from timm.models.{file} import {name}
from torch import nn

# ir: inverted residual, ds: depthwise separable, cn: convolution; r repeats, k kernel, s stride,
# e expansion, c output channels, se squeeze ratio, n activation
ARCH_DEF = [
{stages_text}
]
"""
    build = f"""norm = partial(nn.BatchNorm2d, eps={spec.bn_eps}, momentum={spec.bn_momentum})
{se}net = {name}(
    decode_arch_def(ARCH_DEF),
    num_classes={head.classes},
    in_chans={spec.in_channels},
    stem_size={stem.out},
    fix_stem=True,
    round_chs_fn=lambda channels: channels,
    act_layer=get_act_layer("{_LAYER[stem.nl]}"),
    norm_layer=norm,
    drop_rate={head.dropout},
{settings})"""
    return {f"{STEM}.py": intro(spec, "timm") + module + loader(build)}


def _names(spec: ArchSpec) -> Names:
    return timm_names(spec, _places(spec), spec.tail is not None and not _tail_is_head(spec))


TIMM = Target("timm", _faults, _names, _source)
