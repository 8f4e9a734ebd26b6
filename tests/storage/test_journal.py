"""Optuna's journal as a storage of several processes, which may die while they write."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.trial import Trial, TrialState

from nsopt.errors import NsoptError
from nsopt.storage import heartbeats, queue
from nsopt.storage.journal import JournaledStorage
from nsopt.storage.opening import artifacts_beside, open_storage, storage_exists
from nsopt.storage.queue import Watch, claim, heartbeat, run
from tests.storage.test_queue import Job, open_study

COUNT = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "study.journal"


@pytest.fixture
def url(path: Path) -> str:
    return f"journal:///{path}"


def run_all(study: optuna.Study) -> list[int]:
    """Run all waiting trials; return their numbers."""
    numbers = []

    def objective(trial: Trial) -> list[float]:
        numbers.append(trial.number)
        return [float(trial.suggest_int("width", 1, 9))]

    while trial := claim(study, study.trials, Job(objective)):
        assert run(study, trial, Job(objective))
    return numbers


def test_workers_run_every_trial_once(url: str) -> None:
    study = open_study(url)
    for number in range(COUNT):
        study.enqueue_trial({"width": number % 9 + 1})
    others = [open_study(url) for _ in range(3)]  # each with a storage, as in other processes
    with ThreadPoolExecutor(3) as pool:
        numbers = [number for part in pool.map(run_all, others) for number in part]
    assert sorted(numbers) == list(range(COUNT))
    assert [trial.values for trial in study.trials] == [[n % 9 + 1.0] for n in range(COUNT)]
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_the_trial_of_a_dead_process_is_queued_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "DEAD_AFTER_SECONDS", 0.3)
    monkeypatch.setattr(queue, "HEARTBEAT_SECONDS", 0.1)
    study, other, watch = open_study(url), open_study(url), Watch()
    study.enqueue_trial({})
    trial = claim(study, study.trials, Job())
    assert trial is not None

    def look(seconds: float) -> list[TrialState]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert watch.look(other) or len(study.trials) > 1
            time.sleep(0.05)
        return [each.state for each in study.trials]

    assert look(0.6) == [TrialState.RUNNING]  # the lock of a dead process may keep it silent
    monkeypatch.setattr(JournaledStorage, "longest_lock", 0.0)
    with heartbeat(open_storage(url), trial._trial_id):
        assert look(0.6) == [TrialState.RUNNING]
    assert look(1.0) == [TrialState.FAIL, TrialState.WAITING]


def test_an_incomplete_last_line_is_removed(path: Path, url: str) -> None:
    before = open_study(url)
    before.enqueue_trial({"width": 1})
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    assert len(open_study(url).trials) == 1
    for storage in (before, open_study(url)):
        storage.enqueue_trial({"width": 2})
    assert len(open_study(url).trials) == len(before.trials) == 3


def test_looking_for_a_journal_creates_nothing(path: Path, url: str) -> None:
    assert not storage_exists(url)
    assert not path.parent.exists()
    open_storage(url)
    assert storage_exists(url)
    assert artifacts_beside(url) == path.parent / "artifacts"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("notes without an end", "is not an Optuna journal"),
        ('{"op_code":0,"study', None),
        ('{"op_code":0}\n{"op_code":1}\n', "is damaged: restore it from a copy"),
        ('{"op_code":0,"worker_id\n{"op_code":1}\n', "is damaged: restore it from a copy"),
    ],
)
def test_files_that_are_not_complete_journals_stay_unchanged(
    path: Path, url: str, content: str, message: str | None
) -> None:
    path.parent.mkdir()
    path.write_text(content)
    if message is None:
        open_storage(url)
    else:
        with pytest.raises(NsoptError, match=message):
            open_storage(url)
    assert path.read_text() == content
