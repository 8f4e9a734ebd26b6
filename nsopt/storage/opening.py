"""Opening Optuna storage, and telling its errors in one line."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, get_storage
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from nsopt.errors import NsoptError
from nsopt.storage.heartbeats import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS
from nsopt.storage.journal import open_journal
from nsopt.storage.servers import PatientStorage, ProxiedStorage, is_of_grpc

ARTIFACTS = "artifacts"  # the folder beside a storage, of the weights that are kept
_GRPC = "grpc"
_JOURNAL = "journal"
_KINDS = (
    "sqlite:///FILE, journal:///FILE, postgresql+psycopg://..., mysql+pymysql://... or grpc://..."
)
_GRPC_PORT = 13000
_CONNECT_SECONDS = 10
_SQLITE_LOCK_SECONDS = 60


def storage_exists(url: str) -> bool:
    """Whether there may be results at `url`; looking creates nothing."""
    path = storage_file(url)
    return path is None or path.is_file()


def existing_storage(url: str) -> BaseStorage:
    """The storage at `url`; NsoptError if nothing is stored there."""
    if not storage_exists(url):
        raise NsoptError(f"nothing is stored at {shown(url)}: run a study first")
    return open_storage(url)


def newest_storage(folder: Path) -> str:
    """The URL of the study in `folder` that was written last; NsoptError if there is none."""
    found = sorted(folder.glob("*/study.db"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise NsoptError(f"no study is in {folder}/: give --storage")
    return f"sqlite:///{found[-1]}"


def storage_file(url: str) -> Path | None:
    """The file of an SQLite database or of a journal; None for servers."""
    return sqlite_path(url) or journal_path(url)


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite URL; None for other storages. NsoptError for what is no URL."""
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def journal_path(url: str) -> Path | None:
    """The file of a journal's URL; None for other storages. NsoptError for what is no URL."""
    parsed = _parse(url)
    if parsed.drivername != _JOURNAL:
        return None
    if parsed.host or not parsed.database:
        raise NsoptError(f"storage {url} names no file: write journal:///FILE")
    return Path(parsed.database)


def _parse(url: str) -> sqlalchemy.URL:
    """NsoptError for what is no URL of a storage."""
    try:
        parsed = sqlalchemy.make_url(url)
        if parsed.drivername not in (_GRPC, _JOURNAL):
            parsed.get_dialect()
    except NoSuchModuleError:
        raise NsoptError(f"storage {shown(url)} is of an unknown kind: use {_KINDS}") from None
    except SQLAlchemyError:
        raise NsoptError(
            f"storage {url!r} is not a database URL such as sqlite:///results.db"
        ) from None
    return parsed


def is_proxy(url: str) -> bool:
    """Whether a URL names Optuna's gRPC proxy."""
    return url.startswith(f"{_GRPC}://")


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
    except (ImportError, OSError, RuntimeError) as error:
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
    address = sqlalchemy.make_url(url)
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


def shown(url: str) -> str:
    """`url` without its password."""
    return sqlalchemy.make_url(url).render_as_string(hide_password=True)


def _unusable(url: str, error: BaseException) -> NsoptError:
    cause = error.__cause__ or error
    reason = (str(cause) or str(error) or type(error).__name__).splitlines()[0]
    return NsoptError(f"storage {shown(url)} cannot be used: {reason}")
