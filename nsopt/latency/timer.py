"""Time networks for budgets in milliseconds, remember them, and choose widths with them."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import ArrayLike

from nsopt.compute.device import Compute, keep_random_state, resolve_compute
from nsopt.errors import NsoptError
from nsopt.isolation import public
from nsopt.latency.budget import MOST_TIMED, MeasuredBudget, Tried, Widths, find_widest
from nsopt.latency.measure import Clock, latency_conditions
from nsopt.latency.model import LatencyModel, learn_latency
from nsopt.latency.record import Latency, Store
from nsopt.latency.runtime import TORCH, Feed, Measure, Runtime, choose_inputs, choose_runtime
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.progress import Progress, show_progress
from nsopt.scaling.cost import LinearCost
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import LATENCY, read_percentage
from nsopt.scaling.solve import Limits, warn_of_extrapolation
from nsopt.settings import BATCH_SIZE


@dataclass(frozen=True, eq=False)
class Timer:
    """Times networks of one architecture, each once, in turns with that of base widths.

    Attributes:
        inputs: a batch with which networks are timed; by default random images.
        store: remembers latencies and choices.
    """

    compute: Compute
    runtime: Runtime
    progress: Progress
    inputs: Any = None
    store: Store = field(default_factory=Store)
    _whole: list[Feed] = field(
        default_factory=list
    )  # the network of base widths, once it is loaded

    def time(self, arch: Architecture, widths: Widths, again: bool = False) -> Latency:
        """Return the latency of a network, in milliseconds of the same hour for all networks.

        Args:
            again: whether to time it although it is known.
        """
        known = None if again else self.read().get(tuple(widths))
        if known is None:
            is_whole = tuple(widths) == tuple(arch.base_widths)
            whole = None if is_whole else self.time(arch, arch.base_widths)
            known = replace(self._measure(arch, widths, is_whole), widths=tuple(widths))
            known = known.relative_to(whole) if whole else known
            self.store.write(known)
        return known

    def _measure(self, arch: Architecture, widths: Widths, is_whole: bool) -> Latency:
        clock = Clock(choose_inputs(arch, self.runtime, self.inputs), self.compute, self.runtime)
        if not self._whole:
            self._whole.append(clock.load(build_to_fill(arch, arch.base_widths)))
        if is_whole:
            return clock.measure(self._whole)[0]
        return clock.measure([*self._whole, clock.load(build_to_fill(arch, widths))])[1]

    def read(self) -> dict[Widths, Latency]:
        """Return the newest latency of each network under the conditions of this timer."""
        with self.compute.all_threads():
            conditions = latency_conditions(self.compute.device, self.runtime)
        known = [
            latency
            for latency in self.store.read()
            if all(getattr(latency, name) == value for name, value in conditions.items())
        ]
        return {latency.widths: latency for latency in sorted(known, key=lambda each: each.when)}

    def learn(self, arch: Architecture) -> Architecture:
        """Return `arch` with a latency model that is exact for the network of base widths.

        That network is timed first. nsopt learns a model unless `arch` has one.
        """
        self.progress.start("timing the whole network", 1)
        whole = self.time(arch, arch.base_widths).median_ms
        model = arch.latency
        if model is None:
            model = learn_latency(arch, self.compute, self.progress, self.runtime, self.inputs)
        factor = whole / float(model(arch.base_widths))
        if isinstance(model, LatencyModel):
            return arch.with_latency(model.scaled(factor))
        return arch.with_latency(LinearCost(LATENCY.name, model, factor))

    def find(self, budget: MeasuredBudget) -> Widths:
        """Return the widths that keep a budget as measured; they are found once.

        Raises:
            NoWidthsError: if no network that was timed is within the budget.
        """
        key = budget.identify(self.runtime)
        widths = self.store.read_widths(key)
        if widths is None:
            found = self.solve(budget).widths
            widths = self.store.read_widths(key) or found  # another process may have been faster
            if widths is found:
                self.store.write_widths(key, widths)
        return widths

    def solve(self, budget: MeasuredBudget) -> Tried:
        """Return the largest widths that fit by measurement, see `find_widest`.

        Raises:
            NoWidthsError: if no network that was timed is within the budget.
        """
        shown = budget.metric.show(budget.limit)
        self.progress.start(f"timing widths at {shown}", MOST_TIMED)

        def measure(widths: Widths) -> float:
            latency = self.time(budget.arch, widths)
            self.progress.advance()
            return budget.bound(latency)

        tried = find_widest(budget.propose, measure, budget.milliseconds, self._choose_aim(budget))
        self.progress.message(
            f"{shown}: widths {'-'.join(map(str, tried.widths))} take at most "
            f"{tried.measured:.4g} ms"
        )
        return tried

    def _choose_aim(self, budget: MeasuredBudget) -> float | None:
        """Return the prediction at which a network fills the budget, by what was timed so far."""
        cost, limit = LATENCY.cost(budget.arch), budget.milliseconds
        known = [
            (float(cost(widths)), budget.bound(latency))
            for widths, latency in self.read().items()
            if widths != tuple(budget.arch.base_widths)
        ]
        if not known:
            return None
        predicted, bound = min(known, key=lambda pair: abs(math.log(pair[1] / limit)))
        return limit * predicted / bound


@public
def solve_measured_widths(
    arch: Architecture,
    law: ScalingLaw,
    budget: float | str,
    *,
    device: str = "auto",
    runtime: str | Measure = TORCH.name,
    batch_size: int = BATCH_SIZE,
    multiple_of: ArrayLike = 1,
    min_width: int = 1,
    max_width: ArrayLike | None = None,
    fill: bool = False,
    progress: Progress | None = None,
    inputs: Any = None,
) -> Latency:
    """Return the largest widths along `law` that take at most `budget` milliseconds, measured.

    nsopt times at most eight networks, each in turns with the network of base widths, so that the
    result does not change with the speed of the machine. A network fits if its median ratio over 5
    to 40 rounds is within the budget, plus a margin for the error of that median.

    The result is the timing of that network: `.widths`, `.ratio`, `.spread`, `.median_ms`.

    Args:
        arch: the network. If it has no latency model (`nsopt.with_latency`), nsopt learns one.
        law: such as `nsopt.uniform_curve(arch.base_widths)`.
        budget: in milliseconds, or a percentage such as `50%` of the time of the network of base
            widths. Milliseconds become a share of that time, as timed now.
        device: as torch names it, or auto.
        runtime: see `nsopt.with_latency`.
        batch_size: likewise.
        multiple_of: see `nsopt.solve_widths`.
        min_width: likewise.
        max_width: likewise.
        fill: likewise.
        progress: receives steps and warnings; by default bars on a terminal, else lines on stderr.
        inputs: see `nsopt.with_latency`.

    Raises:
        NoWidthsError: if no measured network is within the budget.
        NsoptError: if the device or the runtime is not available or fails, or for a budget that is
            neither a number above 0 nor a percentage.

    Warns:
        UserWarning: if the widths are outside the record to which the law was fitted.

    Examples:
        >>> found = nsopt.solve_measured_widths(arch, nsopt.uniform_curve(arch.base_widths), 20.0)
        >>> found.widths, found.median_ms
    """
    share = read_percentage(budget) if isinstance(budget, str) else None
    if not isinstance(budget, str) and not 0 < budget < math.inf:
        raise NsoptError(f"a budget must be a number of milliseconds above 0, not {budget}")
    timed_in = choose_runtime(runtime, batch_size)
    compute = resolve_compute(device, "fp32")
    with show_progress(progress) as display, keep_random_state(compute.device):
        timer = Timer(compute, timed_in, display, inputs)
        arch = timer.learn(arch)
        limit = float(budget) if share is None else share * LATENCY.cost(arch)(arch.base_widths)
        limits = Limits(multiple_of, min_width, max_width, fill)
        tried = timer.solve(MeasuredBudget(arch, law, LATENCY, limit, limits))
        latency = timer.time(arch, tried.widths)
    warn_of_extrapolation(law, LATENCY.cost(arch), tried.predicted)
    return latency
