"""The weights that a study keeps."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import optuna
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from torch import nn

import nsopt
from nsopt.errors import NsoptError
from nsopt.storage.artifacts import BestWeights
from nsopt.storage.opening import open_storage


def kept_value(study: optuna.Study, folder: Path) -> float:
    (kept,) = get_all_artifact_meta(study)
    weights = torch.load(folder / kept.artifact_id, weights_only=True)
    return float(weights["state"]["classifier.bias"][0])


def test_of_workers_that_end_at_once_the_best_network_is_kept(tmp_path: Path) -> None:
    """Each looked before any of the others had written: the last one must not win by that."""
    arch = nsopt.get_architecture("vgg11")
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="s/uniform", storage=open_storage(url))
    weights, accuracies = BestWeights(arch, tmp_path / "artifacts"), (50.0, 80.0, 65.0, 70.0)
    barrier = Barrier(len(accuracies))
    widths = [4] * len(arch.base_widths)

    def keep(accuracy: float) -> None:
        own = optuna.load_study(study_name="s/uniform", storage=open_storage(url))
        model = arch.build(widths)
        nn.init.constant_(model.get_parameter("classifier.bias"), accuracy)
        barrier.wait()
        weights.keep_if_best(own, accuracy, widths, model)

    with ThreadPoolExecutor(len(accuracies)) as pool:
        list(pool.map(keep, accuracies))
    assert kept_value(study, tmp_path / "artifacts") == 80.0
    keep_alone = arch.build(widths)
    nn.init.constant_(keep_alone.get_parameter("classifier.bias"), 81.0)
    weights.keep_if_best(study, 81.0, widths, keep_alone)
    assert kept_value(study, tmp_path / "artifacts") == 81.0


def test_a_file_without_weights_says_so(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(NsoptError, match="no weights can be read from"):
        nsopt.load_weights(path)
    path.write_bytes(b"not weights")
    with pytest.raises(NsoptError, match="holds no weights that nsopt kept"):
        nsopt.load_weights(path)
