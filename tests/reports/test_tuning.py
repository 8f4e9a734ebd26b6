import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial

from nsopt.reports.tuning import describe_best, tuning_rows


def make_study(name: str | None = None) -> optuna.Study:
    study = optuna.create_study(direction="maximize", study_name=name)
    with pytest.warns(ExperimentalWarning):
        study.set_metric_names(["validation accuracy (%)"])
    return study


def test_the_table_lists_diverged_and_failed_trials_and_omits_foreign_ones() -> None:
    study = make_study()
    epochs, eta = IntDistribution(0, 60), FloatDistribution(0.01, 100)
    study.add_trial(
        create_trial(
            params={"pretrain_epochs": 5, "eta": 1.0},
            distributions={"pretrain_epochs": epochs, "eta": eta},
            value=61.25,
            user_attrs={"seed": 1001, "params": 1000},
        )
    )
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params={"pretrain_epochs": 2},
            distributions={"pretrain_epochs": epochs},
            user_attrs={"seed": 0},
        )
    )
    for epochs_tried, failure in ((9, {"error": "no law"}), (8, {})):
        study.add_trial(
            create_trial(
                state=TrialState.FAIL,
                params={"pretrain_epochs": epochs_tried},
                distributions={"pretrain_epochs": epochs},
                user_attrs={"seed": 0} | failure,
            )
        )
    study.add_trial(create_trial(value=99.0))
    rows = tuning_rows(study)
    assert list(rows[0]) == ["eta", "P", "seed", "validation accuracy (%)", "parameters"]
    assert [list(row.values()) for row in rows] == [
        ["", "2", "0", "diverged", ""],
        ["", "9", "0", "failed", ""],
        ["1", "5", "1001", "61.25", "1,000"],
    ]


def test_the_best_p_has_the_highest_mean_of_those_with_most_seeds() -> None:
    study = make_study()
    epochs = {"pretrain_epochs": IntDistribution(0, 60)}
    for tried, score in ((5, 60.0), (5, 62.0), (2, 59.0), (2, 60.0), (30, 90.0)):
        params = {"pretrain_epochs": tried}
        study.add_trial(create_trial(params=params, distributions=epochs, value=score))
    assert describe_best(study) == (
        "P 5: validation accuracy (%) 61 (mean of 2 seeds); not compared, with fewer seeds: P 30"
    )


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
    rows = [list(row.values()) for row in tuning_rows(study)]
    assert rows == [["1", "0", "+0.20%", "40"], ["2.5", "0", "-1.30%", "40"]]


def test_the_score_of_a_task_and_that_of_its_test_have_columns_of_their_own() -> None:
    study = optuna.create_study(direction="maximize")
    with pytest.warns(ExperimentalWarning):
        study.set_metric_names(["test"])
    numbers = {"seed": 0, "test_score": 60.0}
    epochs = {"pretrain_epochs": IntDistribution(0, 60)}
    own = {"pretrain_epochs": 5}
    trial = create_trial(params=own, distributions=epochs, value=61.0, user_attrs=numbers)
    study.add_trial(trial)
    assert tuning_rows(study) == [{"P": "5", "seed": "0", "test (validation)": "61", "test": "60"}]
