"""Iterations of descent: their seeds, and what remains after an error."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nsopt
from nsopt import Architecture, ImageData, NsoptError, SearchSettings, search
from nsopt.compute import checkpoint
from nsopt.errors import OutOfMemoryError, ShortRecordError
from nsopt.pruning import search as pruning_search
from nsopt.pruning.engine import iterative_prune
from nsopt.pruning.search import derive_seed
from tests.conftest import BRIEF
from tests.study.test_comparison import Listener

SETTINGS = SearchSettings(filters_per_step=24, iterations=3, batch_size=16, small_width=3, **BRIEF)


def test_no_two_iterations_of_any_searches_share_a_seed() -> None:
    """Seeds of a tuning study are neighbours: 0 and its second iteration must not be 1."""
    seeds = [derive_seed(seed, number) for seed in range(40) for number in range(15)]
    assert len(set(seeds)) == len(seeds)
    assert [derive_seed(seed, 0) for seed in range(3)] == [0, 1, 2]


@pytest.fixture(scope="module")
def whole(narrow: Architecture, few: ImageData) -> list[dict]:
    result = search(narrow, few, SETTINGS)
    return [{**iteration.to_dict(), "seconds": 0} for iteration in result.iterations]


def test_a_small_network_is_pruned_in_as_many_steps_as_a_law_needs(few: ImageData) -> None:
    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    arch, told = nsopt.trace(network, torch.zeros(2, *few.train.images.shape[1:])), Listener()
    found = search(arch, few, SETTINGS.updated(filters_per_step=80, iterations=1), progress=told)
    (iteration,) = found.iterations
    left = iteration.record.widths.sum(axis=1)
    assert left.tolist() == [24, 20, 16, 12, 8, 4, 2]
    expected = "80 filters in a step are too many for a law of this network: 4 instead"
    assert told.messages.count(expected) == 1


def test_a_network_with_too_few_filters_for_a_law_is_refused(few: ImageData) -> None:
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    arch = nsopt.trace(nn.Sequential(*layers, nn.Linear(4, 10)), torch.zeros(2, 1, 32, 32))
    with pytest.raises(ShortRecordError, match=r"steps that a law needs: .* has only 4 filters"):
        search(arch, few, SETTINGS)


@pytest.mark.parametrize("error", [OutOfMemoryError("no room"), ShortRecordError("5 rows")])
def test_an_error_in_a_late_iteration_keeps_the_earlier_ones(
    narrow: Architecture,
    few: ImageData,
    whole: list[dict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: NsoptError,
) -> None:
    file = tmp_path / "search.pt"
    calls = itertools.count(1)

    def fails_in_the_third(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise error
        return iterative_prune(*arguments)

    monkeypatch.setattr(pruning_search, "iterative_prune", fails_in_the_third)
    with pytest.raises(type(error)):
        search(narrow, few, SETTINGS, checkpoint=file)
    assert file.exists()
    result = search(narrow, few, SETTINGS, checkpoint=file)
    assert next(calls) == 5  # one further call: the first two iterations were kept
    assert [{**i.to_dict(), "seconds": 0} for i in result.iterations] == whole
    assert not file.exists()


def test_running_out_of_memory_within_an_iteration_keeps_its_state(
    narrow: Architecture, few: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    file, one = tmp_path / "search.pt", SETTINGS.updated(iterations=1)

    def runs_out_of_memory(*arguments: Any) -> Any:
        batches = itertools.count(1)

        def save(state: Any, pretrained: bool) -> None:
            arguments[-2](state, pretrained)
            if next(batches) == 9:
                raise OutOfMemoryError("no room")

        return iterative_prune(*(*arguments[:-2], save, arguments[-1]))

    with monkeypatch.context() as patch:
        patch.setattr(pruning_search, "iterative_prune", runs_out_of_memory)
        with pytest.raises(OutOfMemoryError):
            search(narrow, few, one, checkpoint=file)
    resumed = []

    def watch(*arguments: Any) -> Any:
        resumed.append(arguments[-3]["batches"])
        return iterative_prune(*arguments)

    monkeypatch.setattr(pruning_search, "iterative_prune", watch)
    search(narrow, few, one, checkpoint=file)
    assert resumed == [9]
