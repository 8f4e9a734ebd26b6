"""All uses of Optuna's private names: `Study._storage`, and `_trial_id` of trials.

tests/storage/test_internals.py fails with the names that a new version of Optuna has removed.
"""

from typing import Any

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

_CONSTRAINT = "constraints"


def storage_of(study: Study) -> BaseStorage:
    return study._storage


def trial_id(trial: FrozenTrial | Trial) -> int:
    return trial._trial_id


def start(study: Study, trial: FrozenTrial) -> Trial:
    """Return the `Trial` object for the objective of a trial that this process has taken."""
    return Trial(study, trial_id(trial))


def set_state(study: Study, trial: FrozenTrial, state: TrialState) -> bool:
    """Set the state of an unfinished trial.

    Returns:
        False if it should run, but does already.

    Raises:
        UpdateFinishedTrialError: if the trial has ended.
    """
    return storage_of(study).set_trial_state_values(trial_id(trial), state)


def write_attribute(study: Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Write a user attribute of a trial that no objective is running."""
    storage_of(study).set_trial_user_attr(trial_id(trial), name, value)


def write_system_attribute(study: Study, trial: FrozenTrial, name: str, value: Any) -> None:
    storage_of(study).set_trial_system_attr(trial_id(trial), name, value)


def write_constraint(study: Study, trial: FrozenTrial, name: str, value: float) -> None:
    """Set a constraint like `Trial.set_constraint`, unless it is already set."""
    key = f"{_CONSTRAINT}:{name}"
    if key not in trial.system_attrs:
        write_system_attribute(study, trial, key, value)


def fixed_parameters(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.system_attrs.get("fixed_params", {}))
