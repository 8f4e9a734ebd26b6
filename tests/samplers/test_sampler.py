from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    PartialFixedSampler,
    RandomSampler,
    TPESampler,
)

from nsopt import Architecture, NsoptError, get_architecture, solve_widths, solve_widths_sgd, trace
from nsopt.samplers.neuralscale import NeuralScaleSampler, suggest_widths
from nsopt.scaling.law import PowerLaw, uniform_curve
from tests.forked import Forked
from tests.tracing.awkward import Cropped

ARCH = get_architecture("vgg11")
PARAMS = ARCH.cost("params")
LAW = PowerLaw(np.linspace(0.5, 2, 8), np.linspace(0.3, 0.6, 8), np.ones(8))

optuna.logging.set_verbosity(optuna.logging.ERROR)


def make_sampler(**options: object) -> NeuralScaleSampler:
    return NeuralScaleSampler(LAW, PARAMS, ARCH.layer_names, **options)


def solve_law(budget: float) -> tuple[int, ...]:
    return tuple(solve_widths(LAW, PARAMS, budget).widths.tolist())


def test_trials_get_the_laws_widths_at_their_budgets() -> None:
    study = optuna.create_study(sampler=make_sampler(budgets=[10**5, 10**6]))
    proposed = [suggest_widths(study.ask(), ARCH) for _ in range(4)]
    assert proposed == [solve_law(10**5), solve_law(10**6)] * 2


