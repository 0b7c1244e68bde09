"""Where tables live, writing without half files, and locks where a file system has them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from mbv3.errors import BadInput

__all__ = ["cache_folder", "discard", "hold", "sweep", "vacant", "writable", "write_atomic", "write_folder"]

# of a file system that cannot do what makes a file safe or plain to read, though it holds files
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_PART = ".part"  # of a file that is being written


def cache_folder() -> Path:
    """The user's cache: $MBV3_CACHE, else $XDG_CACHE_HOME/mbv3, else ~/.cache/mbv3; where no such place can be written,
    as in a container under a number without a name, a folder of this user's in the system's for temporary files."""
    own = os.environ.get("MBV3_CACHE")
    if own:
        return Path(own)
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except (RuntimeError, KeyError):  # no $HOME, and no entry in the list of users
        place = None
    if place is not None and place.is_absolute() and _may_write(place):
        return place / "mbv3"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"mbv3-cache-{user}"


def _may_write(folder: Path) -> bool:
    """Whether files can be written in a folder, or it can be made."""
    try:
        there = next(p for p in (folder, *folder.parents) if p.exists())
        return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except (OSError, StopIteration):
        return False


def hold(file: IO[Any], *, wait: bool = False) -> bool | None:
    """Lock an open file until it is closed. False where another process has it, None where its file system has no
    locks (NFS, Lustre, some FUSE): then nobody else can be seen, and nobody is kept out."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError as e:
        return False if e.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES) else None


def discard(path: Path, *, made: bool) -> None:
    """Take away what a run left in a folder, and the folder where the run `made` it: no link to one, no mounted volume
    that somebody else did. What cannot be taken away stays: why the run ended is what there is to say."""
    if made and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        for inside in path.iterdir():
            if inside.is_dir() and not inside.is_symlink():
                shutil.rmtree(inside, ignore_errors=True)
            else:
                inside.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Take away what `write_atomic` had begun in a folder when its process was killed. Only for who has it alone."""
    with suppress(OSError):
        for left in folder.rglob(f".*{_PART}"):
            left.unlink(missing_ok=True)


def _safe(file: IO[bytes]) -> None:
    """To the disk, where the file system has such an order."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as e:
        if e.errno not in _UNABLE:
            raise


def _readable(path: Path | str, mode: int) -> None:
    """For others to read, where the file system has modes."""
    try:
        os.chmod(path, mode)
    except OSError as e:
        if e.errno not in _UNABLE:
            raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path` and rename it into place; a link stays one, and its file is written. Raises:
    BadInput when the disk refuses."""
    # a file name that is no UTF-8 must not cost the message that names it
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    shown, path = path, Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(data)
                _safe(f)
            _readable(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as e:
        raise BadInput(f"{shown}: cannot be written ({e.strerror or e})") from None


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
    """A new folder `path` with `files`, all of them or nothing; an empty one that is there, perhaps a mounted volume or
    a link to one, is filled. Raises: BadInput when it exists with something in it or the disk refuses."""
    vacant(path)
    there = path.is_dir()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = path if there else Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            for name, content in files.items():
                with (folder / name).open("wb") as f:
                    f.write(content)
                    _safe(f)
            if not there:
                _readable(folder, 0o755)
                os.replace(folder, path)
        except BaseException:
            discard(folder, made=not there)
            raise
    except OSError as e:
        raise BadInput(f"{path}: cannot be written ({e.strerror or e})") from None
