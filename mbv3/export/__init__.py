"""Spec and weights to files of other frameworks, and their weights to ours."""

from mbv3.export.arch_strings import block_strings, spec_of_strings
from mbv3.export.export import FRAMEWORKS, PRECISIONS, TARGETS, Exported, app_note, app_properties, export, import_state
from mbv3.export.from_torch import read_module
from mbv3.export.int8 import Compared, Examples, Int8, choose_int8, compared, ratio
from mbv3.export.libraries import LIBRARIES, Published, library_network
from mbv3.export.names import Names
from mbv3.export.ofa import OFA_DOWNLOAD, SharedWeights, read_supernet
from mbv3.export.read import Weights, initial_weights, read_any_weights
from mbv3.export.recognise import Recognised, recognise
from mbv3.export.unfold import loaded, unfolded

__all__ = [
    "FRAMEWORKS",
    "LIBRARIES",
    "OFA_DOWNLOAD",
    "PRECISIONS",
    "TARGETS",
    "Compared",
    "Examples",
    "Exported",
    "Int8",
    "Names",
    "Published",
    "Recognised",
    "SharedWeights",
    "Weights",
    "app_note",
    "app_properties",
    "block_strings",
    "choose_int8",
    "compared",
    "export",
    "import_state",
    "initial_weights",
    "library_network",
    "loaded",
    "ratio",
    "read_any_weights",
    "read_module",
    "read_supernet",
    "recognise",
    "spec_of_strings",
    "unfolded",
]
