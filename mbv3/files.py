"""Where tables live, and writing without half files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mbv3.errors import BadInput

__all__ = ["cache_folder", "vacant", "write_atomic", "write_folder"]


def cache_folder() -> Path:
    """The user's cache: $MBV3_CACHE, else $XDG_CACHE_HOME/mbv3, else ~/.cache/mbv3."""
    own = os.environ.get("MBV3_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mbv3"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path` and rename it into place. Raises: BadInput when the disk refuses."""
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as e:
        raise BadInput(f"{path}: cannot be written ({e.strerror or e})") from None


def writable(path: Path) -> None:
    """A file can be written at `path`: asked before anything is timed for it. Raises: BadInput otherwise."""
    try:
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as e:
        raise BadInput(f"{path}: cannot be written ({e.strerror or e})") from None


def vacant(path: Path) -> None:
    """Nothing stands at `path`, or an empty folder. Raises: BadInput otherwise."""
    try:
        if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
            raise BadInput(f"{path}: already exists, and nothing is overwritten; remove it, or give another --out")
    except OSError as e:
        raise BadInput(f"{path}: cannot be read ({e.strerror or e})") from None


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """A new folder `path` with `files`, all of them or nothing. Raises: BadInput when it exists or the disk refuses."""
    vacant(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            for name, content in files.items():
                with (folder / name).open("wb") as f:
                    f.write(content)
                    f.flush()
                    os.fsync(f.fileno())
            folder.chmod(0o755)
            os.replace(folder, path)  # over an empty folder, never over one with something in it
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as e:
        raise BadInput(f"{path}: cannot be written ({e.strerror or e})") from None
