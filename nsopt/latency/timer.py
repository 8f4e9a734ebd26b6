"""Time networks for budgets in milliseconds, remember them, and choose widths with them."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nsopt.compute.device import Compute, resolve_compute, sharing
from nsopt.compute.locks import hold_lock
from nsopt.compute.random_state import keep_random_state
from nsopt.errors import NoWidthsError, NsoptError
from nsopt.isolation import public
from nsopt.latency.allowance import Allowance
from nsopt.latency.bisection import CAUTIOUS, MOST_TIMED, Tried, Widths, bisect_widths
from nsopt.latency.learn import MacsLatency, learn_latency
from nsopt.latency.measure import LONGEST, Beside, latency_conditions, was_busy
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.latency.model import LatencyModel
from nsopt.latency.runtime import TORCH, Measure, Runtime, choose_inputs, choose_runtime
from nsopt.latency.sittings import Latency, distrust
from nsopt.latency.store import Store
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.progress import Progress
from nsopt.scaling.cost import LinearCost
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import LATENCY, read_percentage
from nsopt.scaling.solve import Limits, warn_of_extrapolation
from nsopt.settings import BATCH_SIZE
from nsopt.terminal import show_progress

_ALONE = 10, 40, 4  # warm-up, repeats, rounds
_BESIDE = 10, 20, 10  # the same, in turns with the network of base widths
_PART = 0.05  # of the time that is left, for one network
_KERNELS = 0.4  # seconds to learn from kernels, per millisecond of the whole network
_WAIT = 30.0  # seconds to wait for another process that times the same network
_BUSY = (
    "the machine is busy: nsopt times networks until its rounds agree, up to half a minute each; "
    "stop other programs to make this faster and more exact"
)
_IS_OVER = "the time for measurements is over"
_TOO_BUSY = "the machine is too busy to time them"
_WAS_BUSY = ". The machine was busy meanwhile: run the same command again when it is idle"


@dataclass(frozen=True, eq=False)
class Timer:
    """Times networks of one architecture; no network is timed twice for the same question.

    Attributes:
        compute: the device, which other processes may share.
        inputs: a batch with which networks are timed; by default random images.
        store: remembers measurements and choices.
        allowance: how long all measurements may take; then the best known widths count.
    """

    compute: Compute
    runtime: Runtime
    progress: Progress
    inputs: Any = None
    store: Store = field(default_factory=Store)
    allowance: Allowance = field(default_factory=Allowance)
    _besides: dict[bool, Beside] = field(default_factory=dict)
    _here: list[Latency] = field(default_factory=list)  # what this process has timed
    _glances: list[Latency] = field(default_factory=list)  # the same by few passes
    _predicted: set[str] = field(default_factory=set)  # budgets of which it was said

    def learn(
        self, arch: Architecture, check: Callable[[float], None] = lambda whole: None
    ) -> Architecture:
        """Return `arch` with a latency model that is exact for the network of base widths.

        That network is timed first. nsopt learns a model unless `arch` has one.

        Args:
            check: gets the milliseconds of that network. It can raise an error before nsopt learns.
        """
        self.progress.start("timing the whole network", 1)
        whole = self.time(arch, arch.base_widths)
        if self.runtime.is_here and distrust([whole.spread], [whole.waited]):
            self.progress.warning(_BUSY)
        check(whole.median_ms)
        model = arch.latency
        if model is None:
            kernels = _KERNELS * whole.median_ms <= self.allowance.left / 2
            with self.allowance.spending():
                model = learn_latency(
                    arch, self.compute, self.progress, self.runtime, self.inputs, kernels
                )
        factor = whole.median_ms / float(model(arch.base_widths))
        if isinstance(model, LatencyModel | MacsLatency):
            return arch.with_latency(model.scaled(factor))
        return arch.with_latency(LinearCost(LATENCY.name, model, factor))

    def correct(self, asked: MeasuredBudget) -> Architecture:
        """Return the network with a latency model by which the solver keeps a budget as measured.

        The widths at this budget are found once, whatever process asks.

        Raises:
            NoWidthsError: if no network that was timed is within the budget.
        """
        key = asked.identify(self.runtime)
        widths = self.store.read_choice(key)
        if widths is None:
            widths = self.solve(asked).widths
            # Another process may have been faster: all take what it found.
            stored = self.store.read_choice(key)
            if stored is None:
                self.store.write_choice(key, widths)
            elif stored != widths:
                shown = "-".join(map(str, stored))
                self.progress.message(f"another process found {shown} first: all take these")
            widths = stored or widths
        # Another latency model may have predicted them: its own prediction counts.
        return asked.keeping(widths)

    def solve(self, asked: MeasuredBudget, is_careful: bool = True) -> Tried:
        """Return the largest widths that fit by measurement, see `bisect_widths`.

        Args:
            is_careful: whether to confirm the widths by another measurement. Otherwise few
                measurements are enough.

        Raises:
            NoWidthsError: if no network that was timed is within the budget.
        """
        shown = asked.metric.show(asked.budget)
        known = None if is_careful else self.store.read_choice(asked.identify(self.runtime))
        if known is not None:
            return Tried(known, float(LATENCY.cost(asked.arch)(known)))
        if is_careful:
            self.progress.start(f"timing widths at {shown}", MOST_TIMED)
        timed, is_over = list[Latency](), self.allowance.share()

        def measure(widths: Widths) -> float:
            if is_careful or not asked.beside_whole:
                number = sum(latency.widths == widths for latency in timed)
                timed.append(self.time(asked.arch, widths, asked.beside_whole, number))
            else:
                timed.append(self._glance(asked.arch, widths))
            if is_careful:
                self.progress.advance()
            return asked.bound(timed[-1])

        try:
            tried = bisect_widths(
                asked.propose,
                measure,
                asked.milliseconds,
                aim=self._choose_aim(asked),
                is_careful=is_careful,
                is_over=is_over,
            )
        except NoWidthsError as error:
            if not timed or not was_busy(timed):
                raise
            if not asked.beside_whole or math.isinf(self.allowance.left):
                raise NoWidthsError(f"{error}{_WAS_BUSY}") from None
            tried = asked.propose(self._guess(asked))
        why = _IS_OVER if is_over() else _TOO_BUSY
        if is_careful:
            self._report(asked, tried, is_over(), why)
        elif not tried.measured and shown not in self._predicted:
            self._predicted.add(shown)
            how = f"predicted{self._describe_error(asked)}"
            self.progress.message(f"{why}: more widths at {shown} are {how}")
        return tried

    def _report(self, asked: MeasuredBudget, tried: Tried, is_over: bool, why: str) -> None:
        """Say how widths were found; how exactly, and why not better."""
        shown = asked.metric.show(asked.budget)
        spreads = [timing.spread or 0.0 for timing in self._here if timing.widths == tried.widths]
        name = f"{self.store.name.rpartition('/')[2]} at " if self.store.name else ""
        if not tried.measured:
            text = f"predicted{self._describe_error(asked)}: {why}"
        elif is_over or (math.isfinite(self.allowance.left) and distrust(spreads, [])):
            note = ": larger widths may fit, too" if is_over else ""
            text = (
                f"{max(tried.measured):.4g} ms ±{max(spreads, default=0.0):.0%}, as timed in the "
                f"time that there was{note}"
            )
        elif name:
            text = f"{max(tried.measured):.4g} ms per batch of {self.runtime.batch_size}, as timed"
        else:
            return
        widths = "-".join(map(str, tried.widths))
        self.progress.message(f"{name}{shown}: {text} (widths {widths})")

    def _describe_error(self, asked: MeasuredBudget) -> str:
        """Return by how much predictions and measurements differed so far, as " ±3%"."""
        factors = [bound / predicted for predicted, bound in self._compare(asked, self._timed)]
        return f" ±{(max(factors) / min(factors)) ** 0.5 - 1:.0%}" if len(factors) > 1 else ""

    def time(
        self, arch: Architecture, widths: Widths, beside_whole: bool = False, number: int = 0
    ) -> Latency:
        """Return the measurement of a network with this number, counted from 0; time it if new.

        Args:
            beside_whole: whether to time it in turns with the network of base widths.
            number: how many earlier measurements of these widths do not count.
        """
        same = Path(f"{self.store.name} {widths}")
        with hold_lock(same, seconds=_WAIT) if self.store.name else nullcontext():
            known = self._read(widths, beside_whole)
            if number < len(known):
                return known[number]
            latency = self._measure(arch, widths, beside_whole)
            self._here.append(latency)
            self.store.write_timing(latency)
            return latency

    def _glance(self, arch: Architecture, widths: Widths) -> Latency:
        """Return a measurement of a network in turns with that of base widths; if new, a brief one.

        It is neither stored nor confirms widths.
        """
        glances = [glance for glance in self._glances if glance.widths == widths]
        known = [*self._read(widths, beside_whole=True), *glances]
        if not known:
            known = [self._measure(arch, widths, beside_whole=True, is_brief=True)]
            self._glances.extend(known)
        return known[0]

    def _measure(
        self, arch: Architecture, widths: Widths, beside_whole: bool, is_brief: bool = False
    ) -> Latency:
        beside = self._beside(arch, beside_whole)
        with self.allowance.spending():
            feed = beside.load(build_to_fill(arch, widths))
            seconds = min(LONGEST, _PART * self.allowance.left)
            return replace(beside.measure(feed, seconds, is_brief), widths=tuple(widths))

    def _read(self, widths: Widths, beside_whole: bool) -> list[Latency]:
        """Return what is known of a network; other processes' measurements while the machine was
        busy do not count."""
        with self.compute.all_threads():
            conditions = latency_conditions(self.compute.device, self.runtime)
        here = {timing.sitting: timing for timing in self._here if timing.widths == tuple(widths)}
        stored = {timing.sitting: timing for timing in self.store.read_timings(widths)}
        return [
            timing
            for _, timing in sorted((stored | here).items(), key=lambda pair: pair[0] or "")
            if all(getattr(timing, name) == value for name, value in conditions.items())
            and (timing.sitting in here or not was_busy([timing]))
            and (timing.share is not None) == beside_whole
        ]

    def _beside(self, arch: Architecture, beside_whole: bool) -> Beside:
        if beside_whole not in self._besides:
            inputs = choose_inputs(arch, self.runtime, self.inputs)
            whole = build_to_fill(arch, arch.base_widths) if beside_whole else None
            passes = _BESIDE if beside_whole else _ALONE
            beside = Beside(whole, inputs, self.compute, self.runtime, passes)
            self._besides[beside_whole] = beside
        return self._besides[beside_whole]

    def _choose_aim(self, asked: MeasuredBudget) -> float | None:
        """Return the prediction at which a network fills the budget, by what was timed so far."""
        known, limit = self._compare(asked, self._timed), asked.milliseconds
        if not known:
            return None
        predicted, bound = min(known, key=lambda pair: abs(math.log(pair[1] / limit)))
        return limit * predicted / bound

    def _guess(self, asked: MeasuredBudget) -> float:
        """Return a prediction at which widths are likely to fit, by medians of few passes."""
        ratios = [predicted / bound for predicted, bound in self._compare(asked, self._glances)]
        return CAUTIOUS * asked.milliseconds * float(np.median(ratios or [1.0]))

    @property
    def _timed(self) -> list[Latency]:
        return [*self._here, *self._glances]

    def _compare(
        self, asked: MeasuredBudget, timings: Sequence[Latency]
    ) -> list[tuple[float, float]]:
        """Return predicted and measured milliseconds of networks that this process timed."""
        cost = LATENCY.cost(asked.arch)
        return [
            (float(cost(timing.widths)), asked.bound(timing))
            for timing in timings
            if (timing.share is not None) == asked.beside_whole
        ]


@public
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
) -> Latency:
    """Return the largest widths along `law` that take at most `budget` milliseconds, measured.

    nsopt times at most 12 networks and compares the upper quartile of their passes with the budget.
    A second measurement confirms the network that it returns.

    The result is the first measurement of that network: `.widths`, `.upper_quartile_ms`, and for a
    percentage `.share`, which is None with `measure=`.

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
        >>> found.widths, found.upper_quartile_ms
    """
    share = read_percentage(budget) if isinstance(budget, str) else None
    if not isinstance(budget, str) and not 0 < budget < math.inf:
        raise NsoptError(f"a budget must be a number of milliseconds above 0, not {budget}")
    timed_in = choose_runtime(runtime, measure, batch_size)
    compute = resolve_compute(device, "fp32")
    random = keep_random_state(compute.device)
    with show_progress(progress) as display, sharing(compute, display) as shared, random:
        timer = Timer(shared, timed_in, display, inputs)
        if share is not None:
            arch = timer.learn(arch)
            budget = share * float(LATENCY.cost(arch)(arch.base_widths))
        elif arch.latency is None:
            arch = arch.with_latency(learn_latency(arch, shared, display, timed_in, inputs))
        limits = Limits(multiple_of, min_width, max_width, fill)
        beside = share is not None and timed_in.is_here
        asked = MeasuredBudget(arch, law, LATENCY, float(budget), limits, beside)
        tried = timer.solve(asked)
        latency = timer.time(arch, tried.widths, beside)
    warn_of_extrapolation(law, LATENCY.cost(arch), tried.predicted)
    return latency
