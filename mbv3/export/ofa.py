"""OFA: the shared weights of its MobileNetV3 supernets, and the weights of any network in them.

Source: Cai 2020, arXiv:1908.09791, and the ofa package, imagenet_classification/elastic_nn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mbv3.errors import BadInput, plain, shown
from mbv3.export.names import checked, our_shapes, stages
from mbv3.export.read import is_supernet, load_file
from mbv3.spec import NL, ArchSpec, Classify, Conv, MBConv, Row, make_divisible

__all__ = ["OFA_DOWNLOAD", "OFA_WIDTHS", "SharedWeights", "largest_ofa", "read_supernet"]

OFA_WIDTHS = (1.0, 1.2)
OFA_DOWNLOAD = (
    "ofa_mbv3_d234_e346_k357_w1.0 (or _w1.2) from https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/"
)
KERNELS, EXPANSION, DEPTH = (3, 5, 7), 6, 4  # the largest of each in the supernets
EPS, MOMENTUM = 1e-5, 0.1
_STAGES: tuple[tuple[int, int, bool, NL], ...] = (  # width, stride, squeeze-and-excitation, nonlinearity
    (24, 2, False, "RE"), (40, 2, True, "RE"), (80, 2, False, "HS"), (112, 1, True, "HS"), (160, 2, True, "HS"),
)  # fmt: skip
_PARTS = {"expand": "inverted_bottleneck", "depthwise": "depth_conv", "project": "point_linear"}
# older and newer versions of the package wrap their layers once or twice
_TWICE = re.compile(r"\b(conv|bn|linear)\.\1\b")


def largest_ofa(width: float) -> ArchSpec:
    """The network that holds all networks of the supernet of a width: kernels 7, expansions 6, four blocks a stage."""
    stem, first, *_ = (make_divisible(c * width) for c in (16, 16))
    rows: list[Row] = [MBConv(k=3, exp=stem, out=first, nl="RE", skip="identity" if stem == first else "none")]
    cin = first
    for base, s, se, nl in _STAGES:
        out, k = make_divisible(base * width), max(KERNELS)
        for j in range(DEPTH):
            exp, stride = EXPANSION * cin, s if j == 0 else 1
            rows.append(MBConv(
                k=k, exp=exp, out=out, se=make_divisible(exp / 4) if se else 0, nl=nl, s=stride,
                skip="identity" if stride == 1 and cin == out else "none",
            ))  # fmt: skip
            cin = out
    return ArchSpec(
        name=f"ofa-mbv3-w{width}", resolution=(224, 224), stem=Conv(k=3, out=stem, nl="HS", s=2), rows=tuple(rows),
        tail=Conv(k=1, out=make_divisible(960 * width), nl="HS"), bn_eps=EPS, bn_momentum=MOMENTUM,
        head=Classify(features=make_divisible(1280 * width), features_bias=False, nl="HS", dropout=0.1, classes=1000),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class SharedWeights:
    """The weights of a supernet: tensors by the package's names, without its wrappers. `width`: 1 or 1.2."""

    file: str
    width: float
    tensors: Mapping[str, Tensor]

    @property
    def largest(self) -> ArchSpec:
        """The network that holds all others."""
        return largest_ofa(self.width)

    def faults(self, spec: ArchSpec) -> list[str]:
        """Why `spec` is no network of the supernet; nothing where it is one. Any number of inner channels will do, as
        long as they are not more than the supernet has."""
        return list(_faults(spec, self.largest))

    def state(self, spec: ArchSpec) -> dict[str, Tensor]:
        """The weights of a network of the supernet under our names: of every stage the first blocks, of every block
        the first channels, kernels through the matrices from 7 to 5 and from 5 to 3. A classifier of other classes than
        the supernet's is the supernet's own.

        Running statistics are slices of the supernet's: they are of no use before they are taken on images at the
        network's resolution (Cai 2020 takes 2,000).

        Raises:
            BadInput: `spec` is no network of the supernet; every difference is listed.
        """
        if wrong := self.faults(spec):
            lines = "\n".join(f"  {line}" for line in wrong)
            raise BadInput(f"{self.file}: {spec.name} is no network of the supernet at width {self.width:g}\n{lines}")
        theirs = dict(_modules(spec, _donors(spec)))
        found: dict[str, Tensor] = {}
        for name, shape in our_shapes(spec).items():
            module, _, leaf = name.rpartition(".")
            at = f"{theirs[module]}.{leaf}"
            if leaf == "num_batches_tracked":
                found[name] = torch.zeros((), dtype=torch.int64)  # of a network that has seen no batch
                continue
            tensor = self.tensors[at]
            if module.startswith("head."):
                found[name] = tensor.flatten(1) if leaf == "weight" else tensor
            elif module.endswith(".depthwise.conv"):
                found[name] = self._kernel(theirs[module], shape[-1])[: shape[0]]
            else:
                found[name] = tensor[tuple(slice(n) for n in shape)]
        return {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}

    def _kernel(self, module: str, k: int) -> Tensor:
        """(channels, 1, k, k): the centre of the next larger kernel, multiplied with its matrix, from the largest down
        (Cai 2020, section 3.3, elastic kernel size)."""
        kernel = self.tensors[f"{module}.weight"]
        while (size := kernel.shape[-1]) > k:
            inner = kernel[..., 1:-1, 1:-1].flatten(1)
            matrix = self.tensors[f"{module}.{size}to{size - 2}_matrix"]
            kernel = functional.linear(inner, matrix).reshape(-1, 1, size - 2, size - 2)
        return kernel


