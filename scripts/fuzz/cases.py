"""An input: files by their path below a folder, and what is known of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["KINDS", "Case", "taken", "written"]

KINDS = ("spec", "space", "table", "annotations", "images", "masks", "checkpoint")


@dataclass(frozen=True)
class Case:
    """Files of one input of `kind`; a path whose content is a Path is a link to it.

    `fault`: what was planted in it, and why a correct tool refuses or warns; empty where it may be anything. `says`: a
    word that the message has to have.
    """

    kind: str
    files: Mapping[str, bytes | Path]
    source: str = ""
    fault: str = ""
    says: str = ""

    def changed(self, files: Mapping[str, bytes | Path | None], **about: str) -> Case:
        """With other contents of some files; None takes one away."""
        merged = {**self.files, **files}
        return replace(self, files={k: v for k, v in merged.items() if v is not None}, **about)


def written(case: Case, folder: Path) -> Path:
    """The files on disk, below `folder`."""
    for name, content in case.files.items():
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    return folder


def taken(folder: Path, kind: str, **about: str) -> Case:
    """What lies below a folder."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return Case(kind, files, **about)
