"""Tuning a scaling law on narrow networks, in this process."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import ttest_rel

from nsopt.data.images import ImageData
from nsopt.data.source import Source
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.methods.registry import get_methods
from nsopt.models.architecture import Architecture, TableArchitecture
from nsopt.progress import Silent
from nsopt.reports.results import read_results
from nsopt.reports.tuning import publish_tuning, tuning_note
from nsopt.reports.tuning_page import is_about_tuning, write_tuning_report
from nsopt.scaling.law import floor_widths, uniform_curve
from nsopt.scaling.metric import LATENCY, MACS, METRICS, PARAMS, Metric
from nsopt.scaling.solve import solve_widths
from nsopt.storage import queue, schema
from nsopt.storage.studies import load_studies
from nsopt.study import learned_latency, session
from nsopt.study.compare import run_comparison
from nsopt.study.comparison import Comparison, sizes_of_ratios
from nsopt.study.stored_law import read_tuned_law
from nsopt.study.task import Task
from nsopt.study.workspace import Workspace
from nsopt.training.loop import Outcome, train_configuration
from nsopt.tuning import law as tuning_law
from nsopt.tuning.law import Confirmation, LawTuning, list_prices, tune_law
from nsopt.tuning.settings import best_settings
from tests.study.test_comparison import SETTINGS, Listener, load_results, make_workspace


@pytest.fixture
def tuning(narrow: TableArchitecture, digits: ImageData) -> LawTuning:
    return LawTuning(
        task=Task(narrow, digits, Source("digits"), SETTINGS),
        metric=MACS,
        sizes=sizes_of_ratios(narrow, MACS, [0.5]),
        trials=4,
        seeds=1,
        epochs=1,
        confirmations=2,
    )


def test_a_tuned_law_can_be_compared_as_a_method(
    tuning: LawTuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Confirmation, "holds", property(lambda self: True))
    place = make_workspace(tmp_path)
    study, confirmation = tune_law(tuning, place, Silent())
    tried = [trial.params for trial in study.trials]
    assert tried[:3] == [
        {"filters": 0.0, "macs": 0.0, "slope": 0.0},
        {"filters": 1.0, "macs": 0.0, "slope": 0.0},
        {"filters": 0.0, "macs": 1.0, "slope": 0.0},
    ]
    assert len(tried) == 4
    best = max(study.trials, key=lambda trial: trial.values[0])
    assert confirmation.parameters == best.params
    law, budget = read_tuned_law(place, tuning.task.name, MACS).law, tuning.sizes[0].budget
    widths = solve_widths(law, tuning.metric.cost(tuning.task.arch), budget).widths
    assert schema.width_key(widths.tolist()) == best.user_attrs["widths"]

    again, same = tune_law(tuning, place, Silent())
    assert (len(again.trials), same) == (4, confirmation)
    publish_tuning(again)
    assert str(confirmation) in tuning_note(again)
    assert is_about_tuning(place.url, None)  # although it has searches, too
    page = write_tuning_report(place.url, None, place.folder).read_text()
    assert page.count(str(confirmation)) == 1
    assert page.count('id="figure-tuning') == 1
    with pytest.raises(NsoptError, match="use it with --methods tuned"):
        best_settings(place, study.study_name)

    methods = get_methods(["uniform", "tuned", "neuralscale-macs"])
    comparison = Comparison(tuning.task, methods, tuning.sizes, 1)
    listener = Listener()
    run_comparison(comparison, place, listener)
    assert "searching" not in listener.tasks
    assert f"tuned: {confirmation}" in listener.messages
    results = read_results(place.url, tuning.task.name)
    assert set(results.searches) == {"search", "search-macs"}
    own = results.outcomes.set_index("method")["widths"]
    assert own["tuned"] == tuple(widths.tolist())
    assert (results.outcomes["cost"] <= budget).all()

    schema.write_law(study, law**0.5)
    listener = Listener()
    run_comparison(comparison, place, listener)
    (message,) = [text for text in listener.messages if "another law" in text]
    assert message.startswith(
        "tuned: 1 of 1 points were trained with another law and keep their results"
    )
    assert f"--study-name {tuning.task.name}/tuned --storage sqlite:///" in message


def test_a_missing_tuned_law_raises_an_error_before_a_latency_is_learned(
    tuning: LawTuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_latency, "find_model", None)
    place, methods = make_workspace(tmp_path), get_methods(["uniform", "tuned"])
    with pytest.raises(NoWidthsError, match="is tuned for latency in this storage"):
        learned_latency.with_latency_if_needed(tuning.task, LATENCY, methods, place, Silent())
    assert not place.has_storage


def test_a_tuning_reuses_the_searches_of_a_study_with_other_training_settings(
    tuning: LawTuning, tmp_path: Path
) -> None:
    place = make_workspace(tmp_path)
    methods = get_methods(["uniform", "neuralscale", "neuralscale-macs"])
    run_comparison(Comparison(tuning.task, methods, tuning.sizes, 1), place, Silent())
    results, budget = load_results(place), tuning.sizes[0].budget
    factors = {
        method: results.searches[kind][-1].beyond(MACS.cost(tuning.task.arch), budget)
        for method, kind in (("neuralscale", "search"), ("neuralscale-macs", "search-macs"))
    }
    written = results.outcomes.set_index("method")["beyond_record"].astype(float)
    assert written.dropna().to_dict() == {m: f for m, f in factors.items() if f is not None}

    training = SETTINGS.training.updated(epochs=SETTINGS.training.epochs + 1)
    task = dataclasses.replace(tuning.task, settings=SETTINGS.updated(training=training))
    listener = Listener()
    study, _ = tune_law(dataclasses.replace(tuning, task=task, trials=2), place, listener)
    assert len(study.trials) == 2
    assert "searching" not in listener.tasks


def test_tunings_for_several_metrics_train_the_same_network_once(
    tuning: LawTuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(place: Workspace, own: LawTuning) -> tuple[list[object], list[object]]:
        """Return what the tuning trained, and the values of its trials."""
        ran: list[object] = []

        def train(arch: Architecture, widths: object, *rest: Any, **options: Any) -> Outcome:
            ran.append((widths, rest[1].seed))
            return train_configuration(arch, widths, *rest, **options)

        with monkeypatch.context() as patch:
            patch.setattr(session, "train_configuration", train)
            study, _ = tune_law(own, place, Silent())
        return ran, [trial.values for trial in study.trials]

    monkeypatch.setattr(Confirmation, "holds", property(lambda self: True))
    arch = tuning.task.arch
    by_macs = dataclasses.replace(tuning, trials=3)
    by_params = dataclasses.replace(
        by_macs, metric=PARAMS, sizes=sizes_of_ratios(arch, PARAMS, [0.5])
    )
    place = make_workspace(tmp_path / "both")
    first, _ = trained(place, by_macs)
    second, values = trained(place, by_params)
    elsewhere = make_workspace(tmp_path / "alone")
    alone, expected = trained(elsewhere, by_params)
    uniform = (tuple(floor_widths(0.5, arch.base_widths)), 0)
    assert uniform in first
    assert uniform in alone
    assert len(set(first)) == len(first)
    assert second == [training for training in alone if training not in first]
    assert values == expected

    longer, _ = trained(elsewhere, dataclasses.replace(by_macs, epochs=2))
    assert uniform in longer


def test_a_tuning_with_more_trials_continues_to_the_same_result(
    tuning: LawTuning, tmp_path: Path
) -> None:
    more = dataclasses.replace(tuning, trials=6)
    whole, _ = tune_law(more, make_workspace(tmp_path / "whole"), Silent())
    parted = make_workspace(tmp_path / "parted")
    tune_law(tuning, parted, Silent())
    study, _ = tune_law(more, parted, Silent())
    assert [t.params for t in study.trials] == [t.params for t in whole.trials]
    assert [t.values for t in study.trials] == [t.values for t in whole.trials]


def test_trials_that_a_killed_process_left_waiting_are_run(
    tuning: LawTuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_workspace(tmp_path / "killed")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt  # all points wait, none is taken

    with monkeypatch.context() as patch:
        patch.setattr(queue, "claim", killed)
        with pytest.raises(KeyboardInterrupt):
            tune_law(tuning, place, Silent())
    study, _ = tune_law(tuning, place, Silent())
    whole, _ = tune_law(tuning, make_workspace(tmp_path / "whole"), Silent())
    assert [trial.values for trial in study.trials] == [trial.values for trial in whole.trials]
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_a_law_that_is_not_confirmed_is_replaced_by_uniform_scaling(
    tuning: LawTuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Confirmation, "holds", property(lambda self: False))
    place = make_workspace(tmp_path)
    study, confirmation = tune_law(tuning, place, Silent())
    law, arch = read_tuned_law(place, tuning.task.name, MACS).law, tuning.task.arch
    for budget in (1e5, 1e6):
        tuned, plain = (
            solve_widths(each, arch.cost("macs"), budget).widths.tolist()
            for each in (law, uniform_curve(arch.base_widths))
        )
        assert tuned == plain
    assert law.band(1e5) is None
    if any(confirmation.parameters.values()):
        assert len(confirmation.differences) == tuning.confirmations
        names = load_studies(place.storage, schema.tuning_name(tuning.task.name))
        assert "curve-macs-confirmed" in names
    assert schema.read_verdict(study) == str(confirmation)


def test_a_better_law_found_later_is_confirmed_anew(
    tuning: LawTuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, chosen = make_workspace(tmp_path), [1, 2]

    def best(study: optuna.Study) -> optuna.trial.FrozenTrial:
        return study.trials[chosen[0]]

    monkeypatch.setattr(tuning_law, "_find_best", best)
    for number in (1, 2):
        chosen[0] = number
        study, confirmation = tune_law(tuning, place, Silent())
        assert confirmation.parameters == study.trials[number].params
        assert len(confirmation.differences) == tuning.confirmations
    studies = load_studies(place.storage, schema.tuning_name(tuning.task.name))
    assert len(studies["curve-macs-confirmed"].trials) == 3 * tuning.confirmations


@pytest.mark.parametrize(
    ("differences", "p", "words"),
    [
        ((), 1.0, "no trial was better than uniform"),
        ((0.5, 0.7), 0.05, "confirmed: \\+0.60 points over uniform with 2 fresh seeds.*p = 0.05"),
        ((5.0, 5.1), 0.0004, "confirmed: \\+5.05 points.*p < 0.01"),
        ((0.5, -0.7), 0.6, "no better than uniform: -0.10 points"),
    ],
)
def test_a_confirmation_prints_its_verdict(
    differences: tuple[float, ...], p: float, words: str
) -> None:
    confirmation = Confirmation({}, differences, p)
    assert re.search(words, str(confirmation))
    assert confirmation.holds == ("confirmed" in words)


@pytest.mark.parametrize("differences", [[0.5, 0.7], [2.5, -1.0, 0.25, 1.5], [-3.0, -2.0, -4.5]])
def test_a_confirmation_uses_a_paired_t_test(differences: list[float]) -> None:
    expected = ttest_rel(differences, [0.0] * len(differences), alternative="greater").pvalue
    assert tuning_law._test_gain(differences) == pytest.approx(expected)


def test_equal_differences_are_certain_without_a_warning() -> None:
    for gain, p in ((2.5, 0.0), (0.0, 1.0), (-2.5, 1.0)):
        assert tuning_law._test_gain([gain, gain]) == p
    assert tuning_law._test_gain([2.5, 2.5 + 1e-14]) == pytest.approx(0.0, abs=1e-12)


def test_the_tuned_method_needs_a_tuned_law(tuning: LawTuning, tmp_path: Path) -> None:
    comparison = Comparison(tuning.task, get_methods(["tuned"]), tuning.sizes, 1)
    place = make_workspace(tmp_path)
    with pytest.raises(NsoptError, match="run nsopt tune --over curve --metric macs"):
        run_comparison(comparison, place, Silent())
    assert not place.has_storage


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_has_valid_search_prices(metric: Metric) -> None:
    for price in list_prices(metric):
        assert SETTINGS.search.updated(price=price).price == price