@pytest.mark.parametrize("step", [1, 3])
def test_the_default_range_has_only_widths_that_the_network_can_have(step: int) -> None:
    arch = trace(Cropped(), torch.randn(2, 3, 32, 32))
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    trial = study.ask()
    for _ in range(3):
        trial = study.ask()
        arch.check_widths(suggest_widths(trial, arch, step=step))
    highest = [getattr(range_, "high", 0) for range_ in trial.distributions.values()]
    assert highest == [128, 16 // step * step, 192] if step == 1 else [126, 15, 192]


def test_budgets_may_be_an_array() -> None:
    for budgets in (np.array([1e5, 1e6]), np.array(1e5), np.array([], dtype=float)):
        assert repr(make_sampler(budgets=budgets)) == repr(make_sampler(budgets=budgets.tolist()))


def test_an_enqueued_budget_takes_precedence() -> None:
    study = optuna.create_study(sampler=make_sampler(budgets=[10**5]))
    for budget, word in ((700_000, 700_000), (250_000, "250k")):
        study.enqueue_trial({}, user_attrs={"budget": word})
        trial = study.ask()
        assert suggest_widths(trial, ARCH) == solve_law(budget)
        assert trial.user_attrs["budget"] == budget
    assert suggest_widths(study.ask(), ARCH) == solve_law(10**5)


def test_a_sampler_proposes_anew_for_a_study_of_the_same_name_elsewhere() -> None:
    own = make_sampler()
    for budget in (10**5, 10**6):
        study = optuna.create_study(study_name="net", sampler=own)
        study.enqueue_trial({}, user_attrs={"budget": budget})
        assert suggest_widths(study.ask(), ARCH) == solve_law(budget), "its trial does not end"


@settings(max_examples=10)
@given(st.integers(100_000, 5 * 10**6))
def test_proposals_follow_multiple_of_and_min_width(budget: int) -> None:
    for options in ({}, {"spread": 0.3, "seed": 1}):
        study = optuna.create_study(
            sampler=make_sampler(
                budgets=[budget],
                solver=partial(solve_widths, multiple_of=8, min_width=16),
                **options,
            )
        )
        widths = suggest_widths(study.ask(), ARCH)
        assert min(widths) >= 16
        assert not any(width % 8 for width in widths)
        assert PARAMS(widths) <= budget


def test_other_parameters_go_to_the_independent_sampler() -> None:
    def values(seed: int) -> list[float]:
        own = make_sampler(budgets=[10**6], independent_sampler=RandomSampler(seed=seed))
        study = optuna.create_study(sampler=own)
        trials = [study.ask() for _ in range(5)]
        for trial in trials:
            suggest_widths(trial, ARCH)
        return [trial.suggest_float("lr", 1e-3, 1, log=True) for trial in trials]

    assert values(0) == values(0) != values(1)
    assert len(set(values(0))) == 5


def test_other_parameters_are_sampled_in_the_order_of_the_joint_space() -> None:
    """A set of names would have another order in each process."""
    sampled: list[str] = []

    class Recording(RandomSampler):
        def infer_relative_search_space(self, *_: Any) -> dict[str, Any]:
            return {name: FloatDistribution(0, 1) for name in "abcdefgh"}

        def sample_independent(self, study: Any, trial: Any, name: str, *rest: Any) -> Any:
            sampled.append(name)
            return super().sample_independent(study, trial, name, *rest)

    own = make_sampler(budgets=[10**6], independent_sampler=Recording(seed=0))
    assert optuna.create_study(sampler=own).ask().relative_params
    assert sampled == list("abcdefgh")


def suggest_values() -> list[tuple]:
    """Return widths and a learning rate of three trials."""
    study = optuna.create_study(sampler=make_sampler(budgets=[10**5, 10**6], seed=7, spread=0.2))
    trials = [study.ask() for _ in range(3)]
    return [(suggest_widths(t, ARCH), t.suggest_float("lr", 0, 1)) for t in trials]


def test_same_seed_gives_the_same_parameters_in_another_process() -> None:
    other = Forked(print_values).finish()
    assert other.stdout.strip() == str(suggest_values()), other.stderr


def print_values() -> None:
    print(suggest_values(), flush=True)


@given(
    budget=st.integers(20_000, 5_000_000),
    spread=st.floats(0.01, 1.5),
    seed=st.integers(0, 2**32 - 1),
    metric=st.sampled_from(["params", "macs"]),
)
def test_spread_proposals_fit_a_budget(budget: int, spread: float, seed: int, metric: str) -> None:
    cost = ARCH.cost(metric)
    limit = budget if metric == "params" else 40 * budget
    own = NeuralScaleSampler(LAW, cost, ARCH.layer_names, budgets=[limit], seed=seed, spread=spread)
    study = optuna.create_study(sampler=own)
    for _ in range(3):
        assert cost(suggest_widths(study.ask(), ARCH, low=1, high=10**6)) <= limit


def test_spread_is_the_deviation_of_log_widths() -> None:
    study = optuna.create_study(sampler=make_sampler(budgets=[10**7], seed=0, spread=0.1))
    logs = np.log([suggest_widths(study.ask(), ARCH) for _ in range(300)])
    assert len(np.unique(logs, axis=0)) == 300
    relative = logs - np.log(solve_law(10**7))
    # The projection onto the budget moves all layers together: look at differences of layers.
    deviation = np.std(relative[:, 0] - relative[:, 4])
    assert 0.08 < deviation / np.sqrt(2) < 0.12


@pytest.mark.parametrize("spread", [-0.1, float("nan"), float("inf")])
def test_a_spread_out_of_range_raises_an_error(spread: float) -> None:
    with pytest.raises(NsoptError, match="spread must be a number of at least 0"):
        make_sampler(spread=spread)


def read_widths(trial: optuna.trial.FrozenTrial) -> tuple[int, ...]:
    return tuple(trial.params[f"width_{name}"] for name in ARCH.layer_names)


def test_algorithm_3_takes_power_laws_and_one_budget() -> None:
    with pytest.raises(NsoptError, match="Algorithm 3 takes one budget"):
        NeuralScaleSampler(LAW, "params=1M,macs=10M", ARCH, solver=solve_widths_sgd)

    class Doubled:
        layers = 8
        widths = staticmethod(lambda scale: 2 * LAW.widths(scale))

    with pytest.raises(NsoptError, match="Algorithm 3 takes power laws"):
        NeuralScaleSampler(Doubled(), PARAMS, ARCH, [10**6], solver=solve_widths_sgd)
    with pytest.raises(NsoptError, match="spread is for power laws"):
        NeuralScaleSampler(Doubled(), PARAMS, ARCH, spread=0.1)


def test_an_infeasible_budget_raises_an_error_at_once() -> None:
    with pytest.raises(NsoptError, match="smallest feasible"):
        make_sampler(budgets=[10])


def test_a_range_that_excludes_the_width_raises_an_error() -> None:
    study = optuna.create_study(sampler=make_sampler(budgets=[10**6]))
    trial = study.ask()
    with pytest.raises(NsoptError, match=f"width_conv1 must be able to be {solve_law(10**6)[0]}"):
        trial.suggest_int("width_conv1", 1, 3)


def test_suggesting_widths_without_a_budget_raises_an_error() -> None:
    study = optuna.create_study(sampler=make_sampler())
    with pytest.raises(NsoptError, match="budgets="):
        suggest_widths(study.ask(), ARCH)


def test_a_budget_can_be_set_after_another_parameter_was_suggested() -> None:
    trial = optuna.create_study(sampler=make_sampler()).ask()
    trial.suggest_float("lr", 0, 1)
    trial.set_user_attr("budget", 700_000)
    assert suggest_widths(trial, ARCH) == solve_law(700_000)


def test_suggesting_layers_of_another_network_raises_an_error() -> None:
    resnet = get_architecture("resnet18")
    study = optuna.create_study(sampler=make_sampler(budgets=[10**6]))
    with pytest.raises(NsoptError, match=r"width_stem is not a layer .* width_conv1, width_conv2"):
        suggest_widths(study.ask(), resnet)


def test_other_samplers_suggest_widths_near_the_base_widths() -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(20):
        widths = np.array(suggest_widths(study.ask(), ARCH))
        assert (widths <= 8 * np.array(ARCH.base_widths)).all()
        assert (widths >= np.array(ARCH.base_widths) // 32).all()
    other = optuna.create_study(sampler=RandomSampler(seed=0))
    own = suggest_widths(other.ask(), ARCH, low=8, high=ARCH.base_widths, step=8)
    assert not any(width % 8 for width in own)
    assert (np.array(own) <= ARCH.base_widths).all()


def test_suggest_widths_accepts_a_fixed_trial() -> None:
    fixed = {f"width_{name}": 100 + number for number, name in enumerate(ARCH.layer_names)}
    assert suggest_widths(optuna.trial.FixedTrial(fixed), ARCH) == tuple(range(100, 108))


def test_a_trial_stores_its_budget_and_its_cost() -> None:
    study = optuna.create_study(sampler=make_sampler(budgets=[10**6]))
    study.enqueue_trial({f"width_{name}": 300 for name in ARCH.layer_names})
    study.optimize(lambda trial: float(sum(suggest_widths(trial, ARCH))), n_trials=2)
    enqueued, proposed = study.trials
    for trial, widths in ((enqueued, [300] * 8), (proposed, solve_law(10**6))):
        assert trial.user_attrs == {"budget": 10**6, "metric": "params", "cost": PARAMS(widths)}
        assert trial.constraints == {"budget": pytest.approx(PARAMS(widths) / 10**6 - 1)}
    assert enqueued.constraints["budget"] > 0 >= proposed.constraints["budget"]
    assert study.best_trial.number == proposed.number


@pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning", "ignore:widths of study"
)
@pytest.mark.parametrize(
    "other",
    [
        lambda: TPESampler(seed=0, n_startup_trials=4),
        lambda: NSGAIISampler(seed=0),
        lambda: GPSampler(seed=0, n_startup_trials=4),
    ],
    ids=["TPE", "NSGA-II", "GP"],
)
def test_other_samplers_can_continue_its_study(other: Callable[[], BaseSampler]) -> None:
    """They learn from its trials, and from the constraint how much a network may cost."""
    budget = 10**6

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        widths = suggest_widths(trial, ARCH)
        trial.set_constraint("budget", PARAMS(widths) / budget - 1)
        return trial.suggest_float("lr", 1e-3, 1e-1, log=True), float(sum(widths))

    study = optuna.create_study(
        directions=["minimize", "maximize"],
        sampler=make_sampler(budgets=[budget], spread=0.2, seed=0),
    )
    study.optimize(objective, n_trials=4)
    study.sampler = other()
    study.optimize(objective, n_trials=1)
    ranges = study.trials[0].distributions
    trial = study.trials[-1]
    assert trial.state == optuna.trial.TrialState.COMPLETE
    assert trial.distributions == ranges
    assert list(trial.constraints) == ["budget"]


@pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
def test_a_partial_fixed_sampler_can_wrap_it() -> None:
    own = PartialFixedSampler({"lr": 0.5, "width_conv1": 40}, make_sampler(budgets=[10**6]))
    study = optuna.create_study(sampler=own)
    study.optimize(
        lambda trial: sum(suggest_widths(trial, ARCH)) * trial.suggest_float("lr", 0, 1), n_trials=1
    )
    (trial,) = study.trials
    assert trial.params["lr"] == 0.5
    assert read_widths(trial) == (40, *solve_law(10**6)[1:])
    assert trial.user_attrs["cost"] == PARAMS(read_widths(trial))


def test_the_repr_of_a_sampler_names_layers_and_budgets() -> None:
    assert repr(make_sampler(budgets=[10**5, 10**6])) == (
        "NeuralScaleSampler(8 layers, budgets in params: 100,000, 1,000,000)"
    )
    assert repr(make_sampler(spread=0.2)).endswith("budgets in params: of the trials, spread=0.2)")


def test_layer_names_must_match_the_law() -> None:
    with pytest.raises(NsoptError, match="2 layer names for a law of 8 layers"):
        NeuralScaleSampler(LAW, PARAMS, ["a", "b"])


def test_the_sampler_takes_algorithm_3_as_its_solver() -> None:
    own = make_sampler(solver=partial(solve_widths_sgd, eta=0.01))
    published = solve_widths_sgd(LAW, PARAMS, 10**6, eta=0.01)
    assert own.propose(10**6) == tuple(published.widths.tolist())
    with pytest.raises(NsoptError, match="Algorithm 3 diverges: try a smaller eta"):
        make_sampler(solver=partial(solve_widths_sgd, eta=1e9)).propose(10**6)


def test_budgets_can_be_written_as_in_commands(vgg11: Architecture) -> None:
    law, cost, names = uniform_curve(vgg11.base_widths), vgg11.cost("params"), vgg11.layer_names
    words = NeuralScaleSampler(law, cost, names, "600k, 1M")
    numbers = NeuralScaleSampler(law, cost, names, [600_000, 1_000_000])
    assert repr(words) == repr(numbers)
    with pytest.raises(NsoptError, match="'6x' is not a budget: write 600000, 600k or 2M"):
        NeuralScaleSampler(law, cost, names, ["6x"])
    with pytest.raises(NsoptError, match="cost must map widths to a cost"):
        NeuralScaleSampler(law, 5, names)
    with pytest.raises(NsoptError, match="the cost has no unit: give the budget '600k'"):
        NeuralScaleSampler(law, np.sum, names, "600k")


def test_a_metric_and_a_network_replace_cost_and_layer_names(vgg11: Architecture) -> None:
    law = uniform_curve(vgg11.base_widths)
    short = NeuralScaleSampler(law, "macs", vgg11, "10M")
    long = NeuralScaleSampler(law, vgg11.cost("macs"), vgg11.layer_names, [10_000_000])
    assert repr(short) == repr(long)
    assert short.propose(10**7) == long.propose(10**7)
    limits = [(vgg11.cost("params"), 250_000), (vgg11.cost("macs"), 20e6)]
    joint = NeuralScaleSampler(law, "params=250k,macs=20M", vgg11)
    assert joint.propose(1) == tuple(solve_widths(law, limits).widths.tolist())
    with pytest.raises(NsoptError, match="cost='macs' needs the network: give arch for"):
        NeuralScaleSampler(law, "macs", vgg11.layer_names)
    with pytest.raises(NsoptError, match="unknown metric 'mac'"):
        NeuralScaleSampler(law, "mac", vgg11)


def test_joint_budgets_have_one_constraint_each_and_store_the_binding_one() -> None:
    macs = ARCH.cost("macs")
    own = NeuralScaleSampler(LAW, "params=10M,macs=10M", ARCH)
    study = optuna.create_study(direction="maximize", sampler=own)
    study.enqueue_trial({f"width_{name}": 300 for name in ARCH.layer_names})
    study.enqueue_trial({}, user_attrs={"budget": 0.5})
    study.optimize(lambda trial: float(sum(suggest_widths(trial, ARCH, 1))), n_trials=3)
    enqueued, half, whole = study.trials
    widths = tuple(solve_widths(LAW, macs, 10**7).widths.tolist())
    assert own.propose(1) == widths
    assert tuple(whole.params.values()) == widths
    assert whole.user_attrs == {
        "budget": 1,
        "metric": "params=10000000,macs=10000000",
        "cost": macs(widths) / 10**7,
        "budget_params": 10**7,
        "budget_macs": 10**7,
        "cost_params": PARAMS(widths),
        "cost_macs": macs(widths),
        "binding": "macs",
    }
    assert half.user_attrs["cost_macs"] <= half.user_attrs["budget_macs"] == 5 * 10**6
    for trial, cost in ((enqueued, [300] * 8), (whole, widths)):
        assert trial.constraints == {
            "budget": pytest.approx(trial.user_attrs["cost"] - 1),
            "budget_params": pytest.approx(PARAMS(cost) / 10**7 - 1),
            "budget_macs": pytest.approx(macs(cost) / 10**7 - 1),
        }
    assert "binding" not in enqueued.user_attrs
    assert study.best_trial.number == whole.number
