"""Spec and weights to files of other frameworks, and their weights to ours."""

from mbv3.export.export import FRAMEWORKS, PRECISIONS, TARGETS, Exported, export, import_state

__all__ = ["FRAMEWORKS", "PRECISIONS", "TARGETS", "Exported", "export", "import_state"]
