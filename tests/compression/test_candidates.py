"""Candidates: the laws and widths that searches yield."""

import numpy as np
import pytest

from nsopt.models.architecture import TableArchitecture
from nsopt.pruning.settings import SearchSettings
from nsopt.scaling.family import LawFamily, relative_uniform
from nsopt.scaling.metric import LATENCY, MACS, METRICS, PARAMS, Joint, Metric
from nsopt.scaling.record import MIN_ROWS, Trajectory
from nsopt.scaling.solve import solve_widths
from nsopt.session.searching import list_prices


def test_the_family_contains_the_pruned_widths_at_a_budget(narrow: TableArchitecture) -> None:
    """Even where a layer is still whole, so that the published rule leaves the row out of a fit."""
    cost = MACS.cost(narrow)
    base = np.array(narrow.base_widths)
    lost = np.minimum(np.arange(10)[:, None], base - 2)
    lost[:-MIN_ROWS, 0] = 0
    pruned = Trajectory(base - lost, np.asarray(cost(base - lost), dtype=float))
    assert len(pruned.record().tau) == MIN_ROWS
    middle = tuple(pruned.widths[2].tolist())
    budget = float(cost(middle))
    plain = LawFamily(relative_uniform(narrow.base_widths), {})
    found = pruned.within(cost, budget)
    assert found is not None
    family = plain.with_members({"pruned": found}, cost)
    fit = solve_widths(family.law({"pruned": 1.0}), cost, budget)
    assert tuple(fit.widths.tolist()) == middle
    assert pruned.within(cost, float(cost(pruned.widths).min()) - 1) is None


def test_a_budget_of_several_metrics_has_a_search_for_each() -> None:
    assert list_prices(Joint.of([(MACS, 1e6), (PARAMS, 1e3)])) == ("filters", "params", "macs")
    assert list_prices(LATENCY) == ("filters", "macs")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_has_valid_search_prices(metric: Metric) -> None:
    for price in list_prices(metric):
        assert SearchSettings(price=price).price == price
