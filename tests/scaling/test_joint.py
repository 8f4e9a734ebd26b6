"""Joint budgets: several of them hold at once."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from nsopt import NsoptError, PowerLaw, get_architecture, solve_widths, uniform_curve
from nsopt.errors import NoWidthsError
from nsopt.scaling.cost import CostFunction, JointCost
from tests.scaling.test_solve import PARAMS, VGG11, L, laws

MACS = VGG11.cost("macs")
Limits = list[tuple[CostFunction, float]]
CURVE = uniform_curve(VGG11.base_widths)


def milliseconds_of(widths: ArrayLike) -> Any:
    """A cost in floats."""
    return 0.1 + 3e-6 * np.asarray(PARAMS(widths)) + 1e-8 * np.asarray(MACS(widths))


@given(
    laws,
    st.integers(200_000, 10**7),
    st.integers(10**7, 10**9),
    st.floats(2, 40),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([1, 16]),
    st.sampled_from([None, 64, 512]),
)
@settings(max_examples=30)
def test_no_budget_is_exceeded_and_no_larger_size_meets_them_all(
    law: PowerLaw,
    params: int,
    macs: int,
    milliseconds: float,
    multiple: int,
    least: int,
    most: int | None,
) -> None:
    limits: Limits = [(PARAMS, params), (MACS, macs), (milliseconds_of, milliseconds)]
    rounding = multiple, least, most
    fit = solve_widths(law, limits, None, *rounding)
    assert all(cost(fit.widths) <= budget for cost, budget in limits)
    np.testing.assert_array_equal(fit.cost, [cost(fit.widths) for cost, _ in limits])

    alone = [solve_widths(law, cost, budget, *rounding) for cost, budget in limits]
    smallest = min(alone, key=lambda one: one.tau)
    np.testing.assert_array_equal(fit.widths, smallest.widths)
    np.testing.assert_allclose(fit.tau, smallest.tau, rtol=1e-5)

    scales = float(fit.tau) * np.geomspace(1 + 1e-9, 100, 100)
    grown = law.widths(scales) // multiple * multiple
    larger = np.clip(grown, -(-least // multiple) * multiple, most)
    grown = larger[(larger > fit.widths).any(axis=1)].astype(np.int64)
    exceeded = [cost(grown) > budget for cost, budget in limits]
    assert np.any(exceeded, axis=0).all()
    assert fit.binding is None or exceeded[fit.binding].any()


@given(laws, st.integers(200_000, 10**7), st.sampled_from([1, 8]))
@settings(max_examples=10)
def test_the_binding_budget_alone_binds(law: PowerLaw, params: int, multiple: int) -> None:
    macs = int(MACS(solve_widths(law, PARAMS, params, multiple).widths))
    for tight, binding in ((0.5, 1), (2, 0)):
        limits = [(PARAMS, params), (MACS, int(macs * tight))]
        fit = solve_widths(law, limits, multiple_of=multiple)
        free = solve_widths(law, *limits[1 - binding], multiple_of=multiple)
        assert fit.binding == binding or (fit.widths == free.widths).all()


def test_the_marginal_joint_cost_is_a_share_of_the_tightest_budget() -> None:
    joint = JointCost(((PARAMS, 10**6), (MACS, 10**12)))
    rows = [VGG11.base_widths, (8,) * L]
    np.testing.assert_allclose(joint.marginal(rows), PARAMS.marginal(rows) / 10**6)
    np.testing.assert_allclose(joint.marginal(rows[0]), PARAMS.marginal(rows[0]) / 10**6)


@given(st.integers(0, 2**31), st.floats(0.05, 2), st.floats(0.7, 1.4))
@settings(max_examples=20)
def test_vanishing_projections_meet_all_budgets(seed: int, ratio: float, tilt: float) -> None:
    """The smallest of the single solutions may exceed another budget here."""
    arch = get_architecture("resnet18-tied", 100)
    base = np.array(arch.base_widths)
    generator = np.random.default_rng(seed)
    beta = generator.choice([0.3, 0.4, 0.5], base.size)  # repeated, so that widths often agree
    law = PowerLaw(base / 10.0 ** (6 * beta), beta, np.ones(base.size))
    widths = np.maximum(1, base * ratio).astype(int)
    limits = [(arch.cost("params"), arch.cost("params")(widths))]
    limits += [(arch.cost("macs"), int(tilt * arch.cost("macs")(widths)))]
    fit = solve_widths(law, limits)
    assert all(cost(fit.widths) <= budget for cost, budget in limits)
    scales = float(fit.tau) * np.geomspace(1 + 1e-9, 1.5, 1000)
    larger = np.maximum(np.floor(law.widths(scales)), 1).astype(int)
    assert np.any([cost(larger) > budget for cost, budget in limits], axis=0).all()


def test_the_budget_that_the_next_size_exceeds_binds() -> None:
    def first(widths: ArrayLike) -> Any:
        return np.asarray(widths)[..., 0]

    def second(widths: ArrayLike) -> Any:
        return 10 * np.asarray(widths)[..., 1]

    law = PowerLaw(np.array([1.0, 0.1]), np.ones(2), np.ones(2))
    fit = solve_widths(law, [(first, 20.5), (second, 19)])
    assert fit.widths.tolist() == [19, 1]
    assert fit.binding == 1


def test_a_budget_equal_to_the_cost_is_met_and_one_below_is_not() -> None:
    fit = solve_widths(CURVE, PARAMS, 3_000_000)
    exact = int(PARAMS(fit.widths))
    met, missed = (solve_widths(CURVE, [(PARAMS, b), (MACS, 1e12)]) for b in (exact, exact - 1))
    assert met.widths.tolist() == fit.widths.tolist()
    assert np.asarray(met.cost).dtype == np.int64
    assert np.asarray(met.cost)[0] == exact > np.asarray(missed.cost)[0]


def test_one_pair_equals_a_single_budget_and_max_width_leaves_none_binding() -> None:
    assert solve_widths(CURVE, [(PARAMS, 600_000)]).widths.tolist() == (
        solve_widths(CURVE, PARAMS, 600_000).widths.tolist()
    )
    widest = solve_widths(CURVE, [(PARAMS, 1e9), (MACS, 1e12)], max_width=8)
    assert widest.widths.tolist() == [8] * L
    assert widest.binding is None


def test_infeasible_budgets_name_the_cost_of_the_smallest_network() -> None:
    one = [1] * L
    with pytest.raises(NoWidthsError) as caught:
        solve_widths(CURVE, [(PARAMS, 100_000), (MACS, 10)])
    assert str(caught.value) == (
        "no widths fit the budgets params=100,000, macs=10: "
        f"the smallest network needs params={PARAMS(one):,}, macs={MACS(one):,}"
    )
    with pytest.raises(NoWidthsError, match="cost 1=5, params=7"):
        solve_widths(CURVE, [(milliseconds_of, 5), (PARAMS, 7)])


@pytest.mark.parametrize("limits", [[], [(PARAMS, 0)], [(PARAMS, [1, 2])], [(600_000, PARAMS)]])
def test_an_invalid_list_of_budgets_is_refused(limits: list) -> None:
    with pytest.raises(NsoptError, match=r"pairs? of a cost"):
        solve_widths(CURVE, limits)


def test_budgets_can_be_given_in_one_argument_only() -> None:
    with pytest.raises(NsoptError, match="leave budget out"):
        solve_widths(CURVE, [(PARAMS, 10**6)], 10**6)
    with pytest.raises(NsoptError, match="give a budget"):
        solve_widths(CURVE, PARAMS)
