"""Studies as a listing of the storage shows them."""

import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest

from nsopt.data.source import Source
from nsopt.errors import NsoptError, StorageError
from nsopt.storage.internals import storage_of
from nsopt.storage.opening import open_storage, sqlite_url
from nsopt.storage.schema import (
    NetworkRow,
    StoredCandidate,
    TaskDescription,
    is_compression,
    read_candidates,
    read_networks,
    read_provenance,
    write_candidates,
    write_networks,
)
from nsopt.storage.studies import load_studies, open_study


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
    whole = NetworkRow("100%", "dense", None, 91.0, 0.5, None, None, 9, 90, epochs=0, planned=0)
    half, quarter = (
        replace(whole, budget=budget, widths_by="fit", agreement=98.5, files="small.pt")
        for budget in ("macs=50%", "macs=25%")
    )
    write_networks(study, [whole, half])
    better = replace(whole, score=92.0, test_score=math.pi, latency_ms=0.1)
    write_networks(study, [better, quarter])
    assert read_networks(study) == [better, half, quarter]


def test_stored_networks_and_candidates_are_numbers() -> None:
    study = optuna.create_study()
    row = NetworkRow("macs=50%", "fit", 98.5, 91.0, None, 90.0, None, 9, 90, epochs=3, planned=10)
    write_networks(study, [row])
    (stored,) = study.user_attrs["networks"]
    words = {"budget", "widths_by", "files"}
    kinds = {type(value) for name, value in stored.items() if name not in words}
    assert kinds <= {int, float, type(None)}
    found = [StoredCandidate("fit", (4, 8), 98.5, True)]
    found += [StoredCandidate("uniform", (5, 5), 0.1, False)]
    assert not is_compression({"dense": study})
    write_candidates(study, "macs", 1 / 3, found)
    assert read_candidates(study, "macs", 1 / 3) == found
    assert not read_candidates(study, "macs", 0.3333)
    assert is_compression({"dense": study})


def test_a_storage_that_cannot_be_read_is_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = optuna.create_study()
    away = Mock(side_effect=StorageError("the server is away"))
    monkeypatch.setattr(storage_of(study), "get_study_user_attrs", away)
    with pytest.raises(StorageError, match=r"^the server is away$"):
        read_provenance(study)
