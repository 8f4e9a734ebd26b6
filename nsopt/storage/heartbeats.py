"""Heartbeats for Optuna storages that have none: they show which trials are still running."""

import time
from collections.abc import Callable
from typing import Any

from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.storage.internals import OwnHeartbeat, trial_id

HEARTBEAT_SECONDS = 3
DEAD_AFTER_SECONDS = 9
_HEARTBEAT = "nsopt:heartbeat"


class AttributeHeartbeat(OwnHeartbeat, BaseStorage):
    """Stores the heartbeat of a trial as one of its attributes.

    A trial is stale if this process has not seen its heartbeat change for a while, so clocks of
    different machines are never compared.

    Attributes:
        longest_lock: seconds for which a dead process may keep other processes from writing.
    """

    longest_lock = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: dict[int, tuple[Any, float]] = {}
        self._retry = RetryHeartbeatStaleTrialCallback()

    def get_heartbeat_interval(self) -> int:
        return HEARTBEAT_SECONDS

    def get_heartbeat_stale_trial_callback(self) -> Callable[[Study, FrozenTrial], None]:
        return self._retry

    def record_heartbeat(self, trial_id: int) -> None:
        self.set_trial_system_attr(trial_id, _HEARTBEAT, time.time())

    def stale_trial_ids(self, study_id: int) -> list[int]:
        now, stale = time.monotonic(), []
        for trial in self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            heartbeat = trial.system_attrs.get(_HEARTBEAT)
            number = trial_id(trial)
            known, since = self._seen.get(number, (None, now))
            if number not in self._seen or heartbeat != known:
                self._seen[number] = (heartbeat, now)
            elif now - since > DEAD_AFTER_SECONDS + self.longest_lock:
                stale.append(number)
        return stale
