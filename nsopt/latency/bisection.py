"""Find the widths for a budget in milliseconds: bisection along a law with few timed networks.

A latency model orders the sizes along the law and gives the first guess. Measurements decide: a
network fits if its measured milliseconds are within the budget.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from nsopt.errors import NoWidthsError

MOST_TIMED = 8
_FULL = 0.96  # share of the budget that fills it
_AIM = 0.98  # share of the budget at which proposals aim
_CLOSE = 1.02  # if the ratio of two predictions is smaller, no network between them is timed
_FINEST = 1 + 1e-4  # if the ratio of two predictions is smaller, no size is between them
_FARTHEST = 1000  # largest prediction to try, over the first aim
_STRIDE = 16  # largest ratio of the predictions of one network and the next
_MIDDLE = 0.1  # share of a bracket at either end that interpolation avoids

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
