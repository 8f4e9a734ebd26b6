"""The sentences of a report."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nsopt.cli.export import export_command, name_answer
from nsopt.reports.page import render
from nsopt.reports.results import Results
from nsopt.reports.words import Verdict, answer, paired_difference, warn_of_latencies
from nsopt.session.workspace import Workspace
from nsopt.storage.schema import NetworkRow

WORKSPACE = Workspace("sqlite:///study.db", Path())


def answer_for(results: Results, **columns: Any) -> list[Verdict]:
    """Return the verdicts at both budgets, after a change of columns of the outcomes."""
    verdicts = answer(dataclasses.replace(results, outcomes=results.outcomes.assign(**columns)))
    assert len(verdicts) == 2
    return verdicts


def test_differences_are_paired_by_seed() -> None:
    one, other = pd.Series({0: 70.0, 1: 60.0, 2: 65.0}), pd.Series({0: 69.0, 1: 59.2, 2: 63.9})
    difference = paired_difference(one, other)
    assert difference is not None
    assert difference.mean == pytest.approx(2.9 / 3)
    assert difference.is_certain
    low = 0.967 - 2.920 * np.std([1, 0.8, 1.1], ddof=1) / 3**0.5
    assert difference.low == pytest.approx(low, abs=1e-3)
    single = paired_difference(one[:1], other)
    assert single is not None
    assert not single.is_certain
    assert single.interval == "one seed, no interval"
    assert paired_difference(one[:1], other[1:]) is None
    tiny = paired_difference(1e-10 * one, 1e-10 * other)
    assert tiny is not None
    assert np.isfinite(tiny.low)
    equal = paired_difference(one, one - 0.25)
    assert equal is not None
    assert (equal.is_certain, equal.interval) == (False, "equal in all seeds, no interval")


def test_equal_differences_still_have_the_error_of_the_test_images() -> None:
    one, other = pd.Series([99.0, 99.0]), pd.Series([98.0, 98.0])
    difference = paired_difference(one, other, test_images=450)
    assert difference is not None
    assert (difference.low, difference.high) == pytest.approx((-0.33, 2.33), abs=0.01)
    assert not difference.is_certain
    many = paired_difference(one, other, test_images=10_000)
    assert many is not None
    assert many.is_certain


def test_the_answer_names_the_winner_at_every_budget(results: Results) -> None:
    certain = answer_for(results, beyond_record=np.nan)
    assert str(certain[0]) == (
        "0.25x (1,000 params): NeuralScale ahead of Uniform by 3.0 points of test accuracy "
        "(90 %: +3.0 to +3.0, 2 seeds), at 2x the time. Widths of NeuralScale: 2-7."
    )
    assert all(verdict.is_certain for verdict in certain)


def test_a_winner_on_validation_may_lose_on_the_test_images(results: Results) -> None:
    frame = results.outcomes
    behind = frame["test_score"] - 4 * frame["method"].eq("neuralscale")
    first, _ = answer_for(results, test_score=behind)
    assert "ahead of Uniform in validation, but 1.0 points behind in test" in first.text
    assert first.is_certain


def test_the_answer_takes_the_network_that_compress_returns(results: Results) -> None:
    """The best by the validation, by however little; the test decides nothing."""
    frame = results.outcomes
    row = NetworkRow("100%", "dense", None, 60.0, None, None, None, 9, 90, epochs=0, planned=0)
    for kind in ("uniform", "fit"):
        methods = frame["method"].map({"neuralscale": kind, "uniform": "taylor"})
        scores = frame["method"].eq("neuralscale") * 1e-3 + 60.0
        changed = frame.assign(method=methods, score=scores, test_score=120.0 - scores)
        compression = dataclasses.replace(results, outcomes=changed, networks=[row])
        assert [verdict.row["method"] for verdict in answer(compression)] == [kind, kind]
        assert name_answer(compression)["study"] == f"{results.name}/{kind}"


def test_no_method_wins_if_nothing_was_learned(results: Results) -> None:
    few = dataclasses.replace(results, settings=results.settings | {"data": {"test": 100}})
    for verdict in answer_for(few, test_score=52.0):
        expected = "no network is surely better than a guess (50 % for 2 classes): train longer"
        assert expected in verdict.text
        assert not verdict.is_certain


def test_methods_without_a_common_seed_are_not_compared(results: Results) -> None:
    frame = results.outcomes
    apart = frame["seed"].where(frame["method"] == "neuralscale", frame["seed"] + 100)
    for verdict in answer_for(results, seed=apart):
        assert "NeuralScale and Uniform have no seed in common." in str(verdict)


def test_methods_are_compared_by_the_seeds_that_both_have(results: Results) -> None:
    frame = results.outcomes.assign(test_score=60.0)
    best = frame[(frame["method"] == "neuralscale") & (frame["seed"] == 1)]
    more = pd.concat([frame, best.assign(seed=2, test_score=99.0)], ignore_index=True)
    for verdict in answer(dataclasses.replace(results, outcomes=more)):
        assert "no difference shown: NeuralScale 60.0 %, Uniform 60.0 % (" in verdict.text


def test_the_answer_warns_of_a_budget_beyond_the_record(results: Results) -> None:
    for verdict in answer_for(results, beyond_record=1.83):
        assert "Extrapolated: 1.8 times the largest recorded network." in str(verdict)


def test_the_answer_says_that_no_difference_is_shown(results: Results) -> None:
    frame = results.outcomes
    lead = frame["method"].eq("neuralscale") * np.where(frame["seed"] == 0, 5.0, -4.0)
    for verdict in answer_for(results, test_score=50 + lead):
        assert "no difference shown: NeuralScale 50.5 %, Uniform 50.0 % (90 %: " in verdict.text
        assert not verdict.is_certain
    apart = dataclasses.replace(results, outcomes=frame.assign(test_score=50 + lead))
    command = export_command(WORKSPACE, name_answer(apart), apart.task.arch)
    assert f"--study={results.name}/neuralscale" in command


def test_the_export_command_names_a_users_own_network(results: Results) -> None:
    own = dataclasses.replace(results.task, arch="mynet:make")
    changed = dataclasses.replace(results, task=own)
    command = export_command(WORKSPACE, name_answer(changed), changed.task.arch)
    assert "--arch=mynet:make" in command
    assert "--arch" not in export_command(WORKSPACE, name_answer(results), results.task.arch)


@pytest.mark.parametrize("url", ["sqlite:///elsewhere/study.db", "postgresql://host/db"])
def test_the_export_command_names_the_folder_of_networks_unless_it_is_beside_the_storage(
    results: Results, url: str
) -> None:
    assert "--artifacts" not in export_command(WORKSPACE, name_answer(results), results.task.arch)
    command = export_command(Workspace(url, Path("here")), name_answer(results), results.task.arch)
    assert "--artifacts=here/artifacts" in command


def test_unreliable_milliseconds_cause_a_warning(results: Results) -> None:
    assert warn_of_latencies(results) == ""
    busy = results.outcomes.assign(latency_spread=0.71)
    warning = warn_of_latencies(dataclasses.replace(results, outcomes=busy))
    assert warning.startswith("Milliseconds of 4 of 4 networks are unreliable")
    assert "run nsopt latency to measure again" in warning
    assert warning in render(dataclasses.replace(results, outcomes=busy), [])
