"""The private names of Optuna that nsopt uses exist, and only one file uses them."""

import re
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

import nsopt
from nsopt.storage import internals

PRIVATE = re.compile(
    r"optuna\.[a-z_.]*\._|\._(storage|trial_id|study_id|search_space|contains|heartbeat)\b"
)


@pytest.fixture
def study() -> Study:
    return optuna.create_study(study_name="s")


def test_optuna_has_the_private_names_that_nsopt_uses(study: Study) -> None:
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=1.0))
    (trial,) = study.trials
    of_trials = (trial, "_trial_id"), (study.ask(), "_trial_id")
    grid = optuna.samplers.GridSampler({"lr": [0.1]})
    for owner, name in ((study, "_storage"), *of_trials, (grid, "_search_space")):
        version = f"this version of Optuna has no {type(owner).__name__}.{name}"
        assert hasattr(owner, name), version
    assert isinstance(internals.storage_of(study), BaseStorage)
    assert internals.storage_of(study).get_trial(internals.trial_id(trial)).number == trial.number


def test_a_waiting_trial_can_be_taken_and_run(study: Study) -> None:
    study.enqueue_trial({"x": 0.5})
    (waiting,) = study.trials
    assert isinstance(waiting, FrozenTrial)
    assert internals.set_state(study, waiting, TrialState.RUNNING)
    assert not internals.set_state(study, waiting, TrialState.RUNNING)
    trial = internals.start(study, waiting)
    assert isinstance(trial, Trial)
    assert trial.suggest_float("x", 0, 1) == 0.5
    internals.write_attribute(study, waiting, "note", "n")
    internals.write_constraint(study, waiting, "budget", 0.25)
    study.tell(trial, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        internals.set_state(study, waiting, TrialState.WAITING)
    (done,) = study.trials
    assert (done.user_attrs, done.constraints) == ({"note": "n"}, {"budget": 0.25})


def test_a_constraint_set_by_an_objective_is_not_overwritten(study: Study) -> None:
    trial = study.ask()
    trial.set_constraint("budget", -1.0)
    (running,) = study.trials
    internals.write_constraint(study, running, "budget", 1.0)
    study.tell(trial, 1.0)
    assert study.trials[0].constraints == {"budget": -1.0}


def test_no_other_file_uses_private_names_of_optuna() -> None:
    package = Path(nsopt.__file__).parent
    inside = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if PRIVATE.search(path.read_text().replace("self._storage", ""))
    ]
    assert inside == ["storage/internals.py"]
