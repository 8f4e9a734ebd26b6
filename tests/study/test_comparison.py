"""A whole comparison of narrow networks, in this process."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import nsopt
from nsopt import Architecture, NsoptError, Silent, StudySettings, TrainSettings, solve_widths
from nsopt.compute.device import Compute
from nsopt.data.images import ImageData
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.latency.model import LatencyModel
from nsopt.latency.runtime import OwnMeasure
from nsopt.methods import registry
from nsopt.methods.base import LawInputs, Method
from nsopt.methods.registry import get_method, get_methods, methods
from nsopt.pruning.settings import SearchSettings
from nsopt.reports.results import Results, read_results
from nsopt.scaling.law import ScalingLaw, uniform_curve
from nsopt.scaling.metric import LATENCY, PARAMS, Metric
from nsopt.session.searching import continue_searches
from nsopt.session.session import Session
from nsopt.session.subject import Subject
from nsopt.session.workspace import Workspace
from nsopt.storage import engine, schema, trials
from nsopt.storage.opening import open_storage
from nsopt.storage.studies import load_studies
from nsopt.study.laws import Laws, Worker, read_stored_law
from nsopt.study.plan import Comparison, Size, WidthRatio, run_comparison
from nsopt.tasks.classification import AccuracyEvaluation
from tests.conftest import BRIEF, EXACT

METHODS = tuple(name for name, method in methods().items() if not method.keeps_weights)
optuna.logging.set_verbosity(optuna.logging.CRITICAL)

SEARCH = SearchSettings(filters_per_step=24, iterations=1, batch_size=32, **BRIEF)
TRAINING = TrainSettings(epochs=1, batch_size=32, lr=0.05, **EXACT)
FINE_TUNING: dict[str, Any] = {"fine_tune_epochs": 1, "fine_tune_lr": 0.005, "magnitude_epochs": 1}
SETTINGS = StudySettings(
    preset="test", search=SEARCH.updated(prune_every=1), training=TRAINING, **FINE_TUNING
)


class Listener(Silent):
    """Keeps the messages and the names of tasks."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.tasks: list[str] = []

    def start(self, task: str, total: int) -> None:
        self.tasks.append(task)

    def message(self, text: str) -> None:
        self.messages.append(text)


class Interrupting(Listener):
    """Interrupts at a message that begins so."""

    def __init__(self, beginning: str = "") -> None:
        super().__init__()
        self.beginning = beginning

    def message(self, text: str) -> None:
        super().message(text)
        if text.startswith(self.beginning):
            raise KeyboardInterrupt(text)


def sizes_of_ratios(
    arch: Architecture, metric: Metric, ratios: Sequence[float]
) -> tuple[Size, ...]:
    return tuple(WidthRatio(metric, ratio).at(arch) for ratio in ratios)


def make_comparison(arch: Architecture, data: ImageData) -> Comparison:
    return Comparison(
        subject=Subject(arch, data, SETTINGS),
        methods=get_methods(METHODS),
        sizes=sizes_of_ratios(arch, PARAMS, [0.5]),
        seeds=2,
    )


def with_settings(comparison: Comparison, settings: StudySettings) -> Comparison:
    task = dataclasses.replace(comparison.subject, settings=settings)
    return dataclasses.replace(comparison, subject=task)


def only(comparison: Comparison, *names: str, **changes: Any) -> Comparison:
    """Return the same comparison with other methods."""
    return dataclasses.replace(comparison, methods=get_methods(names), **changes)


def make_workspace(folder: Path) -> Workspace:
    return Workspace(f"sqlite:///{folder / 'study.db'}", folder)


def load_results(place: Workspace) -> Results:
    return read_results(place.url)


def open_studies(place: Workspace) -> dict[str, optuna.Study]:
    return load_studies(open_storage(place.url), "vgg11-digits-test")


