"""From a scaling curve and a budget to integer widths.

Along a curve w_l(s) = alpha_l * s ** beta_l the integer widths (rounded down to a multiple) only
change at breakpoints s = (k / alpha_l) ** (1 / beta_l). Their costs, computed once, answer any
number of budgets exactly: the widths before the first breakpoint from which on nothing fits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NsoptError
from nsopt.scaling.cost import IntArray
from nsopt.scaling.power_law import FloatArray, PowerLaw

CostFunction = Callable[[ArrayLike], int | IntArray]

_LARGEST_SCALE = 1e290
_BELOW = 1 - 1e-12  # steps off a breakpoint, well above the rounding error of a power
_APART = 1 + 1e-11  # breakpoints closer than this are one, told apart by rounding alone


@dataclass(frozen=True, eq=False)
class WidthFit:
    """Widths at a budget. For N budgets every field has a leading axis of length N.

    widths: int64 (L,); cost: theirs; tau: the largest scale of the curve whose widths fit.
    """

    widths: IntArray
    cost: int | IntArray
    tau: float | FloatArray


@dataclass(frozen=True, eq=False)
class _Breakpoints:
    """Widths (M, L) and cost (M,) on the scales from `start[i]` up to `start[i + 1]`; (M + 1,)."""

    start: FloatArray
    widths: IntArray
    cost: IntArray


def solve_widths(
    law: PowerLaw,
    cost: CostFunction,
    budget: ArrayLike,
    multiple_of: int = 1,
    min_width: int = 1,
) -> WidthFit:
    """The largest widths along `law` that cost no more than `budget`.

    cost: maps widths (N, L) to costs (N,), never falling as a width grows, such as
    `arch.cost("params")`. budget: a number or an (N,) array. Widths are rounded down to multiples
    of `multiple_of` and never fall below `min_width`.

    Raises NsoptError for a budget that no widths meet (naming the smallest that some do).
    """
    budgets = np.atleast_1d(np.asarray(budget, dtype=np.float64))
    if budgets.ndim != 1 or budgets.size == 0 or not np.isfinite(budgets).all():
        raise NsoptError("a budget must be a finite number, or a list of them")
    if multiple_of < 1 or min_width < 1:
        raise NsoptError("multiple_of and min_width must be at least 1")
    if (law.beta < 0).any() or not (law.beta > 0).any():
        raise NsoptError("the law does not grow with the network (beta < 0, or 0 in every layer)")

    table = _breakpoints(law, cost, float(budgets.max()), multiple_of, min_width)
    cheapest_from = np.minimum.accumulate(table.cost[::-1])[::-1]
    row = np.searchsorted(cheapest_from, budgets, side="right") - 1
    if (row < 0).any():
        raise NsoptError(
            f"no widths fit a budget of {budgets.min():,.0f}: "
            f"the smallest feasible one is {cheapest_from[0]:,}"
        )
    tau = table.start[row + 1] * _BELOW
    if np.ndim(budget) == 0:
        return WidthFit(table.widths[row[0]], int(table.cost[row[0]]), float(tau[0]))
    return WidthFit(table.widths[row], table.cost[row], tau)


def _breakpoints(
    law: PowerLaw, cost: CostFunction, largest_budget: float, multiple_of: int, min_width: int
) -> _Breakpoints:
    smallest = -(-min_width // multiple_of) * multiple_of
    end = _scale_beyond(law, cost, largest_budget, multiple_of, smallest)
    starts, layers = [], []
    for layer, (alpha, beta) in enumerate(zip(law.alpha, law.beta, strict=True)):
        if beta > 0:
            widths = np.arange(smallest + multiple_of, alpha * end**beta + multiple_of, multiple_of)
            with np.errstate(over="ignore"):
                starts.append((widths / alpha) ** (1 / beta))
            layers.append(np.full(widths.size, layer))
    start, layer_of = np.concatenate(starts), np.concatenate(layers)
    order = np.argsort(start, kind="stable")
    order = order[start[order] <= end]
    start, layer_of = start[order], layer_of[order]

    steps = np.zeros((start.size + 1, law.alpha.size), dtype=np.int64)
    steps[0] = _quantise(law.alpha * (law.beta == 0), multiple_of, smallest)
    steps[np.arange(1, start.size + 1), layer_of] = multiple_of
    widths = np.cumsum(steps, axis=0)
    start = np.concatenate([[0.0], start])
    apart = start[1:] > start[:-1] * _APART
    first_of_ties, last_of_ties = np.append(True, apart), np.append(apart, True)
    start, widths = np.append(start[first_of_ties], end), widths[last_of_ties]
    return _Breakpoints(start, widths, np.asarray(cost(widths), dtype=np.int64))


def _scale_beyond(
    law: PowerLaw, cost: CostFunction, budget: float, multiple_of: int, smallest: int
) -> float:
    """A scale just above all those whose widths fit the budget.

    Costs that equal widths can lower (a projection that vanishes) tell a monotone bound below
    themselves as `cost.lower_bound`; other costs are taken to be monotone.
    """
    bound: CostFunction = getattr(cost, "lower_bound", cost)

    def fits(scale: float) -> bool:
        return bool(bound(_quantise(law.widths(scale), multiple_of, smallest)) <= budget)

    high = 1.0
    while fits(high):
        high *= 2
        if high > _LARGEST_SCALE:
            raise NsoptError(f"the law is too flat to reach a budget of {budget:,.0f} at any size")
    low = high / 2
    while not fits(low) and low > 1 / _LARGEST_SCALE:
        low, high = low / 2, low
    while high / low > 1 + 1e-6:
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if fits(middle) else (low, middle)
    return high * (1 + 1e-9)


def _quantise(widths: NDArray[np.float64], multiple_of: int, smallest: int) -> IntArray:
    rounded = (np.floor(widths / multiple_of) * multiple_of).astype(np.int64)
    return np.maximum(rounded, smallest, dtype=np.int64)
