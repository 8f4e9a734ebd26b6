"""Find the widths for a budget in milliseconds: bisection along a law with few timed networks.

A latency model orders the sizes along the law and gives the first guess. Measurements decide: a
network fits if its measured milliseconds are within the budget.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class _Bracket:
    """The measurements so far along a law.

    Attributes:
        fits: the largest network within the budget, or None.
        slow: the smallest network above the budget, or None.
        empty: a prediction at or below which the law has no widths.
    """

    fits: Tried | None = None
    slow: Tried | None = None
    empty: float = 0.0

    @property
    def low(self) -> float:
        """The prediction up to which there is nothing new to propose."""
        return self.fits.predicted if self.fits else self.empty

    @property
    def high(self) -> float:
        return self.slow.predicted if self.slow else math.inf

    def is_closed(self, budget: float) -> bool:
        """Whether the largest network that fits fills the budget, or hardly a larger one can."""
        if self.fits is None:
            return False
        return self.fits.measured >= _FULL * budget or self.high <= _CLOSE * self.low

    def with_timed(self, timed: Tried, budget: float) -> "_Bracket":
        if timed.measured > budget:
            return replace(self, slow=timed)
        return replace(self, fits=timed)


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
    known, aim = _Bracket(), aim or budget
    for count in range(1, MOST_TIMED + 1):
        known, tried = _find_new(propose, known, aim)
        if tried is None:
            break
        known = known.with_timed(tried._replace(measured=measure(tried.widths)), budget)
        if known.is_closed(budget):
            break
        aim = _next_aim(known, budget, count)
    if known.fits is not None:
        return known.fits
    if known.slow is None:
        propose(_FARTHEST * budget)  # raises the reason why there are no widths
    fastest = known.slow.measured if known.slow else math.nan
    raise NoWidthsError(
        f"no widths fit a budget of {budget:.4g} ms per batch: the smallest measured network "
        f"takes {fastest:.4g} ms"
    )


def _find_new(
    propose: Callable[[float], Tried], known: _Bracket, aim: float
) -> tuple[_Bracket, Tried | None]:
    """Return a new size inside the bracket near the prediction `aim`, or None without one.

    The first result is the bracket, which excludes predictions without widths.
    """
    low, farthest = known.low, _FARTHEST * aim
    while low * _FINEST < known.high and low < farthest:
        aim = min(aim, known.high / _FINEST)
        try:
            tried = propose(aim)
        except NoWidthsError:
            known = replace(known, empty=aim)
        else:
            if known.fits is None or tried.widths != known.fits.widths:
                return known, tried
        low = aim
        aim = math.sqrt(low * known.high) if known.slow else 2 * low
    return known, None


def _next_aim(known: _Bracket, budget: float, timed: int) -> float:
    """Return the prediction at which to propose the next network.

    With networks on both sides of the budget, this alternates between linear interpolation and the
    middle of the bracket, both in logarithms. Otherwise the prediction changes in proportion to the
    last measurement over the budget, by more each time.
    """
    target = _AIM * budget
    if known.fits and known.slow:
        low, high = known.fits, known.slow
        width = math.log(high.predicted / low.predicted)
        rise = math.log(high.measured / low.measured)
        part = math.log(target / low.measured) / rise if timed % 2 == 0 and rise > 0 else 0.5
        part = min(max(part, _MIDDLE), 1 - _MIDDLE)
        return low.predicted * math.exp(part * width)
    end = known.fits or known.slow
    if end is None:
        return budget
    step = target / end.measured
    step = max(step, _CLOSE) if known.fits else min(step, 1 / _CLOSE)
    farther = math.pow(step, 2 ** (timed - 1))
    return end.predicted * min(max(farther, 1 / _STRIDE), _STRIDE)
