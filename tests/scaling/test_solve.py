import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike, NDArray

import nsopt
from nsopt import (
    Architecture,
    NsoptError,
    PowerLaw,
    get_architecture,
    solve_widths,
    solve_widths_sgd,
    uniform_curve,
)
from nsopt.scaling.cost import WIDEST
from nsopt.scaling.law import floor_widths

SHARED_DATA = pytest.mark.shared_data
RATIOS = (0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 4, 8)
VGG11 = get_architecture("vgg11")
PARAMS = VGG11.cost("params")
L = len(VGG11.base_widths)

laws = st.builds(
    lambda alpha, beta: PowerLaw(alpha, beta, np.ones(L)),
    arrays(np.float64, L, elements=st.floats(1e-2, 10)),
    arrays(np.float64, L, elements=st.floats(0.1, 1)),
)
budgets = st.integers(10_000, 10**8)


@given(laws, budgets, st.sampled_from([1, 2, 8]), st.sampled_from([1, 3, 16]))
def test_the_solver_never_exceeds_the_budget(
    law: PowerLaw, budget: int, multiple: int, smallest: int
) -> None:
    feasible = PARAMS([-(-smallest // multiple) * multiple] * L)
    if budget < feasible:
        with pytest.raises(NsoptError, match=f"{feasible:,}"):
            solve_widths(law, PARAMS, budget, multiple, smallest)
        return
    fit = solve_widths(law, PARAMS, budget, multiple, smallest)
    assert fit.cost == PARAMS(fit.widths) <= budget
    assert (fit.widths % multiple == 0).all()
    assert (fit.widths >= smallest).all()


@given(laws, budgets, arrays(np.int64, L, elements=st.sampled_from([1, 2, 8, 16])))
def test_every_layer_may_have_a_multiple_of_its_own(
    law: PowerLaw, budget: int, multiples: NDArray[np.int64]
) -> None:
    feasible = PARAMS(multiples)
    if budget < feasible:
        with pytest.raises(NsoptError, match=f"{feasible:,}"):
            solve_widths(law, PARAMS, budget, multiples)
        return
    fit = solve_widths(law, PARAMS, budget, multiples)
    assert fit.cost == PARAMS(fit.widths) <= budget
    assert (fit.widths % multiples == 0).all()
    larger = np.floor(law.widths(float(fit.tau) * (1 + 1e-9)) / multiples) * multiples
    assert PARAMS(np.maximum(larger, multiples)) > budget


@pytest.mark.parametrize("multiples", [(8, 8), "auto", 8.5, None])
def test_invalid_multiples_are_refused(multiples: Any) -> None:
    with pytest.raises(NsoptError, match="must be a whole number, or 8 of them, one per layer"):
        solve_widths(uniform_curve(VGG11.base_widths), PARAMS, 10**6, multiples)


@dataclass(frozen=True, eq=False)
class Capped:
    """VGG11's parameters, with layers that can grow only up to a width."""

    widest: NDArray[np.float64]

    def __call__(self, widths: ArrayLike) -> Any:
        assert (np.asarray(widths) <= self.widest).all()
        return PARAMS(widths)


@settings(max_examples=25)
@given(
    laws,
    budgets,
    arrays(np.float64, L, elements=st.sampled_from([1, 5, 24, 100, np.inf])),
    st.sampled_from([1, 8]),
)
def test_layers_that_cannot_grow_leave_the_budget_to_the_others(
    law: PowerLaw, budget: int, widest: NDArray[np.float64], multiple: int
) -> None:
    feasible = PARAMS(np.minimum(multiple, widest).astype(int))
    if budget < feasible:
        with pytest.raises(NsoptError, match=f"{feasible:,}"):
            solve_widths(law, Capped(widest), budget, multiple)
        return
    fit = solve_widths(law, Capped(widest), budget, multiple)
    asked = solve_widths(law, PARAMS, budget, multiple, max_width=widest)
    np.testing.assert_array_equal(asked.widths, fit.widths)
    assert fit.cost == PARAMS(fit.widths) <= budget
    on_grid = fit.widths % multiple == 0
    assert (on_grid | (fit.widths == widest)).all()
    possible = np.minimum(widest, WIDEST)
    most = np.maximum(np.floor(possible / multiple) * multiple, np.minimum(multiple, possible))
    larger = np.floor(law.widths(fit.tau * 1.01) / multiple + 1) * multiple
    beyond = np.minimum(larger, most).astype(int)
    assert (fit.widths == most).all() or PARAMS(beyond) > budget


@given(laws, budgets)
@example(PowerLaw(np.ones(L), np.full(L, 0.1), np.ones(L)), 10_000)  # all breakpoints are ties
@example(PowerLaw(np.full(L, 0.012), np.array([1.0, *[0.125] * (L - 1)]), np.ones(L)), 40_894_559)
def test_no_larger_scale_fits(law: PowerLaw, budget: int) -> None:
    fit = solve_widths(law, PARAMS, budget)
    at_tau = np.clip(np.floor(law.widths(fit.tau)), 1, WIDEST)
    np.testing.assert_array_equal(fit.widths, at_tau)
    larger = law.widths(float(fit.tau) * np.geomspace(1 + 1e-9, 100, 50))
    assert (PARAMS(np.clip(np.floor(larger), 1, WIDEST)) > budget).all()


@given(laws, st.lists(budgets, min_size=1, max_size=8))
def test_solutions_of_many_budgets_equal_those_of_each(law: PowerLaw, many: list[int]) -> None:
    together = solve_widths(law, PARAMS, many)
    for row, budget in enumerate(many):
        alone = solve_widths(law, PARAMS, budget)
        np.testing.assert_array_equal(together.widths[row], alone.widths)
        assert np.asarray(together.cost)[row] == alone.cost
        np.testing.assert_allclose(np.asarray(together.tau)[row], alone.tau, rtol=1e-9)


@given(laws, budgets, budgets)
def test_a_larger_budget_never_narrows_a_layer(law: PowerLaw, one: int, other: int) -> None:
    small, large = (solve_widths(law, PARAMS, b).widths for b in sorted((one, other)))
    assert (small <= large).all()


def test_the_uniform_curve_at_the_budget_of_a_ratio_gives_the_uniform_network() -> None:
    curve = uniform_curve(VGG11.base_widths)
    for ratio in (*RATIOS, 0.3, 1.25):
        widths = floor_widths(ratio, VGG11.base_widths)
        assert tuple(solve_widths(curve, PARAMS, PARAMS(widths)).widths) == widths


@pytest.mark.parametrize("metric", ["params", "macs"])
@pytest.mark.parametrize("name", ["vgg11-cifar10", "mobilenetv2-cifar100", "resnet18-cifar100"])
@pytest.mark.parametrize("where", ["golden", pytest.param("shared", marks=SHARED_DATA)])
def test_published_laws_come_close_to_the_budget(
    request: pytest.FixtureRequest, where: str, name: str, metric: str
) -> None:
    folder = request.getfixturevalue(where) / ("paper" if where == "shared" else "")
    arch = get_architecture(name.split("-", maxsplit=1)[0], 10 if name.endswith("10") else 100)
    cost = arch.cost(metric)
    budgets = np.array([cost(floor_widths(ratio, arch.base_widths)) for ratio in RATIOS])
    for published in json.loads((folder / f"{name}.laws.json").read_text()):
        law = PowerLaw.from_dict(published)
        fit = solve_widths(law, cost, budgets)
        costs, scales = np.asarray(fit.cost), np.asarray(fit.tau)
        assert (costs <= budgets).all()
        for row, budget in enumerate(budgets):
            if budget - costs[row] > 0.005 * budget:  # then the next integers must not fit
                scale = scales[row] * np.geomspace(1 + 1e-9, 1.2, 5000)
                larger = np.unique(np.maximum(np.floor(law.widths(scale)), 1), axis=0)
                assert (cost(larger) > budget).all()


@given(
    st.sampled_from(["mobilenetv2", "resnet18", "resnet18-tied"]),
    st.integers(0, 2**31),
    st.floats(0.02, 4),
)
@settings(max_examples=30)
def test_vanishing_projections_are_solved_maximally(name: str, seed: int, ratio: float) -> None:
    arch = get_architecture(name, 100)
    cost = arch.cost("params")
    base = np.array(arch.base_widths)
    generator = np.random.default_rng(seed)
    beta = generator.choice([0.3, 0.4, 0.5], base.size)  # repeated, so that widths often agree
    law = PowerLaw(base / 10.0 ** (6 * beta), beta, np.ones(base.size))
    budget = cost(floor_widths(ratio, base))
    fit = solve_widths(law, cost, budget)
    assert fit.cost == cost(fit.widths) <= budget
    larger = float(fit.tau) * np.geomspace(1 + 1e-9, 1.5, 2000)
    assert (cost(np.maximum(np.floor(law.widths(larger)), 1)) > budget).all()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (10, f"smallest feasible one is {PARAMS([1] * L)}"),
        (-5, "smallest feasible"),
        (float("nan"), "finite"),
    ],
)
def test_an_infeasible_budget_raises_an_error(budget: float, message: str) -> None:
    with pytest.raises(NsoptError, match=message):
        solve_widths(uniform_curve(VGG11.base_widths), PARAMS, budget)


@pytest.mark.parametrize("exponents", [[0.0] * L, [-0.1] + [1.0] * (L - 1)])
def test_laws_that_do_not_grow_are_refused(exponents: list[float]) -> None:
    law = PowerLaw(np.ones(L), np.array(exponents), np.ones(L))
    with pytest.raises(NsoptError, match="does not grow"):
        solve_widths(law, PARAMS, 10**6)


def test_a_law_that_barely_grows_is_refused() -> None:
    law = PowerLaw(np.ones(L), np.full(L, 1e-4), np.ones(L))
    with pytest.raises(NsoptError, match="too flat"):
        solve_widths(law, PARAMS, 10**6)


@pytest.mark.parametrize("alpha", [1e-9, 1e9, 1e12])
def test_the_unit_of_a_law_does_not_change_the_solution(alpha: float) -> None:
    """At scale 1 its widths may overflow a cost."""
    law, usual = (PowerLaw(np.full(L, a), np.full(L, 0.5), np.ones(L)) for a in (alpha, 1.0))
    macs = VGG11.cost("macs")
    one, other = (solve_widths(each, macs, 10**7).widths for each in (law, usual))
    assert one.tolist() == other.tolist()


def test_rounding_arguments_are_checked(vgg11: Architecture) -> None:
    with pytest.raises(NsoptError, match="at least 1"):
        solve_widths(uniform_curve(vgg11.base_widths), PARAMS, 10**6, multiple_of=0)
    with pytest.raises(NsoptError, match="min_width must be at most the smallest max_width"):
        solve_widths(uniform_curve(vgg11.base_widths), PARAMS, 10**6, max_width=0)
    with pytest.raises(NsoptError, match="max_width must be a number, or 8 of them, one per layer"):
        solve_widths(uniform_curve(vgg11.base_widths), PARAMS, 10**6, max_width=(64, 128))
    with pytest.raises(NsoptError, match="max_width must be a number, or 8 of them, one per layer"):
        solve_widths(uniform_curve(vgg11.base_widths), PARAMS, 10**6, max_width=np.nan)


class Milliseconds:
    """A cost in floats: 3 ns for each parameter, and 0.1 ms."""

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        return 0.1 + 3e-6 * np.asarray(PARAMS(widths))


@settings(max_examples=25)
@given(laws, st.floats(0.2, 100))
def test_float_costs_are_solved_as_exactly_as_integers(law: PowerLaw, budget: float) -> None:
    cost = Milliseconds()
    fit = solve_widths(law, cost, budget)
    assert isinstance(fit.cost, float)
    assert fit.cost == float(cost(fit.widths)) <= budget
    larger = float(fit.tau) * np.geomspace(1 + 1e-9, 100, 50)
    assert (cost(np.maximum(np.floor(law.widths(larger)), 1)) > budget).all()


def test_an_infeasible_float_budget_names_a_feasible_one() -> None:
    law, cost = uniform_curve(VGG11.base_widths), Milliseconds()
    with pytest.raises(NsoptError, match=r"no widths fit a budget of 0\.05") as caught:
        solve_widths(law, cost, 0.05)
    named = float(str(caught.value).rsplit(" ", 1)[1])
    assert solve_widths(law, cost, named).widths.tolist() == [1] * L


@given(st.integers(1, 2000), st.integers(2, 40))
def test_a_layer_that_was_never_pruned_keeps_its_width(width: int, rows: int) -> None:
    """64 must not become 63 because exp(log(64)) is a little less."""
    tau = np.geomspace(1e4, 1e6, rows)
    others = np.round(tau[:, None] ** np.linspace(0.3, 0.5, L - 1))
    law = PowerLaw.fit(np.hstack([np.full((rows, 1), width), others]), tau)
    assert (law.alpha[0], law.beta[0]) == (width, 0)
    assert solve_widths(law, PARAMS, 10**8, warn=False).widths[0] == width
    stored = PowerLaw(np.nextafter(law.alpha, 0), law.beta, law.r2)
    assert solve_widths(stored, PARAMS, 10**8, warn=False).widths[0] == width


@pytest.mark.parametrize("beta", [0.05, 0.5, 2.0])
def test_a_constant_layer_below_its_largest_width_stays_so(beta: float) -> None:
    """The others grow to theirs."""
    base, betas = VGG11.base_widths, [0.0, *[beta] * (L - 1)]
    law = PowerLaw([60, *base[1:]], betas, np.ones(L))
    fit = solve_widths(law, PARAMS, PARAMS(base), max_width=base)
    assert fit.widths.tolist() == [60, *base[1:]]


class Staircase:
    """A law that is not a power: each unit of the scale adds a filter to every layer."""

    layers = L

    def widths(self, tau: ArrayLike) -> NDArray[np.float64]:
        return np.floor(np.asarray(tau, dtype=float)[..., None]) + np.arange(L)

    def scales(self, layer: int, widths: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.ceil(widths) - layer

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "staircase"}


def test_a_law_that_is_not_a_power_can_be_solved() -> None:
    fit = solve_widths(Staircase(), PARAMS, 100_000)
    scale = int(fit.widths[0])
    assert fit.widths.tolist() == [scale + layer for layer in range(L)]
    assert PARAMS(fit.widths) <= 100_000 < PARAMS(fit.widths + 1)


BASE = np.array(VGG11.base_widths)


@given(
    metric=st.sampled_from(["params", "macs"]),
    share=st.floats(0.4, 1.2),
    multiple=st.sampled_from([1, 4, 16]),
    beta=st.lists(st.floats(0.1, 1.5), min_size=L, max_size=L),
)
def test_no_layer_can_be_wider_within_the_budget(
    metric: str, share: float, multiple: int, beta: list[float]
) -> None:
    cost = VGG11.cost(metric)
    law, budget = PowerLaw(BASE, np.array(beta), np.ones(L)), share * cost(BASE)
    limits = budget, multiple, 1, BASE
    along = nsopt.solve_widths(law, cost, *limits)
    filled = nsopt.solve_widths(law, cost, *limits, fill=True)
    assert filled.cost == cost(filled.widths) <= budget
    assert (filled.widths >= along.widths).all()
    assert (filled.widths % multiple == 0).all()
    wider = filled.widths + multiple * np.eye(L, dtype=int)
    can_grow = (wider <= BASE).all(axis=1)
    assert (cost(wider)[can_grow] > budget).all()


def test_several_budgets_are_filled_as_each_alone() -> None:
    law, cost = nsopt.uniform_curve(BASE.tolist()), VGG11.cost("macs")
    budgets = [1e7, 3e7]
    together = nsopt.solve_widths(law, cost, budgets, 8, max_width=BASE, fill=True)
    for number, budget in enumerate(budgets):
        alone = nsopt.solve_widths(law, cost, budget, 8, max_width=BASE, fill=True)
        assert (together.widths[number] == alone.widths).all()
        assert np.atleast_1d(together.cost)[number] == alone.cost


def test_all_limits_of_a_joint_budget_hold() -> None:
    law = nsopt.uniform_curve(BASE.tolist())
    limits = [(VGG11.cost("params"), 600_000), (VGG11.cost("macs"), 2e7)]
    found = nsopt.solve_widths(law, limits, multiple_of=16, max_width=BASE, fill=True)
    assert all(cost(found.widths) <= limit for cost, limit in limits)
    assert (found.widths > nsopt.solve_widths(law, limits, multiple_of=16).widths).any()
    shares = [cost(found.widths) / limit for cost, limit in limits]
    assert found.binding == np.argmax(shares)


def test_layers_grow_in_the_order_of_the_law() -> None:
    """Of layers that cost the same, the one that the law makes wider first is wider."""

    def total(widths: object) -> object:
        return np.asarray(widths).sum(axis=-1)

    law = PowerLaw(np.array([1.0, 1.05, 1.1]), np.ones(3), np.ones(3))
    found = nsopt.solve_widths(law, total, 65, multiple_of=10, max_width=100, fill=True)
    assert found.widths.tolist() == [20, 20, 20]
    found = nsopt.solve_widths(law, total, 55, multiple_of=10, max_width=100, fill=True)
    assert found.widths.tolist() == [10, 20, 20]


def test_filling_needs_largest_widths() -> None:
    law = nsopt.uniform_curve(BASE.tolist())
    with pytest.raises(NsoptError, match="fill needs max_width"):
        nsopt.solve_widths(law, VGG11.cost("params"), 100_000, fill=True)


@pytest.fixture
def law(golden: Path) -> PowerLaw:
    return PowerLaw.from_dict(json.loads((golden / "vgg11-cifar10.laws.json").read_text())[-1])


def test_the_first_step_is_the_published_update(law: PowerLaw) -> None:
    budget, eta = 579_786, 7.0
    start = np.maximum(np.floor(law.widths(budget)), 1)
    slope = np.sum(law.beta * law.alpha * budget ** (law.beta - 1))
    expected = budget - eta * (PARAMS(start) - budget) * slope
    fit = solve_widths_sgd(law, PARAMS, budget, eta=eta, max_steps=1)
    assert fit.tau == pytest.approx(expected, rel=1e-12)
    assert fit.steps == 1


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1, 2])
def test_the_published_step_size_settles_near_the_budget(law: PowerLaw, ratio: float) -> None:
    budget = PARAMS(floor_widths(ratio, VGG11.base_widths))
    fit = solve_widths_sgd(law, PARAMS, budget, eta=50.0)
    assert not fit.diverged
    assert fit.cost == PARAMS(fit.widths)
    assert fit.error == pytest.approx((fit.cost - budget) / budget)
    assert abs(fit.error) < 0.02


def test_divergence_is_returned_without_an_error(law: PowerLaw) -> None:
    fit = solve_widths_sgd(law, PARAMS, 579_786, eta=1e7)
    assert fit.diverged
    assert not fit.converged
    assert fit.tau > 0


@pytest.mark.parametrize(("eta", "steps", "converged"), [(7.0, 5, False), (1e-6, 1, True)])
def test_only_a_step_without_movement_counts_as_convergence(
    law: PowerLaw, eta: float, steps: int, converged: bool
) -> None:
    fit = solve_widths_sgd(law, PARAMS, 579_786, eta=eta, max_steps=5)
    assert (fit.steps, fit.converged, fit.diverged) == (steps, converged, False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"budget": 0},
        *({"budget": 10**6, "eta": eta} for eta in (0, np.nan, np.inf)),
        {"budget": 10**6, "max_steps": 0},
    ],
)
def test_arguments_must_be_positive(arguments: dict) -> None:
    with pytest.raises(NsoptError, match="positive"):
        solve_widths_sgd(uniform_curve(VGG11.base_widths), PARAMS, **arguments)
