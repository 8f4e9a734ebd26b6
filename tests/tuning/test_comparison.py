"""A whole comparison of narrow networks, in this process."""

import dataclasses
import shutil
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState

import nsopt
from nsopt.data.images import ImageData
from nsopt.data.source import Source
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture
from nsopt.progress import Silent
from nsopt.pruning.settings import SearchSettings
from nsopt.reports.results import Results, read_results
from nsopt.scaling.solve import solve_widths
from nsopt.training.device import Compute
from nsopt.training.evaluation import Evaluation
from nsopt.training.settings import TrainSettings
from nsopt.tuning import schema, storage
from nsopt.tuning.comparison import run_comparison
from nsopt.tuning.methods import METHODS, check_methods
from nsopt.tuning.request import Comparison, sizes_of_budgets, sizes_of_ratios
from nsopt.tuning.settings import StudySettings
from nsopt.tuning.storage import load_studies, open_storage

optuna.logging.set_verbosity(optuna.logging.CRITICAL)

SETTINGS = StudySettings(
    preset="test",
    search=SearchSettings(
        pretrain_epochs=1,
        prune_every=2,
        filters_per_step=16,
        iterations=1,
        batch_size=64,
        device="cpu",
        precision="fp32",
    ),
    training=TrainSettings(epochs=1, batch_size=64, lr=0.05, device="cpu", precision="fp32"),
    magnitude_epochs=1,
    fine_tune_epochs=1,
    fine_tune_lr=0.005,
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


def comparison_in(folder: Path, arch: Architecture, data: ImageData) -> Comparison:
    return Comparison(
        arch=arch,
        data=data,
        source=Source("digits"),
        data_dir=Path("data"),
        methods=METHODS,
        sizes=sizes_of_ratios(arch, "params", [0.5]),
        seeds=2,
        metric="params",
        settings=SETTINGS,
        storage=f"sqlite:///{folder / 'study.db'}",
        checkpoints=folder / "checkpoints",
    )


@pytest.fixture
def comparison(narrow: Architecture, digits: ImageData, tmp_path: Path) -> Comparison:
    return comparison_in(tmp_path, narrow, digits)


def results_of(comparison: Comparison) -> Results:
    return read_results(comparison.storage, comparison.prefix)


def measured(results: Results) -> pd.DataFrame:
    """Outcomes without what a clock decides, in a fixed order."""
    columns = ["method", "budget", "seed", "widths", "params", "macs", "feasible"]
    accuracies = ["val_accuracy", "test_accuracy", "test_accuracy_best_epoch"]
    frame = results.outcomes[columns + accuracies]
    return frame.sort_values(["method", "budget", "seed"]).reset_index(drop=True)


@pytest.fixture(scope="module")
def storage_of_a_whole_run(
    narrow: Architecture, digits: ImageData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    whole = comparison_in(folder, narrow, digits)
    run_comparison(whole, Silent())
    assert not whole.checkpoints.exists()
    return folder / "study.db"


@pytest.fixture
def done(comparison: Comparison, storage_of_a_whole_run: Path, tmp_path: Path) -> Comparison:
    """A comparison whose storage holds all of it."""
    shutil.copy(storage_of_a_whole_run, tmp_path)
    return comparison


def test_every_point_has_one_trial_within_the_budget(done: Comparison) -> None:
    results = results_of(done)
    points = results.outcomes[["method", "ratio", "seed"]]
    assert sorted(points.itertuples(index=False, name=None)) == [
        (method, 0.5, seed) for method in sorted(METHODS) for seed in (0, 1)
    ]
    params = done.arch.cost("params")
    for row in results.outcomes.to_dict("records"):
        assert params(row["widths"]) == row["params"] <= row["budget"]
        assert row["feasible"]
        assert row["latency_ms"] > 0
        assert row["epochs"] == 1
    assert len(results.curves) == 8
    assert len(results.iterations) == 1


def test_studies_follow_the_schema(done: Comparison) -> None:
    studies = load_studies(open_storage(done.storage), done.prefix)
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
    assert trial.values == [flat["val_accuracy"], flat["latency_ms"]]
    assert studies["search"].user_attrs["provenance"]["device"]


def test_weights_of_the_best_network_are_kept(
    done: Comparison, storage_of_a_whole_run: Path
) -> None:
    folder = storage_of_a_whole_run.parent / "artifacts"
    assert len(list(folder.iterdir())) == len(METHODS)
    studies = load_studies(open_storage(done.storage), done.prefix)
    for method in METHODS:
        (kept,) = get_all_artifact_meta(studies[method])
        model = nsopt.load_weights(folder / kept.artifact_id)
        splits, compute = done.splits, Compute(torch.device("cpu"), bf16=False)
        evaluation = Evaluation(splits.validation, splits, compute)
        evaluation.advance(model)
        assert evaluation.accuracy == max(trial.values[0] for trial in studies[method].trials)


def test_a_file_without_weights_says_so(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(NsoptError, match="no weights can be read from"):
        nsopt.load_weights(path)
    path.write_bytes(b"not weights")
    with pytest.raises(NsoptError, match="holds no weights that nsopt kept"):
        nsopt.load_weights(path)


def test_neuralscale_widths_are_those_of_the_stored_law(done: Comparison) -> None:
    results = results_of(done)
    law = results.iterations[-1].law
    outcome = results.outcomes.query("method == 'neuralscale'").iloc[0]
    expected = solve_widths(law, done.arch.cost("params"), outcome["budget"]).widths
    assert outcome["widths"] == tuple(expected.tolist())


def test_running_again_repeats_nothing(done: Comparison) -> None:
    before = results_of(done)
    listener = Listener()
    run_comparison(done, listener)
    assert listener.tasks == []
    pd.testing.assert_frame_equal(results_of(done).outcomes, before.outcomes)


def test_more_seeds_and_sizes_add_only_what_is_missing(done: Comparison) -> None:
    before = results_of(done).outcomes
    sizes = done.sizes + sizes_of_budgets(done.arch, "params", [20_000])
    more = dataclasses.replace(done, sizes=sizes, seeds=3, methods=("uniform",))
    listener = Listener()
    run_comparison(more, listener)
    assert len(listener.messages) == 4
    after = results_of(done).outcomes
    assert len(after) == len(before) + 4
    assert "uniform 20,000 params seed 2" in " ".join(listener.messages)


def test_a_trial_taken_by_a_process_that_died_at_once_is_run_again(
    done: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between taking a trial and its first heartbeat a process leaves no sign of life."""
    monkeypatch.setattr(storage, "DEAD_AFTER_SECONDS", 2)
    more = dataclasses.replace(done, seeds=3, methods=("uniform",))
    study = optuna.load_study(study_name=done.study_name("uniform"), storage=done.storage)
    (point,) = [point for point in more.points("uniform") if point.seed == 2]
    study.enqueue_trial({}, user_attrs=point.attributes())
    assert schema.read_point(study.ask()) == point
    run_comparison(more, Silent())
    uniform = results_of(done).outcomes.query("method == 'uniform'")
    assert sorted(uniform["seed"]) == [0, 1, 2]


def test_other_settings_are_refused_and_named(done: Comparison) -> None:
    before = results_of(done).outcomes
    changed = SETTINGS.updated(training=SETTINGS.training.updated(epochs=2))
    with pytest.raises(NsoptError, match=r"training\.epochs: 2 now, 1 there"):
        run_comparison(dataclasses.replace(done, settings=changed), Silent())
    pd.testing.assert_frame_equal(results_of(done).outcomes, before)


def test_a_diverging_loss_fails_its_trial_and_the_study_goes_on(comparison: Comparison) -> None:
    diverging = SETTINGS.updated(training=SETTINGS.training.updated(lr=1e6))
    broken = dataclasses.replace(comparison, settings=diverging, methods=("uniform", "magnitude"))
    listener = Listener()
    run_comparison(broken, listener)
    studies = load_studies(open_storage(broken.storage), broken.prefix)
    for method in broken.methods:
        trials = studies[method].trials
        assert [trial.state for trial in trials] == [TrialState.FAIL] * 2
        assert all("loss became" in trial.user_attrs["error"] for trial in trials)
    with pytest.raises(NsoptError, match=r"every training .* failed: .* loss became"):
        results_of(broken)
    again = Listener()
    run_comparison(broken, again)
    assert again.tasks == []


def test_an_error_leaves_the_storage_as_it_was(comparison: Comparison, tmp_path: Path) -> None:
    short = SETTINGS.updated(search=SETTINGS.search.updated(filters_per_step=100))
    with pytest.raises(NsoptError, match="a law needs 6"):
        run_comparison(dataclasses.replace(comparison, settings=short), Silent())
    assert list(tmp_path.iterdir()) == []


def test_descent_iterations_stand_side_by_side(comparison: Comparison) -> None:
    settings = SETTINGS.updated(search=SETTINGS.search.updated(iterations=2))
    methods = ("neuralscale-iter1", "neuralscale-iter2")
    both = dataclasses.replace(comparison, settings=settings, methods=methods, seeds=1)
    run_comparison(both, Silent())
    results = results_of(both)
    assert results.methods == list(methods)
    params = both.arch.cost("params")
    for iteration, method in zip(results.iterations, methods, strict=True):
        (outcome,) = results.outcomes.query(f"method == '{method}'").to_dict("records")
        expected = solve_widths(iteration.law, params, outcome["budget"]).widths
        assert outcome["widths"] == tuple(expected.tolist())


def test_an_iteration_that_is_not_run_is_refused(comparison: Comparison) -> None:
    late = dataclasses.replace(comparison, methods=("neuralscale-iter3",))
    with pytest.raises(NsoptError, match="needs --iterations 3 or more, not 1"):
        run_comparison(late, Silent())
    with pytest.raises(NsoptError, match="unknown method 'neuralscale-iter0'"):
        check_methods(["neuralscale-iter0"])


class Impatient(Silent):
    """Interrupts at a message."""

    def __init__(self, at: str) -> None:
        self.at = at

    def message(self, text: str) -> None:
        if text.startswith(self.at):
            raise KeyboardInterrupt


def test_an_interrupted_descent_continues_after_its_last_iteration(
    comparison: Comparison, tmp_path: Path
) -> None:
    settings = SETTINGS.updated(search=SETTINGS.search.updated(iterations=2))
    whole = dataclasses.replace(comparison, settings=settings, methods=("neuralscale",), seeds=1)
    parted = dataclasses.replace(whole, storage=f"sqlite:///{tmp_path / 'parted.db'}")
    with pytest.raises(KeyboardInterrupt):
        run_comparison(parted, Impatient("search iteration 1"))
    listener = Listener()
    run_comparison(parted, listener)
    assert listener.tasks.count("searching") == 1
    run_comparison(whole, Silent())
    for one, two in zip(results_of(whole).iterations, results_of(parted).iterations, strict=True):
        assert {**one.to_dict(), "seconds": 0} == {**two.to_dict(), "seconds": 0}
    pd.testing.assert_frame_equal(measured(results_of(whole)), measured(results_of(parted)))


def test_magnitude_is_left_out_where_there_is_nothing_to_prune(comparison: Comparison) -> None:
    sizes = sizes_of_ratios(comparison.arch, "params", [1.0])
    listener = Listener()
    run_comparison(
        dataclasses.replace(comparison, sizes=sizes, methods=("magnitude", "uniform"), seeds=1),
        listener,
    )
    assert "magnitude prunes a network of" in listener.messages[0]
    assert results_of(comparison).outcomes["method"].tolist() == ["uniform"]


def test_budgets_may_be_macs(comparison: Comparison) -> None:
    sizes = sizes_of_budgets(comparison.arch, "macs", [300_000])
    run_comparison(
        dataclasses.replace(
            comparison, sizes=sizes, methods=("uniform", "neuralscale"), seeds=1, metric="macs"
        ),
        Silent(),
    )
    outcomes = results_of(comparison).outcomes
    assert (outcomes["macs"] <= 300_000).all()
    assert (outcomes["macs"] > 250_000).all()


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf")])
def test_ratios_must_be_positive(narrow: Architecture, ratio: float) -> None:
    with pytest.raises(NsoptError, match="must be above 0"):
        sizes_of_ratios(narrow, "params", [ratio])


def test_same_seed_gives_the_same_comparison(done: Comparison, tmp_path: Path) -> None:
    other = dataclasses.replace(
        done, storage=f"sqlite:///{tmp_path / 'other.db'}", checkpoints=tmp_path / "other"
    )
    run_comparison(other, Silent())
    pd.testing.assert_frame_equal(measured(results_of(other)), measured(results_of(done)))
