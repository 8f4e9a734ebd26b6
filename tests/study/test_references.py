"""References: uniform networks of other sizes beside a comparison."""

import dataclasses

import pytest

from nsopt.data.images import ImageData
from nsopt.methods.registry import BASELINE, get_methods
from nsopt.models.architecture import TableArchitecture
from nsopt.progress import Silent
from nsopt.reports.words import answer
from nsopt.scaling.metric import MACS, PARAMS
from nsopt.session.workspace import Workspace
from nsopt.study.compare import run_comparison
from nsopt.study.comparison import Comparison, Size, choose_reference_budgets
from tests.study.test_comparison import (
    load_results,
    make_comparison,
    make_workspace,
    open_studies,
    sizes_of_ratios,
)


@pytest.fixture
def comparison(narrow: TableArchitecture, digits: ImageData) -> Comparison:
    whole = make_comparison(narrow, digits)
    methods = get_methods(["uniform", "neuralscale"])
    return dataclasses.replace(whole, methods=methods, seeds=1, references=3)


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("references"))


def test_references_span_the_macs_and_the_latencies_of_the_others(comparison: Comparison) -> None:
    budgets = choose_reference_budgets(comparison, [10**6, 3 * 10**6], [1.0, 5.0], 1)
    assert budgets == [1709975, 2924017, 5000000]
    points = comparison.points(BASELINE, [Size(MACS, budget) for budget in budgets])
    assert [point.budget for point in points] == budgets
    assert {(point.method, point.metric, point.seed) for point in points} == {("uniform", MACS, 0)}
    assert choose_reference_budgets(comparison, [10**6, 1.02 * 10**6], [1.0, 1.05], 1) == []
    assert choose_reference_budgets(comparison, [10**6, 3 * 10**6], [1.0, 5.0], 0) == []
    none = dataclasses.replace(comparison, references=0)
    assert choose_reference_budgets(none, [10**6, 3 * 10**6], [1.0, 5.0], 1) == []


def test_references_compare_each_network_with_uniform_ones_of_its_size(
    comparison: Comparison,
) -> None:
    """A method may lack some budgets, so its networks are not in the order of the uniform ones."""
    for macs, latency in (
        ([10**6, 4 * 10**6, 4 * 10**6], [1.0, 8.0, 8.0]),
        ([4 * 10**6, 10**6, 2 * 10**6, 4 * 10**6], [8.0, 1.0, 3.0, 8.0]),
    ):
        assert choose_reference_budgets(comparison, macs, latency, 2) == [1587401, 2519842]


def test_references_are_trained_and_timed_beside_the_others(
    comparison: Comparison, narrow: TableArchitecture, place: Workspace
) -> None:
    """They are timed beside the others before any training, so that trials and tables agree."""
    far_apart = sizes_of_ratios(narrow, PARAMS, [0.4, 0.7])  # for any measured latencies
    comparison = dataclasses.replace(comparison, sizes=far_apart)
    run_comparison(comparison, place, Silent())
    outcomes = load_results(place).outcomes
    references = outcomes.query("metric == 'macs'")
    assert (references["method"] == "uniform").all()
    assert 1 <= len(references) <= 3
    assert (references["macs"] <= references["budget"]).all()
    assert len(answer(load_results(place))) == len(far_apart)
    assert sorted(outcomes["latency_ms"]) == sorted(
        trial.user_attrs["latency_ms"]
        for kind, study in open_studies(place).items()
        if kind in ("uniform", "neuralscale")
        for trial in study.trials
    )
    run_comparison(comparison, place, Silent())
    assert len(load_results(place).outcomes) == len(outcomes)