def read_supernet(path: Path) -> SharedWeights:
    """The supernet in a file of tensors; names of older and newer versions of the ofa package are known by themselves,
    and the width by the shapes. Nothing in the file is executed.

    Raises:
        BadInput: the file cannot be read, holds the weights of one network or of another supernet, or has missing,
            other, mis-shaped or not finite tensors; all are listed.
    """
    file = load_file(path)
    if not is_supernet(file.tensors):
        raise BadInput(f"{path}: holds the weights of one network, not the shared ones of a supernet; give --from SPEC "
                       f"in place of --space for them, or download {OFA_DOWNLOAD}")  # fmt: skip
    group = _group(file.tensors)
    named = {_plain(name): tensor for name, tensor in group.items()}
    stem = named.get("first_conv.conv.weight")
    channels = None if stem is None or stem.dim() == 0 else len(stem)
    width = next((w for w in OFA_WIDTHS if largest_ofa(w).stem.out == channels), 0)
    if not width:
        rule = f"channels of its stem: {shown(channels)}"
        raise BadInput(f"{path}: holds another supernet than OFA's MobileNetV3 of width 1 and 1.2 ({rule}); download "
                       f"{OFA_DOWNLOAD}")  # fmt: skip
    return SharedWeights(str(path), width, checked(_shapes(width), named, str(path)))


# ---- names and shapes ----------------------------------------------------------------------------------------


