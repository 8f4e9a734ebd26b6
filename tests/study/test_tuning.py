"""Tuning studies of narrow networks, in this process."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial

import nsopt
from nsopt import Architecture, ImageData, NsoptError, Silent, uniform_curve
from nsopt.latency.model import LatencyModel
from nsopt.scaling.metric import PARAMS
from nsopt.session.presets import override
from nsopt.session.runner import with_latency_if_needed
from nsopt.session.session import Session
from nsopt.session.stored import join_session
from nsopt.session.subject import Subject, list_studies, with_stored_latency
from nsopt.session.workspace import Workspace
from nsopt.storage import engine, schema
from nsopt.study import tuning as tuned
from nsopt.study.tuning import Tuning, best_settings, best_trial, describe_best, run_tuning
from tests.study.test_comparison import SETTINGS, make_workspace, sizes_of_ratios

optuna.logging.set_verbosity(optuna.logging.CRITICAL)


@pytest.fixture
def tuning(narrow: Architecture, digits: ImageData) -> Tuning:
    return Tuning(
        subject=Subject(narrow, digits, SETTINGS),
        metric=PARAMS,
        budget=sizes_of_ratios(narrow, PARAMS, [0.5])[0].budget,
        over="eta",
        trials=12,
        seeds=2,
        pretrain_epochs=(0, 1),
    )


def test_the_best_eta_is_found_by_the_name_of_the_study(tuning: Tuning, place: Workspace) -> None:
    study = run_tuning(tuning, place, Silent())
    assert study.study_name == "vgg11-digits-test-tune/eta"
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(study.trials) == 12
    for trial in done:
        assert trial.values == [abs(trial.user_attrs["budget_error"]), trial.user_attrs["steps"]]
        assert trial.user_attrs["feasible"] == (trial.user_attrs["budget_error"] <= 0)
    best = best_trial(study)
    assert best.values == min(t.values for t in done if t.user_attrs["feasible"])
    changes = best_settings(place, study.study_name)
    assert changes == {"eta": best.params["eta"]}
    assert override(SETTINGS, changes).eta == best.params["eta"]


def test_a_continued_tuning_adds_only_missing_trials_and_gives_the_same_result(
    tuning: Tuning, place: Workspace, tmp_path: Path
) -> None:
    short = dataclasses.replace(tuning, trials=5)
    run_tuning(short, place, Silent())
    parted = run_tuning(tuning, place, Silent())
    whole = run_tuning(tuning, make_workspace(tmp_path / "whole"), Silent())
    assert [t.params for t in parted.trials] == [t.params for t in whole.trials]
    assert [t.values for t in parted.trials] == [t.values for t in whole.trials]


def test_trials_that_a_killed_process_left_waiting_are_run(
    tuning: Tuning, place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt  # all points wait, none is taken

    with monkeypatch.context() as patch:
        patch.setattr(engine, "run_next", kill)
        with pytest.raises(KeyboardInterrupt):
            run_tuning(tuning, place, Silent())
    study = run_tuning(tuning, place, Silent())
    whole = run_tuning(tuning, make_workspace(tmp_path / "whole"), Silent())
    assert [trial.values for trial in study.trials] == [trial.values for trial in whole.trials]
    assert TrialState.WAITING not in {trial.state for trial in study.trials}


def test_all_pretrain_epochs_meet_all_seeds(tuning: Tuning, place: Workspace) -> None:
    both = dataclasses.replace(tuning, over="pretrain-epochs")
    study = run_tuning(both, place, Silent())
    found = [(t.params["pretrain_epochs"], t.user_attrs["seed"]) for t in study.trials]
    assert sorted(found) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for trial in study.trials:
        assert trial.values[0] == trial.user_attrs["score"]
        assert trial.user_attrs["params"] <= both.budget
    best = best_settings(place, study.study_name)["search"]
    assert best["pretrain_epochs"] in (0, 1)
    more = dataclasses.replace(both, pretrain_epochs=(1, 0, 2), seeds=1)
    more_trials = run_tuning(more, place, Silent()).trials[4:]
    assert [trial.params for trial in more_trials] == [{"pretrain_epochs": 2}]
    assert run_tuning(both, place, Silent()).trials[:4] == study.trials[:4]
    assert not (place.folder / "checkpoints").exists()


def test_a_command_takes_the_law_that_another_command_searched_meanwhile(
    tuning: Tuning, place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = uniform_curve(tuning.subject.arch.base_widths)

    @contextmanager
    def wait(session: Session, folder: Path) -> Iterator[None]:
        schema.write_law(place.studies("vgg11-digits-test-tune")["eta"], law)
        yield

    monkeypatch.setattr(tuned, "hold_search", wait)
    monkeypatch.setattr(tuned, "_search", None)
    study = run_tuning(dataclasses.replace(tuning, trials=1), place, Silent())
    assert schema.read_law(study).to_dict() == law.to_dict()
    assert len(study.trials) == 1


def test_an_enqueued_trial_is_pruned_and_tuning_goes_on(tuning: Tuning, place: Workspace) -> None:
    study = run_tuning(dataclasses.replace(tuning, trials=2), place, Silent())
    study.enqueue_trial({"eta": 10.0})
    states = [t.state.name for t in run_tuning(tuning, place, Silent()).trials]
    assert states[2] == "PRUNED"
    assert len(states) == 13


def test_a_tuning_stores_its_latency_model(tuning: Tuning, place: Workspace) -> None:
    arch = tuning.subject.arch
    model = LatencyModel(arch.cost("macs"), 1e-6, np.zeros(len(arch.base_widths)), 1.0)
    task = dataclasses.replace(tuning.subject, arch=arch.with_latency(model))
    run_tuning(dataclasses.replace(tuning, subject=task, trials=1), place, Silent())
    again = with_latency_if_needed(tuning.subject, True, place, Silent())
    assert again.arch.cost("latency")(arch.base_widths) == model(arch.base_widths)
    settings = tuning.subject.settings.updated(latency_batch_size=1)
    other = dataclasses.replace(tuning.subject, settings=settings)
    (stored,) = list_studies(other, place)
    unknown = with_stored_latency(arch, [stored], settings.timed)
    assert unknown.latency is None  # milliseconds of another batch


def test_a_tuning_study_with_other_settings_is_refused(tuning: Tuning, place: Workspace) -> None:
    run_tuning(dataclasses.replace(tuning, trials=1), place, Silent())
    with pytest.raises(NsoptError, match=r"other settings \(tuning\.budget: \d+ now, \d+ there"):
        run_tuning(dataclasses.replace(tuning, budget=tuning.budget + 1), place, Silent())


def test_objectives_are_named_by_the_score_of_a_task(tuning: Tuning) -> None:
    task = nsopt.Task([(torch.zeros(2, 3), torch.zeros(2))], score_name="found (dB)")
    subject = dataclasses.replace(tuning.subject, data=task)
    named = dataclasses.replace(tuning, subject=subject, over="pretrain-epochs")
    assert list(named.objectives) == ["found (dB)", "search seconds"]


def test_a_tuning_whose_trials_all_failed_says_why(tuning: Tuning, place: Workspace) -> None:
    search = SETTINGS.search.updated(filters_per_step=0.9)
    subject = dataclasses.replace(tuning.subject, settings=SETTINGS.updated(search=search))
    both = dataclasses.replace(tuning, subject=subject, over="pretrain-epochs", seeds=1)
    study = run_tuning(both, place, Silent())
    with pytest.raises(NsoptError, match=r"completed \(pruning ends after .*: give other settings"):
        best_trial(study)


def test_a_worker_of_a_tuning_is_refused(tuning: Tuning, place: Workspace) -> None:
    study = run_tuning(dataclasses.replace(tuning, trials=1), place, Silent())
    with pytest.raises(NsoptError, match="run the same nsopt tune command again"):
        join_session(study.study_name.rpartition("/")[0], place, Silent())


@pytest.mark.parametrize("name", ["vgg11-digits-test/uniform", "nothing", "x-tune/eta"])
def test_settings_of_a_missing_tuning_study_raise_an_error(place: Workspace, name: str) -> None:
    with pytest.raises(NsoptError, match=r"no tuning study .* run nsopt tune first"):
        best_settings(place, name)
    assert list(place.folder.iterdir()) == []


def test_the_best_p_has_the_highest_mean_of_those_with_most_seeds() -> None:
    study = optuna.create_study(direction="maximize")
    with pytest.warns(ExperimentalWarning):
        study.set_metric_names(["validation accuracy (%)"])
    epochs = {"pretrain_epochs": IntDistribution(0, 60)}
    for tried, score in ((5, 60.0), (5, 62.0), (2, 59.0), (2, 60.0), (30, 90.0)):
        params = {"pretrain_epochs": tried}
        study.add_trial(create_trial(params=params, distributions=epochs, value=score))
    assert describe_best(study) == "P 5: validation accuracy (%) 61 (mean of 2 seeds)"


def test_the_best_eta_says_on_which_side_of_the_budget_it_ends() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.warns(ExperimentalWarning):
        study.set_metric_names(["distance from the budget", "steps"])
    eta = {"eta": FloatDistribution(0.01, 100)}
    for tried, distance, inside in ((1.0, 0.002, False), (2.5, 0.013, True)):
        study.add_trial(
            create_trial(
                params={"eta": tried},
                distributions=eta,
                values=[distance, 40],
                user_attrs={"feasible": inside, "seed": 0},
            )
        )
    assert describe_best(study) == "eta 2.5: -1.30% from the budget after 40 steps"
