"""Open Optuna storages. Their errors become one line; calls wait while a server is away."""

import functools
import logging
import os
import sqlite3
import warnings
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.exc import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
    SQLAlchemyError,
)
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)

from nsopt.errors import DISK_IS_FULL, NsoptError, StorageError, short_reason
from nsopt.files import RUNS
from nsopt.storage.urls import (
    JOURNAL,
    hide_password,
    hide_values,
    is_sqlite,
    read_url,
    sqlite_url,
    storage_file,
)

_log = logging.getLogger(__name__)
ARTIFACTS = "artifacts"  # folder of the stored networks, beside the storage
_SQLITE_LOCK_SECONDS = 60
_PATIENCE_SECONDS, _RETRY_SECONDS = 300.0, 0.5  # while a server is away
_BEGINNING = b'{"op_code":'  # of a journal
_TABLES = {"studies", "version_info"}  # of Optuna; the first that it makes
_ERRORS = (SQLAlchemyError, StorageInternalError, OSError)  # of storages
_DAMAGE = (AssertionError, LookupError, RecursionError, TypeError, ValueError)  # while reading
_READING = {name for name in vars(BaseStorage) if name.startswith("get_")} - {"get_best_trial"}
_REMEDIES = {  # by a part of the reason
    "not a database": "give another file",
    "malformed": "restore it from a copy",
    "database is locked": "try again when no other process writes to it",
    "readonly": "let this user write to the file and its folder, or copy it",
    "is full": DISK_IS_FULL,
    "No space left": DISK_IS_FULL,
    "No module named": "install this driver with pip",
    "": "check the URL, and the file or server",
}


def storage_exists(url: str) -> bool:
    """Return whether `url` may hold results, without creating anything; True for servers."""
    path = storage_file(url)
    return path is None or (path.is_file() and not is_empty(url))


def is_empty(url: str) -> bool:
    """Return whether the URL names an existing file of 0 bytes."""
    path = storage_file(url)
    return path is not None and path.is_file() and path.stat().st_size == 0


def existing_storage(url: str) -> BaseStorage:
    """Open the storage at `url`. Raises NsoptError if nothing is stored there."""
    if not storage_exists(url):
        raise NsoptError(f"nothing is stored at {hide_password(url)}: run a study first")
    return open_storage(url)


