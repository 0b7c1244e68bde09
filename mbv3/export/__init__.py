"""Spec and weights to files of other frameworks, and their weights to ours."""

from mbv3.export.export import FRAMEWORKS, PRECISIONS, TARGETS, Exported, export, import_state
from mbv3.export.names import Names
from mbv3.export.read import Weights, initial_weights, read_any_weights

__all__ = [
    "FRAMEWORKS",
    "PRECISIONS",
    "TARGETS",
    "Exported",
    "Names",
    "Weights",
    "export",
    "import_state",
    "initial_weights",
    "read_any_weights",
]
