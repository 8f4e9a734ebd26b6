"""Run a comparison: one Optuna study per method, with the same budgets and seeds for all."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from nsopt.errors import NoWidthsError
from nsopt.progress import Progress
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.solve import solve_widths
from nsopt.session.cleanup import clear_finished
from nsopt.session.durations import PlannedWork, list_searches, plan_training, tell_duration
from nsopt.session.other_workers import run_other_workers
from nsopt.session.searching import continue_searches
from nsopt.session.session import start_session, warn_of_batch
from nsopt.session.start import keep_start
from nsopt.session.timing import time_together
from nsopt.session.workspace import Workspace
from nsopt.study.comparison import Comparison
from nsopt.study.laws import Laws
from nsopt.study.plan import Plan, Points, make_plan
from nsopt.study.worker import Worker


def run_comparison(comparison: Comparison, workspace: Workspace, progress: Progress) -> None:
    """Run the searches that the methods need, then train and measure every missing point.

    Every result is stored at once, so that the same call continues after an interruption. If there
    are other workers, points are enqueued before the search begins, which gives the workers
    something to do.

    Raises:
        NsoptError: for invalid requests, before anything is written.
    """
    searches = comparison.searches
    with start_session(comparison.subject, workspace, progress) as session:
        plan = make_plan(comparison, session)
        missing = plan.find_missing()
        left, total = (sum(map(len, points.values())) for points in (missing, plan.points))
        progress.overall(total - left, total)
        if left:
            asked = [point.metric for points in plan.points.values() for point in points]
            warn_of_batch(session, asked)
            tell_duration(session, list_work(plan, missing))
        keep_start(comparison.subject, workspace)
        if workspace.shared:
            plan.enqueue_missing()
        with run_other_workers(session):
            continue_searches(session, searches)
            for warning in plan.read_laws():
                progress.warning(warning)
            if not workspace.shared:
                plan.check_widths(missing)
            plan = plan.with_references()
            Worker(session, plan.laws).run_missing(plan.enqueue_missing)
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
    with start_session(comparison.subject, workspace, progress) as session:
        plan = replace(make_plan(comparison, session), laws=Laws(session, timed=False))
        tell_duration(session, list_work(plan, plan.find_missing()))
        plan.laws.read(session.studies())
        return {
            f"{method.name} {point.size}": plan.laws.propose_widths(method, point)
            for method, points in plan.points.items()
            if plan.laws.is_ready(method) and not method.needs_trained_network
            for point in points
        }


def list_work(plan: Plan, missing: Points) -> Iterator[PlannedWork]:
    """Yield the missing searches, and nsopt's trainings of networks as large as uniform ones."""
    session, subject = plan.session, plan.session.subject
    arch, settings = subject.arch, subject.settings
    yield from list_searches(session, plan.comparison.searches)
    for method, points in missing.items() if subject.trainer is None else ():
        training = settings.fine_tuning_for if method.inherits_weights else settings.training_for
        for point in () if method.keeps_weights else points:
            with suppress(NoWidthsError):  # measured milliseconds may allow some
                cost = point.metric.cost(arch)
                fit = solve_widths(uniform_curve(arch.base_widths), cost, point.budget)
                widths = tuple(fit.widths.tolist())
                yield plan_training(session, training(point.seed), widths, "trainings")
        for seed in {p.seed for p in points if method.needs_trained_network and not subject.start}:
            base = settings.base_training_for(seed)
            yield plan_training(session, base, arch.base_widths, "trainings")
