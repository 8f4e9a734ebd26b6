"""The family of laws that searches define."""

import numpy as np
import pytest

from nsopt.models.architecture import TableArchitecture
from nsopt.pruning.settings import SearchSettings
from nsopt.samplers.candidates import RECORDED, list_prices, make_family, with_recorded
from nsopt.scaling.metric import MACS, METRICS, Metric
from nsopt.scaling.record import PruneRecord
from nsopt.scaling.solve import solve_widths


def test_the_family_contains_the_recorded_widths_at_a_budget(narrow: TableArchitecture) -> None:
    cost = MACS.cost(narrow)
    base = np.array(narrow.base_widths)
    widths = np.array([base - step * np.arange(1, len(base) + 1) % base for step in range(1, 4)])
    record = PruneRecord(widths, np.asarray(cost(widths), dtype=float))
    middle = tuple(widths[1].tolist())
    budget = float(cost(middle))
    plain = make_family(narrow, {})
    family = with_recorded(plain, narrow, record, MACS, budget)
    fit = solve_widths(family.law({RECORDED: 1.0}), cost, budget)
    assert tuple(fit.widths.tolist()) == middle
    beyond = float(cost(widths).min()) - 1
    assert with_recorded(plain, narrow, record, MACS, beyond) is plain


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_has_valid_search_prices(metric: Metric) -> None:
    for price in list_prices(metric):
        assert SearchSettings(price=price).price == price
