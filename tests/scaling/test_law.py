import csv
import json
import re
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import nsopt
from nsopt import NsoptError, PowerLaw, get_architecture, uniform_curve
from nsopt.scaling.law import floor_widths
from nsopt.scaling.record import Iteration, PruneRecord, Trajectory

layers = st.integers(1, 6)
alphas = st.floats(1e-3, 1e3)
betas = st.floats(0.05, 2)


@st.composite
def laws(draw: st.DrawFn) -> PowerLaw:
    count = draw(layers)
    alpha, beta = (draw(arrays(np.float64, count, elements=e)) for e in (alphas, betas))
    return PowerLaw(alpha, beta, np.ones(count))


def read_published_iterations(
    folder: Path, name: str
) -> list[tuple[int, np.ndarray, np.ndarray, dict]]:
    with (folder / f"{name}.records.csv").open() as file:
        rows = np.array([[float(cell) for cell in row] for row in list(csv.reader(file))[1:]])
    laws = json.loads((folder / f"{name}.laws.json").read_text())
    return [
        (law["iteration"], rows[rows[:, 0] == law["iteration"], 3:], own[:, 2], law)
        for law in laws
        for own in [rows[rows[:, 0] == law["iteration"]]]
    ]


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("golden", "vgg11-cifar10"),
        *(
            pytest.param("shared", name, marks=pytest.mark.shared_data)
            for name in ("vgg11-cifar10", "mobilenetv2-cifar100", "resnet18-cifar100")
        ),
    ],
)
def test_published_records_give_the_published_laws(
    request: pytest.FixtureRequest, where: str, name: str
) -> None:
    folder = request.getfixturevalue(where) / ("paper" if where == "shared" else "")
    for iteration, widths, tau, published in read_published_iterations(folder, name):
        if (where, name, iteration) == ("shared", "vgg11-cifar10", 1):
            continue  # its published law is from another run
        law = PowerLaw.fit(widths, tau)
        np.testing.assert_allclose(law.alpha, published["alpha"], rtol=1e-9)
        np.testing.assert_allclose(law.beta, published["beta"], rtol=1e-9)
        assert where == "shared" or (law.r2 > 0.85).all()


@given(laws())
def test_fit_recovers_the_law_that_generated_the_widths(law: PowerLaw) -> None:
    tau = np.geomspace(1e3, 1e6, 12)
    fitted = PowerLaw.fit(law.widths(tau), tau)
    np.testing.assert_allclose(fitted.alpha, law.alpha, rtol=1e-6)
    np.testing.assert_allclose(fitted.beta, law.beta, rtol=1e-7)
    np.testing.assert_allclose(fitted.r2, 1, atol=1e-9)


@given(laws())
def test_a_law_survives_json_exactly(law: PowerLaw) -> None:
    back = PowerLaw.from_dict(json.loads(json.dumps(law.to_dict())))
    for name in ("alpha", "beta", "r2"):
        np.testing.assert_array_equal(getattr(back, name), getattr(law, name))


def test_a_fit_with_an_underflowing_alpha_is_refused() -> None:
    with pytest.raises(NsoptError, match="finite alpha > 0"):
        PowerLaw.fit([[2000], [1], [1]], [181, 182, 183])


def test_a_law_is_immutable() -> None:
    with pytest.raises(ValueError, match="read-only"):
        uniform_curve([1, 2]).alpha[0] = 3


@pytest.mark.parametrize(
    ("widths", "tau", "message"),
    [
        ([[1, 2]], [3], "two different sizes"),
        ([[1, 2], [1, 2]], [3, 3], "two different sizes"),
        ([[1, 0], [1, 2]], [3, 4], "positive"),
        ([[1, 2], [1, 2]], [-3, 4], "positive"),
        ([[1, 2], [1, np.nan]], [3, 4], "positive"),
        ([1, 2], [3, 4], "do not match"),
        ([[1, 2], [1, 2]], [3], "do not match"),
    ],
)
def test_fit_refuses_invalid_records(widths: list, tau: list, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        PowerLaw.fit(widths, tau)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"alpha": [1.0]},
        {"alpha": [1.0], "beta": [1.0, 2.0]},
        {"alpha": ["a"], "beta": [1.0]},
        {"alpha": [-1.0], "beta": [1.0]},
        {"alpha": 1.0, "beta": 1.0},
        [],
        "power",
    ],
)
def test_from_dict_refuses_invalid_data(data: dict) -> None:
    with pytest.raises(NsoptError, match="law"):
        PowerLaw.from_dict(data)


