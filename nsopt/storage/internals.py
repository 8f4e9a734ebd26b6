"""All uses of Optuna's private names.

tests/storage/test_internals.py fails with the names that a new version of Optuna has removed.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._grpc.server import make_server
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages._rdb.models import TrialModel, TrialUserAttributeModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import Study, StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, Trial, TrialState

__all__ = ["BaseHeartbeat", "FrozenStudy", "make_server"]

_CONSTRAINT = "constraints"


class OwnHeartbeat(BaseHeartbeat):
    """A storage that finds its stale trials itself."""

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        return self.stale_trial_ids(study_id)

    @abstractmethod
    def stale_trial_ids(self, study_id: int) -> list[int]: ...


class Database(RDBStorage):
    """A database that writes several attributes of a trial in one transaction."""

    def set_trial_user_attrs(self, trial_id: int, values: Mapping[str, Any]) -> None:
        with _create_scoped_session(self.scoped_session) as session:
            trial: Any = TrialModel.find_or_raise_by_id(trial_id, session)
            self.check_trial_is_updatable(trial_id, trial.state)
            own: list[Any] = TrialUserAttributeModel.where_trial_id(trial_id, session)
            stored = {attribute.key: attribute for attribute in own}
            for key, value in values.items():
                text = json.dumps(value)
                if key in stored:
                    stored[key].value_json = text
                else:
                    session.add(
                        TrialUserAttributeModel(trial_id=trial_id, key=key, value_json=text)
                    )


class ListedStudy(Study):
    """A study that keeps the attributes from the listing of all studies in a storage.

    Reading them needs no query. `set_user_attr` changes both the storage and this copy.
    """

    def __init__(self, found: FrozenStudy, storage: BaseStorage) -> None:
        super().__init__(found.study_name, _Listing(found), RandomSampler())  # type: ignore[arg-type]
        self._storage = storage
        self._listed = found.user_attrs

    @property
    def user_attrs(self) -> dict[str, Any]:
        return self._listed

    def set_user_attr(self, key: str, value: Any) -> None:
        super().set_user_attr(key, value)
        self._listed[key] = value


class _Listing:
    """Answers the queries of `Study.__init__` from a listing."""

    def __init__(self, found: FrozenStudy) -> None:
        self._found = found

    def get_study_id_from_name(self, name: str) -> int:
        return study_id(self._found)

    def get_study_directions(self, number: int) -> list[StudyDirection]:
        return self._found.directions


STALE_TRIAL_IDS = "_get_stale_trial_ids"
# Methods of a database that Optuna's cache calls.
BEHIND_CACHE = (
    STALE_TRIAL_IDS,
    "_create_new_trial",
    "_get_best_trial_id",
    "_get_trials",
    "_set_trial_param",
)


def storage_of(study: Study) -> BaseStorage:
    return study._storage


def study_id(study: Study | FrozenStudy) -> int:
    return study._study_id


def trial_id(trial: FrozenTrial | Trial) -> int:
    return trial._trial_id


def stale_trial_ids(storage: BaseHeartbeat, study: Study) -> list[int]:
    """Return the running trials of a study whose heartbeat has stopped."""
    return storage._get_stale_trial_ids(study_id(study))


def stale_in_database(storage: RDBStorage, study_id: int) -> list[int]:
    """Return a database's stale trials, by the clock of its server."""
    return RDBStorage._get_stale_trial_ids(storage, study_id)


def take(study: Study, waiting: FrozenTrial) -> bool:
    """Set a waiting trial to running; return False if another process was faster."""
    own = storage_of(study)
    return own.set_trial_state_values(trial_id(waiting), state=TrialState.RUNNING)


def running(study: Study, taken: FrozenTrial) -> Trial:
    """Return the `Trial` object for the objective of a trial that this process has taken."""
    return Trial(study, trial_id(taken))


def is_finished(study: Study, trial: FrozenTrial) -> bool:
    """Return whether a trial has finished, according to the storage."""
    return storage_of(study).get_trial(trial_id(trial)).state.is_finished()


def write_attributes(trial: Trial, values: Mapping[str, Any]) -> None:
    """Write user attributes of a running trial; to a database in one transaction."""
    database = getattr(trial.storage, "_backend", None)
    if isinstance(database, Database):
        database.set_trial_user_attrs(trial._trial_id, values)
        trial._cached_frozen_trial.user_attrs.update(values)
        return
    for name, value in values.items():
        trial.set_user_attr(name, value)


def write_attribute(study: Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Write a user attribute of a trial that no objective is running."""
    storage_of(study).set_trial_user_attr(trial_id(trial), name, value)


def write_constraint(study: Study, trial: FrozenTrial, name: str, value: float) -> None:
    """Set a constraint like `Trial.set_constraint`, unless it is already set."""
    key = f"{_CONSTRAINT}:{name}"
    if key not in trial.system_attrs:
        storage_of(study).set_trial_system_attr(trial_id(trial), key, value)


def can_be(distribution: BaseDistribution, value: int) -> bool:
    """Return whether a distribution contains a value."""
    return distribution._contains(value)


def fixed_parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Return the fixed parameters of an enqueued trial."""
    return dict(trial.system_attrs.get("fixed_params", {}))
