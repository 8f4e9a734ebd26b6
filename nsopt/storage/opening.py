"""Open Optuna storages by their URLs, which are shown without passwords.

Errors of storages become one line; calls wait while a server is away.
"""

import functools
import logging
import os
import sqlite3
import warnings
import weakref
from collections.abc import Callable
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
    SAWarning,
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

from nsopt.errors import DISK_IS_FULL, NsoptError, StorageError
from nsopt.files import RUNS

_log = logging.getLogger(__name__)
JOURNAL, SQLITE = "journal", "sqlite"
_HIDDEN, _IN_MEMORY = "***", ":memory:"
_SHORTEST = 4  # shorter values of a URL are not hidden in other text: they may be parts of words
_LARGEST_PORT = 65535
_KINDS = (
    "sqlite:///FILE, journal:///FILE, or a server: postgresql+psycopg://..., mysql+pymysql://..."
)
ARTIFACTS = "artifacts"  # folder of the stored networks, beside the storage
_SQLITE_LOCK_SECONDS = 60
_PATIENCE_SECONDS, _RETRY_SECONDS = 300.0, 0.5  # while a server is away
_BEGINNING = b'{"op_code":'  # of a journal
_TABLES = {"studies", "version_info"}  # of Optuna; the first that it makes
_ERRORS = (SQLAlchemyError, StorageInternalError, OSError)  # of storages
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


def sqlite_url(path: Path) -> str:
    """Return the storage URL of an SQLite file. It quotes `%`, `?` and other special characters."""
    return URL.create(SQLITE, database=str(path)).render_as_string(hide_password=False)


def read_url(url: str) -> URL:
    """Parse a storage URL. Raises NsoptError if it is invalid."""
    shown = hide_password(url)
    invalid = NsoptError(
        f"storage {shown!r} is not a database URL such as sqlite:///results.db: write sqlite:/// "
        "before a file, %25, %3F and %40 for %, ? and @ in names and passwords, and a port up to "
        f"{_LARGEST_PORT}"
    )
    try:
        unquote(url, errors="strict").encode()  # SQLAlchemy would put U+FFFD in place of a `%xx`
        parts = sqlalchemy.make_url(url)
        if is_journal := parts.drivername == JOURNAL:
            is_odd = bool(parts.query)
        else:
            dialect = parts.get_dialect()
            is_odd = (parts.port or 0) > _LARGEST_PORT or shown == _HIDDEN
            if dialect.name == SQLITE:
                with warnings.catch_warnings(action="error", category=SAWarning):
                    dialect().create_connect_args(parts)  # refuses unknown options
    except NoSuchModuleError:
        raise NsoptError(f"storage {shown} is of an unknown kind: use {_KINDS}") from None
    except (ArgumentError, SAWarning, TypeError, ValueError):
        raise invalid from None
    if is_odd:
        raise invalid
    if is_journal and (parts.host or not parts.database):
        raise NsoptError(f"storage {shown} names no file: write journal:///FILE")
    if not is_journal and dialect.name == SQLITE and parts.database in (None, "", _IN_MEMORY):
        raise NsoptError("a database in memory is lost at the end: write sqlite:///FILE")
    return parts


def storage_file(url: str) -> Path | None:
    """Return the file of an SQLite database or a journal; None for servers."""
    parts = read_url(url)
    is_file = parts.get_backend_name() in (SQLITE, JOURNAL) and parts.database
    return Path(str(parts.database)) if is_file else None


def is_sqlite(url: str) -> bool:
    return read_url(url).get_backend_name() == SQLITE


def hide_password(url: str) -> str:
    """Return a text that a user gave as a URL without its password and options.

    A text that is not a URL, but may contain a password, is hidden completely.
    """
    try:
        url.encode()  # raises ValueError where Python cannot read it
        parts = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        return _HIDDEN if set(url) & set(":@=?") else url
    is_file = parts.get_backend_name() in (SQLITE, JOURNAL) and not parts.host
    if "@" in f"{parts.host}{parts.database}" and not is_file:  # of a password with an @
        return _HIDDEN
    return parts.set(query={}).render_as_string(hide_password=True)


def hide_values(url: str, text: str) -> str:
    """Hide the password and the options of a valid URL in a text, such as a driver's message."""
    parts = sqlalchemy.make_url(url)
    for value in (parts.password, *chain.from_iterable(parts.normalized_query.values())):
        if value and len(value) >= _SHORTEST:
            text = text.replace(value, _HIDDEN)
    return text


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
    return JournalStorage(JournalFileBackend(str(path), _TidyLock(path)))


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
