"""The folders `train`, `val` and `test` of a data set."""

from __future__ import annotations

from pathlib import Path

__all__ = ["part_folders"]

_VALIDATION = ("val", "valid", "validation")


def part_folders(root: Path) -> dict[str, Path]:
    """`training`, and `validation` and `test` where they exist; empty where `root` has no folder `train`."""
    if not (root / "train").is_dir():
        return {}
    found = {"training": root / "train"}
    val = next((root / name for name in _VALIDATION if (root / name).is_dir()), None)
    if val is not None:
        found["validation"] = val
    if (root / "test").is_dir():
        found["test"] = root / "test"
    return found
