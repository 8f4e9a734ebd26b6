"""The weights that a study keeps."""

import errno
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
    return opened(tmp_path, create=True)


def opened(folder: Path, create: bool = False) -> Study:
    storage = open_storage(f"sqlite:///{folder / 'study.db'}")
    if not create:
        return optuna.load_study(study_name="s/uniform", storage=storage)
    directions = schema.DIRECTIONS
    return optuna.create_study(study_name="s/uniform", storage=storage, directions=directions)


def network(accuracy: float, budget: int = 1000, seed: int = 0) -> KeptNetwork:
    """One that can be told by its accuracy and its seed, which decides its widths, too."""
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
        val_accuracy=accuracy,
        test_accuracy=accuracy,
        model=model,
    )


def running(study: Study, trained: KeptNetwork) -> Trial:
    """A trial that runs the point of a network."""
    point = Point(trained.method, get_metric(trained.metric), trained.budget, trained.seed)
    trials.enqueue_point(study, point)
    waiting = study.get_trials(deepcopy=False)[-1]
    assert internals.take(study, waiting)
    return internals.running(study, waiting)


def end(trial: Trial, trained: KeptNetwork) -> None:
    trial.study.tell(trial.number, [trained.val_accuracy, 1.0])


def keep(best: BestNetworks, study: Study, *found: KeptNetwork) -> None:
    """Train and end one after the other."""
    for trained in found:
        trial = running(study, trained)
        best.keep_if_best(trial, trained)
        end(trial, trained)


def kept_values(study: Study, folder: Path) -> dict[float, float]:
    """What marks the kept networks, by their budgets."""
    found = [nsopt.load_network(path) for path in BestNetworks(folder).files(study)]
    values = {n.budget: n.model.get_parameter("classifier.bias")[0].item() for n in found}
    return {budget: round(value, 3) for budget, value in values.items()}


def best_of(study: Study) -> FrozenTrial:
    (best,) = best_trials(study).values()
    return best


def test_of_workers_that_end_at_once_the_best_network_is_kept(study: Study, tmp_path: Path) -> None:
    """Each looked before any of the others had ended: the last one must not win by that."""
    best, accuracies = BestNetworks(tmp_path / "artifacts"), (50.0, 80.0, 65.0, 70.0)
    barrier = Barrier(len(accuracies), timeout=60)
    started = [running(study, network(a, seed=i)) for i, a in enumerate(accuracies)]
    studies = [opened(tmp_path) for _ in accuracies]  # filters of warnings are no thread's own

    def keep_one(seed: int) -> None:
        own_study, trained = studies[seed], network(accuracies[seed], seed=seed)
        own = internals.running(own_study, own_study.trials[started[seed].number])
        barrier.wait()
        best.keep_if_best(own, trained)
        end(own, trained)

    with ThreadPoolExecutor(len(accuracies)) as pool:
        list(pool.map(keep_one, range(len(accuracies))))
    assert kept_values(study, best.folder) == {1000: 80.1}
    keep(best, study, network(81.0, seed=5))
    assert kept_values(study, best.folder) == {1000: 81.5}
    best.clear(study)
    assert [*best.folder.iterdir()] == best.files(study)


def test_every_budget_has_its_best_network(study: Study, tmp_path: Path) -> None:
    best = BestNetworks(tmp_path / "artifacts")
    found = [(60.0, 1000, 0), (70.0, 2000, 0), (65.0, 1000, 1), (50.0, 2000, 1)]
    keep(best, study, *(network(*one) for one in found))
    assert kept_values(study, best.folder) == {1000: 65.1, 2000: 70.0}


