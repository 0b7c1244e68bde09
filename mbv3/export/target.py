"""What every framework that takes Python files has in common: its faults, its names, its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mbv3.errors import Fault
from mbv3.export.names import Names
from mbv3.spec import ArchSpec, Classify, Row, Tap, count

__all__ = [
    "Source",
    "Target",
    "intro",
    "kind",
    "loader",
    "of_bytes",
    "plain_conv",
    "residual",
    "row_text",
    "unfit_head",
    "width_at",
]

STEM = "mobilenetv3"  # of every file that an export writes

Source = dict[str, str]  # file name -> text


@dataclass(frozen=True, slots=True)
class Target:
    """A framework. `faults`: everything in a network that it cannot express; the rest is for networks without faults.

    `notes`: what the files say differently without changing an output (training settings).
    """

    name: str
    faults: Callable[[ArchSpec], Iterator[Fault]]
    names: Callable[[ArchSpec], Names]
    source: Callable[[ArchSpec], Source]
    notes: Callable[[ArchSpec], tuple[str, ...]] = lambda spec: ()


def kind(row: Row) -> str:
    """The row's name in a YAML file."""
    return row.word()


def row_text(row: Row, cin: int) -> str:
    """A row as a message shows it; a depthwise-separable one is an mbconv without expansion."""
    row = row.alike(cin)
    own = "".join(f" {name} {getattr(row, name)}" for name in row.OWN)
    dilated = f" dilation {row.dilation}" if row.dilation != 1 else ""
    extra = "".join(f" {name} {value}" for name, value in row.plain().extras())
    return f"{kind(row)} k {row.k}{own} out {row.out} se {row.se} {row.nl} s {row.s}{dilated} skip {row.skip}{extra}"


def of_bytes(values: tuple[float, float, float]) -> list[float]:
    """A mean or deviation of RGB from 0 to 1, as of RGB from 0 to 255."""
    return [round(255 * v, 3) for v in values]


def residual(row: Row, cin: int) -> bool:
    """Whether the frameworks add the input to the output: at stride 1, with as many channels out as in."""
    return row.s == 1 and cin == row.out


def plain_conv(path: str, row: Row) -> Iterator[Fault]:
    """In every framework, stem and tail are a convolution, a batch norm and an activation."""
    if row.se:
        yield Fault(f"{path}.se", "this convolution has no squeeze-and-excitation there", str(row.se))
    if row.skip != "none":
        yield Fault(f"{path}.skip", "this convolution has no skip there", row.skip)


def unfit_head(spec: ArchSpec, norm: bool = False) -> Iterator[Fault]:
    """A head that is no classifier; one with a batch norm unless `norm`."""
    if not isinstance(spec.head, Classify):
        yield Fault("head", "only a classifier can be expressed", type(spec.head).__name__.lower())
    elif spec.head.features_bn and not norm:
        yield Fault("head.features_bn", "the features layer has a bias there, and no batch norm", "true")
    elif not spec.head.features_bias and not norm:
        yield Fault("head.features_bias", "the features layer has a bias there", "false")


def width_at(spec: ArchSpec, tap: Tap) -> int:
    """Channels of the output of a tapped row."""
    path = tap.row if isinstance(tap.row, str) else f"rows[{tap.row}]"
    return next(row.out for at, row, _ in spec.convs() if at == path)


def intro(spec: ArchSpec, framework: str) -> str:
    """The module docstring of an exported file."""
    h, w = spec.resolution
    name = spec.name.replace("\\", "/").replace('"', "'")
    counts = count(spec)
    params = counts.params + counts.aux_params
    return f'''"""{name} for {framework}: {params:,} parameters, images (N, {spec.in_channels}, {h}, {w}).

    from {STEM} import build
    net = build()  # in eval mode, with the weights of {STEM}.safetensors beside this file

Written by mbv3-search.
"""
'''


def loader(body: str) -> str:
    """`build()` around the lines that make `net`."""
    lines = "\n".join(f"    {line}" if line else "" for line in body.strip("\n").split("\n"))
    return f'''
WEIGHTS = Path(__file__).with_name("{STEM}.safetensors")


def build(weights=WEIGHTS):
    """The network in eval mode, with the weights of a safetensors file; newly initialised where `weights` is None."""
{lines}
    if weights is not None:
        net.load_state_dict(load_file(weights), strict=True)
    return net.eval()
'''
