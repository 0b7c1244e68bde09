"""Spec and weights to files of other frameworks, and their weights to ours."""

from mbv3.export.export import FRAMEWORKS, PRECISIONS, TARGETS, Exported, export, import_state
from mbv3.export.names import Names

__all__ = ["FRAMEWORKS", "PRECISIONS", "TARGETS", "Exported", "Names", "export", "import_state"]
