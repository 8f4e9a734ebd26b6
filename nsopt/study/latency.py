"""Milliseconds in a study: its latency model, and widths that keep budgets as measured.

`nsopt.latency.timer` does the work; what it timed is stored.
"""

from dataclasses import replace

from optuna.study import Study

from nsopt.compute.device import resolve_compute
from nsopt.latency.budget import MeasuredBudget
from nsopt.latency.timer import Timer
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import Metric
from nsopt.scaling.solve import Limits
from nsopt.session.session import Session
from nsopt.session.subject import Subject, list_studies, with_stored_latency
from nsopt.session.timing import store_timings
from nsopt.session.workspace import Workspace


def with_latency_if_needed(
    subject: Subject, is_timed: bool, workspace: Workspace, progress: Progress
) -> Subject:
    """Return `subject` with a latency model, if a budget is in milliseconds.

    A stored model has priority, so that budgets keep their meaning. Otherwise nsopt uses the model
    of this device, and learns it if necessary. It is exact for the network of base widths.
    """
    if not is_timed:
        return subject
    studies = list_studies(subject, workspace)
    arch = with_stored_latency(subject.arch, studies, subject.settings.timed)
    if arch.latency is None:
        compute = resolve_compute(subject.settings.training.device, "fp32")
        arch = Timer(compute, subject.runtime, progress, subject.inputs).learn(arch)
    return replace(subject, arch=arch)


def correct_latency(
    session: Session, study: Study, law: ScalingLaw, metric: Metric, budget: float, limits: Limits
) -> Architecture:
    """Return the network with a latency model by which the solver keeps a budget as measured.

    The widths at this budget are found once, by at most eight timed networks, whatever machine or
    process needs them. No network is timed again under the same conditions.

    Raises:
        NoWidthsError: if no network that was timed is within the budget.
    """
    subject = session.subject
    if not metric.is_timed:
        return subject.arch
    asked = MeasuredBudget(subject.arch, law, metric, budget, limits)
    return asked.keeping(store_timings(session, study).find(asked))
