"""From a scaling law and a budget to integer widths.

Along a law the integer widths (rounded down to a multiple) only change at breakpoints: the scales
at which a layer reaches its next multiple. Their costs, computed once, answer any number of
budgets exactly: the widths before the first breakpoint from which on nothing fits. Costs may be
integers (parameters, MACs) or floats (milliseconds); they are compared as they come.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.scaling.cost import CostFunction, IntArray, Numbers
from nsopt.scaling.law import FloatArray, ScalingLaw

_LARGEST_SCALE = 1e290
_BELOW = 1 - 1e-12  # steps off a breakpoint, well above the rounding error of a power
_APART = 1 + 1e-11  # breakpoints closer than this are one, told apart by rounding alone


@dataclass(frozen=True, eq=False)
class WidthFit:
    """Widths at a budget. For N budgets every field has a leading axis of length N.

    widths: int64 (L,); cost: theirs, an int or a float as the cost model gives it; tau: the
    largest scale of the law whose widths fit.
    """

    widths: IntArray
    cost: int | float | Numbers
    tau: float | FloatArray


@dataclass(frozen=True, eq=False)
class _Breakpoints:
    """Widths (M, L) and cost (M,) on the scales from `start[i]` up to `start[i + 1]`; (M + 1,)."""

    start: FloatArray
    widths: IntArray
    cost: Numbers


def solve_widths(
    law: ScalingLaw,
    cost: CostFunction,
    budget: ArrayLike,
    multiple_of: int = 1,
    min_width: int = 1,
) -> WidthFit:
    """The largest widths along `law` that cost no more than `budget`.

    cost: maps widths (N, L) to costs (N,), such as `arch.cost("params")`. It never falls as a
    width grows, or has a `lower_bound` that does not. budget: a number or an (N,) array. Widths are
    rounded down to multiples of `multiple_of` and never fall below `min_width`.

    Raises NoWidthsError for a budget that no widths meet (naming the smallest that some do).
    """
    budgets = np.atleast_1d(np.asarray(budget, dtype=np.float64))
    if budgets.ndim != 1 or budgets.size == 0 or not np.isfinite(budgets).all():
        raise NsoptError("a budget must be a finite number, or a list of them")
    if multiple_of < 1 or min_width < 1:
        raise NsoptError("multiple_of and min_width must be at least 1")
    _check_growth(law)

    table = _breakpoints(law, cost, float(budgets.max()), multiple_of, min_width)
    cheapest_from = np.minimum.accumulate(table.cost[::-1])[::-1]
    row = np.searchsorted(cheapest_from, budgets, side="right") - 1
    if (row < 0).any():
        raise NoWidthsError(
            f"no widths fit a budget of {_shown(budgets.min())}: "
            f"the smallest feasible one is {_shown(cheapest_from[0])}"
        )
    tau = table.start[row + 1] * _BELOW
    if np.ndim(budget) == 0:
        return WidthFit(table.widths[row[0]], table.cost[row[0]].item(), float(tau[0]))
    return WidthFit(table.widths[row], table.cost[row], tau)


def _check_growth(law: ScalingLaw) -> None:
    small, large = law.widths([1.0, 2.0])
    if (large < small).any() or not (large > small).any():
        raise NoWidthsError(
            "the law does not grow with the network (beta < 0, or 0 in every layer)"
        )


def _breakpoints(
    law: ScalingLaw, cost: CostFunction, largest_budget: float, multiple_of: int, min_width: int
) -> _Breakpoints:
    smallest = -(-min_width // multiple_of) * multiple_of
    end = _scale_beyond(law, cost, largest_budget, multiple_of, smallest)
    starts, layers = [], []
    for layer, widest in enumerate(law.widths(end)):
        widths = np.arange(smallest + multiple_of, widest + multiple_of, multiple_of)
        starts.append(law.scales(layer, widths))
        layers.append(np.full(widths.size, layer))
    start, layer_of = np.concatenate(starts), np.concatenate(layers)
    order = np.argsort(start, kind="stable")
    order = order[start[order] <= end]
    start, layer_of = start[order], layer_of[order]

    steps = np.zeros((start.size + 1, law.layers), dtype=np.int64)
    steps[0] = smallest
    steps[np.arange(1, start.size + 1), layer_of] = multiple_of
    widths = np.cumsum(steps, axis=0)
    start = np.concatenate([[0.0], start])
    apart = start[1:] > start[:-1] * _APART
    first_of_ties, last_of_ties = np.append(True, apart), np.append(apart, True)
    start, widths = np.append(start[first_of_ties], end), widths[last_of_ties]
    return _Breakpoints(start, widths, np.asarray(cost(widths)))


def _scale_beyond(
    law: ScalingLaw, cost: CostFunction, budget: float, multiple_of: int, smallest: int
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
            raise NoWidthsError(
                f"the law is too flat to reach a budget of {_shown(budget)} at any size"
            )
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


def _shown(cost: float) -> str:
    """All digits, so that what is named as feasible is."""
    return f"{int(cost):,}" if float(cost).is_integer() else f"{float(cost):,}"
