"""Trials that several processes want, and a machine that several processes share."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import Trial, TrialState

from nsopt.errors import NonFiniteLossError, ShortRecordError
from nsopt.training.device import nth_device
from nsopt.training.machine import Machine
from nsopt.tuning.queue import claim, run
from nsopt.tuning.storage import open_storage

optuna.logging.set_verbosity(optuna.logging.CRITICAL)
COUNT = 40


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def study_at(url: str) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_storage(url), load_if_exists=True)


def claim_all(url: str) -> list[int]:
    study, claimed = study_at(url), []
    while trial := claim(study, lambda trial: study.sampler):
        claimed.append(trial.number)
    return claimed


def test_every_waiting_trial_is_claimed_once(url: str) -> None:
    study = study_at(url)
    for _ in range(COUNT):
        study.enqueue_trial({})
    with ThreadPoolExecutor(4) as pool:
        claimed = [number for part in pool.map(claim_all, [url] * 4) for number in part]
    assert sorted(claimed) == list(range(COUNT))


def claimed_trial(url: str) -> Trial:
    study = study_at(url)
    study.enqueue_trial({})
    trial = claim(study, lambda trial: study.sampler)
    assert trial is not None
    return trial


def test_a_trial_ends_as_its_objective_does(url: str) -> None:
    def diverge(trial: Trial) -> list[float]:
        raise NonFiniteLossError("too steep")

    def learn_nothing(trial: Trial) -> list[float]:
        raise ShortRecordError("no law")

    def prune(trial: Trial) -> list[float]:
        raise optuna.TrialPruned

    def break_down(trial: Trial) -> list[float]:
        raise ZeroDivisionError

    assert run(claimed_trial(url), lambda trial: [2.5])
    assert run(claimed_trial(url), diverge)
    assert run(claimed_trial(url), learn_nothing)
    assert run(claimed_trial(url), prune)
    with pytest.raises(ZeroDivisionError):
        run(claimed_trial(url), break_down)
    found = [(trial.state.name, trial.values) for trial in study_at(url).trials]
    assert found == [("COMPLETE", [2.5])] + [
        (state, None) for state in ("FAIL", "FAIL", "PRUNED", "FAIL")
    ]


def test_a_result_that_comes_too_late_is_dropped(url: str) -> None:

    def write(trial: Trial) -> list[float]:
        trial.set_user_attr("val_accuracy", 1.0)
        return [1.0]

    trial = claimed_trial(url)
    study_at(url).tell(trial.number, state=TrialState.FAIL)
    assert not run(trial, lambda trial: [1.0])
    assert not run(trial, write)
    assert study_at(url).trials[0].state == TrialState.FAIL


def test_who_measures_is_alone(tmp_path: Path) -> None:
    log: list[str] = []

    def compute(machine: Machine) -> None:
        for _ in range(40):
            with machine.turn():
                log.append("in")
                time.sleep(0.002)
                log.append("out")

    machines = [Machine(tmp_path, "cpu") for _ in range(3)]
    with ThreadPoolExecutor(2) as pool:
        for machine in machines[:2]:
            pool.submit(compute, machine)
        for _ in range(3):
            time.sleep(0.01)
            with machines[2].alone():
                before = len(log)
                assert log.count("in") == log.count("out")
                time.sleep(0.02)
                assert len(log) == before
    for machine in machines:
        machine.close()
    assert len(log) == 160


def test_workers_take_cuda_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    devices = [str(nth_device(torch.device("cuda", 1), number)) for number in range(1, 4)]
    assert devices == ["cuda:2", "cuda:0", "cuda:1"]
    assert nth_device(torch.device("cpu"), 2) == torch.device("cpu")


def test_a_measurement_uses_all_threads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with closing(Machine(tmp_path, "cpu")) as machine:
            torch.set_num_threads(1)
            with machine.alone():
                assert torch.get_num_threads() == 2
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
