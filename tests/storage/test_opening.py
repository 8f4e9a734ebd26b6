import os
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from nsopt.errors import NsoptError
from nsopt.storage.opening import (
    newest_storage,
    open_storage,
    storage_errors,
    storage_exists,
)


def test_looking_for_a_storage_creates_nothing(tmp_path: Path) -> None:
    assert not storage_exists(f"sqlite:///{tmp_path / 'a' / 'study.db'}")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_new_storage_is_created(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a' / 'b' / 'study.db'}"
    open_storage(url)
    assert storage_exists(url)


def test_the_newest_study_is_found(tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match=r"no study is in .*: give --storage"):
        newest_storage(tmp_path)
    for place, name in enumerate(("b", "a")):
        path = tmp_path / name / "study.db"
        path.parent.mkdir()
        path.touch()
        os.utime(path, (place, place))
    assert newest_storage(tmp_path) == f"sqlite:///{tmp_path / 'a' / 'study.db'}"


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_text("not a database, whatever its name says\n" * 100)
    before = path.read_bytes()
    with pytest.raises(NsoptError, match=r"cannot be used: .*not a database") as caught:
        open_storage(f"sqlite:///{path}")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("url", ["redis://here/x", "sqlit:///study.db", "postgres://me@here/x"])
def test_the_error_for_an_unknown_kind_of_storage_lists_the_known_ones(url: str) -> None:
    for look in (storage_exists, open_storage):
        with pytest.raises(NsoptError, match=r"is of an unknown kind: use sqlite:///.*journal:///"):
            look(url)


@pytest.mark.parametrize("url", ["journal://", "journal://study.journal"])
def test_a_journal_needs_a_file(url: str) -> None:
    with pytest.raises(NsoptError, match=r"names no file: write journal:///FILE"):
        open_storage(url)


def test_errors_hide_passwords() -> None:
    url = "postgresql://me:secret@127.0.0.1:9/x"
    with pytest.raises(NsoptError) as caught, storage_errors(url):
        raise OperationalError("select", {}, Exception("could not connect\nat all"))
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:9/x cannot be used" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///{folder}/x.db?timeout=soon",
        "sqlite:///{folder}/\0",
        "redis://:sesame@127.0.0.1/0",
        "grpc://127.0.0.1:99999999",
        "mysql+nosuchdriver://me:sesame@127.0.0.1/x?passwd=sesame",
    ],
)
def test_an_invalid_url_causes_a_one_line_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match=r"cannot be|unknown kind") as caught:
        open_storage(url.format(folder=tmp_path))
    assert "\n" not in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_messages_of_a_driver_hide_values_of_the_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}?timeout=sesame"
    with pytest.raises(NsoptError, match=r"could not convert string to float: '\*\*\*'$"):
        open_storage(url)
