"""Search spaces: choices, genomes and networks; scaling; the cost of every network at once."""

from mbv3.space.additive import Additive, BlockTable, layer_keys, tabulate
from mbv3.space.chain import Chain, chain_of, joined
from mbv3.space.limits import Limits, SpaceLimit, SpaceLimits
from mbv3.space.model import Block, Gene, Genome, SearchSpace, Value, Variant, scale, under_head
from mbv3.space.scales import parse_scale
from mbv3.space.yamlio import load_space, parse_space, preset_names, space_text

__all__ = [
    "Additive",
    "Block",
    "BlockTable",
    "Chain",
    "Gene",
    "Genome",
    "Limits",
    "SearchSpace",
    "SpaceLimit",
    "SpaceLimits",
    "Value",
    "Variant",
    "chain_of",
    "joined",
    "layer_keys",
    "load_space",
    "parse_scale",
    "parse_space",
    "preset_names",
    "scale",
    "space_text",
    "tabulate",
    "under_head",
]
