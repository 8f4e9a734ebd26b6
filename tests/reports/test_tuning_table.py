import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from nsopt.reports.tuning_table import tuning_rows


def test_pruned_trials_are_listed_as_such_and_trials_of_others_are_not() -> None:
    study = optuna.create_study(direction="maximize")
    epochs, eta = IntDistribution(0, 60), FloatDistribution(0.01, 100)
    study.add_trial(
        create_trial(
            params={"pretrain_epochs": 5, "eta": 1.0},
            distributions={"pretrain_epochs": epochs, "eta": eta},
            value=61.25,
            user_attrs={"seed": 0, "params": 1000},
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
    study.add_trial(create_trial(value=99.0))
    columns, rows = tuning_rows(study, ["validation accuracy (%)"])
    assert columns == ["eta", "pretrain_epochs", "seed", "validation accuracy (%)", "parameters"]
    assert rows == [["", "2", "0", "pruned", ""], ["1", "5", "0", "61.25", "1,000"]]
