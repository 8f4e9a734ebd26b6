"""Widths along a law at any budget, and around it: what the sampler proposes, without Optuna."""

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
    """eta: replaces the exact solver by Algorithm 3 with this step size, for a power law;
    multiple_of, min_width, max_width: as for `solve_widths`."""

    law: ScalingLaw
    cost: CostFunction
    eta: float | None = None
    multiple_of: int = 1
    min_width: int = 1
    max_width: ArrayLike | None = None

    @property
    def metric(self) -> str | None:
        """What the cost counts, where it tells."""
        return getattr(self.cost, "metric", None)

    def at(self, budget: float) -> tuple[int, ...]:
        """The law's widths at a budget; NoWidthsError if none fit it."""
        if self.eta is None:
            return self._solved(self.law, budget)
        fit = solve_widths_sgd(self._power_law(), self.cost, budget, self.eta)
        if fit.diverged:
            raise NoWidthsError(f"Algorithm 3 diverges at eta = {self.eta:g}: try a smaller --eta")
        return tuple(fit.widths.tolist())

    def around(self, budget: float, shift: Shift) -> tuple[int, ...]:
        """Widths at a budget when the logarithm of every layer's alpha is moved by `shift` (L,).

        The law that this gives is solved like any other, so that its widths fit the budget.
        """
        law = self._power_law()
        moved = PowerLaw(np.exp(shift), np.zeros_like(shift), np.ones_like(shift)) * law
        return self._solved(moved, budget)

    def _solved(self, law: ScalingLaw, budget: float) -> tuple[int, ...]:
        limits = self.multiple_of, self.min_width, self.max_width
        fit = solve_widths(law, self.cost, budget, *limits)
        return tuple(fit.widths.tolist())

    def _power_law(self) -> PowerLaw:
        if not isinstance(self.law, PowerLaw):
            raise NsoptError("eta and spread are for power laws: leave them out")
        return self.law
