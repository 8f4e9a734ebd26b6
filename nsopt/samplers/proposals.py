"""Propose widths at a budget, from a law or from random shifts of it, without Optuna."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.scaling.algorithm3 import solve_widths_sgd
from nsopt.scaling.cost import CostFunction
from nsopt.scaling.joint import JointCost
from nsopt.scaling.law import PowerLaw, ScalingLaw
from nsopt.scaling.solve import Limits, solve_widths


class Proposal(NamedTuple):
    """Widths at a budget; of several budgets at once, the name of the metric that binds."""

    widths: tuple[int, ...]
    binding: str | None = None


Shift = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Proposals:
    """Proposes widths of a law at budgets.

    Attributes:
        eta: step size of Algorithm 3, which then replaces the exact solver, for power laws only.
        limits: of the widths.
    """

    law: ScalingLaw
    cost: CostFunction
    eta: float | None
    limits: Limits

    @property
    def metric(self) -> str | None:
        """Name of the cost's metric, if it has one."""
        return getattr(self.cost, "metric", None)

    def at(self, budget: float) -> Proposal:
        """Return the law's proposal at a budget. Raises NoWidthsError if none fit it."""
        if self.eta is None:
            return self._solve(self.law, budget)
        fit = solve_widths_sgd(self._power_law(), self.cost, budget, self.eta)
        if fit.diverged:
            raise NoWidthsError(f"Algorithm 3 diverges at eta = {self.eta:g}: try a smaller eta")
        return Proposal(tuple(fit.widths.tolist()))

    def around(self, budget: float, shift: Shift) -> Proposal:
        """Return the proposal at a budget after adding `shift` (L,) to the law's log-widths.

        The shifted law is solved again, so its widths fit the budget.
        """
        law = self._power_law()
        moved = PowerLaw(np.exp(shift), np.zeros_like(shift), np.ones_like(shift)) * law
        return self._solve(moved, budget)

    def budgets_and_costs(
        self, widths: Sequence[int], budget: float
    ) -> dict[str, tuple[float, float]]:
        """Return each budget and what `widths` cost of it, by metric; empty for a single budget."""
        if not isinstance(self.cost, JointCost):
            return {}
        budgets = [float(budget * limit) for _, limit in self.cost.limits]
        costs = self.cost.costs(widths).tolist()
        pairs = zip(budgets, costs, strict=True)
        return dict(zip(self.cost.names, pairs, strict=True))

    def _solve(self, law: ScalingLaw, budget: float) -> Proposal:
        fit = solve_widths(law, self.cost, budget, *self.limits)
        binding = None
        if isinstance(self.cost, JointCost) and fit.binding is not None:
            binding = self.cost.names[fit.binding]
        return Proposal(tuple(fit.widths.tolist()), binding)

    def _power_law(self) -> PowerLaw:
        if not isinstance(self.law, PowerLaw):
            raise NsoptError("eta and spread are for power laws: leave them out")
        return self.law
