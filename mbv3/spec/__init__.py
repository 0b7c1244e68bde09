"""The ground: what a network is, as a value; YAML; the one lowering; counts."""

from mbv3.spec.arch import MAX_CHANNELS, ArchSpec
from mbv3.spec.counts import Counts, RowCount, count
from mbv3.spec.document import Reader, parse_yaml, read_text
from mbv3.spec.lowering import Layer, LayerKey, Op, lower, lower_key, parse_key
from mbv3.spec.reference import load_spec, reference_names, width_rules
from mbv3.spec.rows import GATES, NLS, SKIPS, Classify, Conv, DSConv, MBConv, Row, make_divisible
from mbv3.spec.scaling import scale_spec
from mbv3.spec.yamlio import dump_spec, parse_spec, read_spec

__all__ = [
    "GATES",
    "MAX_CHANNELS",
    "NLS",
    "SKIPS",
    "ArchSpec",
    "Classify",
    "Conv",
    "Counts",
    "DSConv",
    "Layer",
    "LayerKey",
    "MBConv",
    "Op",
    "Reader",
    "Row",
    "RowCount",
    "count",
    "dump_spec",
    "load_spec",
    "lower",
    "lower_key",
    "make_divisible",
    "parse_key",
    "parse_spec",
    "parse_yaml",
    "read_spec",
    "read_text",
    "reference_names",
    "scale_spec",
    "width_rules",
]
