"""Where tables live, and writing without half files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mbv3.errors import BadInput

__all__ = ["cache_folder", "write_atomic"]


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