def _group(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors behind the shortest prefix that a supernet has: `state_dict.`, `module.`, nothing."""
    marks = (name.partition("blocks.")[0] for name in tensors if is_supernet({name: tensors[name]}))
    prefix = min(marks, key=len)
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _plain(name: str) -> str:
    """A name of any version without what wraps it: `blocks.1.conv.depth_conv.bn.weight`."""
    return _TWICE.sub(r"\1", name.replace(".mobile_inverted_conv.", ".conv."))


def _modules(spec: ArchSpec, donors: list[int]) -> Iterator[tuple[str, str]]:
    """(our module, theirs) of a network whose rows are those of the supernet's blocks `donors`."""
    for ours, theirs in (("stem", "first_conv"), ("tail", "final_expand_layer")):
        yield f"{ours}.conv", f"{theirs}.conv"
        yield f"{ours}.bn", f"{theirs}.bn"
    cin = spec.stem.out
    for i, (row, n) in enumerate(zip(spec.rows, donors, strict=True)):
        for part in stages(row, cin):
            block = f"blocks.{n}.conv"
            if part == "se":
                for layer in ("reduce", "expand"):
                    yield f"rows.{i}.se.{layer}", f"{block}.depth_conv.se.fc.{layer}"
                continue
            yield f"rows.{i}.{part}.conv", f"{block}.{_PARTS[part]}.conv"
            yield f"rows.{i}.{part}.bn", f"{block}.{_PARTS[part]}.bn"
        cin = row.out
    yield "head.features", "feature_mix_layer.conv"
    yield "head.classifier", "classifier.linear"


def _shapes(width: float) -> dict[str, tuple[int, ...]]:
    """Every tensor of the supernet of a width."""
    spec = largest_ofa(width)
    theirs = dict(_modules(spec, list(range(len(spec.rows)))))
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in our_shapes(spec).items():
        module, _, leaf = name.rpartition(".")
        mixes = module == "head.features" and leaf == "weight"
        shapes[f"{theirs[module]}.{leaf}"] = (*shape, 1, 1) if mixes else shape
    for n in range(1, len(spec.rows)):
        for k in KERNELS[:-1]:
            shapes[f"blocks.{n}.conv.depth_conv.conv.{k + 2}to{k}_matrix"] = (k * k, k * k)
    return shapes


# ---- networks of the supernet --------------------------------------------------------------------------------


def _donors(spec: ArchSpec) -> list[int]:
    """The supernet's block of every row: a stage begins where the width changes, and has the first of its blocks."""
    found, stage, j = [0], -1, 0
    for before, row in zip(spec.rows, spec.rows[1:], strict=False):
        if stage < 0 or row.out != before.out:
            stage, j = stage + 1, 0
        found.append(1 + DEPTH * stage + j)
        j += 1
    return found


def _faults(spec: ArchSpec, largest: ArchSpec) -> Iterator[str]:
    for name in ("stem", "tail", "gate", "bn_eps", "in_channels", "padding"):
        if getattr(spec, name) != getattr(largest, name):
            yield f"{name}: {_text(getattr(spec, name))}, in the supernet {_text(getattr(largest, name))}"
    head = spec.head
    whole = largest.head
    assert isinstance(whole, Classify)
    if not isinstance(head, Classify) or head.plain() != replace(whole.plain(), classes=head.classes):
        yield f"head: {_text(head)}, in the supernet {_text(whole)}"
    donors = _donors(spec)
    depths = [sum(1 + DEPTH * i <= n < 1 + DEPTH * (i + 1) for n in donors) for i in range(len(_STAGES))]
    if len(donors) > len(set(donors)) or max(donors) >= len(largest.rows) or not all(depths):
        yield f"rows: {len(spec.rows)} in stages of {depths}, in the supernet five stages of 1 to {DEPTH}"
        return
    if max(depths) > DEPTH:
        yield f"rows: a stage of {max(depths)} blocks, in the supernet {DEPTH} at most"
    cin = spec.stem.out
    for i, (row, n) in enumerate(zip(spec.rows, donors, strict=True)):
        donor = largest.rows[n]
        assert isinstance(donor, MBConv)
        kernels = KERNELS if n else (donor.k,)
        fits = (
            isinstance(row, MBConv) and row.k in kernels and row.exp <= donor.exp and row.se <= donor.se
            and bool(row.se) == bool(donor.se) and row.expands(cin) == bool(n)
            and replace(row, k=donor.k, exp=donor.exp, se=donor.se) == donor
        )  # fmt: skip
        if not fits:
            yield f"rows[{i}]: {_text(row)}, in the supernet a part of {_text(donor)}"
        cin = row.out


def _text(value: object) -> str:
    return plain(str(value), 200)
