"""All uses of Optuna's private names: `_storage` of studies, `_trial_id`, `_search_space` of grids.

tests/storage/test_internals.py fails with the names that a new version of Optuna has removed.
"""

from collections.abc import Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, GridSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

_CONSTRAINT, _IN_GRID = "constraints", "nsopt_budget"


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


def first_number(trial: FrozenTrial) -> int:
    """Return the number of the trial that this one retries, or its own."""
    number: int = trial.system_attrs.get("failed_trial", trial.number)
    return number


def with_budgets(sampler: BaseSampler, budgets: Sequence[float]) -> BaseSampler:
    """Return a sampler whose grid has every point at each of the budgets; others as they are.

    The order is the same in all processes, as the numbers of points in the storage need.
    """
    if not isinstance(sampler, GridSampler) or len(budgets) < 2:
        return sampler
    return GridSampler({**sampler._search_space, _IN_GRID: budgets})


def read_grid(sampler: BaseSampler, study: Study, trial: FrozenTrial) -> float | None:
    """Return the budget of a trial's point in a grid with budgets; None without one."""
    if not isinstance(sampler, GridSampler) or "grid_id" not in trial.system_attrs:
        return None
    if _IN_GRID not in sampler._search_space:
        return None
    choices = CategoricalDistribution(sampler._search_space[_IN_GRID])
    budget: float = sampler.sample_independent(study, trial, _IN_GRID, choices)
    return budget