def select_outcomes(results: Results) -> pd.DataFrame:
    """Return outcomes without measured times, in a fixed order."""
    columns = ["method", "budget", "seed", "widths", "params", "macs", "feasible"]
    accuracies = ["score", "test_score", "test_score_best_epoch"]
    frame = results.outcomes[columns + accuracies]
    return frame.sort_values(["method", "budget", "seed"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def storage_of_a_whole_run(
    narrow: Architecture, digits: ImageData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_comparison(make_comparison(narrow, digits), make_workspace(folder), Silent())
    assert not (folder / "checkpoints").exists()
    return folder / "study.db"


@pytest.fixture
def done(place: Workspace, storage_of_a_whole_run: Path) -> Workspace:
    """A workspace whose storage holds all of the comparison."""
    shutil.copy(storage_of_a_whole_run, place.folder)
    return place


def test_every_point_has_a_trial_in_its_budget(comparison: Comparison, done: Workspace) -> None:
    results = load_results(done)
    points = results.outcomes[["method", "ratio", "seed"]]
    assert sorted(points.itertuples(index=False, name=None)) == [
        (method, 0.5, seed) for method in sorted(METHODS) for seed in (0, 1)
    ]
    params = comparison.subject.arch.cost("params")
    for row in results.outcomes.to_dict("records"):
        assert params(row["widths"]) == row["params"] <= row["budget"]
        assert row["feasible"]
        assert row["latency_ms"] > 0
        assert row["epochs"] == 1
    assert len(results.curves) == 8
    assert len(results.searches["search"]) == 1


def test_studies_follow_the_schema(done: Workspace) -> None:
    studies = open_studies(done)
    assert set(studies) == {*METHODS, "search"}
    for method, study in studies.items():
        assert study.study_name == f"vgg11-digits-test/{method}"
        assert tuple(study.directions) == schema.DIRECTIONS
        assert {"settings", "subject", "provenance"} <= study.user_attrs.keys()
        for trial in study.trials:
            assert trial.state == TrialState.COMPLETE
            assert trial.user_attrs["method"] == method
    trial = studies["neuralscale"].trials[0]
    flat = {k: v for k, v in trial.user_attrs.items() if k != "curves_per_epoch"}
    assert all(isinstance(value, int | float | str) for value in flat.values())
    assert trial.values == [flat["score"], flat["latency_ms"]]
    assert studies["search"].user_attrs["provenance"]["device"]


def test_provenance_lists_trials_of_another_version(done: Workspace) -> None:
    study = open_studies(done)["uniform"]
    own = trials.read_all_provenance(study)
    assert own == study.user_attrs["provenance"]
    other = study.trials[-1]
    attributes = other.user_attrs | {"provenance": "device another, commit 0123456789ab"}
    study.add_trial(optuna.trial.create_trial(values=other.values, user_attrs=attributes))
    others = {"other trials": "device another, commit 0123456789ab"}
    assert trials.read_all_provenance(study) == own | others


def test_weights_of_the_best_network_are_kept(
    comparison: Comparison, done: Workspace, storage_of_a_whole_run: Path
) -> None:
    folder = storage_of_a_whole_run.parent / "artifacts"
    assert len(list(folder.iterdir())) == len(METHODS)
    for study in open_studies(done).values():
        if study.study_name.endswith("/search"):
            continue
        (best,) = best_trials(study).values()
        path = BestNetworks(folder).file(study, best)
        kept = nsopt.load_network(path)
        splits, compute = comparison.subject.splits, Compute(torch.device("cpu"), bf16=False)
        evaluation = AccuracyEvaluation(splits.validation, splits, compute)
        evaluation.advance(kept.model)
        own = [t for t in study.trials if t.user_attrs["budget"] == kept.budget]
        assert evaluation.score == kept.val_accuracy == max(t.values[0] for t in own)
        assert kept.classes == comparison.subject.data.classes


def test_running_again_repeats_nothing(comparison: Comparison, done: Workspace) -> None:
    before = load_results(done)
    listener = Listener()
    run_comparison(comparison, done, listener)
    assert listener.tasks == []
    pd.testing.assert_frame_equal(load_results(done).outcomes, before.outcomes)


def test_journals_give_the_same(comparison: Comparison, done: Workspace, tmp_path: Path) -> None:
    place = Workspace(f"journal:///{tmp_path / 'study.journal'}", tmp_path / "out")
    uniform, again = only(comparison, "uniform"), Listener()
    run_comparison(uniform, place, Silent())
    run_comparison(uniform, Workspace(place.url, place.folder), again)
    assert again.tasks == []
    of_uniform = select_outcomes(load_results(done)).query("method == 'uniform'")
    expected = of_uniform.reset_index(drop=True)
    pd.testing.assert_frame_equal(select_outcomes(load_results(place)), expected)


def test_more_seeds_and_sizes_add_what_is_missing(comparison: Comparison, done: Workspace) -> None:
    before = load_results(done).outcomes
    sizes = (*comparison.sizes, Size(PARAMS, 20_000))
    listener = Listener()
    run_comparison(only(comparison, "uniform", sizes=sizes, seeds=3), done, listener)
    assert sum(": validation" in message for message in listener.messages) == 4
    after = load_results(done).outcomes
    assert len(after) == len(before) + 4
    assert "uniform 20,000 params seed 2" in " ".join(listener.messages)


def test_a_trial_taken_by_a_process_that_died_at_once_is_run_again(
    comparison: Comparison, done: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between taking a trial and its first heartbeat a process leaves no sign of life."""
    monkeypatch.setattr(engine, "DEAD_AFTER_LOOKS", 2)
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.05)
    more = only(comparison, "uniform", seeds=3)
    study = optuna.load_study(study_name="vgg11-digits-test/uniform", storage=done.url)
    (point,) = [point for point in more.points(more.methods[0]) if point.seed == 2]
    trials.enqueue_point(study, point)
    assert trials.read_point(study.ask()) == point
    run_comparison(more, done, Silent())
    uniform = load_results(done).outcomes.query("method == 'uniform'")
    assert sorted(uniform["seed"]) == [0, 1, 2]


def with_latency_of_filters(arch: Architecture) -> Architecture:
    """Return a network with 9 ms at its base widths, and less in proportion to its filters."""
    per_filter = np.full(len(arch.base_widths), 9.0 / sum(arch.base_widths))
    return arch.with_latency(LatencyModel(arch.cost("macs"), 0.0, per_filter, 0.0))


def timed_by_filters(comparison: Comparison) -> Comparison:
    """Return a comparison whose clock measures a tenth more than this model predicts."""
    base = sum(comparison.subject.arch.base_widths)

    def clock(module: nn.Module, images: torch.Tensor) -> float:
        assert len(images) == 100
        filters = sum(m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d))
        return 9.9 * filters / base

    runtime = OwnMeasure("tests:clock", clock)
    task = dataclasses.replace(
        comparison.subject,
        settings=comparison.subject.settings.updated(runtime=runtime.name),
        runtime=runtime,
    )
    return dataclasses.replace(comparison, subject=task)


def test_latency_budgets_of_others_are_run(comparison: Comparison, place: Workspace) -> None:
    """This command has no latency model and no budgets in milliseconds of its own."""
    comparison = timed_by_filters(comparison)
    arch = with_latency_of_filters(comparison.subject.arch)
    in_time = dataclasses.replace(
        only(comparison, "uniform", seeds=1),
        subject=dataclasses.replace(comparison.subject, arch=arch),
        sizes=sizes_of_ratios(arch, LATENCY, [0.5]),
    )
    (uniform,) = in_time.methods
    cpu = Compute(torch.device("cpu"), bf16=False)
    study = in_time.subject.open_study(place.storage, uniform.name, cpu)
    for point in in_time.points(uniform):
        trials.enqueue_point(study, point)
    run_comparison(only(comparison, "uniform", seeds=1), place, Silent())
    results = load_results(place)
    assert set(results.outcomes["metric"]) == {"params", "latency"}
    assert results.failures.empty


def test_other_settings_are_refused_and_named(comparison: Comparison, done: Workspace) -> None:
    before = (done.folder / "study.db").read_bytes()
    changed = SETTINGS.updated(training=SETTINGS.training.updated(epochs=2))
    with pytest.raises(NsoptError, match=r"training\.epochs: 2 now, 1 there"):
        run_comparison(with_settings(comparison, changed), done, Silent())
    assert (done.folder / "study.db").read_bytes() == before


def test_a_diverging_loss_fails_one_trial(comparison: Comparison, place: Workspace) -> None:
    diverging = SETTINGS.updated(training=SETTINGS.training.updated(lr=1e6, batch_size=16))
    broken = only(with_settings(comparison, diverging), "uniform", "magnitude")
    listener = Listener()
    run_comparison(broken, place, listener)
    studies = open_studies(place)
    for method in broken.methods:
        failed = studies[method.name].trials
        assert [trial.state for trial in failed] == [TrialState.FAIL] * 2
        assert all("loss became" in trial.user_attrs["error"] for trial in failed)
    with pytest.raises(NsoptError, match=r"every training .* failed: .* loss became"):
        load_results(place)
    again = Listener()
    run_comparison(broken, place, again)
    assert again.tasks == []


def test_failed_searches_leave_the_folder_empty(comparison: Comparison, place: Workspace) -> None:
    short = SETTINGS.updated(search=SETTINGS.search.updated(filters_per_step=0.7))
    with pytest.raises(NsoptError, match="3 of the 6 steps that a law needs"):
        run_comparison(with_settings(comparison, short), place, Silent())
    assert list(place.folder.iterdir()) == []


def test_iterations_are_compared_as_methods(comparison: Comparison, place: Workspace) -> None:
    settings = SETTINGS.updated(search=SETTINGS.search.updated(iterations=2))
    names = ("neuralscale-iter1", "neuralscale-iter2")
    run_comparison(only(with_settings(comparison, settings), *names, seeds=1), place, Silent())
    results = load_results(place)
    assert results.methods == list(names)
    params = PARAMS.cost(comparison.subject.arch)
    for iteration, method in zip(results.searches["search"], names, strict=True):
        (outcome,) = results.outcomes.query(f"method == '{method}'").to_dict("records")
        expected = solve_widths(iteration.law, params, outcome["budget"], warn=False).widths
        assert outcome["widths"] == tuple(expected.tolist())
        stored = read_stored_law(place, results.name, get_method(method))
        assert stored.iteration is not None
        assert stored.iteration.to_dict() == iteration.to_dict()


def test_widths_of_all_methods_are_rounded(comparison: Comparison, place: Workspace) -> None:
    rounded = with_settings(comparison, SETTINGS.updated(multiple_of=4, min_width=8))
    run_comparison(dataclasses.replace(rounded, seeds=1), place, Silent())
    outcomes = load_results(place).outcomes
    assert set(outcomes["method"]) == set(METHODS)
    for widths in outcomes["widths"]:
        assert min(widths) >= 8
        assert not any(width % 4 for width in widths)
    with pytest.raises(NsoptError, match="multiple_of: None now, 4 there"):
        run_comparison(comparison, place, Silent())


def make_converging(comparison: Comparison) -> Comparison:
    """Return a comparison with nine iterations, whose descent converges after the first."""
    search = SETTINGS.search.updated(iterations=9, convergence=100.0)
    return with_settings(comparison, SETTINGS.updated(search=search))


def test_without_a_law_a_trial_alone_fails(comparison: Comparison, place: Workspace) -> None:
    late = only(make_converging(comparison), "neuralscale-iter9", "uniform", seeds=1)
    task, compute = late.subject, Compute(torch.device("cpu"), bf16=False)
    continue_searches(Session(task, place, compute, Silent()), {"filters": 9})
    for method in late.methods:
        study = task.open_study(place.storage, method.name, compute)
        trials.enqueue_point(study, late.points(method)[0])
    listener = Listener()
    session = Session(task, place, compute, listener)
    assert Worker(session, Laws(session)).work() == 2
    studies = open_studies(place)
    (failed,) = studies["neuralscale-iter9"].trials
    assert failed.state == TrialState.FAIL
    error = "neuralscale-iter9: descent converged at iteration 1: take that"
    assert failed.user_attrs["error"] == error
    assert [trial.state for trial in studies["uniform"].trials] == [TrialState.COMPLETE]
    assert any("descent converged" in message for message in listener.messages)


def test_a_method_that_descent_does_not_reach_is_refused_before_anything_is_trained(
    comparison: Comparison, place: Workspace
) -> None:
    late = only(make_converging(comparison), "uniform", "neuralscale-iter9")
    with pytest.raises(NsoptError, match="neuralscale-iter9: descent converged at iteration 1"):
        run_comparison(late, place, Silent())
    assert set(open_studies(place)) == {"search"}


def test_an_interrupted_descent_continues_after_its_last_iteration(
    comparison: Comparison, place: Workspace, tmp_path: Path
) -> None:
    settings = SETTINGS.updated(search=SETTINGS.search.updated(iterations=2))
    both = only(with_settings(comparison, settings), "neuralscale", seeds=1)
    parted = make_workspace(tmp_path / "parted")
    with pytest.raises(KeyboardInterrupt):
        run_comparison(both, parted, Interrupting("search iteration 1"))
    listener = Listener()
    run_comparison(both, parted, listener)
    assert listener.tasks.count("searching") == 1
    run_comparison(both, place, Silent())
    whole, again = load_results(place), load_results(parted)
    for one, two in zip(whole.searches["search"], again.searches["search"], strict=True):
        assert {**one.to_dict(), "seconds": 0} == {**two.to_dict(), "seconds": 0}
    pd.testing.assert_frame_equal(select_outcomes(whole), select_outcomes(again))


def test_magnitude_needs_something_to_prune(comparison: Comparison, place: Workspace) -> None:
    sizes = sizes_of_ratios(comparison.subject.arch, PARAMS, [1.0])
    listener = Listener()
    run_comparison(only(comparison, "magnitude", "uniform", sizes=sizes, seeds=1), place, listener)
    assert "magnitude starts from a network of" in listener.messages[0]
    assert load_results(place).outcomes["method"].tolist() == ["uniform"]


class Deeper(Method):
    """Widens the deeper layers by a power of their depth."""

    name = "deeper"
    label = "Deeper"
    power = 1

    def law(self, inputs: LawInputs) -> ScalingLaw:
        widths = inputs.arch.base_widths
        return uniform_curve([width * depth**self.power for depth, width in enumerate(widths, 1)])


def test_a_law_that_has_changed_since_its_trainings_is_reported(
    comparison: Comparison, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Deeper()
    monkeypatch.setitem(registry._registered, method.name, method)
    alone = only(comparison, method.name, seeds=1)
    run_comparison(alone, place, Silent())
    method.power = 2
    listener = Listener()
    run_comparison(alone, place, listener)
    (message,) = [text for text in listener.messages if "another law" in text]
    assert message.startswith("deeper: 1 of 1 points were trained with another law and keep")
    assert "--study-name vgg11-digits-test/deeper --storage sqlite:///" in message
