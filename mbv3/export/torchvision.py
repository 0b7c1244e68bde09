"""torchvision: the rows of its MobileNetV3 or MobileNetV2 class, stem, tail and head put in where they differ.

Source of what the classes can express: torchvision 0.28, models/mobilenetv3.py and models/mobilenetv2.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mbv3.errors import Fault
from mbv3.export.names import Names, classifier, torchvision_names
from mbv3.export.target import STEM, Source, Target, intro, kind, loader, plain_conv, residual, unfit_head
from mbv3.export.torchvision_heads import (
    head_faults,
    head_imports,
    head_lines,
    head_notes,
    torchvision_head,
    torchvision_place,
)
from mbv3.spec import NLS, ArchSpec, Classify, Conv, Row, make_divisible

__all__ = ["TORCHVISION"]

_ACT = {"RE": "nn.ReLU", "RE6": "nn.ReLU6", "HS": "nn.Hardswish", "SILU": "nn.SiLU", "NONE": "None"}
assert set(_ACT) == set(NLS)
_ROWS = ("mbconv", "dsconv")  # what its InvertedResidual classes can be


def is_v2(spec: ArchSpec) -> bool:
    """MobileNetV2's class has ReLU6 throughout, MobileNetV3's has none."""
    return all(row.nl == "RE6" for row in spec.rows)


def _row_faults(path: str, row: Row, cin: int, v2: bool) -> Iterator[Fault]:
    if kind(row) not in _ROWS:
        yield Fault(path, "torchvision's rows are inverted residuals", kind(row))
        return
    name = "MobileNetV2" if v2 else "MobileNetV3"
    for extra, value in row.plain().extras():
        yield Fault(f"{path}.{extra}", f"torchvision's {name} has no such field", value)
    if row.s not in (1, 2):
        yield Fault(f"{path}.s", f"torchvision's {name} has strides 1 and 2", str(row.s))
    if row.skip == "pool":
        yield Fault(f"{path}.skip", "torchvision has no pooled skip", kind(row))
    undilated = v2 or row.dilation == 1
    if row.skip == "none" and residual(row, cin) and undilated:
        yield Fault(f"{path}.skip", "torchvision adds the input wherever stride is 1 and in equals out", "none")
    if v2:
        if row.k != 3:
            yield Fault(f"{path}.k", "torchvision's MobileNetV2 has 3x3 kernels", str(row.k))
        if row.se:
            yield Fault(f"{path}.se", "torchvision's MobileNetV2 has no squeeze-and-excitation", str(row.se))
        if row.dilation != 1:
            yield Fault(f"{path}.dilation", "torchvision's MobileNetV2 has no dilation", str(row.dilation))
        return
    if row.nl not in ("RE", "HS"):
        yield Fault(f"{path}.nl", "torchvision's MobileNetV3 rows have RE or HS", row.nl)
    if row.dilation != 1 and (row.s != 1):
        yield Fault(f"{path}.s", "torchvision's dilated rows have stride 1", str(row.s))
    if row.se:
        squeeze = make_divisible(row.inner(cin) // 4)
        if row.se != squeeze:
            yield Fault(f"{path}.se", f"torchvision squeezes {row.inner(cin)} channels to {squeeze}", str(row.se))


def _faults(spec: ArchSpec) -> Iterator[Fault]:
    v2 = is_v2(spec)
    if not spec.rows:
        yield Fault("rows", "torchvision's classes need at least one row")
    for path, row, cin in spec.convs():
        if path in ("stem", "tail"):
            yield from plain_conv(path, row)
        else:
            yield from _row_faults(path, row, cin, v2)
    if spec.gate != "HSIGMOID" and any(row.se for row in spec.rows):
        yield Fault("gate", "torchvision's MobileNetV3 has the gate HSIGMOID", spec.gate)
    if isinstance(spec.head, Classify):
        yield from unfit_head(spec)
    else:
        yield from head_faults(spec, v2)


# ---- the file ------------------------------------------------------------------------------------------------


def _conv(row: Conv, cin: int) -> str:
    more = f", stride={row.s}" if row.s != 1 else ""
    more += f", dilation={row.dilation}" if row.dilation != 1 else ""
    return f"Conv2dNormActivation({cin}, {row.out}, {row.k}{more}, norm_layer=norm, activation_layer={_ACT[row.nl]})"


def _tail(spec: ArchSpec, stock: Conv) -> Iterator[str]:
    if spec.tail is None:
        yield "net.features = net.features[:-1]"
    elif spec.tail != stock:
        yield f"net.features[-1] = {_conv(spec.tail, spec.rows[-1].out)}"


def _head(spec: ArchSpec, stock_features: bool) -> Iterator[str]:
    """Lines that replace the classifier. V2's class has no features layer, V3's a hard-swish one."""
    head = classifier(spec)
    last = f"nn.Linear({head.features or spec.features}, {head.classes})"
    if not head.features:
        yield f"net.classifier = nn.Sequential(nn.Dropout({head.dropout}), {last})"
        return
    act = f"{_ACT[head.nl]}()" if head.nl != "NONE" else "nn.Identity()"
    if not stock_features or head.nl != "HS":
        first = f"nn.Linear({spec.features}, {head.features})"
        yield f"net.classifier = nn.Sequential({first}, {act}, nn.Dropout({head.dropout}), {last})"


def _v3(spec: ArchSpec) -> tuple[str, list[str]]:
    """(module lines, lines of build) with the MobileNetV3 class."""
    rows, cin = [], spec.stem.out
    channels = [spec.stem.out]
    for row in spec.rows:
        exp = row.inner(cin)
        # the class drops the sum of a row of stride 2, and strides no dilated row
        s = 2 if row.dilation != 1 and row.skip == "none" and residual(row, cin) else row.s
        rows.append(f"    ({cin}, {row.k}, {exp}, {row.out}, {bool(row.se)}, {row.nl!r}, {s}, {row.dilation}),")
        channels += [exp, row.out]
        cin = row.out
    config = "InvertedResidualConfig"
    module = [
        "# input channels, kernel, expanded channels, output channels, SE, activation, stride, dilation",
        "ROWS = [",
    ]
    module += [*rows, "]"]
    if any(make_divisible(c) != c for c in channels):
        config = "Row"
        module += [
            "", "", "class Row(InvertedResidualConfig):",
            '    """A row whose channels are taken as they are, not rounded to multiples of 8."""', "",
            "    @staticmethod", "    def adjust_channels(channels, width_mult):", "        return channels", "",
        ]  # fmt: skip
    head = classifier(spec)
    stock_tail = Conv(k=1, out=6 * cin, nl="HS")
    stock_features = bool(head.features) and spec.tail == stock_tail
    last = head.features or 8  # replaced below where there is none
    build = [
        f"norm = partial(nn.BatchNorm2d, eps={spec.bn_eps}, momentum={spec.bn_momentum})",
        f"rows = [{config}(*row, width_mult=1.0) for row in ROWS]",
        f"net = MobileNetV3(rows, {last}, {head.classes}, norm_layer=norm, dropout={head.dropout})",
    ]
    if spec.stem != Conv(k=3, out=spec.stem.out, nl="HS", s=2) or spec.in_channels != 3:
        build.append(f"net.features[0] = {_conv(spec.stem, spec.in_channels)}")
    build += [*_tail(spec, stock_tail), *_head(spec, stock_features)]
    return "\n".join(module) + "\n", build


def _v2(spec: ArchSpec) -> tuple[str, list[str]]:
    """(module lines, lines of build) with the MobileNetV2 class. A ratio is written so that it lands on `exp`."""
    rows, cin = [], spec.stem.out
    for row in spec.rows:
        rows.append((_ratio(row.inner(cin), cin), row.out, row.s))
        cin = row.out
    module = ["# expansion ratio, output channels, repeats, stride", "ROWS = ["]
    module += [f"    ({t}, {c}, 1, {s})," for t, c, s in rows] + ["]"]
    head = classifier(spec)
    build = [
        f"norm = partial(nn.BatchNorm2d, eps={spec.bn_eps}, momentum={spec.bn_momentum})",
        f"net = MobileNetV2({head.classes}, inverted_residual_setting=ROWS, round_nearest=1, norm_layer=norm, "
        f"dropout={head.dropout})",
    ]
    if spec.stem != Conv(k=3, out=32, nl="RE6", s=2) or spec.in_channels != 3:
        build.append(f"net.features[0] = {_conv(spec.stem, spec.in_channels)}")
    if spec.stem.out != 32:  # the class has a stem of 32 channels
        (t, c, s) = rows[0]
        build.append(f"net.features[1] = InvertedResidual({spec.stem.out}, {c}, {s}, {t}, norm)")
    stock_tail = Conv(k=1, out=1280, nl="RE6")
    build += list(_tail(spec, stock_tail))
    if head.features or spec.tail != stock_tail:
        build += list(_head(spec, stock_features=False))
    return "\n".join(module) + "\n", build


def _ratio(exp: int, cin: int) -> str:
    """The shortest decimal t with round(cin t) = exp; 1 only for no expansion, which leaves the convolution out."""
    if exp % cin == 0:
        return str(exp // cin)
    return next(
        t for t in (f"{exp / cin:.{n}f}" for n in range(1, 9)) if round(cin * float(t)) == exp and float(t) != 1
    )


def _source(spec: ArchSpec) -> Source:
    v2 = is_v2(spec)
    module, lines = (_v2 if v2 else _v3)(_classifier(spec))
    if not isinstance(spec.head, Classify):
        lines = [line for line in lines if not line.startswith("net.classifier")] + head_lines(spec)
    body = "\n".join(lines)
    classes = ["from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3"]
    if v2:
        block = "InvertedResidual, " if "InvertedResidual(" in body else ""
        classes = [f"from torchvision.models.mobilenetv2 import {block}MobileNetV2"]
    if not isinstance(spec.head, Classify):
        classes += head_imports(spec.head)
    if "Conv2dNormActivation(" in body:
        classes.append("from torchvision.ops.misc import Conv2dNormActivation")
    imports = "\n".join(sorted(classes))
    text = f"""from functools import partial
from pathlib import Path

from safetensors.torch import load_file
from torch import nn
{imports}

{module}"""
    return {f"{STEM}.py": intro(spec, "torchvision") + text + loader(body)}


def _classifier(spec: ArchSpec) -> ArchSpec:
    """The classifier whose features a system takes; a classifier itself as it is."""
    return spec if isinstance(spec.head, Classify) else replace(spec, head=Classify(classes=1))


def _names(spec: ArchSpec) -> Names:
    names = torchvision_names(_classifier(spec), is_v2(spec))
    if isinstance(spec.head, Classify):
        return names
    backbone = [(ours, torchvision_place(spec, at)) for ours, at in names.modules if not ours.startswith("head.")]
    return Names((*backbone, *torchvision_head(spec)))


def _notes(spec: ArchSpec) -> tuple[str, ...]:
    return () if isinstance(spec.head, Classify) else tuple(head_notes(spec.head))


TORCHVISION = Target("torchvision", _faults, _names, _source, _notes)
