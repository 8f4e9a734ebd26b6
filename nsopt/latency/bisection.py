"""Find the widths for a budget in milliseconds: bisection along a law with few timed networks.

A latency model orders the sizes along the law and says where to begin. What decides is measured: a
network fits if its cautious milliseconds (`Latency.upper_quartile_ms`) do. The network that is
chosen is timed once more at the end, and no measurement of it is above the budget.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from nsopt.errors import NoWidthsError

MOST_TIMED = 12
_CONFIRMING = 3  # of these measurements: each times the largest network that fits once more
_CLOSE = 1.02  # the ratio of two sizes between which no other one is timed
_AIM = 0.99  # of the budget
_FINEST = 1 + 1e-4  # the ratio of two predictions between which there is no other size
_FARTHEST = 1000  # times the first aim: the largest prediction that is tried
_STRIDE = 16  # the farthest from one network to the next
_MIDDLE = 0.1  # the part of a bracket at either end into which interpolation may not go

Widths = tuple[int, ...]


class Proposal(NamedTuple):
    """Widths along a law, with their predicted milliseconds."""

    widths: Widths
    predicted: float


@dataclass(frozen=True)
class TimedWidths:
    """Widths that were timed.

    Attributes:
        widths: L integers.
        predicted: milliseconds that the latency model predicts.
        measured: milliseconds of each timing, upper quartiles over its passes.
    """

    widths: Widths
    predicted: float
    measured: tuple[float, ...]


@dataclass(frozen=True)
class _Bracket:
    """What is known of the sizes along a law.

    fits: networks within the budget, from small to large; slow: the smallest that is not, or None;
    empty: no widths have such a prediction, or a smaller one.
    """

    fits: tuple[TimedWidths, ...] = ()
    slow: TimedWidths | None = None
    empty: float = 0.0

    @property
    def low(self) -> float:
        """A prediction at which nothing new is proposed, nor at any below."""
        return self.fits[-1].predicted if self.fits else self.empty

    @property
    def high(self) -> float:
        return self.slow.predicted if self.slow else math.inf

    @property
    def is_closed(self) -> bool:
        """Whether no network between what fits and what does not is worth timing."""
        return bool(self.fits) and self.high <= _CLOSE * self.low

    def with_timed(self, timed: TimedWidths, budget: float) -> "_Bracket":
        """Return the bracket that a measurement leaves."""
        if max(timed.measured) > budget:
            fits = tuple(one for one in self.fits if one.predicted < timed.predicted)
            return replace(self, fits=fits, slow=timed)
        return replace(self, fits=(*(o for o in self.fits if o.widths != timed.widths), timed))


def bisect_widths(
    propose: Callable[[float], Proposal], measure: Callable[[Widths], float], budget: float
) -> TimedWidths:
    """Return the largest widths along a law that take at most `budget` milliseconds.

    At most `MOST_TIMED` networks are timed, the last of them once more. No measurement of the
    widths returned is above the budget.

    Args:
        propose: returns the largest widths along the law that are predicted to take at most so
            many milliseconds. Raises NoWidthsError if there are none.
        measure: returns cautious milliseconds of a network of these widths.
        budget: in milliseconds.

    Raises:
        NoWidthsError: if no network that was timed is within the budget.
    """
    known, aim = _Bracket(), budget
    for left in reversed(range(MOST_TIMED)):
        known, found = (known, None) if known.is_closed else _find_new(propose, known, aim)
        if known.fits and (found is None or left < _CONFIRMING):
            best = known.fits[-1]
            again = replace(best, measured=(*best.measured, measure(best.widths)))
            known = known.with_timed(again, budget)
            if known.fits and known.fits[-1] is again:
                return again
        elif found is None:
            break
        else:
            timed = TimedWidths(*found, (measure(found.widths),))
            known = known.with_timed(timed, budget)
        aim = _next_aim(known, budget, MOST_TIMED - left)
    if known.fits:
        return known.fits[-1]
    if known.slow is None:
        propose(_FARTHEST * budget)  # which says why there are no widths
    fastest = max(known.slow.measured) if known.slow else math.nan
    raise NoWidthsError(
        f"no widths fit a budget of {budget:.4g} ms: the smallest network that was timed takes "
        f"{fastest:.4g} ms"
    )


def _find_new(
    propose: Callable[[float], Proposal], known: _Bracket, aim: float
) -> tuple[_Bracket, Proposal | None]:
    """Return a size inside the bracket near a prediction `aim`, or None if there is none."""
    low, farthest = known.low, _FARTHEST * aim
    while low * _FINEST < known.high and low < farthest:
        aim = min(aim, known.high / _FINEST)
        try:
            found = propose(aim)
        except NoWidthsError:
            known = replace(known, empty=aim)
        else:
            if not known.fits or found.widths != known.fits[-1].widths:
                return known, found
        low = aim
        aim = math.sqrt(low * known.high) if known.slow else 2 * low
    return known, None


def _next_aim(known: _Bracket, budget: float, timed: int) -> float:
    """Return the prediction at which the next network is proposed.

    With networks on both sides of the budget: by turns where a line between them (in logarithms)
    meets it, and in their middle. Before, in proportion, and farther each time.
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
