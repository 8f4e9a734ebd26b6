"""Width generation as published (Algorithm 3): gradient descent on tau towards a budget.

Symbols (paper, section 3.2): tau_hat, the budget; h, the cost of a network; eta, the step size.
This exists for comparison: `solve_widths` is exact, never exceeds the budget and is faster.
"""

import math
from dataclasses import dataclass

import numpy as np

from nsopt.errors import NsoptError
from nsopt.scaling.cost import CostFunction, IntArray, JointCost, width_limits
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.solve import warn_of_extrapolation
from nsopt.settings import checked

_STILL = 0.5  # parameters; tau has stopped if it moves by less
_RUNAWAY = 1e3


@dataclass(frozen=True, eq=False)
class SgdFit:
    """The result of Algorithm 3.

    Attributes:
        widths: int64 (L,).
        cost: cost of these widths.
        tau: the last size.
        steps: number of updates.
        error: relative distance (cost - budget) / budget, positive above the budget.
        converged: whether tau stopped moving, or alternates between two networks.
        diverged: whether tau fell to 0 or rose above a thousand times the budget; widths, cost and
            tau are then from the step before.
    """

    widths: IntArray
    cost: int | float
    tau: float
    steps: int
    error: float
    converged: bool
    diverged: bool


@checked
def solve_widths_sgd(
    law: PowerLaw,
    cost: CostFunction,
    budget: float,
    eta: float = 50.0,
    max_steps: int = 2000,
    *,
    warn: bool = True,
) -> SgdFit:
    """Run tau <- tau - eta * (h(w(tau)) - tau_hat) * sum_l beta_l alpha_l tau^(beta_l - 1).

    It starts at tau = tau_hat (equations 9 to 11) and rounds widths down.

    Args:
        law: a power law for L layers.
        cost: maps widths (L,) to a cost, such as `arch.cost("params")`.
        budget: tau_hat, in the unit of `cost`.
        eta: step size.
        max_steps: most updates, if it neither converges nor diverges.
        warn: whether to warn of a budget outside the record to which the law was fitted.

    Returns:
        The widths where it stopped, which may cost more than the budget.

    Raises:
        NsoptError: if `budget`, `eta` or `max_steps` is no positive number, for several budgets at
            once, or if `law` is no power law.

    Examples:
        >>> fit = nsopt.solve_widths_sgd(law, arch.cost("params"), 100_000)
        >>> fit.widths, fit.error, fit.steps
    """
    if not (0 < budget < math.inf and 0 < eta < math.inf) or max_steps < 1:
        raise NsoptError("the budget, eta and max_steps must be positive numbers")
    if isinstance(cost, JointCost):
        raise NsoptError("Algorithm 3 takes one budget: several need solve_widths")
    if not isinstance(law, PowerLaw):
        raise NsoptError("Algorithm 3 takes power laws: other laws need solve_widths")
    if warn:
        warn_of_extrapolation(law, cost, budget)
    tau = float(budget)
    widths, size = _find_network(law, cost, tau)
    before = widths
    steps, converged, diverged = 0, False, False
    while steps < max_steps and not (converged or diverged):
        slope = float(np.sum(law.beta * law.alpha * tau ** (law.beta - 1)))
        move = -eta * (size - budget) * slope
        steps += 1
        diverged = not 0 < tau + move < _RUNAWAY * budget
        if not diverged:
            tau += move
            last, (widths, size) = widths, _find_network(law, cost, tau)
            returned = np.array_equal(widths, before) and not np.array_equal(widths, last)
            converged = abs(move) < _STILL or returned
            before = last
    error = (size - budget) / budget
    return SgdFit(widths, size, tau, steps, error, converged, diverged)


def _find_network(law: PowerLaw, cost: CostFunction, tau: float) -> tuple[IntArray, int | float]:
    widths = np.clip(np.floor(law.widths(tau)), *width_limits(cost, law.layers)).astype(np.int64)
    return widths, cost(widths)
