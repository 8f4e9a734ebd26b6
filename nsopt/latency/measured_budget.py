"""Budgets in milliseconds that measured networks keep.

1. Bisection times networks along a law and finds the predicted time p of the largest that fits.
2. The latency model is multiplied by budget / p. With this corrected model the ordinary solver
   returns just these widths, so samplers and reports need no special case.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import ArrayLike

from nsopt.arguments import checked
from nsopt.compute.device import Compute, resolve_compute
from nsopt.compute.sharing import sharing
from nsopt.errors import NsoptError
from nsopt.latency.bisection import MOST_TIMED, Proposal, TimedWidths, Widths, bisect_widths
from nsopt.latency.learn import find_model
from nsopt.latency.linear import MacsLatency
from nsopt.latency.measure import Beside, measure_latencies
from nsopt.latency.model import LatencyModel
from nsopt.latency.runtime import TORCH, Measure, Runtime, choose_inputs, choose_runtime
from nsopt.latency.sittings import Latency, Timing, distrust
from nsopt.models.architecture import Architecture, build_to_fill, require_latency
from nsopt.progress import Progress
from nsopt.scaling.cost import LinearCost
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import LATENCY, Metric, read_percentage
from nsopt.scaling.solve import Limits, solve_widths, warn_of_extrapolation
from nsopt.settings import BATCH_SIZE
from nsopt.terminal import show_progress

_PASSES = 10, 40, 4  # warm-up, repeats, rounds
_BESIDE = 10, 20, 10  # the same, in turns with the network of base widths
_BELOW = 1 - 1e-12  # more than the rounding error of a division
_BUSY = (
    "the machine is busy: nsopt times networks until its rounds agree, up to half a minute each; "
    "stop other programs to make this faster and more exact"
)


@dataclass(frozen=True, eq=False)
class MeasuredBudget:
    """A budget that limits milliseconds, and perhaps other costs, along a law.

    Attributes:
        arch: the network, with a latency model.
        law: gives widths at any scale.
        metric: limits milliseconds, perhaps among others.
        budget: the limit, in the unit of `metric`.
        limits: of the widths.
        inputs: a batch with which networks are timed; by default random images.
        beside_whole: whether to time each network in turns with the network of base widths. Its
            milliseconds are then its share of that network's time, times that network's predicted
            milliseconds. So the result does not change with the speed of the machine.
    """

    arch: Architecture
    law: ScalingLaw
    metric: Metric
    budget: float
    limits: Limits
    beside_whole: bool = False
    inputs: Any = None

    @property
    def milliseconds(self) -> float:
        """The milliseconds that the budget allows."""
        return dict(self.metric.limits_at(self.budget))[LATENCY]

    def corrected(self, predicted: float) -> Architecture:
        """Return the network with its latency model scaled so that `predicted` milliseconds become
        the milliseconds of the budget."""
        latency = require_latency(self.arch.name, self.arch.latency)
        factor = self.milliseconds / predicted * _BELOW
        return self.arch.with_latency(LinearCost(LATENCY.name, latency, factor))

    def propose(self, predicted: float) -> Proposal:
        """Return the largest widths whose predicted milliseconds are at most `predicted`.

        The solver finds them again at their own prediction: it may not at first, because a wider
        layer may be faster, and a narrower network on the way to it exceed that prediction.
        """
        found = self._solve_at(predicted)
        while (again := self._solve_at(found.predicted)).predicted < found.predicted:
            found = again
        return again

    def _solve_at(self, predicted: float) -> Proposal:
        cost = self.metric.cost(self.corrected(predicted))
        fit = solve_widths(self.law, cost, self.budget, *self.limits, warn=False)
        widths = tuple(fit.widths.tolist())
        return Proposal(widths, float(LATENCY.cost(self.arch)(widths)))

    def solve(self, time: Callable[[Widths], Timing]) -> TimedWidths:
        """Return the largest widths that fit by measurement, see `bisect_widths`."""
        return bisect_widths(
            self.propose, lambda widths: self._bound(time(widths)), self.milliseconds
        )

    def solve_here(self, compute: Compute, runtime: Runtime, progress: Progress) -> TimedWidths:
        """Return what `solve` does, with networks that are timed now."""
        progress.start(f"timing widths at {self.metric.show(self.budget)}", MOST_TIMED)
        measure_time = self.make_timer(compute, runtime)

        def time(widths: Widths) -> Timing:
            progress.advance()
            return measure_time(widths)

        with compute.exclusive():
            return self.solve(time)

    def _bound(self, timing: Timing) -> float:
        """Return the milliseconds that decide whether a network fits.

        They are the upper quartile of its passes. With `beside_whole` they are an upper bound of
        its share (`Beside.measure`), times the predicted milliseconds of the base network.
        """
        if timing.share is None:
            return timing.upper_quartile_ms
        return timing.share * float(LATENCY.cost(self.arch)(self.arch.base_widths))

    def make_timer(self, compute: Compute, runtime: Runtime) -> Callable[[Widths], Timing]:
        """Return a function that times one network; call it while holding the device
        (`Compute.exclusive`)."""
        arch = self.arch
        inputs = choose_inputs(arch, runtime, self.inputs)
        if not self.beside_whole:
            return lambda widths: Timing(
                **asdict(time_widths(arch, compute, runtime, widths, inputs))
            )
        whole = build_to_fill(arch, arch.base_widths)
        beside = Beside(whole, inputs, _BESIDE, str(compute.device), runtime)

        def time(widths: Widths) -> Timing:
            latency, share = beside.measure(build_to_fill(arch, widths))
            return Timing(**asdict(latency), share=share)

        return time


def time_widths(
    arch: Architecture, compute: Compute, runtime: Runtime, widths: Widths, inputs: Any = None
) -> Latency:
    """Time one network. The caller holds the device (`Compute.exclusive`)."""
    model, where = build_to_fill(arch, widths), str(compute.device)
    inputs = choose_inputs(arch, runtime, inputs)
    (latency,) = measure_latencies([model], inputs, *_PASSES, where, runtime)
    return latency


def make_exact(
    arch: Architecture,
    compute: Compute,
    progress: Progress,
    runtime: Runtime,
    check: Callable[[float], None] = lambda whole: None,
    inputs: Any = None,
) -> Architecture:
    """Return `arch` with a latency model that is exact for the network of base widths.

    That network is timed first. nsopt learns a model unless `arch` has one. Do not call this inside
    `Compute.computing`.

    Args:
        check: gets the milliseconds of that network. It can raise an error before nsopt learns.
        inputs: a batch with which networks are timed; by default random images.
    """
    progress.start("timing the whole network", 1)
    with compute.exclusive():
        whole = time_widths(arch, compute, runtime, arch.base_widths, inputs)
    if runtime.is_here and distrust([whole.spread], [whole.waited]):
        progress.message(_BUSY)
    check(whole.median_ms)
    model = arch.latency or find_model(arch, compute, progress, runtime, inputs)
    factor = whole.median_ms / float(model(arch.base_widths))
    if isinstance(model, LatencyModel | MacsLatency):
        return arch.with_latency(model.scaled(factor))
    return arch.with_latency(LinearCost(LATENCY.name, model, factor))


@checked
def solve_measured_widths(
    arch: Architecture,
    law: ScalingLaw,
    budget: float | str,
    *,
    device: str = "auto",
    measure: Measure | None = None,
    runtime: str = TORCH.name,
    batch_size: int = BATCH_SIZE,
    multiple_of: ArrayLike = 1,
    min_width: int = 1,
    max_width: ArrayLike | None = None,
    fill: bool = False,
    progress: Progress | None = None,
    inputs: Any = None,
) -> TimedWidths:
    """Return the largest widths along `law` that take at most `budget` milliseconds, measured.

    nsopt times at most 12 networks and compares the upper quartile of their passes with the budget.
    A second measurement confirms the network that it returns.

    Args:
        arch: the network. If it has no latency model (`nsopt.with_latency`), nsopt learns one.
        law: such as `nsopt.uniform_curve(arch.base_widths)`.
        budget: in milliseconds, or a percentage such as `50%` of the time of the network of base
            widths. For a percentage nsopt times both networks in turns, so that the result does not
            change with the speed of the machine, and compares an upper bound of the median over 10
            to 160 rounds.
        device: as torch names it, or auto.
        measure: see `nsopt.with_latency`.
        runtime: likewise.
        batch_size: likewise.
        multiple_of: see `nsopt.solve_widths`.
        min_width: likewise.
        max_width: likewise.
        fill: likewise.
        progress: receives steps and warnings; by default bars on a terminal and nothing elsewhere.
        inputs: see `nsopt.with_latency`.

    Raises:
        NoWidthsError: if no measured network is within the budget.
        NsoptError: if the device or the runtime is not available, if `measure` fails, or for a
            budget that is neither a number above 0 nor a percentage.

    Warns:
        UserWarning: if the widths are outside the record to which the law was fitted.

    Examples:
        >>> found = nsopt.solve_measured_widths(arch, nsopt.uniform_curve(arch.base_widths), 20.0)
        >>> found.widths, found.measured
    """
    share = read_percentage(budget) if isinstance(budget, str) else None
    if not isinstance(budget, str) and not 0 < budget < math.inf:
        raise NsoptError(f"a budget must be a number of milliseconds above 0, not {budget}")
    timed_in = choose_runtime(runtime, measure, batch_size)
    compute = resolve_compute(device, "fp32")
    with show_progress(progress) as display, sharing(compute, display) as shared:
        if share is not None:
            arch = make_exact(arch, shared, display, timed_in, inputs=inputs)
            budget = share * float(LATENCY.cost(arch)(arch.base_widths))
        elif arch.latency is None:
            arch = arch.with_latency(find_model(arch, shared, display, timed_in, inputs))
        limits = Limits(multiple_of, min_width, max_width, fill)
        beside = share is not None and timed_in.is_here
        asked = MeasuredBudget(arch, law, LATENCY, float(budget), limits, beside, inputs)
        found = asked.solve_here(shared, timed_in, display)
    warn_of_extrapolation(law, LATENCY.cost(arch), found.predicted)
    return found
