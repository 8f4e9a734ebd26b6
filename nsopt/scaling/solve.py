"""Solve a scaling law for integer widths at a budget.

Along a law the integer widths (rounded down to a multiple) only change at breakpoints: the scales
at which a layer reaches its next multiple. The solver computes the costs of all breakpoints once.
For any number of budgets, the exact solution is the last breakpoint that fits. Costs may be
integers (parameters, MACs) or floats (milliseconds).

Often several layers reach their next width at about the same scale, and one of them costs too much,
so that part of the budget remains. `fill_widths` lets the other layers go on growing.
"""

import heapq
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from nsopt.errors import NoWidthsError, NsoptError
from nsopt.scaling.cost import (
    CostFunction,
    FloatArray,
    IntArray,
    JointCost,
    Numbers,
    format_exactly,
    read_numbers,
    width_limits,
)
from nsopt.scaling.law import PowerLaw, ScalingLaw
from nsopt.scaling.metric import METRICS
from nsopt.scaling.record import describe_reach
from nsopt.settings import checked

_LARGEST_SCALE = 1e290
_BELOW = 1 - 1e-12  # just below a breakpoint, but by more than the rounding error of a power
_BEYOND = 1 + 1e-9  # just above the last breakpoint that is needed
_APART = 1 + 1e-11  # closer breakpoints differ only by rounding


class Limits(NamedTuple):
    """What limits widths beside a budget: the arguments of `solve_widths` of the same names."""

    multiple_of: ArrayLike = 1
    min_width: int = 1
    max_width: ArrayLike | None = None
    fill: bool = False


@dataclass(frozen=True, eq=False)
class WidthFit:
    """Widths at a budget. For N budgets every field has a leading axis of length N.

    Attributes:
        widths: int64 (L,).
        cost: cost of these widths, an int or a float as the cost model returns it; for K budgets at
            once (K,).
        tau: the largest scale of the law whose widths fit.
        beyond_record: how many times the largest recorded network a budget costs (above 1), or the
            smallest one (below 1), see `PowerLaw.beyond`; None inside the record, or if the law has
            none.
        binding: index of the budget that stops the network, if there are several at once: the next
            larger network along the law exceeds this budget by most; filled widths use the largest
            share of it. None for a single budget, or if every layer has its largest width.
    """

    widths: IntArray
    cost: int | float | Numbers
    tau: float | FloatArray
    binding: int | None = None
    beyond_record: float | FloatArray | None = None


@dataclass(frozen=True, eq=False)
class _Grid:
    """The possible widths of L layers.

    A layer that cannot reach the requested minimum gets its largest possible width.

    Attributes:
        step: widths of each layer are multiples of this, (L,).
        narrowest: smallest widths, (L,).
        widest: largest widths, (L,).
    """

    step: IntArray
    narrowest: FloatArray
    widest: FloatArray

    @classmethod
    def of(cls, cost: CostFunction, layers: int, limits: Limits) -> Self:
        least, most = width_limits(cost, layers)
        if limits.max_width is not None:
            most = np.minimum(most, limits.max_width)
        step = np.broadcast_to(limits.multiple_of, layers).astype(np.int64)
        smallest = np.ceil(np.maximum(limits.min_width, least) / step) * step
        narrowest = np.minimum(smallest, most)
        return cls(step, narrowest, np.maximum(narrowest, _round_down(most, step)))

    def below(self, widths: FloatArray) -> FloatArray:
        """Round `widths` (L,) down to the grid."""
        return np.clip(_round_down(widths, self.step), self.narrowest, self.widest)