def newest_storage(folder: Path = RUNS) -> str:
    """Return the URL of the newest study.db in `folder`. Raises NsoptError if there is none."""
    newest = max(folder.glob("*/study.db"), key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise NsoptError(f"no study is in {folder}/: give storage=")
    return sqlite_url(newest)


def artifacts_beside(url: str, given: Path | None = None) -> Path | None:
    """Return the folder of stored networks: `given`, or the one beside the storage's file."""
    path = storage_file(url)
    return given or (path.parent / ARTIFACTS if path is not None else None)


def open_storage(url: str) -> BaseStorage:
    """Open the storage at `url`, or create it.

    Its methods raise StorageError if they fail. If a server does not answer, they first try again
    for five minutes.

    Raises:
        NsoptError: if the storage cannot be opened, or belongs to another program.
    """
    parts, path = read_url(url), storage_file(url)
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            if path is not None and parts.drivername == JOURNAL:
                return guard(_open_journal(path.resolve()), url)
            if path is not None:
                _check_tables(path)
            return guard(_open_database(url), url)
    except NsoptError:
        raise
    except Exception as error:  # of any driver
        raise _make_error(url, error) from None


def guard(storage: BaseStorage, url: str) -> BaseStorage:
    """Let the methods of a storage raise its errors as StorageError, and wait for its server.

    Optuna repeats no call. A call that reached the server before it failed may be repeated, too:
    of two equal trials one runs (`engine`).
    """

    def report(attempt: RetryCallState) -> None:
        if attempt.attempt_number == 1:
            minutes = f"{_PATIENCE_SECONDS / 60:g} minutes"
            _log.warning(f"{hide_password(url)} does not answer: trying again for {minutes}")

    is_file = storage_file(url) or is_sqlite(url)
    patience = Retrying(
        retry=retry_if_exception(_is_outage),
        wait=wait_fixed(_RETRY_SECONDS),
        stop=stop_after_delay(0.0 if is_file else _PATIENCE_SECONDS),
        before_sleep=report,
        reraise=True,
    )

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return patience(method, *args, **kwargs)
            except _ERRORS as error:
                raise _make_error(url, error) from None
            except _DAMAGE as error:
                if isinstance(error, KeyError) or method.__name__ not in _READING:
                    raise  # Optuna says so that there is no such study or trial
                raise StorageError(
                    f"storage {hide_password(url)} is damaged ({short_reason(error)}): restore it "
                    "from a copy, or give another storage="
                ) from None

        return call

    for name, method in vars(BaseStorage).items():
        if callable(method) and not name.startswith("_"):
            setattr(storage, name, guarded(getattr(storage, name)))
    return storage


def _is_outage(error: BaseException) -> bool:
    """Return whether an error may end when the server is back, unlike a value that it refuses."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    # After an OperationalError, Optuna reads trials once more in the same, broken transaction.
    return isinstance(cause, OperationalError | InterfaceError | PendingRollbackError)


def _make_error(url: str, error: BaseException) -> StorageError:
    cause = error.__cause__ or error
    reason = (str(cause) or str(error) or type(error).__name__).splitlines()[0]
    remedy = next(text for part, text in _REMEDIES.items() if part in reason)
    reason = hide_values(url, reason)
    return StorageError(f"storage {hide_password(url)} cannot be used: {reason}: {remedy}")


def _open_journal(path: Path) -> BaseStorage:
    """Open a journal, or create it. Raises NsoptError if the file is not a journal."""
    if path.exists():
        with path.open("rb") as file:
            if not _BEGINNING.startswith(file.read(len(_BEGINNING))):
                raise NsoptError(f"{path} is not an Optuna journal: give another file")
    try:
        return JournalStorage(JournalFileBackend(str(path), _TidyLock(path)))
    except _DAMAGE:
        raise NsoptError(f"the journal {path} is damaged: restore it from a copy") from None


class _TidyLock(JournalFileSymlinkLock):
    """Held while a journal is written. Removes a last line without an end, which a full disk or a
    killed process leaves: appending would damage it. Readers skip such a line."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._journal = path

    def acquire(self) -> bool:
        acquired = super().acquire()
        try:
            with self._journal.open("rb+") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                if file.read() not in (b"", b"\n"):
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        except BaseException:
            self.release()
            raise
        return acquired


def _check_tables(path: Path) -> None:
    """Raise NsoptError for an SQLite file of another program."""
    with closing(sqlite3.connect(path, timeout=_SQLITE_LOCK_SECONDS)) as file:
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
    if tables and not tables & _TABLES:
        raise NsoptError(f"{path} is a database of another program: give another file")


def _open_database(url: str) -> BaseStorage:
    file = is_sqlite(url)
    options: dict[str, Any] = (
        {"connect_args": {"timeout": _SQLITE_LOCK_SECONDS, "isolation_level": None}}
        if file
        else {"pool_size": 1, "pool_pre_ping": True}  # keep one open; check it before use
    )
    repeated = Retrying(
        retry=retry_if_exception(_is_made_by_another),
        wait=wait_fixed(0.5),
        stop=stop_after_attempt(10),
        reraise=True,
    )
    database = repeated(RDBStorage, url, engine_kwargs=options)
    if file:

        @sqlalchemy.event.listens_for(database.engine, "begin")
        def lock_before_reading(connection: sqlalchemy.Connection) -> None:
            """SQLite locks at the first write: two processes could take the same trial."""
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    closing = weakref.finalize(database, database.engine.dispose)  # no connection stays open
    closing.atexit = False
    return get_storage(database)


def _is_made_by_another(error: BaseException) -> bool:
    """Return whether an error may mean that another process just made the same tables."""
    made = IntegrityError, ProgrammingError
    causes = error, error.__cause__
    return any(isinstance(cause, made) or "already exists" in str(cause) for cause in causes)
