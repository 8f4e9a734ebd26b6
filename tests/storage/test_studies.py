"""Studies as a listing of the storage shows them."""

from pathlib import Path

import optuna

from nsopt.storage.opening import open_storage
from nsopt.storage.studies import load_studies
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