@checked
def solve_widths(
    law: ScalingLaw,
    cost: CostFunction | Sequence[tuple[CostFunction, float]],
    budget: ArrayLike | None = None,
    multiple_of: ArrayLike = 1,
    min_width: int = 1,
    max_width: ArrayLike | None = None,
    fill: bool = False,
    *,
    warn: bool = True,
) -> WidthFit:
    """Return the largest widths along `law` that cost no more than `budget`.

    For several budgets at once, give pairs `[(cost, budget), ...]` instead of `cost`: the result is
    the largest widths that exceed none of the budgets.

    Args:
        law: gives real-valued widths (L,) at any scale.
        cost: maps widths (N, L) to costs (N,), such as `arch.cost("params")`, and must not fall as
            a width grows, unless its method `lower_bound` gives a bound that does not. Its
            attributes `narrowest` and `widest` (L,), if any, limit the widths. Or pairs of a cost
            and its budget, a number above 0.
        budget: a number or an (N,) array, in the unit of `cost`; omit it with pairs.
        multiple_of: round widths down to multiples of this, a number or one per layer (L,).
        min_width: the smallest width of a layer.
        max_width: the largest width, a number or one per layer (L,), such as the widths of a
            trained network that smaller ones inherit from.
        fill: whether single layers grow beyond the law's widths, in the order of the law, as long
            as they fit. Then no layer can be a multiple wider. Needs `max_width`.
        warn: whether to warn of budgets outside the record to which the law was fitted.

    Raises:
        NoWidthsError: if no widths meet a budget; the message names the smallest feasible budget.
        NsoptError: for invalid arguments.

    Warns:
        UserWarning: if a budget is outside the record; `beyond_record` of the result says how far.

    Examples:
        >>> law = nsopt.uniform_curve(arch.base_widths)
        >>> nsopt.solve_widths(law, arch.cost("params"), 600_000).widths
        >>> nsopt.solve_widths(law, [(arch.cost("params"), 600_000), (arch.cost("macs"), 20e6)])
    """
    limits = Limits(multiple_of, min_width, max_width, fill)
    if callable(cost):
        if budget is None:
            raise NsoptError("give a budget, or pairs of a cost and its budget")
        budgets = read_numbers("budget", budget)
        fit = _solve(law, cost, budgets, limits)
    else:
        if budget is not None:
            raise NsoptError("pairs of a cost and its budget name all budgets: leave budget out")
        cost, budgets = JointCost(tuple(cost)), np.ones(())
        fit = _solve(law, cost, budgets, limits)
        fit = replace(fit, cost=cost.costs(fit.widths))
    if warn:
        warn_of_extrapolation(law, cost, budgets)
    return fit


def _check_limits(law: ScalingLaw, limits: Limits) -> None:
    """Raise NsoptError for invalid limits."""
    multiple_of, min_width, max_width, fill = limits
    multiples = np.asarray(multiple_of)
    if multiples.dtype.kind not in "iu" or multiples.shape not in ((), (law.layers,)):
        raise NsoptError(
            f"multiple_of must be a whole number, or {law.layers} of them, one per layer"
        )
    most = np.asarray(np.inf if max_width is None else max_width)
    is_number = most.dtype.kind in "iuf" and not np.isnan(most).any()
    if not is_number or most.shape not in ((), (law.layers,)):
        raise NsoptError(f"max_width must be a number, or {law.layers} of them, one per layer")
    if multiples.min() < 1 or min_width < 1:
        raise NsoptError("multiple_of and min_width must be at least 1")
    if most.min() < min_width:
        raise NsoptError(
            f"min_width must be at most the smallest max_width: {min_width} is above {most.min()}"
        )
    if fill and max_width is None:
        raise NsoptError("fill needs max_width: a layer that costs nothing would grow without end")


