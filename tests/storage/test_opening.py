import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage, RDBStorage, get_storage
from optuna.study import Study
from optuna.trial import Trial
from sqlalchemy import event
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    PendingRollbackError,
)

from nsopt.errors import NsoptError, StorageError
from nsopt.session.workspace import Workspace
from nsopt.storage import opening
from nsopt.storage.opening import guard, newest_storage, open_storage, sqlite_url, storage_exists
from tests.conftest import one_line
from tests.forked import Forked


def test_looking_for_a_storage_creates_nothing(tmp_path: Path) -> None:
    assert not storage_exists(f"sqlite:///{tmp_path / 'a' / 'study.db'}")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_new_storage_is_created(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a' / 'b' / 'study.db'}"
    open_storage(url)
    assert storage_exists(url)


@pytest.mark.parametrize(
    ("temporary", "workers", "has_file"), [(True, 1, False), (True, 2, True), (False, 1, True)]
)
def test_a_storage_that_one_process_deletes_is_in_memory(
    temporary: bool, workers: int, has_file: bool, tmp_path: Path
) -> None:
    url = sqlite_url(tmp_path / "study.db")
    workspace = Workspace(url, tmp_path, workers=workers, temporary=temporary)
    optuna.create_study(storage=workspace.storage).enqueue_trial({})
    assert workspace.has_storage
    assert storage_exists(url) == has_file


def test_the_newest_study_is_found(tmp_path: Path) -> None:
    with one_line(r"no study is in .*: give storage="):
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
    with pytest.raises(NsoptError, match=r"cannot be used: .*not a database: give anoth"):
        open_storage(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE photos (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(NsoptError, match=r"photos\.db is a database of another program: give an"):
        open_storage(sqlite_url(path))
    assert path.read_bytes() == before


def test_locked_databases_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = sqlite_url(tmp_path / "study.db")
    open_storage(url)
    monkeypatch.setattr(opening, "_SQLITE_LOCK_SECONDS", 0)
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(NsoptError, match=r"is locked: try again when no other process writes"):
            open_storage(url)


def test_a_cut_database_is_to_be_restored(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    open_storage(sqlite_url(path))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(NsoptError, match=r"is malformed: restore it from a copy"):
        open_storage(sqlite_url(path))


@pytest.mark.parametrize(
    "url", ["redis://here/x", "sqlit:///study.db", "postgres://me@here/x", "grpc://here:1"]
)
def test_the_error_for_an_unknown_kind_of_storage_lists_the_known_ones(url: str) -> None:
    for look in (storage_exists, open_storage):
        with pytest.raises(NsoptError, match=r"is of an unknown kind: use sqlite:///.*journal:///"):
            look(url)


@pytest.mark.parametrize("url", ["journal://", "journal://study.journal"])
def test_a_journal_needs_a_file(url: str) -> None:
    with pytest.raises(NsoptError, match=r"names no file: write journal:///FILE"):
        open_storage(url)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused_because_it_keeps_nothing(url: str) -> None:
    with pytest.raises(NsoptError, match=r"is lost at the end: write sqlite:///FILE"):
        open_storage(url)


class Failing(InMemoryStorage):
    """A storage that raises an error at each call, a number of times."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self.error, self.left = error, times

    def get_all_studies(self) -> list:
        self._fail()
        return super().get_all_studies()

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        self._fail()
        return super().get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def _fail(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise self.error


def wrapped(cause: Exception) -> Exception:
    """Return an error as Optuna raises it."""
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = cause
    return error


AWAY = Exception("could not connect\nto the server: sesame")
FILE = "sqlite:///study.db"
SERVER = "postgresql://me:sesame@127.0.0.1:9/x"


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("select", {}, AWAY),
        wrapped(OperationalError("select", {}, AWAY)),
        wrapped(InterfaceError("select", {}, AWAY)),
        PendingRollbackError("Can't reconnect until invalid transaction is rolled back."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_calls_wait_for_a_server_and_say_so_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(opening, "_RETRY_SECONDS", 0.0)
    storage = guard(Failing(error, times=5), SERVER)
    assert storage.get_all_studies() == []
    (record,) = caplog.records
    assert record.getMessage() == (
        "postgresql://me:***@127.0.0.1:9/x does not answer: trying again for 5 minutes"
    )


def test_optional_methods_of_a_storage_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_RETRY_SECONDS", 0.0)
    storage = guard(Failing(OperationalError("select", {}, AWAY), times=0), SERVER)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    vars(storage)["left"] = 3
    study.tell(trial.number, 1.0)
    assert study.best_value == 1.0


@pytest.mark.parametrize(
    ("error", "url", "remedy"),
    [
        (wrapped(DataError("insert", {}, Exception("too long"))), SERVER, "check the URL"),
        (wrapped(IntegrityError("insert", {}, Exception("not unique"))), SERVER, "check the URL"),
        (wrapped(OperationalError("insert", {}, Exception("disk is full"))), FILE, "make room"),
        (wrapped(OperationalError("", {}, Exception("a readonly database"))), FILE, "let this us"),
        (OSError(28, "No space left on device"), "journal:///study.journal", "make room"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_lasting_error_is_one_line_at_once(error: Exception, url: str, remedy: str) -> None:
    storage = guard(Failing(error, times=1), url)
    with pytest.raises(StorageError, match=rf"storage .* cannot be used: .*: {remedy}") as caught:
        storage.get_all_studies()
    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert storage.get_all_studies() == []


def test_the_patience_with_a_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(opening, "_PATIENCE_SECONDS", 0.05)
    storage = guard(Failing(OperationalError("select", {}, AWAY), times=10**9), SERVER)
    with pytest.raises(StorageError, match=r"cannot be used: \(builtins.Exception\) could not co"):
        storage.get_all_studies()


@pytest.mark.parametrize(
    "call",
    [
        lambda study, _: study.ask(),
        lambda _, trial: trial.suggest_float("x", 0, 1),
        lambda _, trial: trial.set_user_attr("note", "n"),
        lambda study, trial: study.tell(trial, 1.0),
        lambda study, _: study.get_trials(),
    ],
    ids=["ask", "suggest", "attribute", "tell", "read"],
)
def test_a_call_is_repeated_at_whichever_statement_the_server_fails(
    call: Callable[[Study, Trial], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails once, at each of the statements that the call sends."""
    monkeypatch.setattr(opening, "_RETRY_SECONDS", 0.0)
    database = RDBStorage(sqlite_url(tmp_path / "study.db"))
    study = optuna.create_study(storage=guard(get_storage(database), SERVER))
    sent, away = [0], 0

    @event.listens_for(database.engine, "before_cursor_execute")
    def fail(*_: Any) -> None:
        sent[0] += 1
        if sent[0] == away:
            raise OperationalError("", {}, Exception("server closed the connection"))

    while sent[0] >= away:
        trial = study.ask()
        sent[0], away = 0, away + 1
        call(study, trial)
    assert away > 1


def test_errors_of_optuna_itself_stay_as_they_are(tmp_path: Path) -> None:
    """Optuna catches them, such as that a study exists."""
    storage = open_storage(sqlite_url(tmp_path / "study.db"))
    how = {"study_name": "s", "storage": storage, "load_if_exists": True}
    first, again = (optuna.create_study(**how) for _ in range(2))
    trial = first.ask()
    again.tell(trial.number, 1.0)
    with pytest.raises(UpdateFinishedTrialError):
        trial.set_user_attr("late", 1)


def test_processes_can_create_the_same_storage_at_once(tmp_path: Path) -> None:
    """Each one creates the tables and a study, several times in new folders."""
    urls = [sqlite_url(tmp_path / str(number) / "study.db") for number in range(4)]
    with ExitStack() as stack:
        start = tmp_path / "start"
        processes = [stack.enter_context(Forked(create, str(start), urls)) for _ in range(4)]
        while not all(process.written()[0] == "ready\n" for process in processes):
            time.sleep(0.05)
        start.touch()
        assert [process.wait(timeout=120) for process in processes] == [0] * 4, [
            process.written() for process in processes
        ]
    for url in urls:
        (study,) = open_storage(url).get_all_studies()
        assert study.study_name == "s"


def create(start: str, urls: Sequence[str]) -> None:
    print("ready", flush=True)
    while not Path(start).exists():
        time.sleep(0.001)
    for url in urls:
        optuna.create_study(study_name="s", storage=open_storage(url), load_if_exists=True)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///{folder}/x.db?timeout=soon",
        "sqlite:///{folder}/\0",
        "redis://:sesame@127.0.0.1/0",
        "postgresql://127.0.0.1:99999999",
        "mysql+nosuchdriver://me:sesame@127.0.0.1/x?passwd=sesame",
    ],
)
def test_an_invalid_url_causes_a_one_line_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(NsoptError, match=r"cannot be|unknown kind|is not a data") as caught:
        open_storage(url.format(folder=tmp_path))
    assert "\n" not in str(caught.value)
    assert "sesame" not in str(caught.value)
