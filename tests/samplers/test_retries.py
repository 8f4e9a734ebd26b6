"""A trial has one budget, whoever retries, enqueues or copies it, whatever samples beside it."""

from itertools import product
from pathlib import Path

import optuna
import pytest
from optuna.samplers import GridSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import Trial, TrialState

from nsopt import NeuralScaleSampler, NsoptError, suggest_widths, uniform_curve
from tests.samplers.test_sampler import ARCH

BUDGETS = (10**5, 3 * 10**5, 10**6)
LAW = uniform_curve(ARCH.base_widths)


def make_sampler(budgets: object = BUDGETS, cost: str = "params", **options: object) -> object:
    return NeuralScaleSampler(LAW, cost, ARCH, budgets, **options)


def make_study(**options: object) -> Study:
    return optuna.create_study(direction="maximize", sampler=make_sampler(**options))


def count_parameters(trial: Trial) -> float:
    return float(sum(p.numel() for p in ARCH.build(suggest_widths(trial, ARCH)).parameters()))


def assert_budget(study: Study, number: int, budget: int) -> None:
    """The trial names this budget, and its network has about as many parameters, but not more."""
    trial = study.trials[number]
    assert trial.user_attrs["budget"] == budget
    assert trial.value is not None
    assert 0.9 * budget < trial.value <= budget
    assert trial.user_attrs["cost"] == trial.value


def kill(study: Study, widths: int) -> Trial:
    """Return a trial that suggested this many widths and failed."""
    trial = study.ask()
    for name, base in list(zip(ARCH.layer_names, ARCH.base_widths, strict=True))[:widths]:
        low = max(1, base // 32)
        trial.suggest_int(f"width_{name}", low, 8 * base, log=True)
    study.tell(trial, state=TrialState.FAIL)
    return trial


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("spread", [0.0, 0.3])
@pytest.mark.parametrize("widths", [0, 3, 8])
def test_a_trial_that_optuna_retries_has_its_first_budget(widths: int, spread: float) -> None:
    retry = RetryHeartbeatStaleTrialCallback(max_retry=3)
    study = make_study(seed=0, spread=spread)
    study.optimize(count_parameters, n_trials=1)
    for _ in range(3):  # 1 is killed, its retry as 2 and as 3, too
        killed = kill(study, widths)
        retry(study, study.trials[killed.number])
    study.optimize(count_parameters, n_trials=2)
    for number, budget in ((0, BUDGETS[0]), (4, BUDGETS[1]), (5, BUDGETS[2])):
        assert_budget(study, number, budget)


def test_widths_that_are_enqueued_alone_get_the_budget_that_holds_them() -> None:
    first = make_study()
    first.optimize(count_parameters, n_trials=3)
    study = make_study()
    for trial in reversed(first.trials):
        study.enqueue_trial(trial.params)
    named = zip(ARCH.layer_names, ARCH.base_widths, strict=True)
    too_large = {f"width_{name}": width for name, width in named}
    study.enqueue_trial(too_large)
    study.optimize(count_parameters, n_trials=4)
    for number, budget in enumerate(reversed(BUDGETS)):
        assert_budget(study, number, budget)
        assert study.trials[number].constraints["budget"] <= 0
    assert study.trials[3].user_attrs["budget"] == BUDGETS[-1]
    assert study.trials[3].constraints["budget"] > 0


def test_a_budget_survives_a_copy_of_the_study_and_other_budgets() -> None:
    study, storage = make_study(), optuna.storages.InMemoryStorage()
    killed = kill(study, 8)
    optuna.copy_study(
        from_study_name=study.study_name,
        from_storage=study._storage,
        to_storage=storage,
        to_study_name="copy",
    )
    copy = optuna.load_study(study_name="copy", storage=storage, sampler=make_sampler("200k"))
    copy.enqueue_trial(killed.params, user_attrs=copy.trials[0].user_attrs)
    copy.optimize(count_parameters, n_trials=2)
    assert_budget(copy, 1, BUDGETS[0])
    assert_budget(copy, 2, 200_000)


def test_a_budget_in_another_metric_is_refused_and_never_relabelled() -> None:
    study = make_study()
    killed = kill(study, 8)
    study.sampler = make_sampler("20M", "macs")
    study.enqueue_trial({}, user_attrs=killed.user_attrs)
    with pytest.raises(NsoptError, match="trial 1 has a budget in another metric than macs"):
        suggest_widths(study.ask(), ARCH)
    study.enqueue_trial(killed.params, user_attrs=killed.user_attrs)
    study.optimize(count_parameters, n_trials=1)
    assert study.trials[2].user_attrs == {"budget": BUDGETS[0], "metric": "params"}


def test_attributes_of_users_stay_theirs() -> None:
    study = make_study()
    study.enqueue_trial({}, user_attrs={"metric": "top 1"})
    study.optimize(count_parameters, n_trials=1)
    assert_budget(study, 0, BUDGETS[0])
    assert study.trials[0].user_attrs["metric"] == "top 1"


RATES = (0.1, 0.2, 0.4)


def grid_objective(trial: Trial) -> float:
    return count_parameters(trial) + 0 * trial.suggest_float("lr", 0, 1)


def points(study: Study) -> list[tuple[float, float]]:
    return sorted((trial.params["lr"], trial.user_attrs["budget"]) for trial in study.trials)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_grid_has_every_point_at_each_budget_and_ends(jobs: int) -> None:
    study = make_study(independent_sampler=GridSampler({"lr": RATES}))
    study.optimize(grid_objective, n_trials=40, n_jobs=jobs)
    assert set(points(study)) == set(product(RATES, BUDGETS))
    assert len(study.trials) == 9 or jobs == 2  # two threads may both take the last point
    for trial in study.trials:
        assert_budget(study, trial.number, trial.user_attrs["budget"])


def test_a_grid_goes_on_in_another_process_and_beside_budgets_of_its_own(tmp_path: Path) -> None:
    def run(trials: int) -> Study:
        """As another process: all is new but the file."""
        grid = GridSampler({"lr": RATES}, seed=7)
        study = optuna.create_study(
            study_name="grid",
            storage=RDBStorage(f"sqlite:///{tmp_path / 'grid.db'}"),
            sampler=make_sampler(independent_sampler=grid),
            load_if_exists=True,
        )
        study.optimize(grid_objective, n_trials=trials)
        return study

    run(4).enqueue_trial({"lr": 0.8}, user_attrs={"budget": "500k"})
    assert points(run(40)) == sorted([*product(RATES, BUDGETS), (0.8, 500_000)])
    one = make_study(budgets="100k", independent_sampler=GridSampler({"lr": RATES}))
    one.optimize(grid_objective, n_trials=40)
    assert points(one) == [(rate, 10**5) for rate in RATES]