def _solve(law: ScalingLaw, cost: CostFunction, budget: FloatArray, limits: Limits) -> WidthFit:
    """Solve for a number, of shape (), or an (N,) array of budgets."""
    budgets = np.atleast_1d(budget)
    if budgets.ndim != 1 or budgets.size == 0 or not np.isfinite(budgets).all():
        raise NsoptError("a budget must be a finite number, or a list of them")
    _check_limits(law, limits)
    _check_growth(law)

    grid = _Grid.of(cost, law.layers, limits)
    start, networks, prices = _find_breakpoints(law, cost, float(budgets.max()), grid)
    cheapest_from = np.minimum.accumulate(prices[::-1])[::-1]
    row = np.searchsorted(cheapest_from, budgets, side="right") - 1
    if (row < 0).any():
        cheapest = networks[prices.argmin()], prices.min()
        raise NoWidthsError(_describe_infeasible(cost, float(budgets.min()), *cheapest))
    tau, widths, costs = start[row + 1] * _BELOW, networks[row], prices[row]
    if limits.fill:
        pairs = zip(budgets, widths, strict=True)
        widths = np.stack([fill_widths(law, cost, *pair, grid.step, grid.widest) for pair in pairs])
        costs = np.asarray(cost(widths))
    beyond = law.beyond(cost, budget) if isinstance(law, PowerLaw) else None
    if np.ndim(budget) == 0:
        larger = widths[:1] if limits.fill else networks[row[0] + 1 :]
        binding = None  # or the index of the budget of which the next larger network needs most
        if isinstance(cost, JointCost) and len(larger) and (widths[0] < grid.widest).any():
            binding = int(cost.shares(larger[0]).argmax())
        return WidthFit(widths[0], costs[0].item(), float(tau[0]), binding, beyond)
    return WidthFit(widths, costs, tau, beyond_record=beyond)


def warn_of_extrapolation(law: ScalingLaw, cost: CostFunction, budget: ArrayLike) -> None:
    """Warn of the budget that is farthest outside the law's record."""
    beyond = law.beyond(cost, budget) if isinstance(law, PowerLaw) else None
    if beyond is not None:
        factors = np.atleast_1d(beyond)
        worst = int(np.abs(np.log(factors)).argmax())
        name = _name_budget(cost, float(np.atleast_1d(budget)[worst]))
        verb = "are" if isinstance(cost, JointCost) else "is"
        reach = describe_reach(float(factors[worst]))
        warnings.warn(
            f"{name} {verb} {reach}: nsopt extrapolates the law there",
            stacklevel=4,  # the caller of the public function
        )


def _describe_infeasible(
    cost: CostFunction, budget: float, cheapest: IntArray, least: float
) -> str:
    """Return the message that no widths fit a budget; it names a feasible budget in all digits."""
    feasible = f"the smallest feasible one is {_show(cost, least)}"
    if isinstance(cost, JointCost):
        feasible = f"the smallest network needs {cost.describe(cost.costs(cheapest))}"
    return f"no widths fit {_name_budget(cost, budget)}: {feasible}"


def _name_budget(cost: CostFunction, budget: float) -> str:
    if isinstance(cost, JointCost):
        return f"the budgets {cost.describe([budget * limit for _, limit in cost.limits])}"
    return f"a budget of {_show(cost, budget)}"


def _show(cost: CostFunction, number: float) -> str:
    """Format all digits of a cost, or milliseconds rounded up, with the unit of its metric."""
    metric = METRICS.get(getattr(cost, "metric", ""))
    if metric and metric.is_timed:
        number = math.ceil(1000 * number) / 1000  # as a budget, it is then enough
    return f"{format_exactly(number)} {metric.unit}" if metric else format_exactly(number)


def _check_growth(law: ScalingLaw) -> None:
    small, large = law.widths([1.0, 2.0])
    if (large < small).any() or not (large > small).any():
        raise NoWidthsError(
            "the law does not grow with the network (beta < 0, or 0 in every layer): prune farther"
        )


