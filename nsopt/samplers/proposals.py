"""Propose widths at a budget, from a law or from random shifts of it, without Optuna."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.scaling.algorithm3 import solve_widths_sgd
from nsopt.scaling.cost import CostFunction
from nsopt.scaling.law import PowerLaw, ScalingLaw
from nsopt.scaling.solve import solve_widths

Shift = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Proposals:
    """Proposes widths of a law at budgets.

    eta: step size of Algorithm 3, which then replaces the exact solver, for power laws only;
    multiple_of, min_width, max_width: see `solve_widths`.
    """

    law: ScalingLaw
    cost: CostFunction
    eta: float | None = None
    multiple_of: int = 1
    min_width: int = 1
    max_width: ArrayLike | None = None

    @property
    def metric(self) -> str | None:
        """Name of the cost's metric, if it has one."""
        return getattr(self.cost, "metric", None)

    def at(self, budget: float) -> tuple[int, ...]:
        """Return the law's widths at a budget. Raises NoWidthsError if none fit it."""
        if self.eta is None:
            return self._solve(self.law, budget)
        fit = solve_widths_sgd(self._power_law(), self.cost, budget, self.eta)
        if fit.diverged:
            raise NoWidthsError(f"Algorithm 3 diverges at eta = {self.eta:g}: try a smaller eta")
        return tuple(fit.widths.tolist())

    def around(self, budget: float, shift: Shift) -> tuple[int, ...]:
        """Return the widths at a budget after adding `shift` (L,) to the law's log-widths.

        The shifted law is solved again, so its widths fit the budget.
        """
        law = self._power_law()
        moved = PowerLaw(np.exp(shift), np.zeros_like(shift), np.ones_like(shift)) * law
        return self._solve(moved, budget)

    def _solve(self, law: ScalingLaw, budget: float) -> tuple[int, ...]:
        limits = self.multiple_of, self.min_width, self.max_width
        fit = solve_widths(law, self.cost, budget, *limits)
        return tuple(fit.widths.tolist())

    def _power_law(self) -> PowerLaw:
        if not isinstance(self.law, PowerLaw):
            raise NsoptError("eta and spread are for power laws: leave them out")
        return self.law
