"""The ground: what a network is, as a value; YAML; the one lowering; counts."""

from mbv3.spec.arch import MAX_CHANNELS, MAX_ROWS, ArchSpec, Padding, parse_resolution, pixels
from mbv3.spec.changes import (
    DILATIONS,
    Dilation,
    minimalistic,
    rf2,
    slim_detection,
    torchvision_reduced_tail,
    with_output_stride,
    without_tail,
)
from mbv3.spec.classify import Classify
from mbv3.spec.counts import Counts, RowCount, count
from mbv3.spec.cuts import LEAST_CHANNELS, Site, channels, cut, sites, smallest
from mbv3.spec.document import Reader, parse_yaml, read_text
from mbv3.spec.heads import (
    FCN,
    LRASPP,
    PSP,
    RASPP,
    DeepLabV3,
    DeepLabV3Plus,
    Dense,
    Head,
    Point,
    SSDLite,
    Tap,
    Where,
    aux_of,
    taps_of,
)
from mbv3.spec.keys import LayerKey, parse_key
from mbv3.spec.kinds import ROWS, UIB, Conv, DSConv, Expanding, Fused, MBConv, Row
from mbv3.spec.lowering import Layer, lower, lower_aux, lower_key
from mbv3.spec.ops import IMAGE, Op, Tensor, Walk, far_pads
from mbv3.spec.recipes import head_names, with_head
from mbv3.spec.reference import load_spec, network_names, reference_names, width_rules
from mbv3.spec.rows import GATES, NL, NLS, SKIPS, Gate, Skip, make_divisible
from mbv3.spec.scaling import scale_spec
from mbv3.spec.yamlio import dump_spec, parse_spec, read_spec
from mbv3.spec.yamlio import resolution as read_resolution

__all__ = [
    "DILATIONS",
    "FCN",
    "GATES",
    "IMAGE",
    "LEAST_CHANNELS",
    "LRASPP",
    "MAX_CHANNELS",
    "MAX_ROWS",
    "NL",
    "NLS",
    "PSP",
    "RASPP",
    "ROWS",
    "SKIPS",
    "UIB",
    "ArchSpec",
    "Classify",
    "Conv",
    "Counts",
    "DSConv",
    "DeepLabV3",
    "DeepLabV3Plus",
    "Dense",
    "Dilation",
    "Expanding",
    "Fused",
    "Gate",
    "Head",
    "Layer",
    "LayerKey",
    "MBConv",
    "Op",
    "Padding",
    "Point",
    "Reader",
    "Row",
    "RowCount",
    "SSDLite",
    "Site",
    "Skip",
    "Tap",
    "Tensor",
    "Walk",
    "Where",
    "aux_of",
    "channels",
    "count",
    "cut",
    "dump_spec",
    "far_pads",
    "head_names",
    "load_spec",
    "lower",
    "lower_aux",
    "lower_key",
    "make_divisible",
    "minimalistic",
    "network_names",
    "parse_key",
    "parse_resolution",
    "parse_spec",
    "parse_yaml",
    "pixels",
    "read_resolution",
    "read_spec",
    "read_text",
    "reference_names",
    "rf2",
    "scale_spec",
    "sites",
    "slim_detection",
    "smallest",
    "taps_of",
    "torchvision_reduced_tail",
    "width_rules",
    "with_head",
    "with_output_stride",
    "without_tail",
]
