"""Bands of laws: the widths that other searches should find."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nsopt
from nsopt.scaling.distance import law_distance
from nsopt.scaling.family import relative
from nsopt.scaling.fit_error import FitError
from nsopt.scaling.law import PowerLaw, floor_widths, uniform_curve
from nsopt.scaling.solve import WidthFit, solve_widths
from tests.scaling.test_law import read_published_iterations

ARCH = nsopt.get_architecture("vgg11")
PARAMS = ARCH.cost("params")


def draw_record(seed: int, scatter: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return widths (40, 8) around a law, with independent errors, and their sizes (40,)."""
    generator = np.random.default_rng(seed)
    tau = np.geomspace(1e5, 5e6, 40)
    law = 2 * np.sqrt(tau[:, None] / 1e4) * np.arange(1, 9)
    return law * np.exp(generator.normal(scale=scatter, size=law.shape)), tau


def edges(fit: WidthFit) -> tuple[np.ndarray, np.ndarray]:
    assert fit.widths_low is not None
    assert fit.widths_high is not None
    return fit.widths_low, fit.widths_high


def error_of(law: PowerLaw) -> FitError:
    assert law.error is not None
    return law.error


def read_published_laws(shared: Path, name: str) -> list[PowerLaw]:
    found = read_published_iterations(shared / "paper", name)
    return [PowerLaw.fit(widths, tau) for _, widths, tau, _ in found]


of_published = pytest.mark.parametrize(
    ("name", "data", "classes"),
    [("vgg11", "cifar10", 10), ("resnet18", "cifar100", 100), ("mobilenetv2", "cifar100", 100)],
)


def test_the_band_contains_90_percent_of_widths_and_widens_beyond_them() -> None:
    widths, tau = draw_record(0)
    law = PowerLaw.fit(widths, tau)
    inside = np.abs(np.log(widths / law.widths(tau))) < error_of(law).reach(tau)
    assert inside.mean() == pytest.approx(0.9, abs=0.05)
    near, far = error_of(law).reach(np.array([tau.mean(), tau.max() * 1e6]))
    assert (far > 1.2 * near).all()


def test_correlated_rows_give_a_wider_band() -> None:
    log_tau = np.linspace(10.0, 15.0, 60)
    independent = np.random.default_rng(0).normal(size=(60, 1))
    drifting = np.cumsum(np.random.default_rng(1).normal(size=(60, 1)), axis=0)
    drifting = (drifting - drifting.mean()) / drifting.std() * independent.std()
    one, other = (FitError.of(log_tau, rows) for rows in (independent, drifting))
    assert other.freedom < one.freedom / 5
    assert (other.reach(np.exp(log_tau)) > 1.1 * one.reach(np.exp(log_tau))).all()


@pytest.mark.shared_data
@of_published
def test_bands_contain_the_widths_of_neighbouring_published_iterations(
    shared: Path, name: str, data: str, classes: int
) -> None:
    arch = nsopt.get_architecture(name, num_classes=classes)
    laws, cost = read_published_laws(shared, f"{name}-{data}")[7:], arch.cost("params")
    budgets = [cost(floor_widths(ratio, arch.base_widths)) for ratio in (0.25, 0.5, 1.0)]
    inside = []
    for law, following in pairwise(laws):
        fit, other = (solve_widths(each, cost, budgets, warn=False) for each in (law, following))
        low, high = edges(fit)
        inside.append((low <= other.widths) & (other.widths <= high))
    assert np.mean(inside) >= 0.9


@given(seed=st.integers(0, 100), budget=st.integers(10_000, 10_000_000))
def test_a_band_contains_the_solved_widths(seed: int, budget: int) -> None:
    fit = solve_widths(PowerLaw.fit(*draw_record(seed)), PARAMS, budget, warn=False)
    low, high = edges(fit)
    assert (low <= fit.widths).all()
    assert (fit.widths <= high).all()
    assert (low >= 1).all()


def test_bands_of_many_budgets_equal_those_of_each() -> None:
    law, budgets = PowerLaw.fit(*draw_record(3)), [50_000, 2_000_000]
    together = solve_widths(law, PARAMS, budgets, warn=False)
    for index, budget in enumerate(budgets):
        alone = solve_widths(law, PARAMS, budget, warn=False)
        for whole, one in zip(edges(together), edges(alone), strict=True):
            assert (whole[index] == one).all()


@pytest.mark.parametrize("scatter", [500.0, 50_000.0])
def test_a_law_with_a_huge_error_has_the_widest_band(scatter: float) -> None:
    """The edges overflow an integer in one case, and a float in the other."""
    law = PowerLaw.fit(*draw_record(0))
    lost = replace(law, error=error_of(law) * scatter**2)
    low, high = edges(solve_widths(lost, PARAMS, 600_000, warn=False))
    assert (low == 1).all()
    assert (high == 2**20).all()


def test_a_law_that_was_not_fitted_has_no_band() -> None:
    fit = solve_widths(uniform_curve(ARCH.base_widths), PARAMS, 600_000, warn=False)
    assert fit.widths_low is None
    assert fit.widths_high is None


def test_the_error_survives_json_and_a_change_of_unit() -> None:
    law = PowerLaw.fit(*draw_record(1))
    again = PowerLaw.from_dict(json.loads(json.dumps(law.to_dict())))
    assert (error_of(again).covariance == error_of(law).covariance).all()
    assert (error_of(again).residual == error_of(law).residual).all()
    base = PARAMS(ARCH.base_widths)
    scaled = relative(law, PARAMS, ARCH.base_widths)
    for size in (0.01, 0.3):
        there, here = scaled.band(size), law.band(size * base)
        assert there is not None
        assert here is not None
        np.testing.assert_allclose(there, here, rtol=1e-6)


def test_errors_of_products_and_powers_add_up() -> None:
    one, two = (PowerLaw.fit(*draw_record(seed)) for seed in (1, 2))
    product = error_of(one * two)
    np.testing.assert_allclose(product.residual, error_of(one).residual + error_of(two).residual)
    assert (product.freedom <= error_of(one).freedom).all()
    tau = np.array([1e6])
    np.testing.assert_allclose(error_of(one**-2).reach(tau), 2 * error_of(one).reach(tau))
    assert (one * PowerLaw(one.alpha, one.beta, one.r2)).error is not None


def test_rows_on_a_line_have_no_error() -> None:
    tau = np.array([1.0, 10.0, 100.0])
    error = FitError.of(np.log(tau), np.zeros((3, 2)))
    assert (error.reach(tau) == 0).all()


def test_the_distance_of_laws_is_symmetric_and_zero_for_equal_laws() -> None:
    uniform = uniform_curve(ARCH.base_widths)
    assert law_distance(uniform, uniform, PARAMS, ARCH.base_widths) == 0
    one, two = (PowerLaw.fit(*draw_record(seed)) for seed in (1, 2))
    there, back = (
        law_distance(*pair, PARAMS, ARCH.base_widths) for pair in ((one, two), (two, one))
    )
    assert there == back
    assert 0 < there < law_distance(one, uniform, PARAMS, ARCH.base_widths)


@pytest.mark.shared_data
@of_published
def test_published_iterations_come_closer_to_each_other(
    shared: Path, name: str, data: str, classes: int
) -> None:
    arch = nsopt.get_architecture(name, num_classes=classes)
    laws = read_published_laws(shared, f"{name}-{data}")[1:]
    steps = [law_distance(*pair, arch.cost("params"), arch.base_widths) for pair in pairwise(laws)]
    assert np.mean(steps[6:]) < np.mean(steps[:3])
