"""Budgets in milliseconds that measured networks keep.

1. Bisection times few networks along a law, and finds the predicted time p of the largest that
   fits: a latency model orders the sizes and gives the first guess, and measurements decide.
2. The latency model is multiplied by budget / p. With this corrected model the ordinary solver
   returns just these widths, so samplers and reports need no special case.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nsopt.errors import NoWidthsError
from nsopt.latency.record import Latency
from nsopt.latency.runtime import Runtime
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import LinearCost
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import LATENCY, Metric
from nsopt.scaling.solve import Limits, solve_widths

MOST_TIMED = 8
_FULL = 0.96  # share of the budget that fills it
_AIM = 0.98  # share of the budget at which proposals aim
_CLOSE = 1.02  # if the ratio of two predictions is smaller, no network between them is timed
_FINEST = 1 + 1e-4  # if the ratio of two predictions is smaller, no size is between them
_FARTHEST = 1000  # largest prediction to try, over the first aim
_STRIDE = 16  # largest ratio of the predictions of one network and the next
_MIDDLE = 0.1  # share of a bracket at either end that interpolation avoids
_BELOW = 1 - 1e-12  # more than the rounding error of a division
_ANY = 1e6  # times more milliseconds than widths need: they limit nothing
_SCALES = np.geomspace(1e-2, 1e8, 6)  # at which the widths of a law identify it

Widths = tuple[int, ...]


class Tried(NamedTuple):
    """A network along a law.

    Attributes:
        widths: L integers.
        predicted: milliseconds that the latency model predicts.
        measured: the milliseconds that decide whether it fits; NaN before it is timed.
    """

    widths: Widths
    predicted: float
    measured: float = math.nan


def find_widest(
    propose: Callable[[float], Tried],
    measure: Callable[[Widths], float],
    budget: float,
    aim: float | None = None,
) -> Tried:
    """Return the largest widths along a law that take at most `budget` milliseconds.

    At most `MOST_TIMED` networks are timed, until one fills the budget nearly.

    Args:
        propose: returns the largest widths along the law whose predicted milliseconds are at most
            its argument. Raises NoWidthsError if there are no such widths.
        measure: times a network of these widths; returns the milliseconds that decide whether it
            fits.
        budget: in milliseconds.
        aim: the prediction of the first network; by default the budget.

    Raises:
        NoWidthsError: if no measured network is within the budget.
    """
    fits, slow, low, aim = None, None, 0.0, aim or budget
    for count in range(1, MOST_TIMED + 1):
        low, tried = _find_new(propose, low, slow.predicted if slow else math.inf, aim, fits)
        if tried is None:
            break
        tried = tried._replace(measured=measure(tried.widths))
        if tried.measured > budget:
            slow = tried
        else:
            fits, low = tried, tried.predicted
        if fits and (fits.measured >= _FULL * budget or (slow and slow.predicted <= _CLOSE * low)):
            break
        aim = _next_aim(fits, slow, budget, count)
    if fits is not None:
        return fits
    if slow is None:
        propose(budget)  # raises the reason why there are no widths
    fastest = slow.measured if slow else math.nan
    raise NoWidthsError(
        f"no widths fit a budget of {budget:.4g} ms per batch: the smallest measured network "
        f"takes {fastest:.4g} ms"
    )


def _find_new(
    propose: Callable[[float], Tried], low: float, high: float, aim: float, fits: Tried | None
) -> tuple[float, Tried | None]:
    """Return a new network between two predictions, near the prediction `aim`, or None without one.

    The first result is the lower end, raised to where the law has widths.

    Args:
        fits: the largest network so far that is within the budget.
    """
    start, farthest = low, _FARTHEST * aim
    while start * _FINEST < high and start < farthest:
        aim = min(aim, high / _FINEST)
        try:
            tried = propose(aim)
        except NoWidthsError:
            low = aim
        else:
            if fits is None or tried.widths != fits.widths:
                return low, tried
        start = aim
        aim = math.sqrt(start * high) if high < math.inf else 2 * start
    return low, None


def _next_aim(fits: Tried | None, slow: Tried | None, budget: float, timed: int) -> float:
    """Return the prediction at which to propose the next network.

    With networks on both sides of the budget, this alternates between linear interpolation and the
    middle, both in logarithms. Otherwise the prediction changes in proportion to the last
    measurement over the budget, by more each time.

    Args:
        fits: the largest network within the budget.
        slow: the smallest network above it.
        timed: how many were timed.
    """
    target = _AIM * budget
    if fits and slow:
        width = math.log(slow.predicted / fits.predicted)
        rise = math.log(slow.measured / fits.measured)
        part = math.log(target / fits.measured) / rise if timed % 2 == 0 and rise > 0 else 0.5
        part = min(max(part, _MIDDLE), 1 - _MIDDLE)
        return fits.predicted * math.exp(part * width)
    end = fits or slow
    assert end is not None
    step = target / end.measured
    step = max(step, _CLOSE) if fits else min(step, 1 / _CLOSE)
    farther = math.pow(step, 2 ** (timed - 1))
    return end.predicted * min(max(farther, 1 / _STRIDE), _STRIDE)


@dataclass(frozen=True, eq=False)
class MeasuredBudget:
    """A budget that limits milliseconds, and perhaps other costs, along a law.

    The milliseconds of a network are its ratio to the network of base widths, times the predicted
    milliseconds of that one. So the result does not change with the speed of the machine.

    Attributes:
        arch: the network, with a latency model.
        limit: in the unit of `metric`.
    """

    arch: Architecture
    law: ScalingLaw
    metric: Metric
    limit: float
    limits: Limits

    @property
    def milliseconds(self) -> float:
        return dict(self.metric.limits_at(self.limit))[LATENCY]

    def corrected(self, predicted: float) -> Architecture:
        """Return the network with its latency model scaled so that `predicted` milliseconds become
        the milliseconds of the budget."""
        latency = self.arch.cost(LATENCY.name).cost
        factor = self.milliseconds / predicted * _BELOW
        return self.arch.with_latency(LinearCost(LATENCY.name, latency, factor))

    def keeping(self, widths: tuple[int, ...]) -> Architecture:
        """Return the network with a latency model by which the solver finds these widths again.

        If another budget stops them, their milliseconds stay predicted, or are half of the budget
        where more is predicted than was measured: so the solver finds which budget binds.
        """
        predicted = float(LATENCY.cost(self.arch)(widths))
        if len(self.metric.parts) > 1 and self._solve_at(_ANY * predicted).widths == widths:
            predicted = max(self.milliseconds, 2 * predicted)
        return self.corrected(predicted)

    def propose(self, predicted: float) -> Tried:
        """Return the largest widths whose predicted milliseconds are at most `predicted`.

        The solver finds them again at their own prediction: it may not at first, because a wider
        layer may be faster, and a narrower network on the way to it exceed that prediction.
        """
        tried = self._solve_at(predicted)
        while (again := self._solve_at(tried.predicted)).predicted < tried.predicted:
            tried = again
        return again

    def _solve_at(self, predicted: float) -> Tried:
        cost = self.metric.cost(self.corrected(predicted))
        fit = solve_widths(self.law, cost, self.limit, *self.limits, warn=False)
        widths = tuple(fit.widths.tolist())
        return Tried(widths, float(LATENCY.cost(self.arch)(widths)))

    def bound(self, latency: Latency) -> float:
        """Return the milliseconds that decide whether a network fits."""
        return latency.bound * float(LATENCY.cost(self.arch)(self.arch.base_widths))

    def identify(self, runtime: Runtime) -> list[object]:
        """Return what decides the widths of the budget, except the device; equal on all machines.

        It is a key in the storage.
        """
        multiple_of, min_width, max_width, fill = self.limits
        largest = None if max_width is None else np.asarray(max_width).tolist()
        return [
            *(runtime.name, runtime.batch_size, self.metric.name, float(self.limit)),
            *(np.asarray(multiple_of).tolist(), min_width, largest, fill),
            [[f"{width:.6e}" for width in self.law.widths(scale)] for scale in _SCALES.tolist()],
        ]
