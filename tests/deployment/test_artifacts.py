"""The weights that a study keeps."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import nn

import nsopt
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.deployment.kept import KeptNetwork
from nsopt.errors import NsoptError
from nsopt.scaling.metric import get_metric
from nsopt.storage import internals, schema, trials
from nsopt.storage.opening import open_storage
from nsopt.storage.trials import Point


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(tmp_path, create=True)


def open_study(folder: Path, create: bool = False) -> Study:
    storage = open_storage(f"sqlite:///{folder / 'study.db'}")
    if not create:
        return optuna.load_study(study_name="s/uniform", storage=storage)
    directions = schema.DIRECTIONS
    return optuna.create_study(study_name="s/uniform", storage=storage, directions=directions)


def make_network(accuracy: float, budget: int = 1000, seed: int = 0) -> KeptNetwork:
    """Return a network that accuracy and seed identify; the seed also sets its widths."""
    widths = (4 + seed,) * 8
    model = nsopt.get_architecture("vgg11").build(widths)
    nn.init.constant_(model.get_parameter("classifier.bias"), accuracy + seed / 10)
    return KeptNetwork(
        arch="vgg11",
        widths=widths,
        input_shape=(3, 32, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        classes=tuple("abcdefghij"),
        method="uniform",
        metric="params",
        budget=budget,
        ratio=None,
        seed=seed,
        score=accuracy,
        test_score=accuracy,
        model=model,
    )


def start_trial(study: Study, trained: KeptNetwork) -> Trial:
    """Start a trial with the point of a network."""
    point = Point(trained.method, get_metric(trained.metric), trained.budget, trained.seed)
    trials.enqueue_point(study, point)
    waiting = study.get_trials(deepcopy=False)[-1]
    assert internals.set_state(study, waiting, TrialState.RUNNING)
    return internals.start(study, waiting)


def end_trial(trial: Trial, trained: KeptNetwork) -> None:
    trial.study.tell(trial.number, [trained.val_accuracy, 1.0])


def keep(best: BestNetworks, study: Study, *found: KeptNetwork) -> None:
    """Keep networks and end their trials, one after the other."""
    for trained in found:
        trial = start_trial(study, trained)
        best.keep_if_best(trial, trained.content)
        end_trial(trial, trained)


def find_files(best: BestNetworks, study: Study) -> list[Path]:
    """Return the files of the best networks that are here."""
    found = [best._file(study, trial) for trial in best_trials(study).values()]
    return [path for path in found if path and path.is_file()]


def read_values(study: Study, folder: Path) -> dict[float, float]:
    """Return the values that identify the kept networks, by budget."""
    found = [nsopt.load_network(path) for path in find_files(BestNetworks(folder), study)]
    values = {n.budget: n.model.get_parameter("classifier.bias")[0].item() for n in found}
    return {budget: round(value, 3) for budget, value in values.items()}


def find_best(study: Study) -> FrozenTrial:
    (best,) = best_trials(study).values()
    return best


def test_workers_that_finish_together_keep_the_best_network(study: Study, tmp_path: Path) -> None:
    """All compare before any of them has ended; the last one must not win for that reason."""
    best, accuracies = BestNetworks(tmp_path / "artifacts"), (50.0, 80.0, 65.0, 70.0)
    barrier = Barrier(len(accuracies), timeout=60)
    started = [start_trial(study, make_network(a, seed=i)) for i, a in enumerate(accuracies)]
    studies = [open_study(tmp_path) for _ in accuracies]  # threads share filters of warnings

    def keep_one(seed: int) -> None:
        own_study, trained = studies[seed], make_network(accuracies[seed], seed=seed)
        own = internals.start(own_study, own_study.trials[started[seed].number])
        barrier.wait()
        best.keep_if_best(own, trained.content)
        end_trial(own, trained)

    with ThreadPoolExecutor(len(accuracies)) as pool:
        list(pool.map(keep_one, range(len(accuracies))))
    assert read_values(study, best.folder) == {1000: 80.1}
    keep(best, study, make_network(81.0, seed=5))
    assert read_values(study, best.folder) == {1000: 81.5}
    best.clear(study)
    assert [*best.folder.iterdir()] == find_files(best, study)


def test_the_best_network_of_every_budget_is_kept(study: Study, tmp_path: Path) -> None:
    best = BestNetworks(tmp_path / "artifacts")
    found = [(60.0, 1000, 0), (70.0, 2000, 0), (65.0, 1000, 1), (50.0, 2000, 1)]
    keep(best, study, *(make_network(*one) for one in found))
    assert read_values(study, best.folder) == {1000: 65.1, 2000: 70.0}


@pytest.mark.parametrize("seeds", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_ties_keep_the_smallest_seed(seeds: tuple[int, ...], study: Study, tmp_path: Path) -> None:
    best = BestNetworks(tmp_path / "artifacts")
    keep(best, study, *(make_network(60.0, seed=seed) for seed in seeds))
    best.clear(study)
    (path,) = best.folder.iterdir()
    kept = nsopt.load_network(path)
    assert (kept.seed, kept.widths) == (0, (4,) * 8)
    assert read_values(study, best.folder) == {1000: 60.0}


def test_other_folders_name_that_of_the_best_network(study: Study, tmp_path: Path) -> None:
    here, there = BestNetworks(tmp_path / "here"), BestNetworks(tmp_path / "there")
    keep(here, study, make_network(60.0, seed=0))
    keep(there, study, make_network(70.0, seed=1), make_network(65.0, seed=2))
    keep(here, study, make_network(65.0, seed=3))
    assert len([*there.folder.iterdir()]) == len([*here.folder.iterdir()]) == 1
    assert nsopt.load_network(there.file(study, find_best(study))).val_accuracy == 70.0
    where = f"{os.uname().nodename}:{there.folder}"
    message = f"the best network of s/uniform, stored at {where} (uniform 1,000 params seed 1"
    with pytest.raises(NsoptError) as caught:
        here.file(study, find_best(study))
    assert message in str(caught.value)
    assert "validation 70.00 %" in str(caught.value)
    here.clear(study)
    assert not [*here.folder.iterdir()]


class PowerCutError(BaseException):
    """Stands for whatever ends a process."""


def cut(*_: Any) -> None:
    raise PowerCutError


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_half_written_network_is_written_again(
    moment: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, better = BestNetworks(tmp_path / "artifacts"), make_network(70.0, seed=1)
    keep(best, study, make_network(60.0))
    trial = start_trial(study, better)
    with monkeypatch.context() as patch:
        patch.setattr(os, moment, cut)
        with pytest.raises(PowerCutError):
            best.keep_if_best(trial, better.content)
    assert read_values(study, best.folder) == {1000: 60.0}
    best.keep_if_best(trial, better.content)
    end_trial(trial, better)
    best.clear(study)
    assert read_values(study, best.folder) == {1000: 70.1}
    assert [*best.folder.iterdir()] == find_files(best, study)


def test_the_network_of_an_unfinished_trial_replaces_nothing(study: Study, tmp_path: Path) -> None:
    best, better = BestNetworks(tmp_path / "artifacts"), make_network(70.0, seed=1)
    keep(best, study, make_network(60.0))
    lost = start_trial(study, better)
    best.keep_if_best(lost, better.content)
    assert read_values(study, best.folder) == {1000: 60.0}
    best.clear(study)
    assert len([*best.folder.iterdir()]) == 2, "the trial may still end"
    study.tell(lost.number, state=TrialState.FAIL)
    best.clear(study)
    assert [*best.folder.iterdir()] == find_files(best, study)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut off"])
def test_damaged_networks_are_replaced(damage: bytes, study: Study, tmp_path: Path) -> None:
    best = BestNetworks(tmp_path / "artifacts")
    keep(best, study, make_network(60.0))
    (path,) = find_files(best, study)
    path.write_bytes(damage)
    with pytest.raises(NsoptError, match="is damaged: restore it from a copy"):
        best.file(study, find_best(study))
    keep(best, study, make_network(61.0, seed=1))
    assert read_values(study, best.folder) == {1000: 61.1}


def test_the_advice_for_a_missing_network_fits_every_command(study: Study, tmp_path: Path) -> None:
    best = BestNetworks(tmp_path / "artifacts")
    keep(best, study, make_network(60.0))
    elsewhere = BestNetworks(tmp_path / "elsewhere")
    with pytest.raises(NsoptError, match="copy that folder to here, or start over in"):
        elsewhere.file(study, find_best(study))


@pytest.mark.parametrize("planted", ["../../secret", "/etc/passwd", "a/b", ".."])
def test_an_artifact_name_that_points_outside_the_folder_is_refused(
    planted: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna.artifacts._upload.uuid.uuid4", lambda: planted)
    trial, trained = start_trial(study, make_network(60.0)), make_network(60.0)
    trials.write_location(trial, tmp_path)
    file = tmp_path / "any"
    file.touch()
    upload_artifact(artifact_store=NoFiles(), file_path=str(file), study_or_trial=trial)
    best = BestNetworks(tmp_path / "artifacts")
    with pytest.raises(NsoptError, match="is not a file name"):
        best.keep_if_best(trial, trained.content)
    end_trial(trial, trained)
    with pytest.raises(NsoptError, match="is not a file name"):
        best.file(study, find_best(study))
    with pytest.raises(NsoptError, match="is not a file name"):
        best.clear(study)


class NoFiles(FileSystemArtifactStore):
    """Writes nothing."""

    def __init__(self) -> None:
        super().__init__("")

    def write(self, *_: Any) -> None:
        pass


def test_a_file_without_weights_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(NsoptError, match="cannot read weights from"):
        nsopt.load_weights(path)
    path.write_bytes(b"not weights")
    with pytest.raises(NsoptError, match="nsopt did not write this file"):
        nsopt.load_weights(path)
