"""Budgets in milliseconds along the laws of a study: solved by timing networks, and stored.

`nsopt.latency.timer` does the work.
"""

from dataclasses import replace

from optuna.study import Study

from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import Metric
from nsopt.scaling.solve import Limits, solve_widths
from nsopt.session.session import Session
from nsopt.storage.timings import StoredTimings


def correct_latency(
    session: Session,
    study: Study,
    law: ScalingLaw,
    metric: Metric,
    budget: float,
    limits: Limits,
) -> Architecture:
    """Return the network with a latency model by which the solver keeps a budget as measured.

    The widths at this budget are found once, by at most 12 timed networks, whatever machine or
    process asks. No network is timed again under the same conditions, unless the machine was busy.
    If the subject starts from a trained network, each is timed beside it (`MeasuredBudget`).

    Args:
        study: where to store them.

    Raises:
        NoWidthsError: if no network that was timed is within the budget.
    """
    subject = session.subject
    if not metric.is_timed:
        return subject.arch
    beside = subject.start is not None and subject.runtime.is_here
    asked = MeasuredBudget(subject.arch, law, metric, budget, limits, beside)
    store = StoredTimings(study, lambda: session.studies().values())
    return replace(session.timer, store=store).correct(asked)


def solve_in_time(
    session: Session, study: Study, law: ScalingLaw, metric: Metric, budget: float
) -> tuple[int, ...]:
    """Return the largest widths along a law within a budget. Its milliseconds hold as measured.

    Args:
        study: where to store what was timed.

    Raises:
        NoWidthsError: if no widths are within the budget.
    """
    limits = Limits(*session.subject.settings.rounding(metric))
    arch = correct_latency(session, study, law, metric, budget, limits)
    fit = solve_widths(law, metric.cost(arch), budget, *limits, warn=False)
    return tuple(fit.widths.tolist())
