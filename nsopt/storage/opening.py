"""Opening Optuna storage, and telling its errors in one line."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, get_storage
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from nsopt.errors import NsoptError
from nsopt.storage.heartbeats import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS
from nsopt.storage.journal import open_journal
from nsopt.storage.servers import PatientStorage, ProxiedStorage, is_of_grpc
from nsopt.storage.urls import (
    hide_password,
    is_proxy,
    journal_path,
    read_url,
    sqlite_path,
    storage_file,
)

ARTIFACTS = "artifacts"  # the folder beside a storage, of the weights that are kept
_GRPC_PORT = 13000
_CONNECT_SECONDS = 10
_SQLITE_LOCK_SECONDS = 60


def storage_exists(url: str) -> bool:
    """Whether there may be results at `url`; looking creates nothing."""
    path = storage_file(url)
    return path is None or (path.is_file() and not is_empty(url))


def is_empty(url: str) -> bool:
    """Whether the file of an SQLite database is there, without a single byte."""
    path = sqlite_path(url)
    return path is not None and path.is_file() and path.stat().st_size == 0


def existing_storage(url: str) -> BaseStorage:
    """The storage at `url`; NsoptError if nothing is stored there."""
    if not storage_exists(url):
        raise NsoptError(f"nothing is stored at {hide_password(url)}: run a study first")
    return open_storage(url)


def newest_storage(folder: Path) -> str:
    """The URL of the study in `folder` that was written last; NsoptError if there is none."""
    found = sorted(folder.glob("*/study.db"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise NsoptError(f"no study is in {folder}/: give --storage")
    return f"sqlite:///{found[-1]}"


def artifacts_beside(url: str, given: Path | None = None) -> Path | None:
    """The folder of kept networks: the given one, or that beside the storage's file."""
    path = storage_file(url)
    return given or (path.parent / ARTIFACTS if path is not None else None)


def open_storage(url: str) -> BaseStorage:
    """The storage at `url`, made if it is not there yet; `grpc://HOST:PORT` is Optuna's proxy.

    A trial whose process stops answering can be failed and queued again (heartbeat). A server
    that goes away later is waited for.
    """
    path, journal = sqlite_path(url), journal_path(url)
    try:
        with storage_errors(url), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if is_proxy(url):
                return _open_proxy(url)
            if journal is not None:
                return open_journal(journal)
            if path is None:
                return get_storage(_open_database(url, PatientStorage, {"poolclass": NullPool}))
            path.parent.mkdir(parents=True, exist_ok=True)
            connecting = {"connect_args": {"timeout": _SQLITE_LOCK_SECONDS}}
            storage = _open_database(url, RDBStorage, connecting)
            _lock_before_reading(storage.engine)
            return get_storage(storage)
    except NsoptError:
        raise
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise _unusable(url, error) from None


def _open_database(url: str, kind: type[RDBStorage], engine: Mapping[str, object]) -> RDBStorage:
    return kind(
        url,
        engine_kwargs=dict(engine),
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=DEAD_AFTER_SECONDS,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )


def _lock_before_reading(engine: sqlalchemy.Engine) -> None:
    """Make SQLite transactions exclude each other from their first statement.

    By default one only begins at its first write: two processes could both read that a trial
    waits, and both take it.
    """

    @sqlalchemy.event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection, record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()


def _open_proxy(url: str) -> ProxiedStorage:
    address = read_url(url)
    storage = ProxiedStorage(host=address.host or "localhost", port=address.port or _GRPC_PORT)
    storage.wait_server_ready(timeout=_CONNECT_SECONDS)
    return storage


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Tell a failing database as an NsoptError that names it, without its password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable(url, error) from None
    except Exception as error:
        if not is_of_grpc(error):
            raise
        raise _unusable(url, error) from None


def _unusable(url: str, error: BaseException) -> NsoptError:
    cause = error.__cause__ or error
    reason = (str(cause) or str(error) or type(error).__name__).splitlines()[0]
    return NsoptError(f"storage {hide_password(url)} cannot be used: {reason}")
