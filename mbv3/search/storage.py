"""What `--storage` names: Optuna's storages, opened, and trials begun and ended in them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from mbv3.errors import BadInput, plain
from mbv3.search.database import WAIT_S, Database, Ended

__all__ = ["Ended", "absolute_storage", "begin", "check_storage", "end", "first_line", "open_storage", "storage_name"]

# a file of passwords is none
_IN_QUERY = re.compile(r"([?&](?!passfile=)[^=&]*(?:pass|pwd)[^=&]*=)[^&]+", re.IGNORECASE)
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def storage_name(storage: str) -> str:
    """`storage` for a message or a record: without its passwords, between a user and the last @ or in its query."""
    hidden = re.sub(r"(://[^:/]*):.*@", r"\1:***@", storage, flags=re.DOTALL)
    return plain(_IN_QUERY.sub(r"\1***", hidden), 200)


def check_storage(storage: str) -> None:
    """Raises: BadInput: a storage that would be written down with its password, or that cannot be one."""
    if not storage.strip():
        raise BadInput("--storage must be a file for Optuna's journal, or a URL such as postgresql://HOST/DATABASE "
                       "(got nothing)")  # fmt: skip
    if storage != storage_name(storage) and "***" in storage_name(storage):
        raise BadInput(f"--storage {storage_name(storage)}: a run writes its options down; leave the password out and "
                       "put it into ~/.pgpass or PGPASSWORD")  # fmt: skip


def absolute_storage(storage: str) -> str:
    """`storage`, with the whole path of a file of SQLite, so that a run is resumed from any folder."""
    from sqlalchemy.engine import make_url

    file = _sqlite_file(storage)
    return storage if file is None else str(make_url(storage).set(database=str(file.resolve())))


def _sqlite_file(storage: str) -> Path | None:
    """None: `storage` is no URL of a plain file of SQLite."""
    if not storage.startswith(("sqlite://", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        file = make_url(storage).database
    except ArgumentError:
        return None
    return None if not file or file == ":memory:" or file.startswith("file:") else Path(file)


def open_storage(storage: str, *, make: bool = True) -> BaseStorage:
    """Optuna's storage of a journal file, of a database's URL (sqlite, postgresql, mysql), or of its gRPC proxy
    (grpc://HOST:PORT). A file that is not there is made, where `make`.

    Raises:
        BadInput: it cannot be reached, its driver is not installed, or it is no storage.
    """
    scheme, _, rest = storage.rpartition("://")
    where = f"--storage {storage_name(storage)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls the proxy experimental
            file = _sqlite_file(storage) if scheme else Path(storage)
            if not make and file is not None and not file.exists():
                raise BadInput(f"{where}: there is no file {plain(str(file.absolute()), 200)}; give the storage of a "
                               "search that was begun with --storage")  # fmt: skip
            if not scheme:
                return JournalStorage(_journal(Path(storage)))
            if scheme == "grpc":
                return _proxy(rest)
            return Database.open(f"{_DRIVERS.get(scheme, scheme)}://{rest}")
    except BadInput:
        raise
    except ImportError as e:
        raise BadInput(f"{where}: its driver is not installed ({e.__cause__ or e}); pip install 'mbv3-search[storage]' "
                       "brings those of PostgreSQL and of Optuna's gRPC proxy") from None  # fmt: skip
    except Exception as e:  # a storage's driver raises what it likes
        raise BadInput(
            f"{where}: cannot be opened ({first_line(e)}); give a file for Optuna's journal, or the URL of a database "
            "that runs, such as sqlite:///study.db, postgresql://HOST/DATABASE or grpc://HOST:PORT"
        ) from None


def first_line(error: BaseException) -> str:
    """What went wrong, in a line: of errors in errors the innermost one's first."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return plain(f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": "), 200)


def _proxy(address: str) -> BaseStorage:
    host, _, port = address.strip("/").rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(f"--storage {storage_name(f'grpc://{address}')}: must be grpc://HOST:PORT, those of "
                       "optuna.storages.run_grpc_proxy_server")  # fmt: skip
    proxy = GrpcStorageProxy(host=host, port=int(port))
    proxy.wait_server_ready(timeout=WAIT_S)
    return proxy


# ---- a journal ---------------------------------------------------------------------------------------------------


def _journal(path: Path) -> JournalFileBackend:
    if path.is_dir():
        raise BadInput(f"--storage {path}: is a folder; give a file for Optuna's journal, such as {path / 'study.log'}")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"--storage {path}: there is no folder {path.parent} for Optuna's journal; make it")
    if path.exists() and path.read_bytes()[:1] not in (b"", b"{"):
        raise BadInput(f"--storage {path}: is a file, and no journal of Optuna's; give a new one")
    return _Journal(str(path))


class _Journal(JournalFileBackend):
    """Optuna's, which cannot be read any more once a writer was killed in the middle of a line and another has gone on
    behind it: such an end is cut off first."""

    def __init__(self, file_path: str) -> None:
        super().__init__(file_path, JournalFileSymlinkLock(file_path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._lock_of_tail() as torn:
            if torn is not None:
                os.truncate(self._file_path, torn)
        super().append_logs(logs)

    @contextmanager
    def _lock_of_tail(self) -> Iterator[int | None]:
        """Where the last whole line ends, if something follows it; the file is then held."""
        if _whole(self._file_path) is None:
            yield None
            return
        self._lock.acquire()
        try:
            yield _whole(self._file_path)
        finally:
            self._lock.release()


def _whole(path: str) -> int | None:
    """The size of the whole lines of a file that does not end with one, else None."""
    with open(path, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        if not size:
            return None
        f.seek(size - 1)
        if f.read(1) == b"\n":
            return None
        f.seek(0)
        return f.read().rfind(b"\n") + 1


# ---- trials ------------------------------------------------------------------------------------------------------


def _database(storage: BaseStorage) -> Database | None:
    backend = getattr(storage, "_backend", None)
    return backend if isinstance(backend, Database) else None


def begin(storage: BaseStorage, study_id: int, trials: Sequence[FrozenTrial]) -> tuple[list[int], int | None]:
    """New trials that run, in order, each written whole: their ids, and how many trials there were before them (None:
    it cannot be said)."""
    if (database := _database(storage)) is not None:
        return database.begin(study_id, trials)
    return [storage.create_new_trial(study_id, t) for t in trials], None


def end(storage: BaseStorage, trials: Sequence[Ended]) -> list[int]:
    """Ids of those of `trials` that still ran, and have ended now; others were ended by someone else before."""
    if (database := _database(storage)) is not None:
        return database.end(trials)
    done = []
    for t in trials:
        try:
            for key, value in t.attrs.items():
                storage.set_trial_user_attr(t.trial_id, key, value)
            state = TrialState.FAIL if t.values is None else TrialState.COMPLETE
            storage.set_trial_state_values(t.trial_id, state, t.values)
        except optuna.exceptions.UpdateFinishedTrialError:
            continue
        done.append(t.trial_id)
    return done
