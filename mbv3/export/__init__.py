"""Spec and weights to files of other frameworks, and their weights to ours."""

from mbv3.export.export import FRAMEWORKS, PRECISIONS, TARGETS, Exported, app_note, app_properties, export, import_state
from mbv3.export.int8 import Compared, Examples, Int8, choose_int8, compared, ratio
from mbv3.export.names import Names
from mbv3.export.ofa import OFA_DOWNLOAD, SharedWeights, read_supernet
from mbv3.export.read import Weights, initial_weights, read_any_weights

__all__ = [
    "FRAMEWORKS",
    "OFA_DOWNLOAD",
    "PRECISIONS",
    "TARGETS",
    "Compared",
    "Examples",
    "Exported",
    "Int8",
    "Names",
    "SharedWeights",
    "Weights",
    "app_note",
    "app_properties",
    "choose_int8",
    "compared",
    "export",
    "import_state",
    "initial_weights",
    "ratio",
    "read_any_weights",
    "read_supernet",
]
