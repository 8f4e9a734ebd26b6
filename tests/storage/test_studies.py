"""Studies as a listing of the storage shows them."""

from pathlib import Path

import optuna
import pytest

from nsopt.data.source import Source
from nsopt.errors import NsoptError
from nsopt.storage.opening import open_storage
from nsopt.storage.schema import TaskDescription, read_networks, write_networks
from nsopt.storage.studies import load_studies, open_study
from nsopt.storage.urls import sqlite_url


def test_a_loaded_study_has_the_attributes_of_its_listing_and_its_own(tmp_path: Path) -> None:
    storage = open_storage(sqlite_url(tmp_path / "study.db"))
    study = optuna.create_study(study_name="a/b", storage=storage, directions=["maximize"] * 2)
    optuna.create_study(study_name="a/foreign", storage=storage)
    study.set_user_attr("settings", {})
    (listed,) = load_studies(storage, "a").values()
    study.set_user_attr("after", 2)
    assert listed.user_attrs == {"settings": {}}
    listed.set_user_attr("own", 3)
    assert listed.user_attrs == {"settings": {}, "own": 3}
    assert study.user_attrs == {"settings": {}, "after": 2, "own": 3}
    assert (listed.study_name, listed.directions) == ("a/b", study.directions)
    listed.enqueue_trial({})
    assert len(study.trials) == 1


def test_a_foreign_study_with_the_name_of_a_new_one_is_not_changed(tmp_path: Path) -> None:
    storage = open_storage(sqlite_url(tmp_path / "study.db"))
    foreign = optuna.create_study(study_name="a/uniform", storage=storage)
    foreign.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
    about = TaskDescription("net", "digits", ("layer",), (8,))
    with pytest.raises(NsoptError, match="'a/uniform' exists, and nsopt did not make it: give"):
        open_study(storage, "a/uniform", about, Source("digits"), {"preset": "p"}, {}, ["a", "b"])
    assert foreign.user_attrs == {}
    assert len(foreign.trials) == 1


def test_a_later_table_of_networks_keeps_those_of_other_budgets() -> None:
    study = optuna.create_study()
    half = {"budget": "macs=50%", "val %": "90", "files": "macs-50-percent.pt"}
    write_networks(study, [{"budget": "100%", "val %": "91"}, half])
    write_networks(study, [{"budget": "100%", "val %": "92"}, {"budget": "macs=25%", "ms": "3"}])
    assert read_networks(study) == [
        {"budget": "100%", "val %": "92", "files": "", "ms": ""},
        half | {"ms": ""},
        {"budget": "macs=25%", "val %": "", "files": "", "ms": "3"},
    ]
