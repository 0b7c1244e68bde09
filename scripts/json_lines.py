"""Results that a script keeps as lines of JSON, and the commit that they are of."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["append", "lines_of", "short_commit"]

ROOT = Path(__file__).resolve().parents[1]


def short_commit(root: Path = ROOT) -> str:
    """The commit that is checked out; nothing where `root` is no clone."""
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    return said.stdout.strip()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; none where it is not there."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def append(path: Path, *lines: Mapping[str, Any], quiet: bool = False) -> None:
    """Write the lines to the end of a file, and print them unless `quiet`."""
    texts = [json.dumps(line) for line in lines]
    with path.open("a", encoding="utf-8") as f:
        f.writelines(text + "\n" for text in texts)
    if texts and not quiet:
        print(*texts, sep="\n", flush=True)
