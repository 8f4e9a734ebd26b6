"""The weights that a study keeps."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import optuna
import pytest
from torch import nn

import nsopt
from nsopt.errors import NsoptError
from nsopt.storage.artifacts import BestNetworks
from nsopt.storage.kept import KeptNetwork
from nsopt.storage.opening import open_storage

WIDTHS = (4,) * 8


def network(accuracy: float, budget: int = 1000) -> KeptNetwork:
    """One that can be told by its accuracy."""
    model = nsopt.get_architecture("vgg11").build(WIDTHS)
    nn.init.constant_(model.get_parameter("classifier.bias"), accuracy)
    return KeptNetwork(
        arch="vgg11",
        widths=WIDTHS,
        input_shape=(3, 32, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        classes=tuple("abcdefghij"),
        method="uniform",
        metric="params",
        budget=budget,
        ratio=None,
        seed=0,
        val_accuracy=accuracy,
        test_accuracy=accuracy,
        model=model,
    )


def kept_values(study: optuna.Study, folder: Path) -> dict[float, float]:
    """What marks the kept networks, by their budgets."""
    found = [nsopt.load_network(path) for path in BestNetworks(folder).files(study)]
    return {n.budget: n.model.get_parameter("classifier.bias")[0].item() for n in found}


def test_of_workers_that_end_at_once_the_best_network_is_kept(tmp_path: Path) -> None:
    """Each looked before any of the others had written: the last one must not win by that."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="s/uniform", storage=open_storage(url))
    best, accuracies = BestNetworks(tmp_path / "artifacts"), (50.0, 80.0, 65.0, 70.0)
    barrier = Barrier(len(accuracies))

    def keep(accuracy: float) -> None:
        own = optuna.load_study(study_name="s/uniform", storage=open_storage(url))
        trained = network(accuracy)
        barrier.wait()
        best.keep_if_best(own, trained)

    with ThreadPoolExecutor(len(accuracies)) as pool:
        list(pool.map(keep, accuracies))
    assert kept_values(study, tmp_path / "artifacts") == {1000: 80.0}
    best.keep_if_best(study, network(81.0))
    assert kept_values(study, tmp_path / "artifacts") == {1000: 81.0}


def test_every_budget_has_its_best_network(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="s/uniform", storage=open_storage(url))
    for accuracy, budget in ((60.0, 1000), (70.0, 2000), (65.0, 1000), (50.0, 2000)):
        BestNetworks(tmp_path / "artifacts").keep_if_best(study, network(accuracy, budget))
    assert kept_values(study, tmp_path / "artifacts") == {1000: 65.0, 2000: 70.0}


def test_a_file_without_weights_says_so(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(NsoptError, match="no weights can be read from"):
        nsopt.load_weights(path)
    path.write_bytes(b"not weights")
    with pytest.raises(NsoptError, match="holds no weights that nsopt kept"):
        nsopt.load_weights(path)