def test_uniform_curve_is_the_base_widths_times_the_scale() -> None:
    np.testing.assert_array_equal(uniform_curve([64, 128]).widths(0.5), [32, 64])


def test_ratios_round_widths_down_but_not_to_zero() -> None:
    assert floor_widths(0.3, [64, 128, 3]) == (19, 38, 1)
    assert floor_widths(1.15, [100, 80]) == (115, 92)  # 1.15 * 100 is a little below 115


@st.composite
def two_laws(draw: st.DrawFn) -> tuple[PowerLaw, PowerLaw]:
    count = draw(layers)
    values = [draw(arrays(np.float64, count, elements=e)) for e in (alphas, betas) * 2]
    r2 = draw(arrays(np.float64, (2, count), elements=st.floats(0, 1)))
    alpha, beta, other_alpha, other_beta = values
    return PowerLaw(alpha, beta, r2[0]), PowerLaw(other_alpha, other_beta, r2[1])


@given(two_laws(), st.floats(1, 1e7), st.floats(-2, 2))
def test_products_are_laws(two: tuple[PowerLaw, PowerLaw], tau: float, exponent: float) -> None:
    one, other = two
    np.testing.assert_allclose((one * other).widths(tau), one.widths(tau) * other.widths(tau))
    np.testing.assert_allclose((one**exponent).widths(tau), one.widths(tau) ** exponent)
    assert ((one * other).r2 == np.minimum(one.r2, other.r2)).all()


def test_laws_of_different_numbers_of_layers_have_no_product() -> None:
    with pytest.raises(NsoptError, match="laws of 2 and 3 layers"):
        uniform_curve([1, 2]) * uniform_curve([1, 2, 3])


@given(laws(), st.lists(st.floats(1, 1e4), min_size=1, max_size=5))
def test_a_layer_reaches_a_width_at_its_scale(law: PowerLaw, widths: list[float]) -> None:
    for layer in range(law.layers):
        scales = law.scales(layer, np.array(widths))
        reached = law.widths(scales)[:, layer]
        finite = np.isfinite(scales)
        np.testing.assert_allclose(reached[finite], np.array(widths)[finite], rtol=1e-9)


def test_a_constant_layer_has_its_width_at_every_scale() -> None:
    law = PowerLaw(np.array([5.0, 1.0]), np.array([0.0, 1.0]), np.ones(2))
    assert law.scales(0, np.array([4.0, 5.0, 6.0])).tolist() == [0, 0, np.inf]


def test_a_layer_with_a_falling_law_gets_beta_zero_and_a_warning() -> None:
    steps = np.arange(10, 1, -1)
    widths = np.stack([10 * steps, 40 - 2 * steps, np.full(9, 7)], axis=1)
    widths[0] += [5, 50, 3]  # the unpruned network, so that every layer has lost a filter
    trajectory = Trajectory(widths, steps * 1000)
    law = trajectory.record().law()
    assert law.beta[0] > 0.9
    assert law.beta[1:].tolist() == [0, 0]
    rows = trajectory.record().widths
    np.testing.assert_allclose(law.alpha[1], np.exp(np.log(rows[:, 1]).mean()))
    iteration = Iteration(trajectory, law, (1, 1, 1), 1.0)
    warning = iteration.explain_misfits(["first", "second", "third"])
    assert warning == "the width of second, third does not follow the size"
    good = PowerLaw([1.0], [0.5], [0.9])
    assert Iteration(trajectory, good, (1,), 1.0).explain_misfits(["first"]) == ""
    loose = PowerLaw([1.0], [0.5], [0.2])
    misfits = Iteration(trajectory, loose, (1,), 1.0).explain_misfits(["first"])
    assert misfits == "that of first follows it loosely"


def test_a_law_without_layers_is_refused() -> None:
    with pytest.raises(NsoptError, match="a law needs at least one layer"):
        uniform_curve([])


def test_a_steep_layer_has_finite_widths_at_any_size() -> None:
    tau = np.array([100.0, 200, 400, 800])
    law = PowerLaw.fit(np.array([[15.0, 1], [15, 3], [15, 9], [16, 29]]), tau)
    assert np.isfinite(law.widths(1e290)).all()


ARCH = get_architecture("vgg11")
PARAMS, MACS = ARCH.cost("params"), ARCH.cost("macs")
WIDTHS = np.array([np.full(8, width) for width in (40, 32, 24, 16, 12, 8)])
TAU = np.asarray(PARAMS(WIDTHS))
LAW = PowerLaw.fit(WIDTHS, TAU)
INSIDE, LARGEST, SMALLEST = int(PARAMS(WIDTHS[2])), int(TAU[0]), int(TAU[-1])