@pytest.mark.parametrize("seeds", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_seeds_that_tie_the_smallest_is_kept(
    seeds: tuple[int, ...], study: Study, tmp_path: Path
) -> None:
    best = BestNetworks(tmp_path / "artifacts")
    keep(best, study, *(network(60.0, seed=seed) for seed in seeds))
    best.clear(study)
    (path,) = best.folder.iterdir()
    kept = nsopt.load_network(path)
    assert (kept.seed, kept.widths) == (0, (4,) * 8)
    assert kept_values(study, best.folder) == {1000: 60.0}


def test_processes_with_other_folders_agree_and_say_which_one_has_the_best(
    study: Study, tmp_path: Path
) -> None:
    here, there = BestNetworks(tmp_path / "here"), BestNetworks(tmp_path / "there")
    keep(here, study, network(60.0, seed=0))
    keep(there, study, network(70.0, seed=1), network(65.0, seed=2))
    keep(here, study, network(65.0, seed=3))
    assert len([*there.folder.iterdir()]) == len([*here.folder.iterdir()]) == 1
    assert nsopt.load_network(there.file(study, best_of(study))).val_accuracy == 70.0
    where = f"{os.uname().nodename}:{there.folder}"
    message = f"the best network of s/uniform, stored at {where} (uniform 1,000 params seed 1"
    with pytest.raises(NsoptError) as caught:
        here.file(study, best_of(study))
    assert message in str(caught.value)
    assert "validation 70.00 %" in str(caught.value)
    here.clear(study)
    assert not [*here.folder.iterdir()]


class PowerCutError(BaseException):
    """Stands for what ends a process."""


def cut(*_: Any) -> None:
    raise PowerCutError


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_network_that_was_half_written_is_written_again(
    moment: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, better = BestNetworks(tmp_path / "artifacts"), network(70.0, seed=1)
    keep(best, study, network(60.0))
    trial = running(study, better)
    with monkeypatch.context() as patch:
        patch.setattr(os, moment, cut)
        with pytest.raises(PowerCutError):
            best.keep_if_best(trial, better)
    assert kept_values(study, best.folder) == {1000: 60.0}
    best.keep_if_best(trial, better)
    end(trial, better)
    best.clear(study)
    assert kept_values(study, best.folder) == {1000: 70.1}
    assert [*best.folder.iterdir()] == best.files(study)


def test_a_better_network_of_a_trial_that_never_ended_replaces_nothing(
    study: Study, tmp_path: Path
) -> None:
    best, better = BestNetworks(tmp_path / "artifacts"), network(70.0, seed=1)
    keep(best, study, network(60.0))
    lost = running(study, better)
    best.keep_if_best(lost, better)
    assert kept_values(study, best.folder) == {1000: 60.0}
    best.clear(study)
    assert len([*best.folder.iterdir()]) == 2, "the trial may still end"
    study.tell(lost.number, state=TrialState.FAIL)
    best.clear(study)
    assert [*best.folder.iterdir()] == best.files(study)


def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    best, trial = BestNetworks(tmp_path / "artifacts"), running(study, network(60.0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            best.keep_if_best(trial, network(60.0))
    assert not [*best.folder.iterdir()]
    best.keep_if_best(trial, network(60.0))
    end(trial, network(60.0))
    assert kept_values(study, best.folder) == {1000: 60.0}


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut off"])
def test_a_damaged_network_is_known_and_replaced(
    damage: bytes, study: Study, tmp_path: Path
) -> None:
    best = BestNetworks(tmp_path / "artifacts")
    keep(best, study, network(60.0))
    assert not best.damaged(study)
    (path,) = best.files(study)
    path.write_bytes(damage)
    with pytest.raises(NsoptError, match="is damaged: run the study's command again"):
        best.file(study, best_of(study))
    assert best.content(study, best_of(study)) is None
    assert best.damaged(study) == [best_of(study)]
    best.mend(study, best_of(study), network(60.0))
    assert kept_values(study, best.folder) == {1000: 60.0}
    path.write_bytes(damage)
    keep(best, study, network(61.0, seed=1))
    assert kept_values(study, best.folder) == {1000: 61.1}


@pytest.mark.parametrize("planted", ["../../secret", "/etc/passwd", "a/b", ".."])
def test_an_artifact_that_leads_out_of_the_folder_is_refused(
    planted: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna.artifacts._upload.uuid.uuid4", lambda: planted)
    trial, trained = running(study, network(60.0)), network(60.0)
    trials.write_place(trial, "elsewhere")
    file = tmp_path / "any"
    file.touch()
    upload_artifact(artifact_store=NoFiles(), file_path=str(file), study_or_trial=trial)
    best = BestNetworks(tmp_path / "artifacts")
    with pytest.raises(NsoptError, match="is not a file name"):
        best.keep_if_best(trial, trained)
    end(trial, trained)
    with pytest.raises(NsoptError, match="is not a file name"):
        best.file(study, best_of(study))
    with pytest.raises(NsoptError, match="is not a file name"):
        best.clear(study)


class NoFiles(FileSystemArtifactStore):
    """Writes nothing."""

    def __init__(self) -> None:
        super().__init__("")

    def write(self, *_: Any) -> None:
        pass


def test_networks_of_an_older_version_are_found_and_outdone(study: Study, tmp_path: Path) -> None:
    """It kept one artifact of a study for every budget, and told nothing of machines."""
    best, old = BestNetworks(tmp_path / "artifacts"), network(60.0, seed=2)
    best.folder.mkdir()
    file = tmp_path / "s-uniform-1000-params.pt"
    old.save(file)
    store = FileSystemArtifactStore(best.folder)
    upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=study)
    for seed in (1, 2):
        end(running(study, network(60.0, seed=seed)), old)
    assert nsopt.load_network(best.file(study, best_of(study))).seed == 2
    keep(best, study, network(59.0, seed=3))
    assert kept_values(study, best.folder) == {1000: 60.2}
    keep(best, study, network(61.0, seed=4))
    best.clear(study)
    assert kept_values(study, best.folder) == {1000: 61.4}
    assert [*best.folder.iterdir()] == best.files(study)


def test_a_worse_network_of_an_older_version_is_refused(study: Study, tmp_path: Path) -> None:
    best = BestNetworks(tmp_path / "artifacts")
    best.folder.mkdir()
    file = tmp_path / "s-uniform-1000-params.pt"
    network(5.0).save(file)
    store = FileSystemArtifactStore(best.folder)
    upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=study)
    trial = running(study, network(10.0, seed=1))
    trials.write_run(trial, {})
    end(trial, network(10.0, seed=1))
    with pytest.raises(NsoptError, match=f"trained by {os.uname().nodename}:.* 10.00 %"):
        best.file(study, best_of(study))


def test_a_file_without_weights_says_so(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(NsoptError, match="cannot read weights from"):
        nsopt.load_weights(path)
    path.write_bytes(b"not weights")
    with pytest.raises(NsoptError, match="nsopt did not write this file"):
        nsopt.load_weights(path)
