"""Storages on a server: they wait while it is unavailable, and detect dead workers."""

import functools
import time
import weakref
from collections.abc import Callable
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import GrpcStorageProxy
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

from nsopt.storage.heartbeats import DEAD_AFTER_SECONDS, AttributeHeartbeat
from nsopt.storage.internals import (
    BEHIND_CACHE,
    Database,
    OwnHeartbeat,
    stale_in_database,
    study_id,
)

_PATIENCE_SECONDS = 300.0
_RETRY_SECONDS = 0.5
_REPEATABLE = (  # also create_new_trial: of two equal trials one runs (queue.py)
    "create_new_study",
    "create_new_trial",
    "get_all_studies",
    "get_all_trials",
    "get_best_trial",
    "get_n_trials",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_number_from_id",
    "get_trial_param",
    "get_trial_params",
    "get_trial_system_attrs",
    "get_trial_user_attrs",
    "record_heartbeat",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_system_attr",
    "set_trial_user_attr",
    "set_trial_user_attrs",
)


class _Patience:
    """Repeats calls to a server that does not respond, for some minutes."""

    last_outage = -float("inf")

    def patiently(
        self,
        is_outage: Callable[[BaseException], bool],
        call: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Return the result of `call`; raise its last error after some minutes."""
        repeated = Retrying(
            retry=retry_if_exception(is_outage),
            wait=wait_fixed(_RETRY_SECONDS),
            stop=stop_after_delay(_PATIENCE_SECONDS),
            before_sleep=self._note_outage,
            reraise=True,
        )
        return repeated(call, *args, **kwargs)

    def _note_outage(self, attempt: RetryCallState) -> None:
        self.last_outage = time.monotonic()

    def __init_subclass__(cls) -> None:
        for name in (*_REPEATABLE, *BEHIND_CACHE):
            if hasattr(cls, name):
                setattr(cls, name, _repeat(getattr(cls, name)))


def _repeat(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: _Patience, *args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        try:
            return self.patiently(_is_outage, method, self, *args, **kwargs)
        except UpdateFinishedTrialError:
            if self.last_outage > started and _has_happened(self, *args, **kwargs):
                return True
            raise

    return call


def _has_happened(storage: Any, trial_id: int, state: Any = None, *_: Any, **__: Any) -> bool:
    """Return whether a trial already has the state that a call without a response has set."""
    return isinstance(state, TrialState) and storage.get_trial(trial_id).state == state


def _is_outage(error: BaseException) -> bool:
    return isinstance(error, SQLAlchemyError | StorageInternalError) or is_of_grpc(error)


def is_of_grpc(error: BaseException) -> bool:
    """Return whether gRPC raised an error; by name, as the library may not be installed."""
    return any(kind.__module__.split(".")[0] == "grpc" for kind in type(error).__mro__)


class PatientStorage(_Patience, OwnHeartbeat, Database):
    """A database server that may restart while workers use it.

    Its connections close when it is garbage-collected, or when its constructor fails.
    """

    def __init__(self, url: str, **options: Any) -> None:
        try:
            super().__init__(url, **options)
        except (SQLAlchemyError, StorageInternalError):
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise
        connect = weakref.WeakMethod(self._connect)  # the engine must not keep the storage alive

        def listen(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:
            own = connect()
            return own and own(dialect, arguments, options)

        event.listen(self.engine, "do_connect", listen)
        weakref.finalize(self, self.engine.dispose)

    def _connect(self, dialect: Any, arguments: Any, options: Any) -> Any:
        """Reconnect as soon as the server answers again."""

        def is_outage(error: BaseException) -> bool:
            return isinstance(error, dialect.dbapi.OperationalError)

        return self.patiently(is_outage, dialect.connect, *arguments, **options)

    def stale_trial_ids(self, study_id: int) -> list[int]:
        """Return stale trials, but none soon after an outage, which blocked all heartbeats."""
        stale = stale_in_database(self, study_id)
        recovered = time.monotonic() - self.last_outage > DEAD_AFTER_SECONDS
        return stale if recovered else []


class ProxiedStorage(_Patience, AttributeHeartbeat, GrpcStorageProxy):
    """Optuna's gRPC proxy with heartbeats."""

    def set_trial_param(self, trial_id: int, *parameter: Any, **named: Any) -> None:
        """Set a parameter. A proxy that started after the trial must first read all studies."""
        try:
            super().set_trial_param(trial_id, *parameter, **named)
        except KeyError:
            for study in self.get_all_studies():
                self.get_all_trials(study_id(study), deepcopy=False)
            super().set_trial_param(trial_id, *parameter, **named)
