"""Milliseconds in a study: its latency model, and widths that keep budgets as measured.

`nsopt.latency.timer` does the work; what it timed is stored.
"""

from dataclasses import replace

from optuna.study import Study

from nsopt.compute.device import resolve_compute, sharing
from nsopt.latency.learn import learn_latency
from nsopt.latency.measured_budget import MeasuredBudget
from nsopt.latency.timer import Timer
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.scaling.law import ScalingLaw
from nsopt.scaling.metric import Metric
from nsopt.scaling.solve import Limits
from nsopt.session.session import Session
from nsopt.session.subject import Subject, list_studies, with_stored_latency
from nsopt.session.workspace import Workspace
from nsopt.storage.timings import StoredTimings


def with_latency_if_needed(
    subject: Subject, is_timed: bool, workspace: Workspace, progress: Progress
) -> Subject:
    """Return `subject` with a latency model, if a budget is in milliseconds.

    A stored model has priority, so that budgets keep their meaning. Otherwise nsopt uses the model
    of this device, and learns it if necessary. If the subject starts from a trained network, the
    model is then made exact for this one, so that percentages of its latency hold.
    """
    if not is_timed:
        return subject
    studies = list_studies(subject, workspace)
    arch = with_stored_latency(subject.arch, studies, subject.settings.timed)
    if arch.latency is None:
        compute = resolve_compute(subject.settings.training.device, "fp32")
        with sharing(compute, progress) as shared:
            if subject.start is not None:
                arch = Timer(shared, subject.runtime, progress, subject.inputs).learn(arch)
            else:
                model = learn_latency(arch, shared, progress, subject.runtime, subject.inputs)
                arch = arch.with_latency(model)
    return replace(subject, arch=arch)


def correct_latency(
    session: Session, study: Study, law: ScalingLaw, metric: Metric, budget: float, limits: Limits
) -> Architecture:
    """Return the network with a latency model by which the solver keeps a budget as measured.

    The widths at this budget are found once, by at most 12 timed networks, whatever machine or
    process asks. No network is timed again under the same conditions, unless the machine was busy.
    If the subject starts from a trained network, each is timed beside it (`MeasuredBudget`).

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
