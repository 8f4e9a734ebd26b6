"""Optuna storage: opened late, its errors told in one line."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from sqlalchemy.exc import SQLAlchemyError

from nsopt.errors import NsoptError

_HEARTBEAT_SECONDS = 3
_DEAD_AFTER_SECONDS = 12


def storage_exists(url: str) -> bool:
    """Whether there may be results at `url`; looking creates nothing."""
    path = sqlite_path(url)
    return path is None or path.is_file()


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite URL; None for other databases. NsoptError for what is no URL."""
    try:
        parsed = sqlalchemy.make_url(url)
    except SQLAlchemyError:
        raise NsoptError(
            f"storage {url!r} is not a database URL such as sqlite:///results.db"
        ) from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def open_storage(url: str) -> RDBStorage:
    """The storage at `url`, made if it is not there yet.

    A trial whose process stops answering is failed and queued again (heartbeat).
    """
    path = sqlite_path(url)
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with storage_errors(url), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                url,
                heartbeat_interval=_HEARTBEAT_SECONDS,
                grace_period=_DEAD_AFTER_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
    except (ImportError, OSError, RuntimeError) as error:
        raise _unusable(url, error) from None


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Tell a failing database as an NsoptError that names it, without its password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _unusable(url, error) from None


def _unusable(url: str, error: BaseException) -> NsoptError:
    shown = sqlalchemy.make_url(url).render_as_string(hide_password=True)
    reason = str(error.__cause__ or error).splitlines()[0]
    return NsoptError(f"storage {shown} cannot be used: {reason}")


def load_studies(storage: RDBStorage, prefix: str) -> dict[str, Study]:
    """Studies whose names are `prefix/METHOD`, by method."""
    names = [name for name in optuna.get_all_study_names(storage) if name.startswith(f"{prefix}/")]
    return {
        name.removeprefix(f"{prefix}/"): optuna.load_study(study_name=name, storage=storage)
        for name in sorted(names)
    }


def only_comparison(storage: RDBStorage) -> str:
    """The name of the one comparison that is stored; NsoptError if there are none or several."""
    names = optuna.get_all_study_names(storage)
    comparisons = sorted({name.rsplit("/", 1)[0] for name in names if "/" in name})
    if len(comparisons) != 1:
        known = ", ".join(comparisons) or "none"
        raise NsoptError(f"say which comparison with --name: stored are {known}")
    return comparisons[0]
