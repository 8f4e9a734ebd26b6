"""What a report says in sentences."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from nsopt.reports.results import Results
from nsopt.reports.words import answer, paired_difference
from tests.reports.test_reports import results  # noqa: F401  (a fixture)


def test_differences_are_paired_by_seed() -> None:
    one, other = pd.Series({0: 70.0, 1: 60.0, 2: 65.0}), pd.Series({0: 69.0, 1: 59.2, 2: 63.9})
    difference = paired_difference(one, other)
    assert difference is not None
    assert difference.mean == pytest.approx(2.9 / 3)
    assert difference.is_certain
    assert difference.low == pytest.approx(
        0.967 - 2.920 * np.std([1, 0.8, 1.1], ddof=1) / 3**0.5, abs=1e-3
    )
    single = paired_difference(one[:1], other)
    assert single is not None
    assert not single.is_certain
    assert "one seed, so without an interval" in str(single)
    assert paired_difference(one[:1], other[1:]) is None


def test_the_answer_names_the_best_at_every_budget(results: Results) -> None:  # noqa: F811
    sentences = [str(verdict) for verdict in answer(results)]
    assert len(sentences) == results.outcomes["budget"].nunique()
    table = results.outcomes.groupby(["budget", "method"])["val_accuracy"].mean().unstack()
    assert table.idxmax(axis=1).eq("neuralscale").all()
    for sentence in sentences:
        assert "NeuralScale is ahead" in sentence
        assert ", on Uniform +3.00 points" in sentence
        assert "Widths of NeuralScale: " in sentence
    assert any("For that accuracy Uniform needs" in sentence for sentence in sentences)


def test_methods_without_a_common_seed_are_not_compared(results: Results) -> None:  # noqa: F811
    frame = results.outcomes
    apart = frame["seed"].where(frame["method"] == "neuralscale", frame["seed"] + 100)
    for sentence in map(
        str, answer(dataclasses.replace(results, outcomes=frame.assign(seed=apart)))
    ):
        assert "%, but no seed in common with Uniform." in sentence


def test_a_law_beyond_its_record_is_told(results: Results) -> None:  # noqa: F811
    beyond = results.outcomes.assign(beyond_record=1.83)
    for sentence in map(str, answer(dataclasses.replace(results, outcomes=beyond))):
        assert "The budget is 1.8 times the largest recorded network" in sentence


def test_what_cannot_be_told_apart_is_said(results: Results) -> None:  # noqa: F811
    frame = results.outcomes
    lead = frame["method"].eq("neuralscale") * np.where(frame["seed"] == 0, 5.0, -4.0)
    apart = dataclasses.replace(results, outcomes=frame.assign(test_accuracy=50 + lead))
    assert all("not distinguishable" in verdict.text for verdict in answer(apart))


def test_equal_accuracies_are_called_level(results: Results) -> None:  # noqa: F811
    level = results.outcomes.assign(val_accuracy=70.0)
    for sentence in map(str, answer(dataclasses.replace(results, outcomes=level))):
        assert "Uniform and NeuralScale are level; on the test images Uniform has" in sentence


def test_methods_with_the_same_widths_are_said_to_have_them(results: Results) -> None:  # noqa: F811
    frame = results.outcomes
    by_budget = frame[frame["method"] == "uniform"].drop_duplicates("budget")
    same = frame["budget"].map(dict(zip(by_budget["budget"], by_budget["widths"], strict=True)))
    for sentence in map(
        str, answer(dataclasses.replace(results, outcomes=frame.assign(widths=same)))
    ):
        assert ": NeuralScale and Uniform have 5" in sentence
        assert "% on the test images." in sentence
        assert "Widths of NeuralScale and Uniform: " in sentence


def test_who_shares_the_best_widths_is_no_rival(results: Results) -> None:  # noqa: F811
    frame = results.outcomes
    lead = frame[["val_accuracy", "test_accuracy"]].sub(
        frame["method"].eq("neuralscale") * 5, axis=0
    )
    behind = frame.assign(**lead)
    tuned = behind[behind["method"] == "uniform"].assign(method="tuned")
    outcomes = pd.concat([behind, tuned], ignore_index=True)
    for sentence in map(str, answer(dataclasses.replace(results, outcomes=outcomes))):
        assert "Uniform and Tuned are ahead; on the test images Uniform and Tuned have" in sentence
        assert ", on NeuralScale +2.00 points" in sentence
        assert "Widths of Uniform and Tuned: " in sentence
