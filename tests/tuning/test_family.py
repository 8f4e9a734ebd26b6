"""The family of laws that searches define."""

import numpy as np

from nsopt.models.architecture import TableArchitecture
from nsopt.scaling.metric import MACS
from nsopt.scaling.record import PruneRecord
from nsopt.scaling.solve import solve_widths
from nsopt.tuning.law import RECORDED, make_family, with_recorded


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
