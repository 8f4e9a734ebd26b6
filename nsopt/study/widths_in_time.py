"""Budgets in milliseconds along the laws of a study: solved by timing networks, and stored.

`nsopt.latency.measured_budget` explains how.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike
from optuna.study import Study

from nsopt.compute.device import Compute
from nsopt.errors import NoWidthsError
from nsopt.latency.bisection import MOST_TIMED, TimedWidths, Widths
from nsopt.latency.measure import latency_conditions, was_busy
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.latency.runtime import TORCH, Runtime
from nsopt.latency.sittings import Latency, Timing
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import LATENCY, Metric
from nsopt.scaling.solve import Limits, solve_widths
from nsopt.settings import batch_unit
from nsopt.storage import schema
from nsopt.study.session import Session

_BUSY = ". The machine was busy meanwhile: run the same command again when it is idle"
_SCALES = np.geomspace(1e-2, 1e8, 6)  # at which the widths of a law identify it


def correct_latency(
    session: Session,
    study: Study,
    law: ScalingLaw,
    metric: Metric,
    budget: float,
    max_width: ArrayLike | None = None,
) -> Architecture:
    """Return the network with a latency model by which the solver keeps a budget as measured.

    The widths at this budget are found once, by at most 12 timed networks, whatever machine or
    process asks. No network is timed again under the same conditions, unless the machine was busy.
    If the task starts from a trained network, each is timed beside it (`MeasuredBudget`).

    Args:
        study: where to store them.

    Raises:
        NoWidthsError: if no network that was timed is within the budget.
    """
    task = session.task
    inherits = task.start is not None
    limits = Limits(*task.settings.rounding(metric), max_width=max_width, fill=inherits)
    beside = inherits and task.runtime.is_here
    asked = MeasuredBudget(task.arch, law, metric, budget, limits, beside, task.inputs)
    clock = Clock(session.compute, task.runtime, session.progress, study)
    return clock.correct(asked, lambda: _list_once([study, *session.studies().values()]))


def solve_in_time(
    session: Session, study: Study, law: ScalingLaw, metric: Metric, budget: float
) -> tuple[int, ...]:
    """Return the largest widths along a law within a budget. Its milliseconds hold as measured.

    Args:
        study: where to store what was timed.

    Raises:
        NoWidthsError: if no widths are within the budget.
    """
    arch, rounding = session.task.arch, session.task.settings.rounding(metric)
    if LATENCY in metric.parts:
        arch = correct_latency(session, study, law, metric, budget)
    fit = solve_widths(law, metric.cost(arch), budget, *rounding, warn=False)
    return tuple(fit.widths.tolist())


@dataclass(frozen=True, eq=False)
class Clock:
    """Times networks for budgets in milliseconds, and stores what it measures in a study."""

    compute: Compute
    runtime: Runtime
    progress: Progress
    study: Study

    def correct(
        self, asked: MeasuredBudget, studies: Callable[[], Iterable[Study]]
    ) -> Architecture:
        """Return the network as `correct_latency` does. studies: of the comparison."""
        key = _identify(asked, self.runtime)
        found = schema.read_widths_in_time(self.study, key)
        if found is None:
            with self.compute.exclusive():
                found = schema.read_widths_in_time(self.study, key) or self._find(asked, studies)
                # Another machine may have been faster: all take what it found.
                found = schema.read_widths_in_time(self.study, key) or found
                schema.write_widths_in_time(self.study, key, found)
        # Another latency model may have predicted them, so `found.predicted` does not count.
        return asked.corrected(float(LATENCY.cost(asked.arch)(found.widths)))

    def _find(self, asked: MeasuredBudget, studies: Callable[[], Iterable[Study]]) -> TimedWidths:
        shown = asked.metric.show(asked.budget)
        self.progress.start(f"timing widths at {shown}", MOST_TIMED)
        taken: list[Latency] = []
        try:
            found = asked.solve(self._timer(asked, studies, taken))
        except NoWidthsError as error:
            if taken and was_busy(taken):
                raise NoWidthsError(f"{error}{_BUSY}") from None
            raise
        _, method = schema.split_name(self.study.study_name)
        unit = batch_unit(self.runtime.batch_size)
        self.progress.message(f"{method} at {shown}: {max(found.measured):.4g} {unit}, as timed")
        return found

    def _timer(
        self, asked: MeasuredBudget, studies: Callable[[], Iterable[Study]], taken: list[Latency]
    ) -> Callable[[Widths], Timing]:
        """Return a function that times networks, or returns what was stored, in order of time.

        What was stored of a busy machine does not count. taken: receives new latencies.
        """
        conditions = latency_conditions(self.compute.device, self.runtime)
        measure_time = asked.make_timer(self.compute, self.runtime)
        used: dict[Widths, int] = {}

        def time(widths: Widths) -> Timing:
            self.progress.advance()
            known = [
                timing
                for other in studies()
                for stored in schema.read_timings(other, widths)
                if conditions.items() <= stored.items()
                and not was_busy([timing := Timing(**stored)])
                and (timing.share is not None) == asked.beside_whole
            ]
            known.sort(key=lambda timing: timing.sitting or "")
            number = used.get(widths, 0)
            used[widths] = number + 1
            if number < len(known):
                return known[number]
            timing = measure_time(widths)
            schema.write_timing(self.study, widths, asdict(timing))
            taken.append(timing)
            return timing

        return time


def _list_once(studies: Iterable[Study]) -> Iterable[Study]:
    return {study.study_name: study for study in studies}.values()


def _identify(asked: MeasuredBudget, runtime: Runtime) -> list[object]:
    """Return what decides the widths of a budget, except the device; the same on all machines.

    It is a key in the storage: a change of its format would lose what is stored.
    """
    multiple_of, min_width, max_width, fill = asked.limits
    key: list[object] = [] if runtime == TORCH else [runtime.name, runtime.batch_size]
    key += [asked.metric.name, float(asked.budget)]
    key += [np.asarray(multiple_of).tolist(), min_width]
    key.append(None if max_width is None else np.asarray(max_width).tolist())
    if fill:
        key.append("fill")
    key.append(_describe_law(asked.law))
    return key


def _describe_law(law: ScalingLaw) -> list[list[str]]:
    return [[f"{width:.6e}" for width in law.widths(scale)] for scale in _SCALES.tolist()]
