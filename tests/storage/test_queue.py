"""The queue of trials that several processes share."""

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import torch
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import OperationalError

from nsopt.compute.device import Compute
from nsopt.errors import DeterministicError, NonFiniteLossError, NoWidthsError, ShortRecordError
from nsopt.storage import opening, queue
from nsopt.storage.opening import open_storage
from nsopt.storage.queue import Watch, claim, heartbeat, run
from nsopt.storage.trials import is_settled, read_failure

optuna.logging.set_verbosity(optuna.logging.CRITICAL)
COUNT = 40


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


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


def claim_all(url: str) -> list[int]:
    study, claimed = open_study(url), []
    while trial := claim(study, study.trials, Job()):
        claimed.append(trial.number)
    return claimed


# Threads share filters of warnings.
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_every_waiting_trial_is_claimed_once(url: str) -> None:
    study = open_study(url)
    for _ in range(COUNT):
        study.enqueue_trial({})
    with ThreadPoolExecutor(4) as pool:
        claimed = [number for part in pool.map(claim_all, [url] * 4) for number in part]
    assert sorted(claimed) == list(range(COUNT))


def claim_trial(study: optuna.Study) -> FrozenTrial:
    study.enqueue_trial({})
    trial = claim(study, study.trials, Job())
    assert trial is not None
    return trial


def make_failing_job(error: Exception) -> Job:
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
        assert run(study, claim_trial(study), job)
    with pytest.raises(ZeroDivisionError):
        run(study, claim_trial(study), make_failing_job(ZeroDivisionError()))
    found = [(trial.state.name, trial.values) for trial in study.trials]
    assert found == [("COMPLETE", [2.5])] + [
        (state, None) for state in ("FAIL", "FAIL", "FAIL", "PRUNED", "FAIL")
    ]
    reasons = [read_failure(trial) for trial in study.trials]
    assert reasons == [None, "too steep", "no law", "no widths", None, None]


def test_a_trial_without_a_sampler_fails_with_its_reason(url: str) -> None:
    class Helpless(Job):
        def sampler(self, trial: FrozenTrial) -> BaseSampler:
            raise NoWidthsError("descent converged at iteration 1")

    study, helpless = open_study(url), Helpless()
    assert run(study, claim_trial(study), helpless)
    assert study.trials[0].state == TrialState.FAIL
    assert read_failure(study.trials[0]) == "descent converged at iteration 1"
    assert helpless.failures == ["descent converged at iteration 1"]
    assert is_settled(study.trials[0])


def test_a_trial_stays_alive_while_its_sampler_takes_long(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "DEAD_AFTER_SECONDS", 1)
    monkeypatch.setattr(queue, "HEARTBEAT_SECONDS", 0.3)

    class Slow(Job):
        def sampler(self, trial: FrozenTrial) -> BaseSampler:
            watch, deadline = Watch(), time.monotonic() + 3
            while time.monotonic() < deadline:
                assert watch.look(open_study(url))
                time.sleep(0.2)
            return super().sampler(trial)

    study = open_study(url)
    assert run(study, claim_trial(study), Slow())
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]


def test_a_result_that_comes_too_late_is_dropped(url: str) -> None:
    def write(trial: Trial) -> list[float]:
        trial.set_user_attr("score", 1.0)
        return [1.0]

    def diverge(trial: Trial) -> list[float]:
        raise NonFiniteLossError("the loss became nan")

    study = open_study(url)
    trial = claim_trial(study)
    study.tell(trial.number, state=TrialState.FAIL)
    assert not run(study, trial, Job())
    assert not run(study, trial, Job(write))
    assert not run(study, trial, Job(diverge))
    assert study.trials[0].state == TrialState.FAIL


def test_only_the_first_trial_of_a_point_is_run(url: str) -> None:
    """Two commands that start at once enqueue every point twice."""
    study = open_study(url)
    for point in ("a", "b", "a", "b", "a"):
        study.enqueue_trial({}, user_attrs={"point": point})
    run_points = []
    while trial := claim(study, study.trials, Job()):
        run_points.append((trial.number, trial.user_attrs["point"]))
        assert run(study, trial, Job())
    assert run_points == [(0, "a"), (1, "b")]
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 2 + ["FAIL"] * 3
    assert [t.user_attrs.get("duplicate_of") for t in study.trials] == [None, None, 0, 1, 0]


def test_a_point_whose_first_trial_was_lost_is_run_again(url: str) -> None:
    study = open_study(url)
    study.enqueue_trial({}, user_attrs={"point": "a"})
    lost = claim(study, study.trials, Job())
    assert lost is not None
    study.tell(lost.number, state=TrialState.FAIL)
    study.enqueue_trial({}, user_attrs={"point": "a"})
    again = claim(study, study.trials, Job())
    assert again is not None
    assert again.number == 1


def test_heartbeats_continue_after_a_failed_write(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "DEAD_AFTER_SECONDS", 1)
    monkeypatch.setattr(queue, "HEARTBEAT_SECONDS", 0.2)
    study, watch, beats = open_study(url), Watch(), []
    trial = claim_trial(study)
    storage = study._storage
    assert isinstance(storage, BaseHeartbeat)
    record = storage.record_heartbeat

    def locked_every_second_time(trial_id: int) -> None:
        beats.append(trial_id)
        if len(beats) % 2:
            raise OperationalError("update", {}, Exception("database is locked"))
        record(trial_id)

    assert watch.look(study)
    monkeypatch.setattr(storage, "record_heartbeat", locked_every_second_time)
    with heartbeat(storage, trial._trial_id):
        for _ in range(12):
            assert watch.look(study)
            time.sleep(0.25)
    assert len(beats) > 8
    assert [t.state for t in study.trials] == [TrialState.RUNNING]


def test_a_silent_process_gets_time_for_one_more_heartbeat(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a storage is locked nobody can write, and all heartbeats grow old."""
    monkeypatch.setattr(opening, "DEAD_AFTER_SECONDS", 1)
    monkeypatch.setattr(queue, "HEARTBEAT_SECONDS", 1.5)
    study, watch = open_study(url), Watch()
    storage, trial = study._storage, claim_trial(study)
    assert isinstance(storage, BaseHeartbeat)

    def look_when_the_heartbeat_is_old() -> list[str]:
        time.sleep(2.2)
        assert watch.look(study)
        return [trial.state.name for trial in study.trials]

    storage.record_heartbeat(trial._trial_id)
    assert look_when_the_heartbeat_is_old() == ["RUNNING"]
    storage.record_heartbeat(trial._trial_id)
    assert watch.look(study)
    assert look_when_the_heartbeat_is_old() == ["RUNNING"]
    assert look_when_the_heartbeat_is_old() == ["FAIL", "WAITING"]
