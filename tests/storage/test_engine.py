"""Trials that several processes share: each runs once, and none is lost."""

import sqlite3
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import Engine

from nsopt.compute.device import Compute
from nsopt.errors import (
    DeterministicError,
    NonFiniteLossError,
    NoWidthsError,
    ShortRecordError,
    StorageError,
)
from nsopt.progress import Silent
from nsopt.storage import engine, internals
from nsopt.storage.engine import HeartbeatWatch, heartbeat, run_next, run_trials
from nsopt.storage.opening import open_storage, sqlite_url
from nsopt.storage.trials import needs_retry, read_failure

optuna.logging.set_verbosity(optuna.logging.CRITICAL)
COUNT = 8


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "study.db")


@pytest.fixture(params=["sqlite", "journal"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> str:
    """The URL of a storage of each kind; tests/e2e/test_cluster.py has PostgreSQL."""
    return url if request.param == "sqlite" else f"journal:///{tmp_path / 'study.journal'}"


def open_study(url: str) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(url), load_if_exists=True)


class Job:
    """Work that runs every trial with one function; the attribute `point` names its point."""

    compute = Compute(torch.device("cpu"), bf16=False)

    def __init__(self, function: Callable[[Trial], Sequence[float]] = lambda trial: [1.0]) -> None:
        self.run = function
        self.failures: list[str] = []

    def point(self, trial: FrozenTrial) -> Hashable:
        return trial.user_attrs.get("point", trial.number)

    def sampler(self, trial: FrozenTrial) -> BaseSampler:
        return RandomSampler(seed=0)

    def handle_failure(self, trial: FrozenTrial, error: DeterministicError) -> None:
        self.failures.append(str(error))


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


# Threads share filters of warnings.
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_workers_run_every_point_once(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them enqueue every point, as commands do that start at the same moment."""
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.05)
    studies = [open_study(any_url) for _ in range(3)]  # each with a storage, as in other processes
    ran: list[int] = []

    def run(trial: Trial) -> list[float]:
        ran.append(trial.user_attrs["point"])
        return [float(trial.suggest_int("width", 0, COUNT))]

    def take_part(study: optuna.Study) -> None:
        def enqueue(point: int) -> None:
            study.enqueue_trial({"width": point}, user_attrs={"point": point})

        run_trials(study, range(COUNT), enqueue, Job(run), Silent())

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(take_part, studies))
    assert sorted(ran) == list(range(COUNT))
    found = studies[0].trials
    done = [trial for trial in found if trial.state == TrialState.COMPLETE]
    assert sorted(trial.values[0] for trial in done) == [float(n) for n in range(COUNT)]
    assert all(t.values == [t.user_attrs["point"]] for t in done)
    assert all("duplicate_of" in trial.user_attrs for trial in found if trial not in done)


def make_failing_job(error: BaseException) -> Job:
    def fail(trial: Trial) -> list[float]:
        raise error

    return Job(fail)


def test_the_state_of_a_trial_follows_its_objective(url: str) -> None:
    study = open_study(url)
    for job in (
        Job(lambda trial: [2.5]),
        make_failing_job(NonFiniteLossError("too steep")),
        make_failing_job(ShortRecordError("no law")),
        make_failing_job(NoWidthsError("no widths")),
        make_failing_job(optuna.TrialPruned()),
    ):
        study.enqueue_trial({})
        assert run_next(study, job)
    for error in (ZeroDivisionError(), KeyboardInterrupt()):
        study.enqueue_trial({})
        with pytest.raises(type(error)):
            run_next(study, make_failing_job(error))
    assert states(study) == ["COMPLETE", *["FAIL"] * 3, "PRUNED", "FAIL", "WAITING"]
    assert study.trials[0].values == [2.5]
    reasons = [read_failure(trial) for trial in study.trials]
    assert reasons == [None, "too steep", "no law", "no widths", None, None, None]
    assert [needs_retry(trial) for trial in study.trials] == [False] * 5 + [True, False]
    assert run_next(study, Job())  # the interrupted one
    assert not run_next(study, Job())


def test_a_trial_without_a_sampler_fails_with_its_reason(url: str) -> None:
    class Helpless(Job):
        def sampler(self, trial: FrozenTrial) -> BaseSampler:
            raise NoWidthsError("descent converged at iteration 1")

    study, helpless = open_study(url), Helpless()
    study.enqueue_trial({})
    assert run_next(study, helpless)
    assert states(study) == ["FAIL"]
    assert read_failure(study.trials[0]) == "descent converged at iteration 1"
    assert helpless.failures == ["descent converged at iteration 1"]


def test_only_the_first_trial_of_a_point_is_run(url: str) -> None:
    study, numbers = open_study(url), list[int]()
    for point in ("a", "b", "a", "b", "a"):
        study.enqueue_trial({}, user_attrs={"point": point})

    def run(trial: Trial) -> list[float]:
        numbers.append(trial.number)
        return [1.0]

    while run_next(study, Job(run)):
        pass
    assert numbers == [0, 1]
    assert states(study) == ["COMPLETE"] * 2 + ["FAIL"] * 3
    assert [t.user_attrs.get("duplicate_of") for t in study.trials] == [None, None, 0, 1, 0]


def test_a_point_whose_first_trial_failed_is_run_again(url: str) -> None:
    study = open_study(url)

    def enqueue(point: str) -> None:
        study.enqueue_trial({}, user_attrs={"point": point})

    with pytest.raises(ZeroDivisionError):
        run_trials(study, ["a"], enqueue, make_failing_job(ZeroDivisionError()), Silent())
    run_trials(study, ["a"], enqueue, Job(), Silent())
    assert states(study) == ["FAIL", "COMPLETE"]


def test_an_error_that_would_happen_again_is_reported_once_and_not_retried(url: str) -> None:
    study, job = open_study(url), make_failing_job(NonFiniteLossError("too steep"))

    def enqueue(point: int) -> None:
        study.enqueue_trial({}, user_attrs={"point": point})

    for _ in range(2):
        run_trials(study, [0, 1], enqueue, job, Silent())
    assert states(study) == ["FAIL", "FAIL"]
    assert job.failures == ["too steep", "too steep"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is dead after three looks, and a heartbeat comes between two looks."""
    monkeypatch.setattr(engine, "DEAD_AFTER_LOOKS", 3)
    monkeypatch.setattr(engine, "HEARTBEAT_SECONDS", 0.02)


def look(watch: HeartbeatWatch, study: optuna.Study, looks: int) -> list[str]:
    """Look some times, with a heartbeat between them; return the states at the end."""
    for _ in range(looks):
        time.sleep(0.1)
        watch.look(study, study.get_trials(deepcopy=False))
    return states(study)


def take(study: optuna.Study) -> FrozenTrial:
    """Take a trial and leave it running, as a process does that dies at once."""
    study.enqueue_trial({"width": 3})
    *_, trial = study.trials
    assert internals.set_state(study, trial, TrialState.RUNNING)
    return trial


@pytest.mark.usefixtures("impatient")
def test_the_trial_of_a_dead_process_is_run_again(any_url: str) -> None:
    study, other, watch = open_study(any_url), open_study(any_url), HeartbeatWatch()
    trial = take(study)
    with heartbeat(study, trial):
        assert look(watch, other, 6) == ["RUNNING"]
    assert look(watch, other, 2) == ["RUNNING"]
    assert look(watch, other, 2) == ["WAITING"]
    assert run_next(other, Job(lambda trial: [trial.suggest_int("width", 1, 9)]))
    assert states(study) == ["COMPLETE"]
    assert study.trials[0].params == {"width": 3}


@pytest.mark.usefixtures("impatient")
def test_a_full_disk_ends_in_one_line_and_the_trial_is_run_later(url: str) -> None:
    open_study(url).enqueue_trial({"width": 3})

    def fill(trial: Trial) -> list[float]:
        trial.set_user_attr("note", "n" * 2**20)
        return [1.0]

    @event.listens_for(Engine, "connect")
    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 128")  # half a megabyte

    try:
        message = r"study.db cannot be used: .* disk is full: make room"
        with pytest.raises(StorageError, match=message) as told:
            run_next(open_study(url), Job(fill))
    finally:
        event.remove(Engine, "connect", limit)
    assert "\n" not in str(told.value)
    study, watch = open_study(url), HeartbeatWatch()
    assert look(watch, study, 4) == ["WAITING"]
    assert run_next(study, Job(fill))
    assert states(study) == ["COMPLETE"]


@pytest.mark.usefixtures("impatient")
def test_a_trial_that_is_taken_again_gets_new_time(url: str) -> None:
    """Its heartbeat is still that of the dead process."""
    study, watch = open_study(url), HeartbeatWatch()
    trial = take(study)
    assert look(watch, study, 4) == ["WAITING"]
    assert internals.set_state(study, trial, TrialState.RUNNING)
    assert look(watch, study, 3) == ["RUNNING"]
    assert look(watch, study, 1) == ["WAITING"]


@pytest.mark.usefixtures("impatient")
def test_trials_outlive_long_samplers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study, watch, beats = open_study(url), HeartbeatWatch(), list[object]()
    write = internals.write_system_attribute

    def fail_every_second_time(*arguments: Any) -> None:
        beats.append(arguments)
        if len(beats) % 2:
            raise OSError("database is locked")
        write(*arguments)

    class Slow(Job):
        def sampler(self, trial: FrozenTrial) -> BaseSampler:
            assert look(watch, open_study(url), 8) == ["RUNNING"]
            return super().sampler(trial)

    monkeypatch.setattr(internals, "write_system_attribute", fail_every_second_time)
    study.enqueue_trial({})
    assert run_next(study, Slow())
    assert states(study) == ["COMPLETE"]
    assert len(beats) > 8


@pytest.mark.parametrize("state", [TrialState.WAITING, TrialState.COMPLETE, TrialState.FAIL])
@pytest.mark.parametrize("writes", [True, False])
def test_a_process_that_only_seemed_dead_keeps_its_result_unless_another_was_faster(
    url: str, state: TrialState, writes: bool
) -> None:
    study = open_study(url)
    study.enqueue_trial({})

    def run(trial: Trial) -> list[float]:
        (frozen,) = study.trials
        values = [7.0] if state == TrialState.COMPLETE else None
        study._storage.set_trial_state_values(internals.trial_id(frozen), state, values)
        if writes:
            trial.set_user_attr("score", 1.0)
        return [1.0]

    assert run_next(study, Job(run))
    (trial,) = study.trials
    expected = {"WAITING": [1.0], "COMPLETE": [7.0], "FAIL": None}[state.name]
    assert trial.values == expected
    assert trial.state == (TrialState.FAIL if expected is None else TrialState.COMPLETE)
