"""Budgets in milliseconds that measured networks keep.

1. Bisection times networks along a law and finds the predicted time p of the largest that fits.
2. The latency model is multiplied by budget / p. With this corrected model the ordinary solver
   returns just these widths, so samplers and reports need no special case.
"""

from dataclasses import dataclass

import numpy as np

from nsopt.latency.bisection import Tried
from nsopt.latency.record import Latency
from nsopt.latency.runtime import Runtime
from nsopt.models.architecture import Architecture
from nsopt.scaling.cost import LinearCost
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import LATENCY, Metric
from nsopt.scaling.solve import Limits, solve_widths

_BELOW = 1 - 1e-12  # more than the rounding error of a division
_ANY = 1e6  # times more milliseconds than widths need: they limit nothing
_SCALES = np.geomspace(1e-2, 1e8, 6)  # at which the widths of a law identify it


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