def _find_breakpoints(
    law: ScalingLaw, cost: CostFunction, largest_budget: float, grid: _Grid
) -> tuple[FloatArray, IntArray, Numbers]:
    """Return the M networks along a law, from small to large: the scales at which they begin, and
    the end of the last one, (M + 1,), their widths (M, L), and their costs (M,)."""
    end = _find_scale_beyond(law, cost, largest_budget, grid)
    starts, layers = [], []
    reached = np.minimum(law.widths(end) + grid.step, grid.widest)
    rows = zip(grid.narrowest, reached, grid.step, strict=True)
    for layer, (narrowest, widest, step) in enumerate(rows):
        widths = np.arange(narrowest + step, widest + 1, step)
        starts.append(law.scales(layer, widths))
        layers.append(np.full(widths.size, layer))
    start, layer_of = np.concatenate(starts), np.concatenate(layers)
    order = np.argsort(start, kind="stable")
    order = order[start[order] <= end]
    start, layer_of = start[order], layer_of[order]

    steps = np.zeros((start.size + 1, law.layers), dtype=np.int64)
    steps[0] = grid.narrowest
    steps[np.arange(1, start.size + 1), layer_of] = grid.step[layer_of]
    widths = np.cumsum(steps, axis=0)
    start = np.concatenate([[0.0], start])
    apart = start[1:] > start[:-1] * _APART
    first_of_ties, last_of_ties = np.append(True, apart), np.append(apart, True)
    start, widths = np.append(start[first_of_ties], end), widths[last_of_ties]
    return start, widths, np.asarray(cost(widths))


def _find_scale_beyond(law: ScalingLaw, cost: CostFunction, budget: float, grid: _Grid) -> float:
    """Return a scale just above all scales that fit, or one at which no layer can grow.

    It uses `cost.lower_bound` if this exists, because some costs fall when two widths become equal
    (a projection vanishes). Other costs must be monotone.
    """
    bound: CostFunction = getattr(cost, "lower_bound", cost)

    def fits(scale: float) -> bool:
        return bool(bound(grid.below(law.widths(scale)).astype(np.int64)) <= budget)

    def is_narrowest(scale: float) -> bool:
        return bool((grid.below(law.widths(scale)) == grid.narrowest).all())

    with np.errstate(over="ignore"):  # of laws of users
        most = np.minimum(law.widths(_LARGEST_SCALE), grid.widest)
    high = 1.0
    while fits(high):
        if (law.widths(high) >= most).all():
            return high * _BEYOND
        high *= 2
        if high > _LARGEST_SCALE:
            raise NoWidthsError(
                f"the law is too flat to reach {_name_budget(cost, budget)}: prune farther"
            )
    low = high / 2
    while not fits(low) and not is_narrowest(low) and low > 1 / _LARGEST_SCALE:
        low, high = low / 2, low
    while high / low > 1 + 1e-6:
        middle = low * float(np.sqrt(high / low))
        low, high = (middle, high) if fits(middle) else (low, middle)
    return high * _BEYOND


def _round_down(widths: FloatArray, step: IntArray) -> FloatArray:
    """Round down to multiples."""
    return np.floor(widths / step) * step


def fill_widths(
    law: ScalingLaw,
    cost: CostFunction,
    budget: float,
    widths: IntArray,
    step: IntArray,
    widest: FloatArray,
) -> IntArray:
    """Return widths of which no layer can be a step wider and still fit.

    Layers grow in the order in which the law makes them wider. One whose next width does not fit
    keeps its width; the others go on.

    Args:
        law: gives the order.
        cost: maps widths (L,) to a cost.
        budget: the largest cost.
        widths: along the law, (L,).
        step: by which each layer grows, (L,).
        widest: largest widths, (L,).
    """
    filled = widths.copy()
    queue: list[tuple[float, int]] = []

    def put(layer: int) -> None:
        wider = filled[layer] + step[layer]
        scale = float(law.scales(layer, np.array([wider], dtype=float))[0])
        if wider <= widest[layer] and np.isfinite(scale):
            heapq.heappush(queue, (scale, layer))

    for layer in range(len(filled)):
        put(layer)
    while queue:
        _, layer = heapq.heappop(queue)
        filled[layer] += step[layer]
        if cost(filled) <= budget:
            put(layer)
        else:
            filled[layer] -= step[layer]
    return filled
