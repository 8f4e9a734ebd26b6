"""Optuna's journal as a storage; test_engine.py has its trials."""

from pathlib import Path

import optuna
import pytest

from nsopt.errors import NsoptError, StorageError
from nsopt.storage.opening import artifacts_beside, open_storage, storage_exists


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "study.journal"


@pytest.fixture
def url(path: Path) -> str:
    return f"journal:///{path}"


def open_study(url: str) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(url), load_if_exists=True)


def test_an_unfinished_last_line_is_removed(path: Path, url: str) -> None:
    """A full disk leaves one; the next line would be appended to it."""
    open_study(url).enqueue_trial({"width": 1})
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    open_study(url).enqueue_trial({"width": 2})
    assert len(open_study(url).trials) == 2
    assert [file.name for file in path.parent.iterdir()] == ["study.journal"]


def test_a_line_that_a_full_disk_cut_is_removed(path: Path, url: str) -> None:
    """The disk has room again: a process that kept running writes the next line."""
    study = open_study(url)
    study.enqueue_trial({"width": 1})
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    study.enqueue_trial({"width": 2})
    assert len(study.trials) == len(open_study(url).trials) == 2


def test_a_journal_that_was_deleted_leaves_no_lock(path: Path, url: str) -> None:
    study = open_study(url)
    path.unlink()
    with pytest.raises(StorageError, match="No such file"):
        study.enqueue_trial({"width": 1})
    assert not [*path.parent.iterdir()]


def test_looking_for_a_journal_creates_nothing(path: Path, url: str) -> None:
    assert not storage_exists(url)
    assert not path.parent.exists()
    open_study(url)
    assert storage_exists(url)
    assert artifacts_beside(url) == path.parent / "artifacts"


def test_a_file_that_is_no_journal_stays(path: Path, url: str) -> None:
    path.parent.mkdir()
    path.write_text("notes without an end")
    with pytest.raises(NsoptError, match="is not an Optuna journal"):
        open_storage(url)
    assert path.read_text() == "notes without an end"