@pytest.mark.parametrize(
    ("budget", "factor", "said"),
    [
        (500 * LARGEST, 500.0, f"{500 * LARGEST:,} params is 5e+02 times the largest recorded"),
        (2 * LARGEST, 2.0, "is 2 times the largest recorded network: nsopt extrapolates"),
        (SMALLEST // 2, 0.5, "is 0.5 times the smallest recorded network"),
        ([INSIDE, SMALLEST // 2, 3 * LARGEST], [1.0, 0.5, 3.0], "is 3 times the largest"),
    ],
)
def test_the_solver_warns_outside_the_record(budget: Any, factor: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=re.escape(said)) as caught:
        fit = nsopt.solve_widths(LAW, PARAMS, budget)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(fit.beyond_record, factor, rtol=1e-3)
    assert nsopt.solve_widths(LAW, PARAMS, budget, warn=False).beyond_record is not None


def test_the_solver_is_silent_inside_the_record_and_for_laws_without_one() -> None:
    for budget in (INSIDE, SMALLEST, LARGEST, int(1.004 * LARGEST)):
        assert nsopt.solve_widths(LAW, PARAMS, budget).beyond_record is None
    for law in (nsopt.uniform_curve(ARCH.base_widths), LAW * LAW, LAW**2):
        assert nsopt.solve_widths(law, PARAMS, 10**9).beyond_record is None


def test_other_metrics_other_solvers_and_several_budgets_warn_too() -> None:
    macs = 2 * int(MACS(WIDTHS[0]))
    with pytest.warns(UserWarning, match=f"{macs:,} MACs is 2 times the largest"):
        nsopt.solve_widths(LAW, MACS, macs)
    with pytest.warns(UserWarning, match=r"the budgets params=.* are 2 times the largest"):
        fit = nsopt.solve_widths(LAW, [(PARAMS, 2 * LARGEST), (MACS, 100 * macs)])
    assert fit.beyond_record == pytest.approx(2)
    with pytest.warns(UserWarning, match="is 2 times the largest"):
        nsopt.solve_widths_sgd(LAW, PARAMS, 2 * LARGEST, max_steps=1)


def test_a_budget_may_be_a_tensor_but_no_text() -> None:
    for budget in (torch.tensor(INSIDE), torch.tensor([INSIDE, SMALLEST])):
        widths = nsopt.solve_widths(LAW, PARAMS, budget).widths
        expected = nsopt.solve_widths(LAW, PARAMS, budget.tolist()).widths
        np.testing.assert_array_equal(widths, expected)
    for text in ("2e5", "2_000", ["2e5", 3000], np.array(["2e5"], object), b"2e5", "2k"):
        with pytest.raises(NsoptError, match=r"budget must be numbers, not .*2"):
            nsopt.solve_widths(LAW, PARAMS, text)
        with pytest.raises(NsoptError, match=r"budget must be numbers, not .*2"):
            LAW.beyond(PARAMS, text)


def test_a_law_keeps_its_record_in_a_file() -> None:
    law = PowerLaw.from_dict(LAW.to_dict())
    assert law.beyond(PARAMS, 2 * LARGEST) == pytest.approx(2)
    assert law.beyond(PARAMS, INSIDE) is None
    np.testing.assert_array_equal(law.recorded, WIDTHS[[-1, 0]])
    whole = np.vstack([WIDTHS[0], WIDTHS])
    by_layer = PruneRecord(whole, np.asarray(PARAMS(whole)), by_layer=True)
    np.testing.assert_array_equal(by_layer.law().recorded, WIDTHS[[-1, 0]])
    with pytest.raises(nsopt.NsoptError, match="of two networks"):
        replace(LAW, recorded=WIDTHS[0])


def test_the_sampler_warns_once_and_its_trials_say_how_far() -> None:
    with pytest.warns(UserWarning, match="3 times the largest") as caught:
        sampler = nsopt.NeuralScaleSampler(LAW, PARAMS, ARCH, budgets=[INSIDE, 3 * LARGEST])
    assert len(caught) == 1
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: sum(nsopt.suggest_widths(trial, ARCH)), n_trials=4)
    told = [trial.user_attrs.get("beyond_record") for trial in study.trials]
    assert told == [None, pytest.approx(3), None, pytest.approx(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent = partial(nsopt.solve_widths, warn=False)
        nsopt.NeuralScaleSampler(LAW, PARAMS, ARCH, budgets=[3 * LARGEST], solver=silent)
