"""The private names of Optuna that nsopt uses exist, and only one file uses them."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy import event

import nsopt
from nsopt.storage import internals
from nsopt.storage.opening import open_storage

PRIVATE = re.compile(r"optuna\.[a-z_.]*\._|\._(storage|trial_id|study_id|contains|heartbeat)\b")


@pytest.fixture
def study() -> Study:
    return optuna.create_study(study_name="s")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        *((RDBStorage, name) for name in internals.BEHIND_CACHE),
        (IntDistribution, "_contains"),
    ],
)
def test_optuna_has_the_private_names_that_nsopt_uses(owner: type, name: str) -> None:
    assert hasattr(owner, name), f"this version of Optuna has no {owner.__name__}.{name}"


def test_a_waiting_trial_can_be_taken_and_run(study: Study) -> None:
    study.enqueue_trial({"x": 0.5})
    (waiting,) = study.trials
    assert internals.fixed_parameters(waiting) == {"x": 0.5}
    assert internals.take(study, waiting)
    trial = internals.running(study, waiting)
    assert isinstance(trial, Trial)
    assert trial.suggest_float("x", 0, 1) == 0.5
    internals.write_attribute(study, waiting, "note", "n")
    internals.write_constraint(study, waiting, "budget", 0.25)
    assert not internals.is_finished(study, waiting)
    study.tell(trial, 1.0)
    assert internals.is_finished(study, waiting)
    (done,) = study.trials
    assert (done.user_attrs, done.constraints) == ({"note": "n"}, {"budget": 0.25})


def test_attributes_of_a_trial_are_written_in_one_transaction(tmp_path: Path) -> None:
    storage: Any = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study, transactions = optuna.create_study(storage=storage), list[object]()
    study.enqueue_trial({})
    (waiting,) = study.trials
    internals.take(study, waiting)
    trial = internals.running(study, waiting)
    event.listen(storage._backend.engine, "begin", transactions.append)
    internals.write_attributes(trial, {"params": 10, "macs": 20, "curve": [0.5]})
    assert len(transactions) == 1
    internals.write_attributes(trial, {"params": 11, "seconds": 1.5})
    written = {"params": 11, "macs": 20, "curve": [0.5], "seconds": 1.5}
    assert trial.user_attrs == written
    assert study.trials[0].user_attrs == written


def test_a_listed_study_has_the_attributes_of_its_listing_and_its_own(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(study_name="s", storage=storage, directions=["maximize"] * 2)
    study.set_user_attr("before", 1)
    (found,) = storage.get_all_studies()
    listed = internals.ListedStudy(found, storage)
    study.set_user_attr("after", 2)
    assert listed.user_attrs == {"before": 1}
    listed.set_user_attr("own", 3)
    assert listed.user_attrs == {"before": 1, "own": 3}
    assert study.user_attrs == {"before": 1, "after": 2, "own": 3}
    assert (listed.study_name, listed.directions) == ("s", study.directions)
    listed.enqueue_trial({})
    assert len(study.trials) == 1


def test_a_constraint_set_by_an_objective_is_not_overwritten(study: Study) -> None:
    trial = study.ask()
    trial.set_constraint("budget", -1.0)
    (running,) = study.trials
    internals.write_constraint(study, running, "budget", 1.0)
    study.tell(trial, 1.0)
    assert study.trials[0].constraints == {"budget": -1.0}


def test_trials_and_studies_are_found_by_their_numbers(study: Study) -> None:
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=1.0))
    (trial,) = study.trials
    assert isinstance(trial, FrozenTrial)
    storage = internals.storage_of(study)
    assert storage.get_trial(internals.trial_id(trial)).number == trial.number
    assert storage.get_study_name_from_id(internals.study_id(study)) == "s"


def test_no_other_file_uses_private_names_of_optuna() -> None:
    package = Path(nsopt.__file__).parent
    inside = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if PRIVATE.search(path.read_text().replace("self._storage", ""))
    ]
    assert inside == ["storage/internals.py"]
