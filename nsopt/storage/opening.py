"""Open Optuna storages; report their errors in one line."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback, get_storage
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

from nsopt.errors import NsoptError
from nsopt.storage.heartbeats import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS
from nsopt.storage.internals import Database
from nsopt.storage.journal import open_journal
from nsopt.storage.servers import PatientStorage, ProxiedStorage, is_of_grpc
from nsopt.storage.urls import (
    hide_password,
    hide_values,
    is_proxy,
    journal_path,
    read_url,
    sqlite_path,
    storage_file,
)

ARTIFACTS = "artifacts"  # folder of the stored networks, beside the storage
RUNS = Path("runs")  # default folder of studies
_GRPC_PORT = 13000
_CONNECT_SECONDS = 10
_SQLITE_LOCK_SECONDS = 60
_CONNECTIONS = {"pool_size": 1, "pool_pre_ping": True}  # keep one open; check it before use
_MAKING_SECONDS, _MAKING_ATTEMPTS = 0.5, 6  # to create the tables of a new database


def storage_exists(url: str) -> bool:
    """Return whether `url` may hold results, without creating anything; True for servers."""
    path = storage_file(url)
    return path is None or (path.is_file() and not is_empty(url))


def is_empty(url: str) -> bool:
    """Return whether the URL names an existing SQLite file of 0 bytes."""
    path = sqlite_path(url)
    return path is not None and path.is_file() and path.stat().st_size == 0


def existing_storage(url: str) -> BaseStorage:
    """Open the storage at `url`. Raises NsoptError if nothing is stored there."""
    if not storage_exists(url):
        raise NsoptError(f"nothing is stored at {hide_password(url)}: run a study first")
    return open_storage(url)


def newest_storage(folder: Path = RUNS) -> str:
    """Return the URL of the newest study.db in `folder`. Raises NsoptError if there is none."""
    found = max(folder.glob("*/study.db"), key=lambda path: path.stat().st_mtime, default=None)
    if found is None:
        raise NsoptError(f"no study is in {folder}/: give --storage")
    return f"sqlite:///{found}"


def artifacts_beside(url: str, given: Path | None = None) -> Path | None:
    """Return the folder of stored networks: `given`, or the one beside the storage's file."""
    path = storage_file(url)
    return given or (path.parent / ARTIFACTS if path is not None else None)


def open_storage(url: str) -> BaseStorage:
    """Open the storage at `url`, or create it. `grpc://HOST:PORT` is Optuna's proxy.

    All storages have heartbeats, so that trials of dead processes are queued again. If a server
    stops responding later, the storage waits for it.

    Raises:
        NsoptError: if the storage cannot be opened.
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
                return get_storage(_open_database(url, PatientStorage, _CONNECTIONS))
            path.parent.mkdir(parents=True, exist_ok=True)
            connecting = {"connect_args": {"timeout": _SQLITE_LOCK_SECONDS}}
            storage = _open_database(url, Database, connecting)
            _lock_before_reading(storage.engine)
            return get_storage(storage)
    except NsoptError:
        raise
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise _make_error(url, error) from None


def _open_database(url: str, kind: type[Database], engine: Mapping[str, object]) -> Database:
    patience = Retrying(
        retry=retry_if_exception(_is_made_by_another),
        wait=wait_fixed(_MAKING_SECONDS),
        stop=stop_after_attempt(_MAKING_ATTEMPTS),
        reraise=True,
    )
    return patience(
        kind,
        url,
        engine_kwargs=dict(engine),
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=DEAD_AFTER_SECONDS,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )


def _is_made_by_another(error: BaseException) -> bool:
    """Return whether an error may mean that another process just made the same tables."""
    cause = error.__cause__ or error
    return isinstance(cause, IntegrityError | ProgrammingError) or "already exists" in str(cause)


def _lock_before_reading(engine: sqlalchemy.Engine) -> None:
    """Make SQLite lock the database from the first statement of a transaction.

    By default it locks at the first write. Two processes could then both read that a trial is
    waiting, and both take it.
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
    """Turn database errors into an NsoptError that names the storage, without its password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _make_error(url, error) from None
    except Exception as error:
        if not is_of_grpc(error):
            raise
        raise _make_error(url, error) from None


def _make_error(url: str, error: BaseException) -> NsoptError:
    cause = error.__cause__ or error
    reason = (str(cause) or str(error) or type(error).__name__).splitlines()[0]
    return NsoptError(f"storage {hide_password(url)} cannot be used: {hide_values(url, reason)}")
