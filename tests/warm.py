"""Do what is slow the first time in a process: the fork server imports this module."""

import tempfile
import warnings
from importlib.util import find_spec

import optuna
import pytest

from nsopt.data.registry import load_data
from nsopt.storage.opening import open_storage
from tests.forked import read_files_once, read_operators


def use_a_storage() -> None:
    """SQLAlchemy compiles each statement once."""
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"sqlite:///{folder}/study.db")
        study = optuna.create_study(storage=storage)
        study.enqueue_trial({"x": 1.0})
        study.set_user_attr("key", "value")
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0.0, 1.0)})
        trial.set_user_attr("key", "value")
        storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.COMPLETE, [1.0])
        study.get_trials()


read_files_once(pytest.MonkeyPatch())
load_data("digits")
if find_spec("onnxscript"):
    read_operators()
optuna.logging.set_verbosity(optuna.logging.WARNING)
with warnings.catch_warnings(action="ignore"):
    use_a_storage()
optuna.logging.set_verbosity(optuna.logging.INFO)
