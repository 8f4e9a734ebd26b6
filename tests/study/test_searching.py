"""Searches of one task with different prices share a pre-trained network."""

from collections.abc import Mapping
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch

from nsopt import Silent, solve_widths
from nsopt.compute.device import Compute
from nsopt.errors import NsoptError, ShortRecordError
from nsopt.methods.registry import get_method
from nsopt.pruning import search as pruning_search
from nsopt.pruning.engine import iterative_prune
from nsopt.scaling.record import Iteration
from nsopt.session.searching import clear_finished, continue_searches
from nsopt.session.session import Session
from nsopt.session.workspace import Workspace
from nsopt.settings import Price
from nsopt.study.laws import read_stored_law
from nsopt.study.plan import Comparison
from tests.pruning.test_resume import EndedError
from tests.study.joined import join
from tests.study.test_comparison import make_workspace

CPU = Compute(torch.device("cpu"), bf16=False)
BOTH: dict[Price, int] = {"filters": 1, "macs": 1}


@pytest.fixture
def began_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of mini-batches before each pruning of this test."""
    seen: list[int] = []

    def watch(*arguments: Any) -> Any:
        resume = arguments[6]
        seen.append(resume["batches"] if resume else 0)
        return iterative_prune(*arguments)

    monkeypatch.setattr(pruning_search, "iterative_prune", watch)
    return seen


def run_searches(
    comparison: Comparison, folder: Path, searches: Mapping[Price, int]
) -> dict[Price, list[Iteration]]:
    session = Session(comparison.subject, make_workspace(folder), CPU, Silent())
    found = continue_searches(session, searches)
    clear_finished(session)
    return found


def describe(found: Mapping[Price, list[Iteration]]) -> dict:
    return {price: [{**i.to_dict(), "seconds": 0} for i in own] for price, own in found.items()}


def test_the_law_of_a_search_by_price_is_read(comparison: Comparison, tmp_path: Path) -> None:
    found = run_searches(comparison, tmp_path, {"macs": 1})
    place, name = make_workspace(tmp_path), comparison.subject.name
    law = read_stored_law(place, name, get_method("neuralscale-macs"))
    assert law.iteration is not None
    assert law.iteration.to_dict() == found["macs"][0].to_dict()
    with pytest.raises(NsoptError, match=f"no search of {name} is stored"):
        read_stored_law(place, name, get_method("neuralscale"))


def test_a_worker_that_comes_early_has_to_wait(comparison: Comparison, tmp_path: Path) -> None:
    place, name = make_workspace(tmp_path), comparison.subject.name
    with pytest.raises(NsoptError, match="or wait for the end of its search"):
        join(name, place, Silent())
    run_searches(comparison, tmp_path, {"filters": 1})
    with pytest.raises(NsoptError, match=f"of {name} only the search is stored at"):
        join(name, place, Silent())


def list_checkpoints(place: Workspace) -> list[Path]:
    return list((place.folder / "checkpoints").rglob("*"))


def test_the_second_search_reuses_the_pre_training_of_the_first(
    comparison: Comparison, tmp_path: Path, began_at: list[int]
) -> None:
    apart = [run_searches(comparison, tmp_path / f"{price}", {price: 1}) for price in BOTH]
    assert began_at == [0, 0]
    together = run_searches(comparison, tmp_path / "both", BOTH)
    assert describe(together) == describe(apart[0] | apart[1])
    images, search = len(comparison.subject.splits.train), comparison.subject.settings.search
    assert began_at[2:] == [0, search.pretrain_epochs * ceil(images / search.batch_size)]
    assert list_checkpoints(make_workspace(tmp_path / "both")) == []
    first, second = (own[0].seconds for own in together.values())
    assert second > 0.1 * first  # the seconds of pre-training count for both


def test_a_search_killed_after_the_first_price_needs_no_new_pre_training(
    comparison: Comparison, tmp_path: Path, began_at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_searches(comparison, tmp_path / "whole", BOTH)
    calls = count(1)

    def ends_in_the_second(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 2:
            raise EndedError
        return solve_widths(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pruning_search, "solve_widths", ends_in_the_second)
        with pytest.raises(EndedError):
            run_searches(comparison, tmp_path / "killed", BOTH)
    assert describe(run_searches(comparison, tmp_path / "killed", BOTH)) == describe(whole)
    assert began_at[4] == began_at[3] == began_at[1] > 0
    assert list_checkpoints(make_workspace(tmp_path / "killed")) == []


@pytest.mark.parametrize("others", [{}, {"params": 1}, {"params": 1, "macs": 1}])
def test_another_command_keeps_the_pre_trained_network_of_a_running_search(
    comparison: Comparison,
    tmp_path: Path,
    began_at: list[int],
    monkeypatch: pytest.MonkeyPatch,
    others: dict[Price, int],
) -> None:
    """others: searches of a command that starts and ends while the first search still runs."""
    place, calls = make_workspace(tmp_path), count(1)

    def disturbed(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 1:
            run_searches(comparison, tmp_path, others)
            assert "network.pt" in {path.name for path in list_checkpoints(place)}
        return solve_widths(*arguments, **options)

    monkeypatch.setattr(pruning_search, "solve_widths", disturbed)
    run_searches(comparison, tmp_path, BOTH)
    assert [batches > 0 for batches in began_at] == [False, *(True for _ in others | {"macs": 1})]
    assert list_checkpoints(place) == []


def test_a_search_that_gives_no_law_keeps_no_pre_trained_network(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings that the error suggests need another one."""

    def ends_early(*arguments: Any, **options: Any) -> Any:
        raise ShortRecordError("too few rows")

    monkeypatch.setattr(pruning_search, "solve_widths", ends_early)
    with pytest.raises(ShortRecordError):
        run_searches(comparison, tmp_path, BOTH)
    assert list_checkpoints(make_workspace(tmp_path)) == []
