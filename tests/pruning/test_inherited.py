"""Smaller networks that inherit from a trained one, scored before they are fine-tuned."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nsopt
from nsopt import Architecture, ImageData, SearchSettings, TrainSettings, train
from nsopt.compute.device import resolve_compute
from nsopt.data.images import Splits
from nsopt.pruning import engine
from nsopt.pruning.inherited import TrainedStart, inherit_network, rank_by_importance
from nsopt.pruning.ranking import UnitRanking
from nsopt.tasks.classification import Classification
from nsopt.tasks.supervise import supervise
from nsopt.tasks.supervision import evaluate
from nsopt.training.kernels import SafeConv2d
from nsopt.training.step import train_step
from tests.conftest import first_digits
from tests.rescaled import with_base_widths

CPU = resolve_compute("cpu", "fp32")
SETTINGS = SearchSettings(batch_size=32, device="cpu")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    """400 training and 100 test digits, enough to learn from."""
    return first_digits(400, 100)


@pytest.fixture(scope="module")
def narrow(narrow: Architecture) -> Architecture:
    """Wide enough to learn well."""
    return with_base_widths(narrow, tuple(2 * width for width in narrow.base_widths))


@pytest.fixture(scope="module")
def splits(digits: ImageData) -> Splits:
    return digits.split(0.2)


@pytest.fixture(scope="module")
def start(narrow: Architecture, digits: ImageData, splits: Splits) -> TrainedStart:
    exact = {"device": "cpu", "precision": "fp32", "seed": 1}
    settings = TrainSettings(epochs=6, batch_size=32, lr=0.05, val_fraction=0.2, **exact)
    model = train(narrow, narrow.base_widths, digits, settings).model
    ranking = rank_by_importance(narrow, model, Classification(splits), SETTINGS, CPU, batches=5)
    return TrainedStart(narrow, model, ranking)


def compute_score(start: TrainedStart, splits: Splits, widths: tuple[int, ...]) -> float:
    images = Classification(splits)
    model = inherit_network(start, widths, images, CPU).eval()
    return evaluate(images.validation(CPU), model)


def test_important_units_score_higher_than_others(start: TrainedStart, splits: Splits) -> None:
    least = replace(start.ranking, scores=tuple(-own for own in start.ranking.scores))
    gains = []
    for eighths in (5, 6, 7):
        widths = tuple(eighths * width // 8 for width in start.arch.base_widths)
        others = compute_score(replace(start, ranking=least), splits, widths)
        gains.append(compute_score(start, splits, widths) - others)
    assert sum(gains) / len(gains) > 10


def test_inheriting_recomputes_statistics_of_norms(start: TrainedStart, splits: Splits) -> None:
    widths = tuple(3 * width // 4 for width in start.arch.base_widths)
    forgotten = start.arch.inherit(
        start.model,
        [torch.arange(width) for width in start.arch.base_widths],
        start.arch.base_widths,
    )
    for module in forgotten.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    without = replace(start, model=forgotten)
    assert compute_score(without, splits, widths) == compute_score(start, splits, widths)


def test_statistics_behind_a_dropout_do_not_depend_on_the_random_state() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.Linear(8, 3))
    x = torch.randn(16, 4)
    arch = nsopt.trace(model, x)
    task = nsopt.Task([(x, torch.arange(16) % 3)], nn.functional.cross_entropy)
    supervision = supervise(task, SETTINGS, CPU)
    start = TrainedStart(arch, model, UnitRanking((torch.arange(8.0),), (0,)))
    before, means = torch.get_rng_state(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        inherited = inherit_network(start, [4], supervision, CPU)
        means.append(inherited.get_buffer("2.running_mean"))
    assert torch.equal(*means)
    torch.set_rng_state(before)


def test_ranking_changes_no_weight_and_no_state(start: TrainedStart, splits: Splits) -> None:
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    state = torch.get_rng_state()
    images = Classification(splits)
    again = rank_by_importance(start.arch, start.model, images, SETTINGS, CPU, batches=5)
    torch.testing.assert_close(dict(start.model.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(torch.get_rng_state(), state)
    torch.testing.assert_close(again.scores, start.ranking.scores)


def test_the_steps_of_a_ranking_use_safe_kernels(
    start: TrainedStart, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's own write beyond their memory: 1x1, a stride, few channels."""
    used: list[set[type[nn.Module]]] = []

    def look(model: nn.Module, *rest: Any) -> Tensor:
        used.append(set(map(type, model.modules())))
        return train_step(model, *rest)

    monkeypatch.setattr(engine, "train_step", look)
    rank_by_importance(start.arch, start.model, Classification(splits), SETTINGS, CPU, batches=1)
    assert len(used) == 1
    assert all(SafeConv2d in kinds and nn.Conv2d not in kinds for kinds in used)
