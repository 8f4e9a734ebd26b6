"""Run a comparison: one Optuna study per method, with the same budgets and seeds for all."""

from dataclasses import replace

from nsopt.compute.device import resolve_compute
from nsopt.methods.registry import is_method
from nsopt.progress import Progress
from nsopt.storage.queue import run_missing
from nsopt.storage.trials import size_label
from nsopt.study.comparison import Comparison
from nsopt.study.estimate import advise, estimate
from nsopt.study.laws import Laws
from nsopt.study.other_workers import run_other_workers
from nsopt.study.plan import Plan, make_plan
from nsopt.study.searching import continue_searches
from nsopt.study.session import Session, start_session
from nsopt.study.start import keep_start
from nsopt.study.timing import time_together
from nsopt.study.trial import TrialRunner
from nsopt.study.tuned_law import read_tuned_verdict
from nsopt.study.unfinished import clear_finished
from nsopt.study.worker import Worker
from nsopt.study.workspace import Workspace


def run_comparison(comparison: Comparison, workspace: Workspace, progress: Progress) -> None:
    """Run the searches that the methods need, then train and measure every missing point.

    Every result is stored at once, so that the same call continues after an interruption. If there
    are other workers, points are enqueued before the search begins, which gives the workers
    something to do.

    Raises:
        NsoptError: for invalid requests, before anything is written.
    """
    task, training = comparison.task, comparison.task.settings.training
    searches = comparison.searches
    if any(method.needs_tuned_law for method in comparison.methods):
        for metric in dict.fromkeys(size.metric.name for size in comparison.sizes):
            verdict = read_tuned_verdict(workspace, task.name, metric)
            progress.message(f"tuned: {verdict}")
    compute = resolve_compute(training.device, training.precision)
    keep_start(task, workspace)
    with start_session(task, workspace, compute, progress) as session:
        plan = make_plan(comparison, session)
        missing = sum(len(points) for points in plan.find_missing().values())
        total = sum(len(points) for points in plan.points.values())
        progress.overall(total - missing, total)
        if missing:
            _tell_duration(plan)
        if workspace.shared:
            plan.enqueue_missing()
        with run_other_workers(session):
            continue_searches(session, searches)
            plan.laws.read(session.studies())
            for warning in plan.list_warnings():
                progress.message(warning)
            if not workspace.shared:
                plan.check_widths()
            run_missing(plan.with_references().enqueue_missing, Worker(session, plan.laws).work)
            _mend(session, plan.laws)
        time_together(session)
        clear_finished(session)


def preview_comparison(
    comparison: Comparison, workspace: Workspace, progress: Progress
) -> dict[str, tuple[int, ...]]:
    """Say how long `run_comparison` would take. Nothing is written, and no network is trained.

    Returns:
        The widths that are known already, by a label of method and budget: those of methods that
        need no search, or whose search is stored.
    """
    training = comparison.task.settings.training
    compute = resolve_compute(training.device, training.precision)
    with start_session(comparison.task, workspace, compute, progress) as session:
        plan = replace(make_plan(comparison, session), laws=Laws(session, timed=False))
        _tell_duration(plan)
        plan.laws.read(session.studies())
        return {
            f"{method.name} {size_label(point.budget, point.metric, point.ratio)}": widths
            for method, points in plan.points.items()
            if plan.laws.is_ready(method) and not method.needs_trained_network
            for point in points
            for widths in [plan.laws.propose_widths(point)]
        }


def _tell_duration(plan: Plan) -> None:
    found = estimate(plan)
    if found.search + found.training:
        plan.session.progress.message(str(found))
        plan.session.progress.message(advise(plan))


def _mend(session: Session, laws: Laws) -> None:
    """Train the networks again whose files in this folder are damaged."""
    runner = TrialRunner(session, laws)
    for name, study in session.studies().items():
        if is_method(name):
            runner.mend(study)
