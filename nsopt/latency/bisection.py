"""Find the widths for a budget in milliseconds: bisection along a law with few timed networks.

A latency model orders the sizes along the law and gives the first guess. Measurements decide: a
network fits if its measured milliseconds are within the budget (`MeasuredBudget` says which ones
decide). At the end the chosen network is timed once more. No measurement of it is above the budget.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from nsopt.errors import NoWidthsError

MOST_TIMED = 12
_CONFIRMING = 3  # measurements at the end, each of the largest network that fits
_FULL = 0.97  # share of the budget that fills it nearly
_FEW = 3  # measurements along a law that is one of many
CAUTIOUS = 0.9  # share of the budget of widths that are not measured
_CLOSE = 1.02  # if the ratio of two predictions is smaller, no network between them is timed
_AIM = 0.99  # share of the budget at which proposals aim
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
        measured: the milliseconds of each measurement; empty if there was no time for one.
    """

    widths: Widths
    predicted: float
    measured: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Bracket:
    """The measurements so far along a law.

    Attributes:
        fits: networks within the budget, from small to large.
        slow: the smallest network above the budget, or None.
        empty: a prediction at or below which the law has no widths.
    """

    fits: tuple[Tried, ...] = ()
    slow: Tried | None = None
    empty: float = 0.0

    @property
    def low(self) -> float:
        """The prediction up to which there is nothing new to propose."""
        return self.fits[-1].predicted if self.fits else self.empty

    @property
    def high(self) -> float:
        return self.slow.predicted if self.slow else math.inf

    @property
    def is_closed(self) -> bool:
        """Whether the largest network that fits and the slow one are too close to time another."""
        return bool(self.fits) and self.high <= _CLOSE * self.low

    def is_filled(self, budget: float, measurements: int) -> bool:
        """Return whether the best network fills the budget, as well as few measurements show."""
        if not self.fits:
            return False
        return measurements >= _FEW or max(self.fits[-1].measured) >= _FULL * budget

    def guess(self, budget: float) -> float:
        """Return a prediction at which widths fit, if milliseconds are in proportion."""
        if self.slow is None:
            return CAUTIOUS * budget
        return CAUTIOUS * self.slow.predicted * budget / max(self.slow.measured)

    def with_timed(self, timed: Tried, budget: float) -> "_Bracket":
        if max(timed.measured) > budget:
            fits = tuple(fit for fit in self.fits if fit.predicted < timed.predicted)
            return replace(self, fits=fits, slow=timed)
        return replace(self, fits=(*(o for o in self.fits if o.widths != timed.widths), timed))


def bisect_widths(
    propose: Callable[[float], Tried],
    measure: Callable[[Widths], float],
    budget: float,
    *,
    aim: float | None = None,
    is_careful: bool = True,
    is_over: Callable[[], bool] = lambda: False,
) -> Tried:
    """Return the largest widths along a law that take at most `budget` milliseconds.

    It takes at most `MOST_TIMED` measurements; the last ones confirm the result. No measurement of
    the returned widths is above the budget.

    Args:
        propose: returns the largest widths along the law whose predicted milliseconds are at most
            its argument. Raises NoWidthsError if there are no such widths.
        measure: times a network of these widths; returns the milliseconds that decide whether it
            fits.
        budget: in milliseconds.
        aim: the prediction of the first network; by default the budget.
        is_careful: whether to find the largest and to confirm it. Otherwise widths that fill the
            budget nearly, or the best of three measurements, are enough.
        is_over: whether there is no more time; the best known widths are then returned, predicted
            if none that were measured fit.

    Raises:
        NoWidthsError: if no measured network is within the budget.
    """
    known, aim = _Bracket(), aim or budget
    for left in reversed(range(MOST_TIMED)):
        if is_over() or (not is_careful and known.is_filled(budget, MOST_TIMED - 1 - left)):
            break
        known, tried = (known, None) if known.is_closed else _find_new(propose, known, aim)
        if known.fits and (tried is None or left < _CONFIRMING):
            best = known.fits[-1]
            if not is_careful:
                return best
            again = best._replace(measured=(*best.measured, measure(best.widths)))
            known = known.with_timed(again, budget)
            if known.fits and known.fits[-1] is again:
                return again
        elif tried is None:
            break
        else:
            known = known.with_timed(tried._replace(measured=(measure(tried.widths),)), budget)
        aim = _next_aim(known, budget, MOST_TIMED - left)
    if known.fits:
        return known.fits[-1]
    if is_over():
        return propose(known.guess(budget))
    if known.slow is None:
        propose(_FARTHEST * budget)  # raises the reason why there are no widths
    fastest = max(known.slow.measured) if known.slow else math.nan
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
            if not known.fits or tried.widths != known.fits[-1].widths:
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
        low, high = known.fits[-1], known.slow
        width = math.log(high.predicted / low.predicted)
        rise = math.log(max(high.measured) / max(low.measured))
        part = math.log(target / max(low.measured)) / rise if timed % 2 and rise > 0 else 0.5
        part = min(max(part, _MIDDLE), 1 - _MIDDLE)
        return low.predicted * math.exp(part * width)
    end = known.fits[-1] if known.fits else known.slow
    if end is None:
        return budget
    step = target / max(end.measured)
    step = max(step, _CLOSE) if known.fits else min(step, 1 / _CLOSE)
    farther = math.pow(step, 2 ** (timed - 1))
    return end.predicted * min(max(farther, 1 / _STRIDE), _STRIDE)
