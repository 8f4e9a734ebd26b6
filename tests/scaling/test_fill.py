"""Layers that grow beyond the law's widths, within the budget."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nsopt
from nsopt.errors import NsoptError
from nsopt.scaling.law import PowerLaw

ARCH = nsopt.get_architecture("vgg11")
BASE = np.array(ARCH.base_widths)
LAYERS = len(BASE)


@given(
    metric=st.sampled_from(["params", "macs"]),
    share=st.floats(0.4, 1.2),
    multiple=st.sampled_from([1, 4, 16]),
    beta=st.lists(st.floats(0.1, 1.5), min_size=LAYERS, max_size=LAYERS),
)
def test_no_layer_can_be_wider_within_the_budget(
    metric: str, share: float, multiple: int, beta: list[float]
) -> None:
    cost = ARCH.cost(metric)
    law, budget = PowerLaw(BASE, np.array(beta), np.ones(LAYERS)), share * cost(BASE)
    limits = budget, multiple, 1, BASE
    along = nsopt.solve_widths(law, cost, *limits)
    filled = nsopt.solve_widths(law, cost, *limits, fill=True)
    assert filled.cost == cost(filled.widths) <= budget
    assert (filled.widths >= along.widths).all()
    assert (filled.widths % multiple == 0).all()
    wider = filled.widths + multiple * np.eye(LAYERS, dtype=int)
    can_grow = (wider <= BASE).all(axis=1)
    assert (cost(wider)[can_grow] > budget).all()


def test_several_budgets_are_filled_as_each_alone() -> None:
    law, cost = nsopt.uniform_curve(BASE.tolist()), ARCH.cost("macs")
    budgets = [1e7, 3e7]
    together = nsopt.solve_widths(law, cost, budgets, 8, max_width=BASE, fill=True)
    for number, budget in enumerate(budgets):
        alone = nsopt.solve_widths(law, cost, budget, 8, max_width=BASE, fill=True)
        assert (together.widths[number] == alone.widths).all()
        assert np.atleast_1d(together.cost)[number] == alone.cost


def test_all_limits_of_a_joint_budget_hold() -> None:
    law = nsopt.uniform_curve(BASE.tolist())
    limits = [(ARCH.cost("params"), 600_000), (ARCH.cost("macs"), 2e7)]
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
        nsopt.solve_widths(law, ARCH.cost("params"), 100_000, fill=True)


def test_the_sampler_fills_its_budgets() -> None:
    law, cost = nsopt.uniform_curve(BASE.tolist()), ARCH.cost("params")
    solver = partial(nsopt.solve_widths, multiple_of=16, max_width=BASE, fill=True)
    sampler = nsopt.NeuralScaleSampler(law, cost, ARCH, solver=solver)
    expected = solver(law, cost, 600_000)
    assert sampler.propose(600_000) == tuple(expected.widths.tolist())
